package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/agent/agenttest"
	"forebay/agent/pick"
	"forebay/agent/upload"
	"forebay/fsmeta"
	"forebay/proto"
	"forebay/proto/bus"
	"forebay/proto/segment"
)

// bigOnly makes a tree with one object of n segments.
func bigOnly(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "big"), n*proto.SegmentTarget+4321, 77)
	return dir
}

// rangesSeen counts range pieces and calls fn with the number of each.
func rangesSeen(fn func(n int64, p segment.Piece) *proto.Error) func(*segment.Segment) *proto.Error {
	var n atomic.Int64
	return func(s *segment.Segment) *proto.Error {
		if p := s.Header.Pieces[0]; p.Kind == segment.PieceRange {
			return fn(n.Add(1), p)
		}
		return nil
	}
}

func TestSuccessorGoesOnFromWhatTheRelayHas(t *testing.T) {
	t.Parallel()
	for _, withBus := range []bool{true, false} {
		t.Run(fmt.Sprintf("bus %v", withBus), func(t *testing.T) {
			t.Parallel()
			r := &agenttest.Relay{Wanted: true, Suspicion: 10 * time.Second} // no busy machine ends a session
			m := bus.NewMemory(bus.Faults{})
			with := func(*Config, *Deps) {}
			if withBus {
				r.Bus, r.BusURLs = m.Peer(), []string{"memory"}
				with = func(_ *Config, d *Deps) { d.DialBus = busFor(m) }
			}
			const segments = 8
			half, dead := make(chan struct{}), make(chan struct{})
			r.OnSegment = rangesSeen(func(n int64, _ segment.Piece) *proto.Error {
				if n == segments/2 {
					close(half)
				}
				if n >= segments/2 {
					<-dead // until the uploader is gone
				}
				return nil
			})
			r.Start(t)
			one := bigOnly(t, segments)
			nodes := map[proto.HolderID]*running{}
			for i, tree := range []string{one, replica(t, one), replica(t, one)} {
				n := node(t, r, fmt.Sprintf("node-%d", i), with, tree)
				eventually(t, func() bool { return n.Status().Session.ID != 0 }, "known")
				nodes[proto.HolderID(i+1)] = n
			}
			<-half
			var first proto.HolderID
			r.Look("media", func(d *agenttest.Dataset, _ *agenttest.Stats) { first = d.Lease("big") })
			require.NotZero(t, first)
			nodes[first].stop()
			close(dead)
			settled(t, r, one, rest2(nodes, first)...)
			r.Look("media", func(d *agenttest.Dataset, s *agenttest.Stats) {
				assert.NotEqual(t, first, d.Rows["big"].Node)
				assert.LessOrEqual(t, s.Duplicate, int64(proto.DefaultWindow))
				assert.Equal(t, 1, s.Objects["big"])
				sent := s.Payload + s.Duplicate
				assert.Less(t, sent, int64((segments+5)*proto.SegmentTarget), "the successor goes on, it does not start anew")
			})
		})
	}
}

// What another holder had begun is not to wait for what this one is sending, nor for all that it has still to do (I16).
func TestTakeoverDoesNotStandBehindTheQueue(t *testing.T) {
	t.Parallel()
	r := &agenttest.Relay{Wanted: true, Suspicion: 5 * time.Second}
	var own []string // paths that b, the second holder, claims first
	for i := 0; len(own) < 2; i++ {
		if p := fmt.Sprintf("own-%d", i); pick.Rank(p, 2, []proto.HolderID{1, 2}) == 0 {
			own = append(own, p)
		}
	}
	sending := map[string]chan struct{}{own[0]: make(chan struct{}, 9), own[1]: make(chan struct{}, 9)}
	half, dead, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(release) })
	defer letGo()
	ranges := rangesSeen(func(n int64, _ segment.Piece) *proto.Error {
		if n == 2 {
			close(half)
		}
		if n >= 2 {
			<-dead // until the uploader is gone
		}
		return nil
	})
	r.OnSegment = func(s *segment.Segment) *proto.Error {
		for _, p := range s.Header.Pieces {
			if at, ok := sending[p.Path]; ok {
				at <- struct{}{}
				<-release
			}
		}
		return ranges(s)
	}
	r.Start(t)
	one := bigOnly(t, 4)
	a := node(t, r, "a", nil, one)
	<-half
	two := replica(t, one)
	write(t, filepath.Join(two, own[0]), 100, 1)
	b := node(t, r, "b", nil, two)
	<-sending[own[0]]
	write(t, filepath.Join(two, own[1]), 100, 2)
	<-sending[own[1]] // no slot for a pack is left
	a.stop()
	close(dead)
	sealed := func() (by proto.HolderID) {
		r.Look("media", func(d *agenttest.Dataset, _ *agenttest.Stats) {
			if row := d.Rows["big"]; row != nil {
				by = row.Node
			}
		})
		return by
	}
	eventually(t, func() bool { return sealed() == 2 }, "b carries it on")
	letGo()
	settled(t, r, two, b)
}

func rest2(nodes map[proto.HolderID]*running, without proto.HolderID) (out []*running) {
	for h, n := range nodes {
		if h != without {
			out = append(out, n)
		}
	}
	return out
}

func TestFileThatChangesWhileItIsReadIsNeverMixed(t *testing.T) {
	t.Parallel()
	dir := bigOnly(t, 6)
	r := &agenttest.Relay{Wanted: true, Suspicion: 10 * time.Second} // that of a session that ended is told to nobody
	r.OnSegment = rangesSeen(func(n int64, _ segment.Piece) *proto.Error {
		if n == 2 || n == 5 {
			f, err := os.OpenFile(filepath.Join(dir, "big"), os.O_WRONLY, 0)
			if err == nil {
				_, _ = f.WriteAt([]byte(fmt.Sprintf("changed %d", n)), 3*proto.BlockSize+n)
				_ = f.Close()
			}
		}
		return nil
	})
	r.Start(t)
	n := node(t, r, "a", nil, dir)
	settled(t, r, dir, n)
	r.Look("media", func(_ *agenttest.Dataset, s *agenttest.Stats) {
		assert.Positive(t, s.Changed["big"])
		assert.Equal(t, 1, s.Objects["big"], "no version of a mix")
	})
}

func TestOverloadIsWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sample(t, dir)
	var refused, claimed atomic.Int64
	r := &agenttest.Relay{Wanted: true}
	r.Refuse = func(path string) *proto.Error {
		if path == proto.PathClaim && refused.Load() > 0 && refused.Load() < 5 {
			claimed.Add(1)
		}
		if path == proto.PathSegment && refused.Add(1) <= 5 {
			e := proto.Errorf(proto.ClassOverload, "full")
			e.RetryAfter = 300 * time.Millisecond
			return e
		}
		return nil
	}
	r.Start(t)
	n := node(t, r, "a", nil, dir)
	settled(t, r, dir, n)
	assert.Greater(t, refused.Load(), int64(5))
	assert.LessOrEqual(t, claimed.Load(), int64(1), "no claims while the relay is full")
}

func TestSessionLossAndRelayRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sample(t, dir)
	r := &agenttest.Relay{Wanted: true}
	r.OnSegment = rangesSeen(func(n int64, _ segment.Piece) *proto.Error {
		if n == 2 {
			r.ForgetSessions()
		}
		return nil
	})
	r.Start(t)
	n := node(t, r, "a", nil, dir)
	settled(t, r, dir, n)
	r.Look("media", func(_ *agenttest.Dataset, s *agenttest.Stats) { assert.GreaterOrEqual(t, s.Hellos, 2) })

	r.Stop()
	write(t, filepath.Join(dir, "later"), 1000, 5)
	eventually(t, func() bool { return n.Status().Health == "red" }, "the agent says that no relay answers")
	r.Restart()
	settled(t, r, dir, n)
	eventually(t, func() bool { return n.Status().Health == "green" }, "it has a session")
}

func TestAnotherRelayGetsEverything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sample(t, dir)
	first := (&agenttest.Relay{Wanted: true}).Start(t)
	n := node(t, first, "a", nil, dir)
	settled(t, first, dir, n)
	n.stop()
	second := (&agenttest.Relay{Wanted: true, ID: 0xf1}).Start(t)
	cfg := n.cfg
	cfg.Relays = []string{second.URL()}
	settled(t, second, dir, launch(t, cfg, n.deps, nil))
}

func TestWhatTheCacheLostIsAskedForAgain(t *testing.T) {
	t.Parallel()
	one := t.TempDir()
	sample(t, one)
	r := (&agenttest.Relay{Wanted: true}).Start(t)
	a := node(t, r, "a", nil, one)
	b := node(t, r, "b", nil, replica(t, one))
	settled(t, r, one, a, b)
	r.Look("media", func(d *agenttest.Dataset, _ *agenttest.Stats) {
		for _, p := range []string{"big", "whole", "src/d1/f1.go"} {
			d.Asked[p], d.Rows[p].Content = true, nil
		}
	})
	eventually(t, func() (none bool) {
		r.Look("media", func(d *agenttest.Dataset, _ *agenttest.Stats) { none = len(d.Asked) == 0 })
		return none
	}, "everything asked for was sent")
	assert.Empty(t, difference(r, one))
	r.Look("media", func(_ *agenttest.Dataset, s *agenttest.Stats) {
		assert.Equal(t, 1, s.Objects["big"], "no new version of it")
	})
}

// failing is a tree on a disk with a bad sector.
type failing struct {
	upload.Tree
	bad string
}

func (f failing) Open(path string) (*os.File, error) {
	if path == f.bad {
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.EIO}
	}
	return f.Tree.Open(path)
}

func TestSecondRootGoesOnWhereTheFirstCannotRead(t *testing.T) {
	t.Parallel()
	one := t.TempDir()
	sample(t, one)
	two := replica(t, one)
	r := (&agenttest.Relay{Wanted: true}).Start(t)
	cfg := Config{
		Node: "a", Cluster: "primary", Relays: []string{r.URL()}, DataDir: t.TempDir(), Software: "test",
		Datasets: []Dataset{{Name: "media", Paths: []string{one, two}, Scan: time.Hour}},
	}
	deps := Deps{Now: ahead}
	bad := []string{"big", "whole"} // one of them is first tried on the failing root, whatever the pick
	n := launch(t, cfg, deps, func(a *Agent) {
		for i, r := range a.roots {
			dir := r.tree
			r.tree = func(f *fsmeta.Root) upload.Tree { return failing{dir(f), bad[i]} }
		}
	})
	eventually(t, func() bool { return difference(r, one) == "" }, "the other root delivers")
	eventually(t, func() bool {
		s := n.Status().Roots
		return s[0].Unreadable+s[1].Unreadable == 2
	}, "what cannot be read is counted")
	r.Look("media", func(d *agenttest.Dataset, _ *agenttest.Stats) {
		assert.Equal(t, proto.HolderID(2), d.Rows["big"].Node)
		assert.Equal(t, proto.HolderID(1), d.Rows["whole"].Node)
	})
}

func TestHolderThatLagsNeitherSendsNorRegresses(t *testing.T) {
	t.Parallel()
	one := t.TempDir()
	write(t, filepath.Join(one, "doc"), 5000, 1)
	two := replica(t, one)
	r := (&agenttest.Relay{Wanted: true}).Start(t)
	a := node(t, r, "a", nil, one)
	b := node(t, r, "b", nil, two)
	settled(t, r, one, a, b)
	write(t, filepath.Join(one, "doc"), 6000, 2)
	settled(t, r, one, a)
	eventually(t, func() bool { return b.Status().Roots[0].Lagging == 1 }, "b lags")
	b = b.again(t)
	wiped := node(t, r, "c", nil, replica(t, two)) // a holder with the old content and no index
	eventually(t, func() bool { return wiped.Status().Roots[0].Lagging+wiped.Status().Roots[0].Divergent == 1 }, "c is told that it lags")
	assert.Empty(t, difference(r, one))
	write(t, filepath.Join(two, "doc"), 6000, 2) // the replication catches up
	eventually(t, func() bool {
		s := b.Status().Roots[0]
		return s.Lagging == 0 && s.UnsentObjects == 0
	}, "b has caught up")
	r.Look("media", func(d *agenttest.Dataset, s *agenttest.Stats) {
		assert.Equal(t, 2, s.Objects["doc"])
		assert.Contains(t, d.Rows["doc"].Holders, proto.HolderID(2))
	})
}
