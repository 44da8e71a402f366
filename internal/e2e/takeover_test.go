package e2e

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// largeSize is enough to be caught in the middle of.
const largeSize = 300 << 20

// aLarge makes a large object and some company.
func aLarge(t *tree) {
	t.t.Helper()
	t.dir("dir", 0o755)
	for i := range 50 {
		t.file(fmt.Sprintf("dir/%d", i), int64(i)*1000)
	}
	t.file("large", largeSize)
}

// underWay waits until a part of an object is acknowledged and returns who sends it.
func (s *site) underWay(object string, size, least int64) (by *node, acked int64) {
	s.t.Helper()
	var done bool
	s.until("the upload of "+object+" to be under way", func() bool {
		w, ok := s.where(object)
		if !ok {
			return false
		}
		done = w.Current != nil && w.Current.Size == size
		if up := w.Uploading; up != nil && up.Node != "" && up.Acked >= least {
			by, acked = s.nodes[up.Node], up.Acked
			return true
		}
		return done
	})
	require.False(s.t, done, "%s was acknowledged before anything could be done to its uploader", object)
	require.NotNil(s.t, by)
	for _, e := range s.events("takeover") { // one of before, on a busy machine, is not the one that is waited for next
		s.before = max(s.before, e.Seq)
	}
	return by, acked
}

// takenOver waits for the takeover of an object from a node, and checks what the relay tells of it: who took over, from where,
// and that nothing that was acknowledged is asked for again.
func (s *site) takenOver(object string, from *node, acked int64) (by *node) {
	s.t.Helper()
	var e proto.Event
	s.until("somebody to take over from "+from.name, func() bool {
		for _, x := range s.events("takeover") {
			if x.Seq > s.before && x.Fields["object"] == object && x.Fields["from"] == from.name {
				e = x
				return true
			}
		}
		return false
	})
	offset, err := strconv.ParseInt(e.Fields["offset"], 10, 64)
	require.NoError(s.t, err)
	assert.GreaterOrEqual(s.t, offset, acked, "the successor goes on where the relay is (I9)")
	require.NotEqual(s.t, from.name, e.Fields["to"])
	require.NotNil(s.t, s.nodes[e.Fields["to"]], e)
	s.t.Log(e.What)
	return s.nodes[e.Fields["to"]]
}

// sentTwice requires that all was acknowledged once and no more than some windows came in vain.
func (s *site) sentTwice(bytes int64, windows int64) {
	s.t.Helper()
	c := s.status().Cache
	assert.Equal(s.t, bytes, c.AckedBytes, "bytes acknowledged: each object once")
	assert.LessOrEqual(s.t, c.WastedBytes, windows*proto.DefaultWindow, "bytes that the relay got in vain")
	var sent int64
	if s.spec.proxied || s.spec.networked {
		for _, n := range s.order {
			sent += s.nodes[n].sent()
		}
		s.t.Logf("%d bytes on the wire for %d of content, %.4f; %d of them in vain as the relay saw it", sent, bytes, float64(sent)/float64(bytes), c.WastedBytes)
		assert.LessOrEqual(s.t, sent, bytes+bytes/50+windows*proto.DefaultWindow+4<<20, "bytes on the wire")
	}
}

// slowly is a site whose agents send no faster than lets a test act in the middle of an object.
func slowly() spec {
	sp := three("")
	sp.proxied = true
	for i := range sp.nodes {
		sp.nodes[i].more = "limits: {upload: 80MiB}"
	}
	return sp
}

const largeObject = "primary/media/large"

func TestUploaderKilled(t *testing.T) {
	t.Parallel()
	s := runs(t, slowly(), func(s *site) { s.fill("media", aLarge, "a", "b", "c") })
	victim, acked := s.underWay(largeObject, largeSize, largeSize/4)
	began := time.Now()
	victim.agent.kill()
	next := s.takenOver(largeObject, victim, acked)
	s.t.Logf("%s had the lease %s after the SIGKILL", next.name, time.Since(began).Round(time.Millisecond))
	second, acked := s.underWay(largeObject, largeSize, largeSize/2) // and again
	require.Equal(t, next, second)
	second.agent.kill()
	s.takenOver(largeObject, second, acked)
	s.settle("media-nas", "media-vault")
	s.sentTwice(total(t, s.root("a", "media")), 2)
	s.startNodes(victim.name, second.name)
	s.settle("media-nas", "media-vault")
	s.sentTwice(total(t, s.root("a", "media")), 2)
	s.equal(s.root("a", "media"), "media-nas")
	s.equal(s.root("a", "media"), "media-vault")
	s.sound("media-nas")
	s.restored(s.root("b", "media"), "media-vault")
}

// An uploader that stands still keeps its connection; the silence ends its lease. When it goes on, what it has under way
// changes nothing (I7), and it is a good holder again.
func TestUploaderStopped(t *testing.T) {
	t.Parallel()
	sp := slowly()
	sp.suspicion = "2s"
	s := runs(t, sp, func(s *site) { s.fill("media", aLarge, "a", "b", "c") })
	victim, acked := s.underWay(largeObject, largeSize, largeSize/4)
	victim.agent.freeze()
	s.takenOver(largeObject, victim, acked)
	victim.agent.thaw() // while the successor is sending
	s.awaitState("alive", victim.name)
	s.settle("media-nas", "media-vault")
	s.sentTwice(total(t, s.root("a", "media")), 2)
	s.equal(s.root("a", "media"), "media-nas")
	s.equal(s.root("b", "media"), "media-vault")
	s.sound("media-vault")

	// It is as good as the others: it sends what it alone has, and takes over from its successor.
	s.fill("media", func(t *tree) { t.file("new", 40<<20) }, victim.name)
	s.settle("media-nas")
	assert.FileExists(t, filepath.Join(s.mirror("media-nas"), "new"))
	assert.Positive(t, s.node(victim.name).UploadedBytes)
	w, ok := s.where(largeObject)
	require.True(t, ok)
	for _, h := range w.Holders {
		assert.Equal(t, "has", h.State, "%+v", h)
		assert.True(t, h.Alive, "%+v", h)
	}
	assert.Len(t, w.Holders, 3)
}

// Connections that break cost at most the window, whether the same agent goes on or another.
func TestConnectionsReset(t *testing.T) {
	t.Parallel()
	s := runs(t, slowly(), func(s *site) { s.fill("media", aLarge, "a", "b", "c") })
	const resets = 4
	for i := range resets {
		var by *node
		s.until("the upload to go on", func() bool {
			w, ok := s.where(largeObject)
			if ok && w.Uploading != nil && w.Uploading.Node != "" && w.Uploading.Acked >= int64(i+1)*largeSize/6 {
				by = s.nodes[w.Uploading.Node]
			}
			return by != nil || ok && w.Current != nil
		})
		if by != nil {
			by.proxy.reset(false)
		}
	}
	s.settle("media-nas", "media-vault")
	s.sentTwice(total(t, s.root("a", "media")), resets)
	s.equal(s.root("a", "media"), "media-nas")
	s.equal(s.root("c", "media"), "media-vault")
	s.awaitState("alive", "a", "b", "c")

	// A node that cannot reach the relay for a while is back by itself.
	s.nodes["b"].proxy.reset(true)
	s.awaitState("away", "b")
	assert.NotNil(t, s.problem("node-away", "primary/b"))
	s.nodes["b"].proxy.reset(false)
	s.awaitState("alive", "b")
	s.settle("media-nas", "media-vault")
}
