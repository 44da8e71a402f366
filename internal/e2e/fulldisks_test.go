package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/baddisk"
	"forebay/internal/faultfs"
	"forebay/proto"
)

// needsDisks skips a test where bad disks cannot be made.
func needsDisks(t *testing.T) {
	t.Helper()
	if why := baddisk.Check(); why != "" {
		t.Skip(why)
	}
}

func needsFaults(t *testing.T) {
	t.Helper()
	if why := faultfs.Missing(); why != "" {
		t.Skip(why)
	}
}

// disks is where the site's bad disks are made.
func (s *site) disks() *baddisk.Yard {
	s.t.Helper()
	if s.yard == nil {
		s.makeDirs("yard")
		var err error
		s.yard, err = baddisk.New(s.path("yard"))
		require.NoError(s.t, err)
	}
	return s.yard
}

// small makes a directory of the site a small disk.
func (s *site) small(at string, size, inodes int64) {
	s.t.Helper()
	require.NoError(s.t, s.disks().Small(at, size, inodes))
}

// heavier makes objects of the n-th kind on all nodes: more bytes than a small disk has.
func (s *site) heavier(n int, mib int64) {
	s.t.Helper()
	s.fill("media", func(t *tree) {
		t.salt = fmt.Sprint("heavier ", n)
		dir := fmt.Sprintf("heavier %d", n)
		t.dir(dir, 0o755)
		for i := range 100 {
			t.file(fmt.Sprintf("%s/%d", dir, i), int64(i)*300)
		}
		for i := range mib / 5 {
			t.file(fmt.Sprintf("%s/large %d", dir, i), 5<<20)
		}
	}, s.order...)
}

// well waits until nothing is wrong any more, without anybody's help.
func (s *site) well() {
	s.t.Helper()
	s.until("all to be well", func() bool {
		st, err := s.op.Status(s.t.Context())
		return err == nil && st.Health == proto.Green
	})
}

// intact waits for both links, compares everything with the source, and verifies the targets deeply.
func (s *site) intact() {
	s.t.Helper()
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-nas")
	s.equal(s.root(s.order[len(s.order)-1], "media"), "media-vault")
	s.sound("media-nas")
	s.sound("media-vault")
}

// Disks of the stores fill up, of bytes and of inodes, by what the relay writes and by others. Nothing is lost, status says
// which, and they take data again by themselves.
func TestStoreDisksThatFillUp(t *testing.T) {
	t.Parallel()
	needsDisks(t)
	s := runs(t, three(""), func(s *site) {
		s.small(s.path("store-1"), 40<<20, 0)
		s.small(s.path("store-2"), 400<<20, 200)
		s.fill("media", content, s.order...)
	})
	s.intact()
	s.does("pause", "media-nas")
	s.heavier(1, 160)
	s.acknowledged("media-nas")
	p := s.awaitProblem("store-degraded", s.path("store-1"))
	assert.Equal(t, proto.Yellow, p.Health)
	require.NoError(t, baddisk.FillInodes(s.path("store-2")))
	s.heavier(2, 10)
	s.awaitProblem("store-degraded", s.path("store-2"))
	// With one store left of coding 2+1 there is no parity: nothing more is accepted, and that is red.
	s.awaitProblem("refusing", "")
	full := len(s.events("store-full"))
	require.NoError(t, baddisk.Free(s.path("store-2")))
	s.does("resume", "media-nas")
	s.intact()
	s.well()
	assert.Less(t, full, 10, "a full disk is told of when it fills up, not again and again")
	for _, store := range []string{"store-1", "store-2"} { // by what others write
		require.NoError(t, baddisk.Fill(s.path(store)))
	}
	s.heavier(3, 20)
	s.awaitProblem("refusing", "")
	for _, store := range []string{"store-1", "store-2"} {
		require.NoError(t, baddisk.Free(s.path(store)))
	}
	s.intact()
	s.well()
	assert.Zero(t, s.status().Cache.DegradedSegments)
	assert.Empty(t, s.events("segment-lost"))
	assert.Empty(t, s.events("corruption"))
}

// The disk of the ledger fills up. The relay may end, and is started again as the unit says; nothing that it acknowledged is
// lost, and all goes on once there is room.
func TestLedgerDiskThatFillsUp(t *testing.T) {
	t.Parallel()
	needsDisks(t)
	sp := three("")
	sp.suspicion = "2s"
	s := newSite(t, sp)
	s.small(s.path("relay"), 64<<20, 0)
	s.fill("media", content, s.order...)
	v := s.superviseRelay()
	s.startNodes(s.order...)
	s.intact()
	for n := range 2 {
		known := s.dataset("primary/media")
		require.NoError(t, baddisk.Fill(s.path("relay")))
		s.heavier(n, 40)
		if n == 1 {
			v.process().kill() // a start needs room, too
		}
		// What the ledger has set aside for its log takes some of it: there is more to write until the relay notices.
		more := 100 * (n + 1)
		s.until("the relay to notice", func() bool {
			if s.poll(2*time.Second, func() bool { return v.ended(1) > n }) {
				return true
			}
			more++
			s.heavier(more, 0)
			return false
		})
		require.NoError(t, baddisk.Free(s.path("relay")))
		s.until("the relay to answer", func() bool { return s.op.Healthy(s.t.Context()) == nil })
		s.awaitState("alive", s.order...)
		assert.GreaterOrEqual(t, s.dataset("primary/media").Head, known.Head)
		s.intact()
	}
	assert.Zero(t, v.ended(2), "a full disk is no mistake in the configuration")
	assert.Contains(t, tail(s.path("logs", "relay.log"), 1<<20), "no space left on device")
	s.well()
}

// The disk of a target fills up, of bytes and of inodes: its link says so, the other is not disturbed, and it goes on by
// itself.
func TestTargetDiskThatFillsUp(t *testing.T) {
	t.Parallel()
	needsDisks(t)
	s := runs(t, three(""), func(s *site) {
		s.small(s.target("nas"), 400<<20, 2000)
		s.fill("media", content, s.order...)
	})
	s.intact()
	watch := s.watch("media-nas", s.root("a", "media"))
	for n, fill := range []func(string) error{baddisk.Fill, baddisk.FillInodes} {
		require.NoError(t, fill(s.target("nas")))
		s.heavier(n, 60)
		s.settle("media-vault")
		l := s.awaitLink("media-nas", "stalled", func(l proto.LinkStatus) bool { return l.State == "stalled" })
		assert.Contains(t, l.Reason, "full")
		assert.NotEmpty(t, l.NextTry)
		assert.Zero(t, l.ParkedObjects)
		p := s.awaitProblem("link-stalled", "media-nas")
		assert.Equal(t, proto.Red, p.Health)
		require.NoError(t, baddisk.Free(s.target("nas")))
		s.intact()
	}
	watch.whole(1)
	s.well()
}

// The disk of an agent fills up. The other holders do its part, it says what is wrong, and goes on by itself.
func TestAgentDiskThatFillsUp(t *testing.T) {
	t.Parallel()
	needsDisks(t)
	sp := three("")
	sp.suspicion = "2s"
	s := newSite(t, sp)
	for _, n := range s.order {
		s.small(s.nodes[n].data, 48<<20, 0)
	}
	s.fill("media", content, s.order...)
	s.startRelay()
	agents := s.superviseNodes(s.order...)
	s.intact()
	for n, full := range [][]string{{"a"}, {"a", "b", "c"}} {
		for _, name := range full {
			require.NoError(t, baddisk.Fill(s.nodes[name].data))
		}
		for i := range full {
			agents[i].process().kill() // a start needs room
		}
		s.heavier(n, 20)
		s.until("the agents to notice", func() bool {
			for i := range full {
				if agents[i].ended(1) <= n {
					return false
				}
			}
			return true
		})
		if len(full) == 1 {
			s.until("the others to do it", func() bool {
				return s.link("media-nas").BacklogObjects == 0 && s.dataset("primary/media").Objects >= 410
			})
		}
		for _, name := range full {
			require.NoError(t, baddisk.Free(s.nodes[name].data))
		}
		s.awaitState("alive", s.order...)
		s.intact()
	}
	s.well()
}

// Disks whose fsync fails and then claims that all is well: of a store, of the ledger, of a target. What was acknowledged or
// confirmed is on the disk, which is read back afterwards.
func TestFsyncThatFails(t *testing.T) {
	t.Parallel()
	needsDisks(t)
	sp := three("")
	s := newSite(t, sp)
	disks := map[string]*baddisk.Image{}
	for _, at := range []string{s.path("store-1"), s.path("relay"), s.target("nas")} {
		disk, err := s.disks().Failing(at, 300<<20)
		require.NoError(t, err)
		disks[at] = disk
	}
	s.fill("media", content, s.order...)
	v := s.superviseRelay()
	s.startNodes(s.order...)
	s.intact()
	for n, at := range []string{s.path("store-1"), s.target("nas"), s.path("relay")} {
		known := s.dataset("primary/media")
		before := v.ended(1)
		require.NoError(t, disks[at].Break())
		s.heavier(n, 30)
		switch at {
		case s.path("store-1"):
			s.settle("media-nas", "media-vault")
			// The disk says that it has room, so it is tried again and again; that is over once there is nothing to write.
			assert.NotEmpty(t, append(s.events("store-full"), s.events("store-failed")...), "the fault is told of (I17)")
		case s.target("nas"):
			s.settle("media-vault")
			s.awaitLink("media-nas", "stalled", func(l proto.LinkStatus) bool { return l.State == "stalled" })
		default:
			s.until("the relay to end", func() bool { return v.ended(1) > before })
		}
		require.NoError(t, disks[at].Mend())
		s.until("the relay to answer", func() bool { return s.op.Healthy(s.t.Context()) == nil })
		s.awaitState("alive", s.order...)
		assert.GreaterOrEqual(t, s.dataset("primary/media").Head, known.Head)
		s.intact()
	}
	s.well()
	// All of it is on the disks: nothing was only in memory. The target's is mounted anew for that.
	for _, n := range s.order {
		s.nodes[n].agent.stop()
	}
	v.end()
	for at, disk := range disks {
		require.NoError(t, disk.Remount(), at)
	}
	s.same(s.root("a", "media"), s.mirror("media-nas"), os.Geteuid() == 0)
	s.restored(s.root("b", "media"), "media-nas")
	s.startRelay()
	s.startNodes(s.order...)
	s.intact()
}
