package e2e

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/proc"
)

// strongest is the class that a directory in TMPDIR can reach: a file system in memory keeps nothing.
func strongest() string {
	var st unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &st); err == nil && st.Type == unix.TMPFS_MAGIC {
		return "ack"
	}
	return "reread"
}

// sideBySide is a site where nothing comes once only: two clusters, two datasets, three links, two targets.
func sideBySide(ordinary bool) spec {
	return spec{
		ordinary: ordinary,
		nodes: []nodeSpec{
			{name: "a", datasets: []string{"media", "docs"}},
			{name: "b", datasets: []string{"media", "docs"}},
			{name: "c", cluster: "second", datasets: []string{"media"}},
		},
		links: []link{
			{name: "media-nas", from: "primary/media", to: "nas", prefix: "media/primary"},
			{name: "docs-nas", from: "primary/docs", to: "nas", prefix: "docs", more: "flush: {size: 1MiB, age: 2s}, confirm: " + strongest()},
			{name: "media-vault", from: "primary/media", to: "vault", prefix: "primary"},
			{name: "second-vault", from: "second/media", to: "vault", prefix: "second", more: "delete: {propagate: true}"},
		},
	}
}

func testSideBySide(t *testing.T, ordinary bool) {
	s := runs(t, sideBySide(ordinary), func(s *site) {
		s.fill("media", everything, "a", "b")
		s.fill("docs", func(t *tree) { t.salt = "docs"; kinds(t) }, "a", "b")
		s.fill("media", func(t *tree) { t.salt = "second"; names(t) }, "c")
	})
	links := []string{"media-nas", "docs-nas", "media-vault", "second-vault"}
	s.settle(links...)
	wants := map[string]string{"media-nas": s.root("a", "media"), "docs-nas": s.root("b", "docs"), "media-vault": s.root("b", "media"), "second-vault": s.root("c", "media")}
	for _, l := range links {
		s.equal(wants[l], l)
		s.sound(l)
		s.restored(wants[l], l)
	}
	st := s.status()
	for _, l := range st.Links {
		assert.Equal(t, "idle", l.State, "link %s: %s", l.Name, l.Reason)
		assert.Zero(t, l.BacklogObjects, l.Name)
		assert.Zero(t, l.LagSeconds, "link %s: the target equals the source", l.Name)
		assert.Zero(t, l.ParkedObjects, l.Name)
	}
	assert.Empty(t, st.Problems)
	assert.EqualValues(t, "green", st.Health)
	for _, p := range s.all {
		peak, _ := proc.Peak(p.cmd.Process.Pid) // 0: it has ended
		t.Logf("%s: %d MiB of memory at most", p.name, peak>>20)
	}
	for _, p := range s.all { // SIGTERM ends each well
		p.stop()
	}
}

func TestEverythingSideBySide(t *testing.T) {
	t.Parallel()
	testSideBySide(t, false)
}

func TestEverythingSideBySideAsAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the tests run as an ordinary user anyway")
	}
	testSideBySide(t, true)
}

// What the agents may not read is listed and holds up nothing else.
func TestUnreadableIsListed(t *testing.T) {
	t.Parallel()
	s := runs(t, spec{
		ordinary: os.Geteuid() == 0,
		nodes:    []nodeSpec{{name: "a", datasets: []string{"media", "docs"}}, {name: "b", datasets: []string{"media"}}},
		links:    []link{{name: "media-nas", from: "primary/media", to: "nas", prefix: "media"}, {name: "docs-nas", from: "primary/docs", to: "nas", prefix: "docs"}},
	}, func(s *site) {
		s.fill("media", func(t *tree) {
			t.file("fine", 5000)
			t.file("locked", 100)
			t.chmod("locked", 0)
			t.dir("closed", 0o755)
			t.file("closed/within", 100)
			t.chmod("closed", 0)
		}, "a", "b")
		s.fill("docs", names, "a")
	})
	s.settle("docs-nas")
	s.equal(s.root("a", "docs"), "docs-nas")
	out, code := s.forebay("wait", "media-nas", "--timeout", "2m")
	require.Equal(t, 3, code, out)
	assert.Contains(t, out, "locked")
	assert.Contains(t, out, "closed")
	kinds := map[string]bool{}
	for _, f := range s.failures("media-nas") {
		kinds[f.Path+" "+string(f.Kind)] = true
	}
	assert.True(t, kinds["locked unreadable"], "%v", kinds)
	assert.True(t, kinds["closed unreadable"], "%v", kinds)
	got, err := os.ReadFile(s.mirror("media-nas") + "/fine")
	require.NoError(t, err)
	want, err := os.ReadFile(s.root("a", "media") + "/fine")
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.NotNil(t, s.problem("unreadable", "primary/a"))

	// Once it may be read it is backed up, without anybody's help.
	for _, n := range []string{"a", "b"} {
		require.NoError(t, os.Chmod(s.root(n, "media")+"/locked", 0o640))
		require.NoError(t, os.Chmod(s.root(n, "media")+"/closed", 0o750))
	}
	s.settle("media-nas")
	s.equal(s.root("a", "media"), "media-nas")
}
