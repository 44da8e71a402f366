package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/faultfs"
	"forebay/internal/testnet"
	"forebay/proto"
)

// bigSize and bigRate give a test two seconds to act in the middle of an object.
const (
	bigSize   = 120 << 20
	bigRate   = "limits: {upload: 56MiB}"
	bigObject = "primary/media/big"
)

// oneLink is a site of nodes with a replica each and one link.
func oneLink(suspicion string, names ...string) spec {
	sp := spec{suspicion: suspicion, links: []link{{name: "media-nas", from: "primary/media", to: "nas"}}}
	for _, n := range names {
		sp.nodes = append(sp.nodes, nodeSpec{name: n, datasets: []string{"media"}, more: bigRate})
	}
	return sp
}

// onNetwork is oneLink with a network namespace for each node, without which the test is skipped.
func onNetwork(t *testing.T, suspicion string, names ...string) spec {
	t.Helper()
	if why := testnet.Missing(); why != "" {
		t.Skip(why)
	}
	sp := oneLink(suspicion, names...)
	sp.networked = true
	return sp
}

func aBig(t *tree) {
	t.t.Helper()
	t.file("small", 5000)
	t.file("big", bigSize)
}

// whole waits until an object is a version and nobody sends it.
func (s *site) whole(object string) (w proto.Where) {
	s.t.Helper()
	s.until(object+" to be acknowledged whole", func() (ok bool) {
		w, ok = s.where(object)
		return ok && w.Current != nil && w.Uploading == nil
	})
	return w
}

// agreed waits until all holders of an object have proved to have what is current.
func (s *site) agreed(object string, holders int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d holders of %s to agree", holders, object), func() bool {
		w, ok := s.where(object)
		n := 0
		for _, h := range w.Holders {
			if h.State == "has" && h.Alive {
				n++
			}
		}
		return ok && n == holders
	})
}

// A stopped uploader that wakes up after its successor has finished changes nothing (I7), learns it, and is a good holder.
func TestUploaderWakesAfterItsSuccessorFinished(t *testing.T) {
	t.Parallel()
	s := runs(t, oneLink("1s", "a", "b", "c"), func(s *site) { s.fill("media", aBig, "a", "b", "c") })
	victim, acked := s.underWay(bigObject, bigSize, bigSize/4)
	victim.agent.freeze()
	s.takenOver(bigObject, victim, acked)
	before := s.whole(bigObject)
	bytes := total(t, s.root("a", "media"))
	assert.Equal(t, bytes, s.status().Cache.AckedBytes)
	victim.agent.thaw()
	s.agreed(bigObject, 3)
	after := s.whole(bigObject)
	assert.Equal(t, before.Current.Version, after.Current.Version, "what it still had to say made no version")
	assert.Len(t, s.events("takeover"), 1)
	s.settle("media-nas")
	s.sentTwice(bytes, 1)
	s.fill("media", func(t *tree) { t.file("new", 20<<20) }, victim.name)
	s.until("the one that was stopped to send what it alone has", func() bool {
		w, ok := s.where("primary/media/new")
		return ok && w.Current != nil
	})
	s.settle("media-nas")
	s.equal(s.root(victim.name, "media"), "media-nas")
}

// A holder whose copy differs in one bit of what was acknowledged never completes that: it starts anew with its own, and
// what most holders have wins in the end.
func TestOneBitOfThePrefixDiffers(t *testing.T) {
	t.Parallel()
	s := newSite(t, oneLink("1s", "a", "b", "c"))
	s.fill("media", aBig, "a", "b", "c")
	flip(t, s.root("c", "media")+"/big", 3<<20+77)
	tr := s.newTree(s.root("c", "media"))
	tr.note("big")
	tr.finish() // the same mtime as the others'
	s.startRelay()
	s.startNodes("a")
	a, _ := s.underWay(bigObject, bigSize, bigSize/4)
	s.startNodes("c")
	w, _ := s.where(bigObject)
	require.NotNil(t, w.Uploading, "it was too fast: nothing is proved")
	acked := w.Uploading.Acked
	a.agent.kill()
	require.Equal(t, "c", s.takenOver(bigObject, a, acked).name)
	mixed := w.Uploading.Upload
	s.whole(bigObject)
	assert.Greater(t, s.status().Cache.WastedBytes, int64(bigSize/4), "what a had sent is of no use to c")
	s.awaitLink("media-nas", "idle", func(l proto.LinkStatus) bool {
		return l.State == "idle" && l.ConfirmedObjects > 0 && l.BacklogObjects == 0
	})
	s.equal(s.root("c", "media"), "media-nas") // every byte is c's own
	for _, e := range s.events("takeover-first-ack") {
		assert.Equal(t, fmt.Sprint(uint64(mixed)), e.Fields["upload"], "the new start is no takeover")
	}

	s.startNodes("a", "b")
	s.until("c to be the one that differs", func() bool { return s.node("c").Lagging == 1 && s.node("a").Divergent == 0 })
	s.awaitLink("media-nas", "idle", func(l proto.LinkStatus) bool { return l.State == "idle" && l.BacklogObjects == 0 })
	s.equal(s.root("a", "media"), "media-nas")
}

// flip changes one bit of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	require.NoError(t, err)
	b[0] ^= 4
	_, err = f.WriteAt(b, at)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// With all holders gone the upload waits, is shown as waiting, and goes on where it was when one returns.
func TestAllHoldersGone(t *testing.T) {
	t.Parallel()
	s := runs(t, oneLink("1s", "a", "b", "c"), func(s *site) { s.fill("media", aBig, "a", "b", "c") })
	last, _ := s.underWay(bigObject, bigSize, bigSize/4)
	for _, n := range s.order {
		if n != last.name {
			s.nodes[n].agent.kill()
		}
	}
	last.agent.kill()
	p := s.awaitProblem("upload-waiting", "none of its holders is there (a, b, c)")
	assert.Contains(t, p.What, `"big" has`)
	w, ok := s.where(bigObject)
	require.True(t, ok)
	require.NotNil(t, w.Uploading)
	assert.Empty(t, w.Uploading.Node)
	assert.Contains(t, w.Uploading.Why, "its connection was lost")
	assert.Contains(t, s.does("where", bigObject), "nobody just now: none of its holders is there (a, b, c)")
	out, code := s.forebay("wait", "media-nas", "--timeout", "1s")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "which nobody carries on just now")
	acked := w.Uploading.Acked
	require.Positive(t, acked)

	s.relay.kill() // and the relay forgets nothing of it
	s.startRelay()
	s.awaitProblem("upload-waiting", "none of its holders is there (a, b, c)")
	back := "a"
	if last.name == back {
		back = "b"
	}
	s.startNodes(back)
	require.Equal(t, back, s.takenOver(bigObject, last, acked).name)
	s.whole(bigObject)
	require.Nil(t, s.problem("upload-waiting", ""))
	for _, n := range s.order {
		if n != back {
			s.startNodes(n)
		}
	}
	s.settle("media-nas")
	s.equal(s.root("c", "media"), "media-nas")
	assert.LessOrEqual(t, s.status().Cache.WastedBytes, int64(2*proto.DefaultWindow))
}

// uploadsOfAFaultyDisk has node a, whose disk can be made to fail, upload objects of 90 MiB, which b and c have, too.
func uploadsOfAFaultyDisk(t *testing.T, objects []string) *site {
	t.Helper()
	needsFaults(t)
	sp := oneLink("", "a", "b", "c")
	sp.nodes[0].faulty = true
	s := newSite(t, sp)
	s.fill("media", func(t *tree) {
		for _, o := range objects {
			t.file(o, 90<<20)
		}
	}, "a", "b", "c")
	s.startRelay()
	s.startNodes("a")
	for _, o := range objects {
		s.underWay("primary/media/"+o, 90<<20, 4<<20)
	}
	s.startNodes("b", "c")
	return s
}

// A disk that cannot be read ends the upload of that object alone, at once: another holder carries it on while the node goes on
// with the others. It is listed until the disk is well again.
func TestReadErrorEndsOneUploadAlone(t *testing.T) {
	t.Parallel()
	objects := []string{"bad", "good 1", "good 2"}
	s := uploadsOfAFaultyDisk(t, objects)
	bad := s.nodes["a"].disk
	bad.Set(faultfs.Rule{Path: "bad", From: 75 << 20, To: 76 << 20, P: 1, Err: syscall.EIO})
	s.takenOver("primary/media/bad", s.nodes["a"], 4<<20)
	require.Positive(t, bad.Struck())
	for _, o := range objects[1:] {
		w, ok := s.where("primary/media/" + o)
		require.True(t, ok)
		if w.Uploading != nil {
			assert.Equal(t, "a", w.Uploading.Node, "%s is not touched by it", o)
		}
	}
	for _, o := range objects {
		s.whole("primary/media/" + o)
	}
	require.Len(t, s.events("takeover"), 1)
	takeover := s.events("takeover")[0]
	assert.Contains(t, takeover.Fields["cause"], "read error: read")
	assert.Contains(t, takeover.Fields["cause"], "input/output error")
	assert.NotEmpty(t, s.events("read-error"))
	assert.Empty(t, s.events("agent-lost"), "its session is untouched")
	s.until("it to be listed", func() bool { return s.lists("media-nas", "bad", proto.FailUnreadable) && s.node("a").Unreadable == 1 })
	for _, f := range s.failures("media-nas") {
		assert.Equal(t, "a", f.Node)
		assert.Contains(t, f.Reason, "input/output error")
	}
	bad.Set()
	s.until("it to be read", func() bool { return s.node("a").Unreadable == 0 })
	s.settle("media-nas")
	s.agreed("primary/media/bad", 3)
	s.equal(s.root("b", "media"), "media-nas")
	s.sentTwice(total(t, s.root("b", "media")), 1)
}

// An uploader that reaches the relay, and neither the bus nor the other holders, keeps its lease: they ask now and then, and
// are told that it is at it.
func TestUploaderCutOffFromItsPeers(t *testing.T) {
	t.Parallel()
	sp := onNetwork(t, "1s", "a", "b", "c")
	sp.nats = `urls: ["nats://10.77.0.2:4222"]`
	s := newSite(t, sp)
	const size = 300 << 20
	s.fill("media", func(t *tree) { t.file("big", size) }, "a", "b", "c")
	s.startRelay()
	s.startNodes("a", "b", "c")
	s.until("all to hear the bus", func() bool { return s.agentBus("a") && s.agentBus("b") && s.agentBus("c") })
	by, _ := s.underWay(bigObject, size, size/20)
	by.host.Cut(s.nats)
	s.until("it to have lost the bus", func() bool { return !s.agentBus(by.name) })
	s.whole(bigObject)
	assert.Empty(t, s.events("takeover"))
	assert.Empty(t, s.events("agent-lost"))
	assert.Zero(t, s.status().Cache.WastedBytes)
	for _, n := range s.order {
		if n != by.name {
			assert.Less(t, s.nodes[n].sent(), int64(1<<20), "%s asks seldom", n)
		}
	}
	by.host.Join(s.nats)
	s.settle("media-nas")
	s.equal(s.root("b", "media"), "media-nas")
}

// A cut in one direction is as good as one in both: silence ends the lease, from whichever side it comes.
func TestOneWayPartitions(t *testing.T) {
	t.Parallel()
	s := runs(t, onNetwork(t, "1s", "a", "b", "c"), func(s *site) { s.fill("media", aBig, "a", "b", "c") })
	first, acked := s.underWay(bigObject, bigSize, bigSize/8)
	first.host.Drop(testnet.Out)
	second := s.takenOver(bigObject, first, acked)
	by, acked := s.underWay(bigObject, bigSize, bigSize/2)
	require.Equal(t, second, by)
	second.host.Drop(testnet.In)
	s.takenOver(bigObject, second, acked)
	s.whole(bigObject)
	first.host.Drop(0)
	second.host.Drop(0)
	s.agreed(bigObject, 3)
	s.settle("media-nas")
	s.sentTwice(total(t, s.root("a", "media")), 2)
	s.equal(s.root("c", "media"), "media-nas")

	// What an operator sees of it.
	var seen []proto.Event
	lines := strings.TrimSpace(s.does("events", "--json"))
	if strings.HasPrefix(lines, "[") {
		require.NoError(t, json.Unmarshal([]byte(lines), &seen))
	} else {
		for _, l := range strings.Split(lines, "\n") {
			var e proto.Event
			require.NoError(t, json.Unmarshal([]byte(l), &e), l)
			seen = append(seen, e)
		}
	}
	takeovers := 0
	for _, e := range seen {
		if e.Kind != "takeover" {
			continue
		}
		takeovers++
		assert.Equal(t, bigObject, e.Fields["object"])
		assert.Contains(t, []string{first.name, second.name}, e.Fields["from"])
		assert.NotEqual(t, e.Fields["from"], e.Fields["to"])
		assert.Contains(t, e.Fields["cause"], "silent for 1s")
		assert.NotEmpty(t, e.Fields["offset"])
		assert.WithinDuration(t, time.Now(), e.At, time.Hour)
	}
	assert.Equal(t, 2, takeovers)
}

// A link that comes and goes costs at most a window each time it ends a lease, and what it carries arrives.
func TestLinkThatFlaps(t *testing.T) {
	t.Parallel()
	s := runs(t, onNetwork(t, "2s", "a", "b", "c"), func(s *site) { s.fill("media", aBig, "a", "b", "c") })
	by, _ := s.underWay(bigObject, bigSize, bigSize/8)
	flap := time.NewTicker(250 * time.Millisecond)
	defer flap.Stop()
	for i := range 8 {
		by.host.Link(i%2 == 1)
		<-flap.C
	}
	s.whole(bigObject)
	s.agreed(bigObject, 3)
	s.settle("media-nas")
	s.sentTwice(total(t, s.root("a", "media")), int64(len(s.events("takeover")))+1) // TCP sends again too
	s.equal(s.root("b", "media"), "media-nas")
	s.awaitState("alive", "a", "b", "c")
}

// A holder that is busy with large objects of its own carries on what others had begun beside them, not after them.
func TestBusySuccessor(t *testing.T) {
	t.Parallel()
	sp := oneLink("1s", "a", "b")
	sp.nodes[0].more = "limits: {upload: 16MiB}" // b has seven seconds to start and to be busy
	sp.nodes[1].more = "limits: {upload: 8MiB}"
	s := newSite(t, sp)
	s.fill("media", aBig, "a", "b")
	own := []string{"own 1", "own 2", "own 3", "own 4", "own 5"}
	s.fill("media", func(t *tree) {
		for _, o := range own {
			t.file(o, 24<<20)
		}
	}, "b")
	s.startRelay()
	s.startNodes("a")
	a, _ := s.underWay(bigObject, bigSize, 1)
	s.startNodes("b")
	s.until("b to be busy", func() bool {
		n := 0
		for _, o := range own {
			if w, ok := s.where("primary/media/" + o); ok && w.Uploading != nil && w.Uploading.Node == "b" {
				n++
			}
		}
		return n == 4
	})
	w, _ := s.where(bigObject)
	require.NotNil(t, w.Uploading, "it was too fast: nothing is to be carried on")
	a.agent.kill()
	s.takenOver(bigObject, a, w.Uploading.Acked)
	for _, o := range own {
		w, ok := s.where("primary/media/" + o)
		assert.False(t, ok && w.Current != nil, "%s was not waited for", o)
	}
	s.startNodes("a")
	s.settle("media-nas")
	s.equal(s.root("b", "media"), "media-nas")
}
