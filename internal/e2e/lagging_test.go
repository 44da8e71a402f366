package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// history is what happens to a dataset while one of its nodes is away: objects change twice, are deleted, renamed, and made.
type history struct {
	s     *site
	nodes []string // that see it
}

func first(t *tree) {
	t.t.Helper()
	t.dir("dir", 0o755)
	for i := range 60 {
		t.file(fmt.Sprintf("dir/%d", i), int64(i)*500)
	}
	t.dir("gone", 0o755)
	t.file("gone/with its directory", 3000)
	t.file("deleted", 2_000_000)
	t.file("large", 30<<20)
	t.text("counter", "version 1")
}

// goesOn makes version n of what changes.
func (h history) goesOn(n int) {
	h.s.t.Helper()
	h.s.fill("media", func(t *tree) {
		t.salt = fmt.Sprint(n)
		for i := range 20 {
			t.file(fmt.Sprintf("dir/%d", i), int64(i)*500+int64(n%2)) // some change their size, all their content
		}
		t.file("large", 30<<20)
		t.text("counter", fmt.Sprintf("version %d", n))
		t.file(fmt.Sprintf("new %d", n), 1000)
	}, h.nodes...)
	for _, node := range h.nodes {
		root := h.s.root(node, "media")
		if n == 2 {
			require.NoError(h.s.t, os.RemoveAll(filepath.Join(root, "gone")))
			require.NoError(h.s.t, os.Remove(filepath.Join(root, "deleted")))
			require.NoError(h.s.t, os.Rename(filepath.Join(root, "dir/59"), filepath.Join(root, "dir/renamed")))
		}
		t := h.s.newTree(root)
		t.stamp("dir", t.when(fmt.Sprint(n)))
	}
}

// away runs the history with one node stopped, which then comes back as it was left. wipe says whether it lost its index.
// Nothing of what it has may reach the targets.
func comesBack(t *testing.T, wipe bool) {
	// Deletes do not wait for the node that is away: its grace is over soon.
	sp := three("delete: {propagate: true, grace: 1s, guard: {share: 100%}}")
	sp.suspicion = "2s"
	s := runs(t, sp, func(s *site) { s.fill("media", first, "a", "b", "c") })
	s.settle("media-nas", "media-vault")
	s.nodes["c"].agent.stop()
	s.awaitState("away", "c")
	h := history{s, []string{"a", "b"}}
	for n := 2; n <= 4; n++ {
		h.goesOn(n)
		s.settle("media-nas", "media-vault")
	}
	s.equal(s.root("a", "media"), "media-nas")
	s.equal(s.root("a", "media"), "media-vault")
	before := s.status()
	if wipe {
		require.NoError(t, os.RemoveAll(s.nodes["c"].data))
		s.makeDirs("agent-c")
	}
	s.startNodes("c")
	s.settle("media-nas", "media-vault")
	s.until("what lags on c to be counted", func() bool { return s.node("c").Lagging >= 22 })
	after := s.status()
	for i, l := range after.Links {
		assert.Equal(t, before.Links[i].ConfirmedObjects, l.ConfirmedObjects, "link %s: nothing of what c came back with is flushed", l.Name)
	}
	assert.Equal(t, before.Cache.AckedBytes, after.Cache.AckedBytes, "nor uploaded")
	assert.Equal(t, before.Datasets[0].Head, after.Datasets[0].Head, "nor a version of anything")
	for _, link := range []string{"media-nas", "media-vault"} {
		s.equal(s.root("a", "media"), link)
		assert.NoFileExists(t, filepath.Join(s.mirror(link), "deleted"))
		s.sound(link)
	}
	counter, ok := s.where("primary/media/counter")
	require.True(t, ok)
	for _, holder := range counter.Holders {
		if holder.Node == "c" {
			assert.Equal(t, "lags", holder.State)
		}
	}

	// Once the cluster's replication has brought it up to date, it is a holder like the others, and can upload.
	for n := 2; n <= 4; n++ {
		history{s, []string{"c"}}.goesOn(n)
	}
	s.settle("media-nas", "media-vault")
	s.until("c to lag no more", func() bool { return s.node("c").Lagging == 0 })
	assert.Equal(t, before.Datasets[0].Objects, s.dataset("primary/media").Objects)
	history{s, []string{"c"}}.goesOn(5)
	s.settle("media-nas")
	got, err := os.ReadFile(filepath.Join(s.mirror("media-nas"), "counter"))
	require.NoError(t, err)
	assert.Equal(t, "version 5", string(got))
	s.until("the others to lag", func() bool { return s.node("a").Lagging > 0 && s.node("b").Lagging > 0 })
}

func TestNodeBackWithOldContent(t *testing.T) {
	t.Parallel()
	comesBack(t, false)
}

func TestNodeBackWithOldContentAndNoIndex(t *testing.T) {
	t.Parallel()
	comesBack(t, true)
}

// A node whose replication is one version behind neither uploads nor holds up, and does not make the target go back.
func TestNodeThatLagsBehind(t *testing.T) {
	t.Parallel()
	sp := three("delete: {propagate: true}")
	sp.suspicion = "2s"
	s := runs(t, sp, func(s *site) { s.fill("media", first, "a", "b", "c") })
	s.settle("media-nas", "media-vault")
	for n := 2; n <= 4; n++ {
		history{s, []string{"a", "b"}}.goesOn(n)
		if n > 2 {
			history{s, []string{"c"}}.goesOn(n - 1)
		}
		w := s.wait("media-nas", "confirm")
		assert.Equal(t, n == 2, w.Partial, "as long as c has what the others deleted, that is under-held: %+v", w)
		got, err := os.ReadFile(filepath.Join(s.mirror("media-nas"), "counter"))
		require.NoError(t, err)
		assert.Equal(t, fmt.Sprintf("version %d", n), string(got))
		assert.Positive(t, s.node("c").Lagging)
	}
	history{s, []string{"c"}}.goesOn(4)
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-nas")
	s.equal(s.root("c", "media"), "media-vault")
	s.until("c to lag no more", func() bool { return s.node("c").Lagging == 0 })
}

// Content that nobody else knows on a node that was away is a conflict, not a version: what most holders have stays, the
// other is listed and its holder waits for somebody to decide.
func TestForkIsListed(t *testing.T) {
	t.Parallel()
	sp := three("")
	sp.suspicion = "2s"
	s := runs(t, sp, func(s *site) { s.fill("media", first, "a", "b", "c") })
	s.settle("media-nas", "media-vault")
	s.nodes["c"].agent.stop()
	history{s, []string{"a", "b"}}.goesOn(3)
	s.settle("media-nas", "media-vault")
	s.fill("media", func(t *tree) { t.text("counter", "an own version of c") }, "c")
	s.startNodes("c")
	out, code := s.forebay("wait", "media-nas", "--timeout", "2m")
	require.Equal(t, 3, code, out)
	assert.Contains(t, out, "counter")
	assert.EqualValues(t, 1, s.node("c").Divergent)
	assert.NotNil(t, s.problem("divergent", "primary/c"))
	s.equal(s.root("a", "media"), "media-nas")
	s.wait("media-vault", "confirm")
	s.equal(s.root("a", "media"), "media-vault")

	// Somebody decides, and all is well.
	s.fill("media", func(t *tree) { t.salt = "3"; t.text("counter", "version 3") }, "c")
	s.until("c to agree", func() bool { return s.node("c").Divergent == 0 })
	s.settle("media-nas", "media-vault")
}
