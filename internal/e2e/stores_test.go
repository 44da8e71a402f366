package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// store is what the relay says of the store at a path.
func (s *site) store(path string) (st proto.StoreStatus) {
	s.t.Helper()
	for _, st := range s.status().Cache.Stores {
		if st.Path == path {
			return st
		}
	}
	require.FailNow(s.t, "no store at "+path)
	return st
}

// rebuilt waits until nothing is degraded.
func (s *site) rebuilt() {
	s.t.Helper()
	s.until("all to be coded anew", func() bool {
		c := s.status().Cache
		return c.DegradedSegments == 0 && c.Rebuild.WaitingSegments == 0
	})
}

// flipped turns a bit in the middle of each table of a store and returns of how many.
func flipped(t *testing.T, dir string) (n int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".sst") {
			return err
		}
		st, err := d.Info()
		if err == nil {
			flip(t, path, st.Size()/2)
			n++
		}
		return err
	}))
	return n
}

// Disks of the cache go for good, rot, come and are taken away, by the words that operators have for it, while the cache alone has what it
// has: no holder is there, and the target is not either. Nothing is lost, and nothing is asked for again.
func TestStoresComeAndGo(t *testing.T) {
	t.Parallel()
	sp := oneLink("", "a", "b")
	s := runs(t, sp, func(s *site) { s.fill("media", everything, s.order...) })
	s.settle("media-nas")
	s.does("pause", "media-nas")
	s.heavier(1, 60)
	s.acknowledged("media-nas")
	held := s.link("media-nas").BacklogObjects
	require.Greater(t, held, int64(100))
	for _, n := range s.order {
		s.nodes[n].agent.kill()
	}

	gone := s.path("store-2") // for good
	s.relay.kill()
	require.NoError(t, os.RemoveAll(gone))
	require.NoError(t, os.Mkdir(gone, 0o700)) // a mount point, or a new disk: the relay must not take it for one
	s.startRelay()
	s.awaitProblem("store-missing", gone)
	entries, err := os.ReadDir(gone)
	require.NoError(t, err)
	require.Empty(t, entries, "nothing is written where a store is missing")
	assert.Regexp(t, `[1-9][0-9]* segments with a shard in it`, s.does("stores", "replace", "--dry-run", gone))
	assert.NotContains(t, s.does("stores", "replace", "--yes", gone), "asked for again", "one store of 2+1 is not missed")
	s.rebuilt()
	require.Equal(t, "ok", s.store(gone).State)
	require.Positive(t, s.store(gone).Segments)

	other := s.path("store-1")  // and so can the next be lost
	rotten := flipped(t, other) // tables that are about to be freed too
	require.Positive(t, rotten)
	out := s.does("scrub", "--wait")
	t.Logf("%d tables damaged: %s", rotten, out)
	assert.NotContains(t, out, "lost")
	assert.NotContains(t, out, "running since", "it is over")
	require.Positive(t, s.status().Cache.Scrub.Last.Healed)
	require.Equal(t, s.status().Cache.Scrub.Last.Found, s.status().Cache.Scrub.Last.Healed)

	added := s.path("store-4")
	assert.Contains(t, s.does("stores", "add", added), "put into relay.yaml")
	s.does("stores", "drain", "--wait", other)
	require.Equal(t, "drained", s.store(other).State)
	require.Zero(t, s.store(other).Segments)
	require.Positive(t, s.store(added).Segments)
	for _, what := range []string{"store-replaced", "store-added", "store-draining", "store-drained"} {
		s.until("the event "+what, func() bool { return len(s.events(what)) > 0 })
	}
	s.relay.kill()
	require.NoError(t, os.RemoveAll(other), "what is drained can be taken away")
	text, err := os.ReadFile(s.path("relay.yaml"))
	require.NoError(t, err)
	require.Contains(t, string(text), fmt.Sprintf("%q", other))
	text = bytes.Replace(text, fmt.Appendf(nil, "%q", other), fmt.Appendf(nil, "%q", added), 1)
	require.NoError(t, os.WriteFile(s.path("relay.yaml"), text, 0o644))
	s.startRelay()
	s.rebuilt()

	require.Equal(t, held, s.link("media-nas").BacklogObjects)
	s.does("resume", "media-nas")
	s.awaitLink("media-nas", "to owe nothing", func(l proto.LinkStatus) bool { return l.BacklogObjects == 0 })
	s.equal(s.root("a", "media"), "media-nas")
	s.sound("media-nas")
	assert.Empty(t, s.events("segment-lost"))
}
