package scale

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/internal/figures"
	"forebay/proto"
	"forebay/relay/arbiter"
	"forebay/relay/session"
)

// Flags of the campaigns, which run with -report only: make scale.
var (
	flagReport = flag.String("report", "", "directory that the figures are saved in")
	flagRuns   = flag.Int("runs", 3, "how often what is measured in CPU time is run; the median counts")
	flagSize   = flag.Int("size", 300_000, "objects of the largest fill of a series; the others have a tenth and a hundredth of them")
	flagNodes  = flag.Int("nodes", 1000, "nodes of the largest cluster")
	flagPicks  = flag.Int("picks", 100_000_000, "objects that the pick is asked about")
	flagSuffix = flag.String("suffix", "", "of the reports' names, for runs of another state of the code")
)

// campaign skips a test that is none of a campaign, and saves its figures in the end.
func campaign(t *testing.T, layer string) (add func(name, value, note string), save func(not ...string)) {
	if *flagReport == "" {
		t.Skip("a campaign: make scale")
	}
	r := figures.Report{Layer: layer + *flagSuffix, Measured: time.Now().Format(time.DateOnly),
		Command: fmt.Sprintf("make scale ONLY=%s RUNS=%d SIZE=%d NODES=%d", layer, *flagRuns, *flagSize, *flagNodes)}
	add = func(name, value, note string) {
		t.Logf("%s: %s (%s)", name, value, note)
		r.Figures = append(r.Figures, figures.Figure{Name: name, Value: value, Note: note})
	}
	return add, func(not ...string) {
		r.NotCovered = not
		require.NoError(t, r.Save(*flagReport))
	}
}

func us(d time.Duration, n int64) string {
	return fmt.Sprintf("%.1f", float64(d.Nanoseconds())/1e3/float64(max(n, 1)))
}

// rows is a figure for each of several runs: the median.
type rows struct {
	names []string
	notes map[string]string
	by    map[string][]float64
}

func (r *rows) add(name string, v float64, note string) {
	if r.by == nil {
		r.by, r.notes = map[string][]float64{}, map[string]string{}
	}
	if r.by[name] == nil {
		r.names = append(r.names, name)
	}
	r.by[name], r.notes[name] = append(r.by[name], v), note
}

func (r *rows) each(fn func(name, value, note string)) {
	for _, n := range r.names {
		s := slices.Sorted(slices.Values(r.by[n]))
		fn(n, fmt.Sprintf("%.4g", s[len(s)/2]), r.notes[n])
	}
}

func heapNow() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func dirBytes(t *testing.T, dir string) (n int64) {
	require.NoError(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // pebble has removed it meanwhile
		}
		if err == nil {
			n += info.Size()
		}
		return err
	}))
	return n
}

// ledgerBytes is how large the ledger is on disk, once the relay was stopped and started: with all of its log in tables.
func (w *world) ledgerBytes() int64 {
	require.NoError(w.t, w.r.Close())
	w.todo = nil
	w.open()
	return dirBytes(w.t, filepath.Join(w.cfg.Data, "ledger"))
}

// Who is first for 100 million objects.
func TestScalePick(t *testing.T) {
	add, save := campaign(t, "pick")
	from := cpu()
	s := streamPick(1, *flagNodes, *flagPicks)
	took := cpu() - from
	n := int64(*flagPicks)
	add("Objects", fmt.Sprint(n), fmt.Sprintf("in %d datasets of three holders, each node with three of them; all of them were asked of `agent/pick`", *flagNodes))
	add("CPU of finding who is first", us(took, n)+" µs an object", "one to two ranks, of three weights each; sizes drawn too")
	add("Most objects of a node, over the mean", fmt.Sprintf("%.4f", imbalance(s.objects)), fmt.Sprintf("bytes too, where all objects have one size; %d objects a node", n/int64(*flagNodes)))
	add("Most objects of a holder in its dataset, over a third", fmt.Sprintf("%.4f", s.within), "the worst of all datasets")
	add("Most bytes of a node, over the mean: log-normal sizes", fmt.Sprintf("%.4f", imbalance(s.skewed)), "median 16 KiB, σ = 2, mean 121 KiB")
	add("Most bytes of a node, over the mean: Pareto sizes", fmt.Sprintf("%.4f", imbalance(s.heavy)), "from 4 KiB, α = 1.2, of any size: an object is sent by one node, and no pick evens out what is in the few largest")
	save("the pick asks no node how busy or how fast it is: what evens out is the waiting (see cluster)")
}

// What an object costs, whatever the number of them.
func TestScaleObjects(t *testing.T) {
	add, save := campaign(t, "objects")
	const nodes = 10
	for i, size := range []int{*flagSize / 100, *flagSize / 10, *flagSize} {
		var r rows
		for run := range *flagRuns {
			if i == 2 && run > 0 {
				break
			}
			w := newWorld(t, settings{seed: uint64(run + 1), nodes: nodes, objects: size / nodes, size: 64 << 10})
			w.joinAll(time.Second)
			p := w.fill(0, w.objects)
			n := p.sealed
			holders := n * replicas
			all := p.sum(objectKinds...)
			r.add("CPU of the relay, µs an object", float64(all.cpu.Microseconds())/float64(n), "claims, segments, reports and the feed of all three holders; what stores and ledger do meanwhile in the background; without HTTP (see transport) and without what the payload's bytes cost")
			for _, k := range []string{"claim", "segment", "report", "feed"} {
				r.add("of it "+k, float64(p.of(k).cpu.Microseconds())/float64(n), "")
			}
			r.add("Allocations an object", float64(all.allocs)/float64(n), "counted")
			r.add("Requests for 1,000 objects and holder", 1000*float64(all.calls)/float64(holders), "polls apart")
			r.add("of them segments", 1000*float64(p.of("segment").calls)/float64(holders), "of at most 8 MiB, 128 of these objects: they carry the payload")
			r.add("Messages on the bus for 1,000 objects and holder", 1000*float64(p.sum(busKinds...).calls)/float64(holders), "published; each is delivered to three")
			r.add("Bytes of requests and answers, an object and holder", float64(all.in+all.out-p.of("segment").in-p.of("segment").out)/float64(holders), "bodies; segments apart")
			r.add("Bytes of segments beside the payload, an object", float64(p.of("segment").in+p.of("segment").out)/float64(n), "path, metadata, digests; sent once")
			r.add("Bytes on the bus, an object and holder", float64(p.sum(busKinds...).out)/float64(holders), "delivered")
			r.add("Claims an object", float64(p.of("claim").objects)/float64(n), "1 is the least: who has waited for its turn in vain claims too")
			r.add("Most bytes of a node, over the mean", imbalance(p.by), "all objects have 64 KiB")
			r.add("Sent for nothing, per cent", 100*float64(p.wasted)/float64(max(p.sent, 1)), "")
			r.add("Ledger on disk with all owed, bytes an object", float64(w.ledgerBytes())/float64(n), "three holders, one link; paths of 43 bytes")
			c := w.confirm()
			r.add("CPU of confirming and freeing, µs an object", float64(c.of("confirm").cpu.Microseconds())/float64(n), "the ledger's part; the targets' is theirs")
			r.add("Ledger on disk with all confirmed, bytes an object", float64(w.ledgerBytes())/float64(n), "what it stays at")
			w.nodes, w.datasets, w.subjects, w.todo, w.tally, p = nil, nil, nil, nil, tally{}, phase{}
			r.add("Heap of the relay in the end, MiB", float64(heapNow())/(1<<20), "of the whole process without what was simulated; pebble's cache of 64 MiB and its memtables lie outside of it")
		}
		r.each(func(name, value, note string) { add(fmt.Sprintf("%d objects: %s", size, name), value, note) })
	}
	save("objects of more than a segment: each costs one claim, and a request for each 8 MiB", "a ledger larger than the machine's memory: each claim and report then reads a few blocks of 4 KiB from the disk",
		"directories, links and metadata changes: they travel as objects without content")
}

// What a node costs that has nothing to send, whatever the number of them.
func TestScaleNodes(t *testing.T) {
	add, save := campaign(t, "nodes")
	for _, nodes := range []int{max(*flagNodes/30, 4), max(*flagNodes/10, 4), max(*flagNodes/3, 4), *flagNodes} {
		var r rows
		for run := range *flagRuns {
			w := newWorld(t, settings{seed: uint64(run + 1), nodes: nodes, objects: 5, size: 1})
			join := w.joinAll(5 * time.Second)
			idle := w.idle(20 * time.Second)
			w.fill(0, w.objects)
			change := w.churn(60, 20*time.Second)
			r.add("CPU of 20 idle seconds, per cent of a core", 100*(idle.sum().cpu.Seconds())/20, "polls, beats and all that the relay looks at by itself; without HTTP and NATS")
			r.add("of it a poll, µs", float64(idle.of("poll").cpu.Microseconds())/float64(idle.of("poll").calls), "each agent sends one a second, with the state of three roots")
			r.add("of it the relay by itself, per cent of a core", 100*idle.of("round").cpu.Seconds()/20, "status and problems, once a second, and the rest of its rounds")
			r.add("CPU of all joining in 5 s, seconds", join.sum().cpu.Seconds(), "with what 10 s cost otherwise")
			r.add("Member lists fetched while they join, a node", float64(join.members)/float64(nodes), "each has three datasets with three holders each")
			r.add("Claim of one changed object, µs", float64(change.of("claim").cpu.Microseconds())/float64(change.of("claim").calls), "")
			r.add("Segment of one changed object, µs", float64(change.of("segment").cpu.Microseconds())/float64(change.of("segment").calls), "a table of its own in the store, and the ledger's rows")
			r.add("Requests a second, idle", float64(idle.of("poll").calls)/20, "")
			r.add("Messages on the bus a second, idle", float64(idle.of("beat").calls)/20, "to the relay")
		}
		r.each(func(name, value, note string) { add(fmt.Sprintf("%d nodes: %s", nodes, name), value, note) })
	}
	save("the status that operators and Prometheus ask for, which costs what the relay's own look costs, each time")
}

// What the relay keeps in memory for sessions and leases.
func TestScaleMemory(t *testing.T) {
	add, save := campaign(t, "memory")
	const sessions, leases = 1000, 500_000
	at := heapNow()
	b := session.NewBook(time.Second, 1)
	for i := range sessions {
		s := session.Session{Cluster: cluster, Node: fmt.Sprintf("node-%04d", i), Instance: fmt.Sprint("i-", i), Boot: fmt.Sprint("b-", i), Software: "1", Address: "10.0.0.1:1234"}
		for k := range replicas {
			s.Roots = append(s.Roots, session.Root{Holder: proto.HolderID(i*replicas + k), Dataset: proto.DatasetID((i + k) % sessions), Name: proto.Dataset{Cluster: cluster, Name: fmt.Sprintf("data-%04d", (i+k)%sessions)}, Path: "/srv/data"})
		}
		_, _, err := b.Open(s, epoch)
		require.NoError(t, err)
	}
	next := heapNow()
	add("A session with three roots", fmt.Sprintf("%d B", (next-at)/sessions), "and up to 1,000 failures by name for each root, some 300 B each, and 256 ended leases")
	tb := arbiter.NewTable(1)
	d := dataset{}
	for i := range leases {
		tb.Grant(arbiter.Lease{Session: proto.SessionID(i % sessions), Holder: proto.HolderID(i % sessions), Dataset: proto.DatasetID(i % 100), Path: d.path(i), Size: 1, Since: epoch})
	}
	last := heapNow()
	add("A lease", fmt.Sprintf("%d B", (last-next)/leases), "from the grant to the acknowledgement; an agent has two packs of up to 1,000 for each root, and 8,192 at most")
	runtime.KeepAlive(b)
	runtime.KeepAlive(tb)
	save()
}
