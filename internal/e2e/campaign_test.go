package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/faultfs"
	"forebay/internal/figures"
	"forebay/internal/testnet"
	"forebay/proto"
)

// The takeover campaign, see make takeover.
var (
	campaignRuns    = flag.Int("takeover.runs", 0, "runs of each fault in the takeover campaign; 0: no campaign")
	campaignSize    = flag.Int64("takeover.size", 4<<30, "bytes of its object")
	campaignHolders = flag.Int("takeover.holders", 3, "its holders, three to five")
	campaignRate    = flag.Int64("takeover.rate", 1e9, "bits a second of each node's link in it")
	reportDir       = flag.String("report", "", "where campaigns put their reports; empty: nowhere")
)

// The times that are promised: from the fault to the successor's first acknowledged byte, beyond the suspicion time where the
// fault is silence.
const (
	promised      = time.Second
	promisedRatio = 1.08 // bytes on the wire for those of an object with ten takeovers of 4 GiB
)

// trouble is a way for an uploader to fail, and for the node to be well again.
type trouble struct {
	name   string
	silent bool // nothing but the silence tells of it
	strike func(s *site, n *node, acked int64) (began func() time.Time)
	heal   func(s *site, n *node)
	spec   func(*spec)
	// sites are the cuts of each site, as parts of the object; nil: one site that is cut at 10, 50 and 90 %.
	sites [][]float64
	// small is how many small objects each node has beside the large one, and busy whether enough of them are left when it is cut: else
	// the site tells nothing, and another one with twice as many is made.
	small int
	// others is how many nodes serve the dataset without having the object: the pick knows nothing of that.
	others int
	busy   func(s *site) bool
}

// now is for faults that begin when they are made.
func now(at time.Time) func() time.Time { return func() time.Time { return at } }

func killed(_ *site, n *node, _ int64) func() time.Time {
	at := time.Now()
	n.agent.kill()
	return now(at)
}

func restarted(s *site, n *node) { s.startNodes(n.name) }

func troubles() []trouble {
	nothing := func(*spec) {}
	return []trouble{
		{
			name: "killed", spec: nothing,
			strike: killed, heal: restarted,
		},
		{
			name: "connection reset", spec: func(sp *spec) { sp.proxied = true },
			strike: func(_ *site, n *node, _ int64) func() time.Time {
				at := time.Now()
				n.proxy.reset(false)
				return now(at)
			},
			heal: func(*site, *node) {},
		},
		{
			name: "stopped", silent: true, spec: nothing,
			strike: func(_ *site, n *node, _ int64) func() time.Time {
				at := time.Now()
				n.agent.freeze()
				return now(at)
			},
			heal: func(_ *site, n *node) { n.agent.thaw() },
		},
		{
			name: "cut off", silent: true, spec: nothing,
			strike: func(_ *site, n *node, _ int64) func() time.Time {
				at := time.Now()
				n.host.Drop(testnet.Both)
				return now(at)
			},
			heal: func(_ *site, n *node) { n.host.Drop(0) },
		},
		{
			// As in most clusters: an object lies on a few of the nodes.
			name: "killed, and most nodes do not have it", spec: nothing, others: 6,
			strike: killed, heal: restarted,
		},
		{
			// All nodes have thousands of objects to look at and to send when it happens.
			name: "killed amid small objects", spec: nothing, small: 30_000, sites: [][]float64{{0.02}, {0.04}, {0.06}},
			busy: func(s *site) bool {
				return !slices.ContainsFunc(s.order, func(n string) bool { return s.node(n).UnsentObjects <= 1000 })
			},
			strike: killed, heal: restarted,
		},
		{
			// One fault a site: a disk that failed is not trusted before its copy has been read whole again, and until then a second
			// one that fails makes the holder behind both wait for the suspicion time. That would be measured, not the takeover.
			name: "read error", sites: [][]float64{{0.1}, {0.5}, {0.9}},
			spec: func(sp *spec) {
				for i := range sp.nodes {
					sp.nodes[i].faulty = true
				}
			},
			strike: func(_ *site, n *node, acked int64) func() time.Time {
				// Beyond what is under way: the reading that meets it is the one to be sent next.
				n.disk.Set(faultfs.Rule{Path: "big", From: acked + proto.DefaultWindow + proto.SegmentTarget, P: 1, Err: syscall.EIO})
				return n.disk.First
			},
			heal: func(_ *site, n *node) { n.disk.Set() },
		},
	}
}

// campaign keeps the replicas, which all runs share, and what was measured.
type campaign struct {
	dir      string
	size     int64
	replicas []string
}

// measured is what one site showed.
type measured struct {
	after    []time.Duration // from each fault to the first byte that was acknowledged after it
	bytes    int64           // of content
	wire     int64           // payload on the wire
	wasted   int64           // of it, as the relay saw
	takeover int
	idle     bool // of small objects, there was too little left to do when it was to be cut
}

// Takeovers in figures: an object of the default size of 4 GiB on three to five nodes, each with a network namespace and a link of
// its own, with a cold page cache, cut at 10, 50 and 90 % by each fault.
func TestTakeoverCampaign(t *testing.T) {
	if *campaignRuns == 0 {
		t.Skip("a campaign: make takeover")
	}
	if why := testnet.Missing() + faultfs.Missing(); why != "" {
		t.Skip(why)
	}
	c := newCampaign(t)
	report := figures.Report{
		Layer:    fmt.Sprintf("takeover-%d", *campaignHolders),
		Command:  fmt.Sprintf("make takeover RUNS=%d SIZE=%d HOLDERS=%d RATE=%d", *campaignRuns, c.size, *campaignHolders, *campaignRate),
		Measured: time.Now().UTC().Format(time.DateOnly),
		Invariants: map[string]string{
			"I6": "the relay's count of bytes acknowledged is that of the content, however often the sender changed",
			"I7": "stopped and cut-off senders that come back change nothing: one version, equal to the source",
			"I8": "what is at the target is compared with the replicas byte for byte after each run",
			"I9": "bytes on the wire counted at the nodes' links",
		},
		NotCovered: []string{
			"links with loss, reordering or long round trips (the kernel here has no netem); successors that are busy with large objects of their own",
			"p99 of few takeovers is their longest",
			"two holders whose disks fail within seconds: the holder behind both waits for the suspicion time",
		},
	}
	add := func(name, value, note string) {
		report.Figures = append(report.Figures, figures.Figure{Name: name, Value: value, Note: note})
	}
	var twice int64
	takeovers := 0
	for _, f := range troubles() {
		var all []time.Duration
		for range *campaignRuns {
			t.Run(f.name, func(t *testing.T) {
				sites := f.sites
				if sites == nil {
					sites = [][]float64{{0.1, 0.5, 0.9}}
				}
				for _, cuts := range sites {
					m := c.site(t, f, cuts)
					all = append(all, m.after...)
					if f.small == 0 { // else what is said of each of them outweighs it
						twice += m.wire - m.bytes
						takeovers += m.takeover
					}
					t.Logf("%s: %v; %d bytes on the wire beyond the %d of content, %d takeovers", f.name, m.after, m.wire-m.bytes, m.bytes, m.takeover)
				}
			})
		}
		limit := promised
		if f.silent {
			limit += proto.DefaultSuspicion
		}
		if t.Failed() {
			return // what follows would tell nothing
		}
		if len(all) == 0 { // left out by -run
			continue
		}
		slices.Sort(all)
		p99 := all[min(len(all)-1, len(all)*99/100)]
		add("uploader "+f.name+": first byte of the successor acknowledged after", fmt.Sprintf("p50 %s, p99 %s, longest %s of %d", ms(all[len(all)/2]), ms(p99), ms(all[len(all)-1]), len(all)), "promised: "+limit.String()+" at p99")
		assert.LessOrEqual(t, p99, limit, "uploader %s", f.name)
	}
	if takeovers > 0 {
		add("bytes sent twice, on average a takeover", fmt.Sprintf("%.1f MiB", float64(twice)/float64(takeovers)/(1<<20)), fmt.Sprintf("payload at the nodes' links beyond the object, all faults on nodes with nothing else to do, %d takeovers; promised: the window of %d MiB at most", takeovers, proto.DefaultWindow>>20))
	}
	t.Run("ten takeovers", func(t *testing.T) {
		var cuts []float64
		for i := range 10 {
			cuts = append(cuts, 0.04+0.09*float64(i))
		}
		rate := min(*campaignRate, c.size*8/40) // killed agents need time to be back, also with a small object
		m := c.run(t, troubles()[0], rate, cuts)
		ratio := float64(m.wire) / float64(c.size)
		add(fmt.Sprintf("bytes on the wire for one object with %d takeovers", m.takeover), fmt.Sprintf("%.4f of its size", ratio), fmt.Sprintf("%d bytes, killed ten times, at %d Mbit/s; promised: %.2f for 4 GiB; as the relay saw, %d bytes came in vain", c.size, rate/1e6, promisedRatio, m.wasted))
		assert.GreaterOrEqual(t, m.takeover, 10)
		assert.LessOrEqual(t, m.wire, int64(float64(c.size)*promisedRatio)+max(0, 10*proto.DefaultWindow-c.size/13))
	})
	for _, f := range report.Figures {
		t.Logf("%s: %s (%s)", f.Name, f.Value, f.Note)
	}
	if *reportDir != "" && !t.Failed() {
		require.NoError(t, report.Save(*reportDir))
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// newCampaign makes a replica for each holder, each a file of its own: they share no page of the cache.
func newCampaign(t *testing.T) *campaign {
	t.Helper()
	c := &campaign{dir: t.TempDir(), size: *campaignSize}
	for i := range *campaignHolders {
		root := filepath.Join(c.dir, fmt.Sprint(i))
		require.NoError(t, os.Mkdir(root, 0o755))
		tr := &tree{t: t, root: root, uid: -1, gid: -1}
		tr.file("big", c.size)
		tr.finish()
		c.replicas = append(c.replicas, tr.full("big"))
	}
	return c
}

// chill takes the replicas out of the page cache.
func (c *campaign) chill(t *testing.T) {
	t.Helper()
	for _, path := range c.replicas {
		f, err := os.Open(path)
		require.NoError(t, err)
		require.NoError(t, f.Sync()) // only clean pages go
		require.NoError(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		require.NoError(t, f.Close())
	}
}

// site is run on a site of its own that is gone afterwards, with as many small objects as it takes for the nodes to be busy when it is cut.
func (c *campaign) site(t *testing.T, f trouble, cuts []float64) (m measured) {
	t.Helper()
	for range 4 {
		t.Run(fmt.Sprint(cuts), func(t *testing.T) { m = c.run(t, f, *campaignRate, cuts) })
		if !m.idle || t.Failed() {
			break
		}
		t.Logf("%s: %d small objects were all but sent before the cut", f.name, f.small)
		f.small *= 2
	}
	if m.idle || t.Failed() {
		t.FailNow()
	}
	return m
}

// run uploads the object once, with a fault at each of the cuts.
func (c *campaign) run(t *testing.T, f trouble, rate int64, cuts []float64) (m measured) {
	t.Helper()
	sp := spec{networked: true, rate: rate, cache: fmt.Sprintf("capacity: %dB", 3*c.size+1<<30), links: []link{{name: "media-nas", from: "primary/media", to: "nas"}}}
	for i := range len(c.replicas) + f.others {
		sp.nodes = append(sp.nodes, nodeSpec{name: string(rune('a' + i)), datasets: []string{"media"}})
	}
	f.spec(&sp)
	s := newSite(t, sp)
	holders := s.order[:len(c.replicas)]
	for i, n := range holders {
		at := s.root(n, "media")
		if sp.nodes[i].faulty {
			at = s.path("disk-" + n + "-media-0")
		}
		require.NoError(t, os.Link(c.replicas[i], filepath.Join(at, "big")))
	}
	s.fill("media", func(t *tree) {
		for i := range f.small {
			if i%1000 == 0 {
				t.dir(fmt.Sprint(i/1000), 0o755)
			}
			t.file(fmt.Sprintf("%d/%d", i/1000, i), 1000)
		}
	}, s.order...)
	m.bytes = c.size + int64(f.small)*1000
	c.chill(t)
	s.startRelay()
	s.startNodes(s.order...)
	for _, cut := range cuts {
		// A small object must have something left to be read after the cut.
		by, acked := s.underWay(bigObject, c.size, min(int64(cut*float64(c.size)), c.size-3*proto.DefaultWindow))
		c.chill(t)
		if m.idle = f.busy != nil && !f.busy(s); m.idle {
			return m
		}
		w, _ := s.where(bigObject)
		require.NotNil(t, w.Uploading)
		began := f.strike(s, by, max(acked, w.Uploading.Acked))
		first := s.firstAck(by, w.Uploading.Epoch)
		require.False(t, began().IsZero())
		m.after = append(m.after, first.Sub(began()))
		s.timeline(began())
		f.heal(s, by)
		s.awaitState("alive", s.order...)
	}
	s.until("the object to be acknowledged whole", func() bool {
		w, ok := s.where(bigObject)
		return ok && w.Current != nil && w.Uploading == nil
	})
	for _, n := range s.order {
		m.wire += s.nodes[n].host.Sent()
	}
	s.agreed(bigObject, len(holders))
	s.settle("media-nas")
	m.takeover = len(s.events("takeover"))
	st := s.status()
	m.wasted = st.Cache.WastedBytes
	assert.Equal(t, m.bytes, st.Cache.AckedBytes, "bytes acknowledged")
	windows := int64(max(m.takeover, len(cuts))) // a sender that goes on itself after a reset sends a window again, too
	assert.LessOrEqual(t, m.wire-m.bytes, windows*proto.DefaultWindow+m.bytes/100, "bytes on the wire beyond the content")
	s.equal(s.root("b", "media"), "media-nas")
	return m
}

// timeline logs what the relay noted after a fault, and when.
func (s *site) timeline(began time.Time) {
	var line strings.Builder
	for _, kind := range []string{"read-error", "agent-lost", "takeover", "takeover-first-ack", "agent-connected"} {
		for _, e := range s.events(kind) {
			if e.At.After(began) {
				fmt.Fprintf(&line, " %s %s,", kind, ms(e.At.Sub(began)))
			}
		}
	}
	s.t.Logf("after the fault:%s", strings.TrimSuffix(line.String(), ","))
}

// firstAck waits for the first byte of the object that is acknowledged after a fault, under whatever lease that follows, and
// returns when that was: the relay's word on a takeover, exact to the microsecond, or for an uploader that goes on itself what
// where shows, exact to the time between two looks.
func (s *site) firstAck(by *node, epoch string) (at time.Time) {
	s.t.Helper()
	was, acked := counterOf(s.t, epoch), int64(-1)
	s.until("the object to go on after "+by.name, func() bool {
		for _, e := range s.events("takeover-first-ack") {
			if e.Fields["object"] == bigObject && counterOf(s.t, e.Fields["epoch"]) > was {
				at = e.At
				return true
			}
		}
		w, ok := s.where(bigObject)
		if !ok || w.Uploading == nil || w.Uploading.Node != by.name || counterOf(s.t, w.Uploading.Epoch) <= was {
			return false
		}
		if acked < 0 {
			acked = w.Uploading.Acked
		}
		at = time.Now()
		return w.Uploading.Acked > acked
	})
	return at
}

// counterOf is the counter of an epoch as it is printed.
func counterOf(t testing.TB, epoch string) uint64 {
	t.Helper()
	_, counter, _ := strings.Cut(epoch, ".")
	n, err := strconv.ParseUint(counter, 10, 64)
	require.NoError(t, err, epoch)
	return n
}
