package scale

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/bus"
	"forebay/relay"
)

const cluster = "primary"

// replicas is how many nodes hold each dataset: as many datasets as nodes, dataset i on the nodes i, i+1 and i+2.
const replicas = 3

// The model of what is around the code that ships. Times of the relay are not what was measured, so that counts do not depend on the
// machine; docs/scale.md has both.
const (
	halfTrip     = 500 * time.Microsecond // one way over the network
	perMessage   = 200 * time.Microsecond // the relay is busy with a message,
	perObject    = 30 * time.Microsecond  // and with each object in it
	ingress      = 1.25e9                 // bytes a second that reach the relay: a line of 10 Gbit/s
	uplink       = 125e6                  // bytes a second of a node: 1 Gbit/s
	diskRead     = 500e6                  // bytes a second that a node reads to prove what it has
	hashOverhead = 50 * time.Microsecond  // to open an object
	scanRate     = 20000                  // objects a second that a node's scan finds
	roundEvery   = 20 * time.Millisecond  // Relay.Round
)

// settings are the size of a world.
type settings struct {
	seed    uint64
	nodes   int
	objects int  // of each dataset
	skewed  bool // sizes from a log-normal distribution with a median of 16 KiB, else all alike
	size    int64
}

// world is one simulation. Everything in it happens in one goroutine, in the order of the events.
type world struct {
	settings
	t     *testing.T
	rng   *rand.Rand
	now   int64 // ns since the beginning
	seq   uint64
	todo  events
	steps int

	r        *relay.Relay
	fs       lazyFS
	cfg      relay.Config
	nodes    []*node
	datasets []*dataset
	subjects map[string]*dataset // of nudges
	said     []said              // nudges of the round under way
	cpuFree  int64               // when the relay has done what came so far
	lineFree int64               // when the line to the relay is free
	left     int                 // objects that are found and not settled, of all roots
	coming   int                 // that are still to be found or changed
	meter    meter
	tally    tally
}

type said struct {
	subject string
	nudge   proto.Nudge
	size    int
}

// dataset is a tree of objects that three nodes hold.
type dataset struct {
	i     int
	name  string
	roots []*root
	acked []uint8 // of each object: the newest content that the relay has acknowledged
	found []int64 // when the first holder found that content; 0: nobody did
	sizes []int32
}

func (d *dataset) id() proto.Dataset { return proto.Dataset{Cluster: cluster, Name: d.name} }

// path is that of an object: 43 bytes, as such trees have them.
func (d *dataset) path(n int) string {
	return fmt.Sprintf("projects/%04d/run-%05d/sample-%08d.dat", d.i, n/1000, n)
}

func number(path string) int {
	n := 0
	for _, c := range path[len(path)-12 : len(path)-4] {
		n = 10*n + int(c-'0')
	}
	return n
}

// event is something that happens at a moment.
type event struct {
	at  int64
	seq uint64
	fn  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return x
}

func (w *world) at(at int64, fn func()) {
	w.seq++
	heap.Push(&w.todo, event{max(at, w.now), w.seq, fn})
}

func (w *world) after(d time.Duration, fn func()) { w.at(w.now+int64(d), fn) }

// epoch is when the simulation begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *world) clock() time.Time { return epoch.Add(time.Duration(w.now)) }

// run goes on until done, for limit at most, and returns how long that took in simulated time.
func (w *world) run(limit time.Duration, done func() bool) time.Duration {
	from := w.now
	for until := w.now + int64(limit); ; {
		if w.steps++; w.steps%64 == 0 && done() {
			break
		}
		if len(w.todo) == 0 || w.todo[0].at > until {
			w.now = until
			break
		}
		e := heap.Pop(&w.todo).(event)
		w.now = max(w.now, e.at)
		e.fn()
	}
	return time.Duration(w.now - from)
}

func never() bool { return false }

func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a)))
}

// newWorld opens the relay and makes the nodes; nothing runs yet.
func newWorld(t *testing.T, s settings) *world {
	w := &world{settings: s, t: t, rng: rand.New(rand.NewPCG(s.seed, 1)), fs: lazyFS{vfs.Default}, subjects: map[string]*dataset{}, meter: newMeter()}
	dir := t.TempDir()
	w.cfg = relay.Config{Name: "relay-1", Data: filepath.Join(dir, "relay"), Stores: []string{filepath.Join(dir, "store")}, Capacity: 1 << 40, High: 0.9, Low: 0.8,
		Suspicion: proto.DefaultSuspicion, Software: "scale"}
	for i := range s.nodes {
		w.nodes = append(w.nodes, newNode(w, i))
		d := &dataset{i: i, name: fmt.Sprintf("data-%04d", i), acked: make([]uint8, s.objects), found: make([]int64, s.objects), sizes: make([]int32, s.objects)}
		for n := range d.sizes {
			d.sizes[n] = int32(w.draw(n + i*s.objects))
		}
		w.datasets = append(w.datasets, d)
		w.cfg.Links = append(w.cfg.Links, relay.Link{Name: fmt.Sprintf("link-%04d", i), From: d.id(), Target: fmt.Sprintf("mem:%d", i), To: "mem", Coalesce: true})
	}
	for _, d := range w.datasets {
		for k := range min(replicas, s.nodes) {
			w.nodes[(d.i+k)%s.nodes].join(d)
		}
	}
	w.open()
	t.Cleanup(func() { _ = w.r.Close() })
	return w
}

// draw is the size of an object, at most a segment's payload.
func (w *world) draw(int) int64 {
	if !w.skewed {
		return w.size
	}
	return sizeOf(w.rng)
}

func (w *world) open() {
	var err error
	w.r, err = relay.Open(w.cfg, relay.Deps{Log: zerolog.Nop(), Now: w.clock, Mono: func() time.Duration { return time.Duration(w.now) }, FS: w.fs, Driven: true,
		Bus: func() (bus.Bus, error) { return simBus{w}, nil }})
	require.NoError(w.t, err)
	for _, d := range w.datasets {
		w.subjects[bus.SubjectNudge(w.r.ID(), d.id())] = d
	}
	w.after(roundEvery, w.round)
}

// round does what is due at the relay, and delivers what it says on the bus.
func (w *world) round() {
	w.meter.time("round", func() { require.NoError(w.t, w.r.Round(context.Background())) })
	slices.SortFunc(w.said, func(a, b said) int { return strings.Compare(a.subject, b.subject) })
	for _, s := range w.said {
		d := w.subjects[s.subject]
		w.publish("nudge", s.size, d, func(r *root) { r.nudged(s.nudge) })
	}
	w.said = w.said[:0]
	w.after(roundEvery, w.round)
}

// publish carries a message on the bus to all holders of a dataset that are there.
func (w *world) publish(kind string, size int, d *dataset, deliver func(*root)) {
	c := w.meter.of(kind)
	c.calls++
	c.in += int64(size)
	for _, r := range d.roots {
		if !r.n.up || r.n.session == 0 {
			continue
		}
		c.delivered++
		c.out += int64(size)
		r.n.after(halfTrip, func() { deliver(r) })
	}
}

// simBus is the bus as the relay sees it.
type simBus struct{ w *world }

func (b simBus) Publish(subject string, data []byte) error {
	s := said{subject: subject, size: len(data)}
	if err := proto.Unmarshal(slices.Clone(data), &s.nudge); err != nil {
		return err
	}
	b.w.said = append(b.w.said, s)
	return nil
}
func (simBus) Subscribe(string, func([]byte)) (func(), error) { return func() {}, nil }
func (simBus) Connected() bool                                { return true }
func (simBus) Close()                                         {}

// call carries a request to the relay and the answer back. The relay handles one at a time, in the order of their coming; serve is the
// handler that ships. objects is how many are in it.
func call[Q, R any](n *node, kind string, q Q, objects int, serve func(Q) (R, error), then func(R, error)) {
	w := n.w
	raw := proto.Marshal(q)
	packed := kind != "hello" && kind != "poll"
	if packed {
		raw, packed = proto.Pack(raw)
	}
	n.w.after(halfTrip, func() {
		w.serve(kind, raw, objects, n, func(raw []byte) func() {
			var q Q
			if packed {
				var err error
				raw, err = proto.Unpack(raw)
				require.NoError(w.t, err)
			}
			require.NoError(w.t, proto.Unmarshal(raw, &q))
			rep, err := serve(q)
			w.answered(kind, rep)
			return func() { then(rep, err) }
		})
	})
}

// answered counts an answer as relay/api sends it.
func (w *world) answered(kind string, rep any) {
	body, _ := proto.Pack(proto.Marshal(rep))
	w.meter.of(kind).out += int64(len(body))
}

// serve queues for the relay.
func (w *world) serve(kind string, raw []byte, objects int, n *node, handle func([]byte) func()) {
	boot := n.boot
	w.cpuFree = max(w.cpuFree, w.now) + int64(perMessage) + int64(objects)*int64(perObject)
	w.at(w.cpuFree, func() {
		c := w.meter.of(kind)
		c.calls++
		c.in += int64(len(raw))
		c.objects += int64(objects)
		var answer func()
		w.meter.time(kind, func() { answer = handle(raw) })
		w.after(halfTrip, func() {
			if n.up && n.boot == boot {
				answer()
			}
		})
	})
}
