package e2e

import (
	"os"
	"path/filepath"
	"strings"
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

// The machine of the relay is lost, its stores with it: a new one goes on with the backups that are there, and the old one, should it
// come back, leaves them alone.
func TestLostRelayIsReplaced(t *testing.T) {
	t.Parallel()
	s := runs(t, eager(), func(s *site) { s.fill("media", first, s.order...) })
	s.intact()
	history{s, s.order}.goesOn(1)
	s.settle("media-nas", "media-vault")
	s.does("pause", "media-vault")
	history{s, s.order}.goesOn(2)
	s.settle("media-nas")
	s.does("pause", "media-nas")
	s.fill("media", func(t *tree) { // no target has this
		t.salt = "3"
		t.file("large", 30<<20)
		t.text("counter", "version 3")
		t.file("new 3", 1000)
	}, s.order...)
	s.acknowledged("media-nas")
	s.relay.kill()
	places := []string{"relay", "store-1", "store-2", "store-3"}
	lost := s.path("lost")
	require.NoError(t, os.Mkdir(lost, 0o755))
	swap := func(to, from string) { // all that the relay's machine has
		for _, p := range places {
			require.NoError(t, os.Rename(s.path(p), filepath.Join(to, p)))
			if from == "" {
				require.NoError(t, os.Mkdir(s.path(p), 0o700))
				continue
			}
			require.NoError(t, os.Rename(filepath.Join(from, p), s.path(p)))
		}
	}
	swap(lost, "")
	for _, n := range s.order { // while there is no relay
		require.NoError(t, os.Remove(filepath.Join(s.root(n, "media"), "new 1")))
		tr := s.newTree(s.root(n, "media"))
		tr.text("counter", "version 4")
		tr.finish()
	}

	out, code := s.forebay("relay", "--recover-ledger", "--config", s.path("relay.yaml"))
	assert.Equal(t, 1, code, out)
	assert.Contains(t, out, "--from-targets")
	out, code = s.forebay("relay", "--recover-ledger", "--from-targets", "--config", s.path("relay.yaml"))
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "paused", "nothing is known of what was paused")
	t.Log(out)
	s.startRelay()
	s.awaitState("alive", s.order...)
	for _, link := range []string{"media-nas", "media-vault"} {
		assert.Equal(t, "paused", s.link(link).State)
		s.does("resume", link)
		s.settle(link)
		s.equal(s.root("a", "media"), link)
		s.sound(link)
	}

	s.relay.stop()
	fresh := s.path("fresh")
	require.NoError(t, os.Mkdir(fresh, 0o755))
	swap(fresh, lost)
	s.startRelay()
	s.does("resume", "media-nas")
	s.until("the old relay to leave the target alone", func() bool {
		l := s.link("media-nas")
		return l.State == "stalled" && strings.Contains(l.Reason, "rebuilt")
	})
	s.equal(s.root("a", "media"), "media-nas")
}
