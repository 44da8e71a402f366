package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The ledger is lost while an upload is half received, one link has flushed, and another is paused with all that it owes in the
// cache. What comes back is no less than what was acknowledged: both mirrors become the source, deletes and metadata included.
func TestLostLedgerIsRebuilt(t *testing.T) {
	t.Parallel()
	sp := spec{nodes: []nodeSpec{{name: "a", datasets: []string{"media"}, more: "limits: {upload: 8MiB/s}"}, {name: "b", datasets: []string{"media"}, more: "limits: {upload: 8MiB/s}"}}}
	for _, to := range []string{"nas", "vault"} {
		sp.links = append(sp.links, link{name: "media-" + to, from: "primary/media", to: to, more: "delete: {propagate: true, guard: {share: 100%, objects: 1000}}"})
	}
	s := runs(t, sp, func(s *site) { s.fill("media", everything, "a", "b") })
	s.settle("media-nas", "media-vault")
	s.does("pause", "media-vault")
	s.does("policy", "set", "media-nas", "priority=3")
	for _, n := range s.order { // what only segments tell of the paused link, and of the other one its journal too
		tr := s.newTree(s.root(n, "media"))
		tr.dir("deleted", 0o755)
		tr.text("deleted/one", "is there for a while")
		tr.text("deleted/two", "is there, too")
		tr.text("changed", "first content")
		tr.file("changed-mode", 70_000)
		tr.finish()
	}
	s.settle("media-nas")
	for _, n := range s.order {
		require.NoError(t, os.RemoveAll(filepath.Join(s.root(n, "media"), "deleted")))
		tr := s.newTree(s.root(n, "media"))
		tr.text("changed", "second content, longer")
		tr.chmod("changed-mode", 0o640)
		tr.finish()
	}
	s.settle("media-nas")
	s.does("pause", "media-nas")
	for _, n := range s.order {
		tr := s.newTree(s.root(n, "media"))
		tr.text("unflushed", "neither link has this")
		tr.file("large", 64<<20)
		tr.finish()
	}
	s.until("the large object to be half there", func() bool {
		w, ok := s.where("primary/media/large")
		return ok && w.Uploading != nil && w.Uploading.Acked >= 16<<20
	})
	s.relay.kill()
	require.NoError(t, os.RemoveAll(s.path("relay", "ledger")))

	out, code := s.forebay("relay", "--config", s.path("relay.yaml"))
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "--recover-ledger", "a relay without a ledger must not begin anew beside its stores")
	out = s.does("relay", "--recover-ledger", "--config", s.path("relay.yaml"))
	t.Log(out)
	assert.Contains(t, out, "1 upload to go on with")
	out, code = s.forebay("relay", "--recover-ledger", "--config", s.path("relay.yaml"))
	assert.Equal(t, 1, code, "a usable ledger is not thrown away")
	assert.Contains(t, out, "move")

	s.startRelay()
	s.awaitState("alive", s.order...)
	assert.Len(t, s.events("ledger-rebuilt"), 1)
	for _, name := range []string{"media-nas", "media-vault"} {
		assert.Equal(t, "paused", s.link(name).State, name)
	}
	assert.Contains(t, s.does("policy", "show", "media-nas"), "set")
	s.acknowledged("media-nas")
	wasted := s.status().Cache.WastedBytes
	assert.Less(t, wasted, int64(48<<20), "what was there is not sent again")
	for _, name := range []string{"media-nas", "media-vault"} {
		s.does("resume", name)
		s.settle(name)
		s.equal(s.root("a", "media"), name)
		s.sound(name)
	}
	// It goes on as if nothing had been: what changes now follows what was rebuilt.
	for _, n := range s.order {
		require.NoError(t, os.Remove(filepath.Join(s.root(n, "media"), "unflushed")))
		tr := s.newTree(s.root(n, "media"))
		tr.text("changed", "third")
		tr.finish()
	}
	for _, name := range []string{"media-nas", "media-vault"} {
		s.settle(name)
		s.equal(s.root("b", "media"), name)
	}
}
