package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/policy"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/internal/crashfs"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/ledger/ledgertest"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/relay"
	"forebay/shard"
)

var errCrash = errors.New("the process was killed")

var dataset = proto.Dataset{Cluster: "primary", Name: "media"}

// arm is where to crash: at the hit-th time that a point is passed from when the one before it went off.
type arm struct {
	point faultpoint.Point
	hit   int
}

// world is what outlives a crash: the disks, the holders, the targets and the time.
type world struct {
	t    testing.TB
	rng  *rand.Rand
	fs   *crashfs.FS
	base string // the targets' place
	at   time.Time

	mu    sync.Mutex
	arms  []arm // still to go off
	left  int   // hits until the first of them does
	back  int   // what left was for the one that a step of the workload put itself before
	fired []faultpoint.Point
	hits  map[faultpoint.Point]int
	kept  []int // of what was not synced, in percent, at each crash

	life    *life
	gen     uint32
	holders []*holder
	truth   map[string]object
	acked   map[string]proto.VersionID // highest acknowledged version of each path
	bytes   int64                      // acknowledged
	away    bool                       // the target of link off cannot be reached
	extra   string                     // a link more, "" for none
	mtime   int64
	disks   *disks // with a fault; nil: they have none
	starts  int    // that failed
	ends    int    // of the relay, because its ledger failed
}

// life is one run of the relay. After a crash it goes on with disks and targets that are nobody's any more.
type life struct {
	w     *world
	fs    *crashfs.FS
	dead  atomic.Bool
	relay *relay.Relay
	flush *flush.Engine
	next  *crashfs.FS // what a crash left
}

func newWorld(t testing.TB, seed uint64, arms ...arm) *world {
	t.Helper()
	return newFailing(t, seed, nil, arms...)
}

// newFailing is a world whose disks have a fault, unless d is nil.
func newFailing(t testing.TB, seed uint64, d *disks, arms ...arm) *world {
	t.Helper()
	w := &world{t: t, disks: d, rng: rand.New(rand.NewPCG(seed, 0)), fs: crashfs.New(), base: tempDir(t), at: time.Unix(1_800_000_000, 0),
		arms: arms, hits: map[faultpoint.Point]int{}, truth: map[string]object{}, acked: map[string]proto.VersionID{}, mtime: 1_700_000_000_000_000_000}
	if len(arms) > 0 {
		w.left = arms[0].hit
	}
	for _, d := range []string{"main", "off", "extra", "data"} {
		require.NoError(t, os.Mkdir(filepath.Join(w.base, d), 0o755))
	}
	require.NoError(t, w.fs.MkdirAll("/stores", 0o755))
	syncUp(t, w.fs, "/")
	for _, node := range []string{"a", "b"} {
		w.holders = append(w.holders, &holder{w: w, node: node, known: map[string]proto.VersionID{}, agreed: map[string]object{}})
	}
	w.up()
	t.Cleanup(func() {
		w.down()
		w.truth, w.holders, w.fs = nil, nil, nil // what is referred to by the test that ended is not to gather
	})
	return w
}

// syncUp makes a directory's entries durable.
func syncUp(t testing.TB, fs vfs.FS, name string) {
	d, err := fs.OpenDir(name)
	require.NoError(t, err)
	require.NoError(t, d.Sync())
	require.NoError(t, d.Close())
}

func (w *world) now() time.Time { return w.at }

// pass is the hook of a life.
func (l *life) pass(p faultpoint.Point) {
	w := l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.dead.Load() {
		return
	}
	w.hits[p]++
	if len(w.arms) == 0 || w.arms[0].point != p {
		return
	}
	if w.left--; w.left > 0 {
		return
	}
	w.arms = w.arms[1:]
	if len(w.arms) > 0 {
		w.left = w.arms[0].hit
		if w.back > 0 {
			w.left, w.back = w.back, 0
		}
	}
	w.fired = append(w.fired, p)
	l.crash()
}

// crash takes what the disks keep, at this instant. w.mu is held.
func (l *life) crash() {
	l.dead.Store(true)
	percent := []int{0, 50, 100}[l.w.rng.IntN(3)]
	l.w.kept = append(l.w.kept, percent)
	l.next = l.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(l.w.rng.Uint64(), 1))})
}

func (w *world) config() relay.Config {
	link := func(name string) relay.Link {
		return relay.Link{Name: name, From: dataset, Target: "dir:" + name, To: name, Coalesce: true, Grace: 24 * time.Hour}
	}
	c := relay.Config{Name: "relay-c", Data: filepath.Join(w.base, "data"), Capacity: capacity, High: 0.85, Low: 0.001, Ballast: 4096,
		Suspicion: 3 * time.Second, Coding: shard.Geometry{Data: 2, Parity: 1}, Software: "test",
		Stores: []string{"/stores/0", "/stores/1", "/stores/2"}, Links: []relay.Link{link("main"), link("off")}}
	if w.extra != "" {
		c.Links = append(c.Links, link(w.extra))
	}
	return c
}

const capacity = 256 << 20

// up starts lives until one of them lives to serve.
func (w *world) up() {
	w.t.Helper()
	for range 10 {
		l := &life{w: w, fs: w.fs}
		err := l.open()
		if err != nil && !l.dead.Load() && w.disks.bad() {
			l.startFailed(err)
		}
		if !l.dead.Load() {
			require.NoError(w.t, err, "%s", w)
			w.life = l
			w.sound()
			return
		}
		l.close()
		w.fs = l.next
	}
	w.t.Fatalf("%s: no life was left alone long enough to serve", w)
}

func (l *life) open() (err error) {
	w := l.w
	l.relay, err = relay.Open(w.config(), relay.Deps{Log: zerolog.Nop(), Now: w.now, FS: w.see(l.fs), Driven: true, Fault: l.pass})
	if err != nil {
		return err
	}
	l.flush, err = flush.New(flush.Config{Relay: l.relay.ID(), Workers: 1}, flush.Deps{
		Ledger: l.relay.Ledger(), Cache: cache{l.relay}, Clock: clock{w}, OpenTarget: l.target,
		HighWater: l.relay.HighWater, LostSegment: l.relay.SuspectSegment, Loose: l.relay.NoteLoose, Fault: l.pass,
	})
	if err != nil {
		return err
	}
	l.relay.SetFlusher(flusher{e: l.flush})
	return l.setLinks()
}

func (l *life) setLinks() error {
	rows, err := ledger.Links(l.relay.Ledger())
	if err != nil {
		return err
	}
	p := policy.Default()
	for k, v := range map[string]string{"delete.propagate": "true", "delete.guard.objects": "off", "delete.guard.share": "100%", "history.keep": "1s"} {
		if err := policy.Set(&p, k, v); err != nil {
			return err
		}
	}
	var links []flush.LinkConfig
	for _, r := range rows {
		if !r.Orphaned && r.Name != "" {
			links = append(links, flush.LinkConfig{ID: r.ID, Name: r.Name, Target: r.Name, Policy: p})
		}
	}
	l.flush.SetLinks(links)
	return nil
}

// place is where a target is.
func (w *world) place(name string) string {
	if name != "main" && name != "off" {
		name = "extra/" + name
	}
	return filepath.Join(w.base, name)
}

func (l *life) target(c flush.LinkConfig) (target.Target, error) {
	d, err := dir.Open(dir.Config{Path: l.w.place(c.Target)}, dir.Deps{Fault: func(p faultpoint.Point) error {
		l.pass(p)
		if l.dead.Load() {
			return errCrash
		}
		return nil
	}})
	if err != nil {
		return nil, err
	}
	return gate{d, l, c.Target}, nil
}

func (l *life) close() {
	if l.relay != nil {
		_ = l.relay.Close() // of a life that may be dead, on disks that are nobody's
		l.relay = nil
	}
}

// down ends the present life in order.
func (w *world) down() {
	if w.life != nil {
		w.life.close()
		w.life = nil
	}
}

// restart is an orderly stop and start.
func (w *world) restart() {
	w.down()
	w.up()
}

// died brings the relay up again when it has crashed. It reports whether it had.
func (w *world) died() bool {
	if !w.life.dead.Load() && w.disks.bad() && w.disks.fault.on == "ledger" { // has it given up?
		if err := w.life.relay.Round(context.Background()); err != nil && !w.life.dead.Load() {
			w.life.ended(err)
		}
	}
	if !w.life.dead.Load() {
		return false
	}
	w.life.close()
	w.fs = w.life.next
	for _, h := range w.holders {
		h.session = 0
	}
	w.up()
	return true
}

// sound is what must hold whenever the relay is up: its ledger agrees with itself, its generation grew, no acknowledged version is gone, no
// owed byte is unreadable.
func (w *world) sound() {
	w.t.Helper()
	led := w.life.relay.Ledger()
	require.NoError(w.t, ledgertest.Check(led), "%s", w)
	meta, err := ledger.ReadMeta(led)
	require.NoError(w.t, err)
	require.Greater(w.t, meta.Generation, w.gen, "%s: the generation is one that was there before (I7)", w)
	w.gen = meta.Generation
	ds, err := ledger.DatasetByName(led, dataset)
	require.NoError(w.t, err)
	for path, v := range w.acked {
		o, ok, err := ledger.Object(led, ds.ID, path)
		require.NoError(w.t, err)
		require.True(w.t, ok && o.Current.Version >= v, "%s: %q was acknowledged as version %d and is %d (I1, I18)", w, path, v, o.Current.Version)
	}
	w.readable()
}

// readable reads all that is owed from the cache.
func (w *world) readable() {
	w.t.Helper()
	led := w.life.relay.Ledger()
	rows, err := ledger.Links(led)
	require.NoError(w.t, err)
	for _, row := range rows {
		require.NoError(w.t, ledger.EachOwed(led, row, 0, func(q ledger.OwedVersion) (bool, error) {
			if q.Owed.State != ledger.OwedCached || q.Row.Desc.Kind != proto.KindFile || q.Owed.MetaOnly || q.Row.Superseded || q.Row.Content.Stream {
				return true, nil
			}
			sum, size := proto.NewContentHasher(), int64(0)
			var all []byte
			err := ledger.EachPart(led, q.Row, func(p ledger.Part) (bool, error) {
				seg, err := w.life.relay.ReadSegment(context.Background(), p.Segment)
				if err != nil {
					return false, err
				}
				all = append(all, seg.Payload[p.At:p.At+p.Length]...)
				return true, nil
			})
			if w.damaged() {
				return true, nil
			}
			for b := all; len(b) > 0; b = b[min(len(b), proto.BlockSize):] {
				sum.Add(proto.BlockDigest(b[:min(len(b), proto.BlockSize)]))
				size += int64(min(len(b), proto.BlockSize))
			}
			require.NoError(w.t, err, "%s: %q is owed by %s and cannot be read (I1)", w, q.Row.Path, row.Name)
			require.True(w.t, sum.Sum() == q.Row.Desc.Digest && size == q.Row.Desc.Size, "%s: %q is owed by %s, and the cache has something else (I1, I3)", w, q.Row.Path, row.Name)
			return true, nil
		}))
	}
}

// damaged reports whether more shards than the parity were spoiled on purpose: then reading is no promise.
func (w *world) damaged() bool { return w.holders[0].ruined }

// String says how to run this one again.
func (w *world) String() string {
	return fmt.Sprintf("crashed at %v keeping %v %% of what was not synced, %v to go", w.fired, w.kept, w.arms)
}

// turn lets everybody do once what there is to do, and a little time pass. It returns early when the relay died.
func (w *world) turn(flushes bool) {
	w.t.Helper()
	for _, h := range w.holders {
		if h.work(); w.died() {
			return
		}
	}
	if err := w.life.relay.Round(context.Background()); w.died() {
		return
	} else if err != nil {
		if !w.disks.bad() {
			w.t.Fatalf("%s: %v", w, err)
		}
		w.life.ended(err)
		w.died()
		return
	}
	if flushes {
		if w.life.flush.Step(context.Background()); w.died() {
			return
		}
	}
	w.at = w.at.Add(2 * time.Second)
}

// until turns until a condition holds.
func (w *world) until(what string, flushes bool, cond func() bool) {
	w.t.Helper()
	for range 400 {
		if cond() {
			return
		}
		w.turn(flushes)
	}
	w.dump()
	w.t.Fatalf("%s: %s: not after 400 turns", w, what)
}

func (w *world) dump() {
	rows, _ := ledger.Links(w.life.relay.Ledger())
	for _, r := range rows {
		s, _ := w.life.flush.State(r.Name)
		w.t.Logf("link %+v\nstate %+v", r, s)
	}
	for _, h := range w.holders {
		w.t.Logf("holder %s: unsettled %v, last answers %v", h.node, h.unsettled(), h.last)
	}
	st, err := w.life.relay.Status(context.Background())
	w.t.Logf("status %+v %v", st, err)
}

type cache struct{ r *relay.Relay }

func (c cache) Read(ctx context.Context, seq uint64) (*segment.Segment, error) {
	return c.r.ReadSegment(ctx, seq)
}

// clock is the world's; whatever waits on it is woken at once, with the time moved.
type clock struct{ w *world }

func (c clock) Now() time.Time { return c.w.at }
func (c clock) Timer(d time.Duration) (<-chan time.Time, func()) {
	c.w.at = c.w.at.Add(d)
	fired := make(chan time.Time, 1)
	fired <- c.w.at
	return fired, func() {}
}

// flusher is the flush as the relay asks it.
type flusher struct {
	relay.Flusher // what is not asked here
	e             *flush.Engine
}

func (f flusher) Wake(link string) { f.e.Wake(link) }
func (f flusher) Stalled(link string) bool {
	s, ok := f.e.State(link)
	return ok && s.State == flush.StateStalled
}
func (f flusher) CanStage(link string) bool                         { return f.e.CanStage(link) }
func (f flusher) Bandwidth() (b proto.BandwidthStatus)              { return b }
func (f flusher) Status(_ string, _ *proto.LinkStatus)              {}
func (f flusher) Failures(string, int) ([]proto.FailureInfo, error) { return nil, nil }
