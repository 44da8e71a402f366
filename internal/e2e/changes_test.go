package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/treecmp"
	"forebay/proto"
)

// writer changes files in several roots, the same in each, until it is stopped.
type writer struct {
	t     *testing.T
	roots []string
	group sync.WaitGroup
	stop  context.CancelFunc
	ctx   context.Context
}

func newWriter(t *testing.T, roots ...string) *writer {
	w := &writer{t: t, roots: roots}
	w.ctx, w.stop = context.WithCancel(t.Context())
	t.Cleanup(w.end)
	return w
}

// run calls write again and again, with the number of the call, pausing between two.
func (w *writer) run(pause time.Duration, write func(n int)) {
	w.group.Go(func() { // ends at end
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for n := 1; ; n++ {
			write(n)
			select {
			case <-w.ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

func (w *writer) end() {
	w.stop()
	w.group.Wait()
}

// each does something to the file of a path in every root.
func (w *writer) each(path string, flags int, do func(f *os.File) error) {
	for _, root := range w.roots {
		f, err := os.OpenFile(filepath.Join(root, path), flags|os.O_CREATE, 0o644)
		if !assert.NoError(w.t, err) {
			return
		}
		assert.NoError(w.t, do(f))
		assert.NoError(w.t, f.Close())
	}
}

const wordFile = 24 << 20 // bytes of a file that is all one number

// words is n again and again.
func words(n, size int) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(n)), size/8)
}

// rewrite writes n over the whole file in place, in steps.
func (w *writer) rewrite(path string, n int) {
	chunk := words(n, 1<<20)
	w.each(path, os.O_WRONLY, func(f *os.File) error {
		for off := int64(0); off < wordFile; off += int64(len(chunk)) {
			if _, err := f.WriteAt(chunk, off); err != nil {
				return err
			}
		}
		return nil
	})
}

// replace puts a new file in the place of the old one.
func (w *writer) replace(path string, n int) {
	for _, root := range w.roots {
		aside := filepath.Join(filepath.Dir(root), filepath.Base(root)+"-aside")
		if assert.NoError(w.t, os.WriteFile(aside, words(n, 1<<20), 0o644)) {
			assert.NoError(w.t, os.Rename(aside, filepath.Join(root, path)))
		}
	}
}

// oneMoment requires that a file at the target is what its source was at one moment: one number throughout. It returns the
// number, 0 while there is no file.
func oneMoment(t *testing.T, path string) uint64 {
	t.Helper()
	raw, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return 0
	}
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(raw), 8, path)
	require.Equal(t, bytes.Repeat(raw[:8], len(raw)/8), raw, "%s is a mix (I8)", path)
	return binary.BigEndian.Uint64(raw)
}

// prefixOf requires that a log at the target is the beginning of what was written.
func prefixOf(t *testing.T, path string, line func(n int) string) int {
	t.Helper()
	raw, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return 0
	}
	require.NoError(t, err)
	n := 0
	for rest := raw; len(rest) > 0; {
		n++
		want := []byte(line(n))
		require.True(t, bytes.HasPrefix(rest, want) || bytes.HasPrefix(want, rest), "%s has something else at line %d", path, n)
		rest = rest[min(len(want), len(rest)):]
	}
	return n
}

// Files that are written while they are read: what reaches a target is what they were at one moment, never a mix. What never
// holds still is listed; once it does, it is backed up.
func TestFilesThatChangeWhileTheyAreRead(t *testing.T) {
	t.Parallel()
	sp := three("")
	sp.nodes = sp.nodes[:2]
	s := runs(t, sp, func(s *site) { s.fill("media", func(t *tree) { t.file("calm", 3<<20) }, "a", "b") })
	line := func(n int) string { return fmt.Sprintf("line %d of a log that grows without a pause, %d\n", n, n*n) }
	w := newWriter(t, s.root("a", "media"), s.root("b", "media"))
	w.run(5*time.Millisecond, func(n int) {
		w.each("log", os.O_WRONLY|os.O_APPEND, func(f *os.File) error { _, err := f.WriteString(line(n)); return err })
	})
	w.run(time.Millisecond, func(n int) { w.rewrite("restless", n) })
	w.run(3500*time.Millisecond, func(n int) { w.rewrite("in turns", n) })
	w.run(100*time.Millisecond, func(n int) { w.replace("replaced", n) })
	seen := map[uint64]bool{}
	s.until("versions of what holds still at times, and word of what never does", func() bool {
		for _, link := range []string{"media-nas", "media-vault"} {
			root := s.mirror(link)
			oneMoment(t, filepath.Join(root, "restless"))
			oneMoment(t, filepath.Join(root, "replaced"))
			prefixOf(t, filepath.Join(root, "log"), line)
			if n := oneMoment(t, filepath.Join(root, "in turns")); n > 0 {
				seen[n] = true
			}
		}
		return len(seen) >= 2 && s.lists("media-nas", "restless", "unsettled") && s.node("a").Unsettled+s.node("b").Unsettled > 0
	})
	w.end()
	s.until("all to hold still", func() bool { return s.node("a").Unsettled+s.node("b").Unsettled == 0 })
	s.settle("media-nas", "media-vault")
	s.sameContent(s.root("a", "media"), s.mirror("media-nas"))
	s.sameContent(s.root("b", "media"), s.mirror("media-vault"))
	for _, n := range s.order {
		assert.Zero(t, s.node(n).Divergent, n)
		assert.Zero(t, s.node(n).Unsettled, n)
	}
	s.sound("media-nas")
}

// Deletes are copied where the link says so, once every holder has lost the object.
func TestDeletes(t *testing.T) {
	t.Parallel()
	sp := three("")
	sp.links[0].more = "delete: {propagate: true}"
	s := runs(t, sp, func(s *site) { s.fill("media", first, "a", "b", "c") })
	s.settle("media-nas", "media-vault")
	gone := []string{"deleted", "gone", "dir/7"}
	remove := func(node string) {
		for _, path := range gone {
			require.NoError(t, os.RemoveAll(filepath.Join(s.root(node, "media"), path)))
		}
		tr := s.newTree(s.root(node, "media"))
		tr.stamp("dir", tr.when("after the delete"))
	}
	remove("a")
	out, code := s.forebay("wait", "media-nas", "--timeout", "2m")
	require.Equal(t, 3, code, out)
	assert.Contains(t, out, "under-held")
	assert.Contains(t, out, "deleted")
	assert.EqualValues(t, 4, s.dataset("primary/media").UnderHeld)
	remove("b")
	_, code = s.forebay("wait", "media-nas", "--timeout", "2m")
	require.Equal(t, 3, code)
	for _, path := range gone {
		_, err := os.Lstat(filepath.Join(s.mirror("media-nas"), path))
		assert.NoError(t, err, "%s is kept while a node has it", path)
	}
	remove("c")
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-nas")
	for _, path := range gone {
		_, err := os.Lstat(filepath.Join(s.mirror("media-vault"), path))
		assert.NoError(t, err, "%s is kept where deletes are not propagated", path)
	}
	s.sound("media-nas")
	s.sound("media-vault")
	s.restored(s.root("b", "media"), "media-vault") // what was deleted at the source is left out
	s.does("restore", "--from", s.mirror("media-vault"), "--to", s.path("kept"), "--kept")
	assert.FileExists(t, s.path("kept", "deleted"))

	// What comes back, with the same content or another, is backed up again.
	s.fill("media", func(t *tree) {
		t.file("deleted", 2_000_000)
		t.dir("gone", 0o755)
		t.salt = "another"
		t.file("gone/with its directory", 3000)
	}, s.order...)
	s.settle("media-nas", "media-vault")
	s.equal(s.root("c", "media"), "media-nas")
	assert.Zero(t, s.dataset("primary/media").UnderHeld)
}

// Each kind of object may become another.
func TestObjectsThatBecomeOthers(t *testing.T) {
	t.Parallel()
	s := runs(t, three("delete: {propagate: true, guard: {share: 100%}}"), func(s *site) {
		s.fill("media", func(t *tree) {
			for i := range 3 {
				t.file(fmt.Sprintf("file %d", i), 1000)
				t.dir(fmt.Sprintf("dir %d", i), 0o755)
				t.dir(fmt.Sprintf("dir %d/sub", i), 0o755)
				t.file(fmt.Sprintf("dir %d/sub/file", i), 2000)
				t.symlink(fmt.Sprintf("link %d", i), "somewhere")
			}
			t.file("large", 20<<20)
			t.file("one", 5000)
			t.hardlink("two", "one")
		}, "a", "b", "c")
	})
	s.settle("media-nas", "media-vault")
	for _, node := range s.order {
		root := s.root(node, "media")
		for _, path := range []string{"file 0", "file 1", "dir 0", "dir 1", "link 0", "link 1", "one"} {
			require.NoError(t, os.RemoveAll(filepath.Join(root, path)))
		}
		require.NoError(t, os.Rename(filepath.Join(root, "dir 2"), filepath.Join(root, "renamed")))
	}
	s.fill("media", func(t *tree) {
		t.dir("file 0", 0o700)
		t.file("file 0/within", 77)
		t.symlink("file 1", "dir 1")
		t.file("dir 0", 12<<20)
		t.symlink("dir 1", "renamed")
		t.dir("link 0", 0o755)
		t.file("link 1", 99)
		t.sparse("large", 20<<20, 9<<20)
		t.salt = "changed"
		t.file("one", 6000)
	}, s.order...)
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-nas")
	s.equal(s.root("b", "media"), "media-vault")
	s.sound("media-vault")
	s.restored(s.root("c", "media"), "media-nas")
}

// What was published as a file, or as a hard link to a name that is gone, and is a hard link to another name by now on all nodes, comes
// again with its content where a link needs that: one that is new has nothing of what the others have.
func TestHardLinksThatChangedTheirLeaderComeAgain(t *testing.T) {
	t.Parallel()
	s := runs(t, three("delete: {propagate: true, guard: {share: 100%}}"), func(s *site) {
		s.fill("media", func(t *tree) {
			t.file("z", 1000)
			t.file("zz large", 20<<20)
			t.dir("h", 0o755)
			t.file("h/a", 5000)
			t.hardlink("h/b", "h/a")
			t.hardlink("h/c", "h/a")
		}, "a", "b", "c")
	})
	s.settle("media-nas", "media-vault")
	for _, node := range s.order {
		root := s.root(node, "media")
		require.NoError(t, os.Link(filepath.Join(root, "z"), filepath.Join(root, "a")))
		require.NoError(t, os.Link(filepath.Join(root, "zz large"), filepath.Join(root, "large")))
		require.NoError(t, os.Remove(filepath.Join(root, "h/a")))
	}
	s.settle("media-nas", "media-vault")
	s.spec.links[1].prefix = "elsewhere"
	s.writeRelay(strings.TrimPrefix(s.url, "http://"))
	s.reload()
	s.settle("media-nas", "media-vault")
	// Some are files of their own: see docs/ARCHITECTURE.md, Limits. The replicas' directories were changed one after the other.
	for _, link := range []string{"media-nas", "media-vault"} {
		s.compare(s.root("a", "media"), s.mirror(link), treecmp.Options{Owner: os.Geteuid() == 0}, func(d treecmp.Difference) bool {
			return d.What != "hardlinks" && d.What != "mtime"
		})
	}
	s.does("verify", "media-vault", "--deep")
}

// A root that is missing, another one, or empty is a problem of that root. Nothing counts as deleted, and all goes on when
// it is back.
func TestRootInTrouble(t *testing.T) {
	t.Parallel()
	sp := spec{
		links: []link{
			{name: "media-nas", from: "primary/media", to: "nas", prefix: "media", more: "delete: {propagate: true, grace: 1s, guard: {share: 100%}}"},
			{name: "docs-nas", from: "primary/docs", to: "nas", prefix: "docs", more: "delete: {propagate: true}"},
		},
	}
	for _, n := range []string{"a", "b"} {
		sp.nodes = append(sp.nodes, nodeSpec{name: n, datasets: []string{"media", "docs"}, scan: "1s"})
	}
	s := runs(t, sp, func(s *site) {
		s.fill("media", first, "a", "b")
		s.fill("docs", names, "a", "b")
	})
	s.settle("media-nas", "docs-nas")
	for what, do := range map[string]func(root, aside string){
		"missing":   func(root, aside string) { require.NoError(t, os.Rename(root, aside)) },
		"exchanged": func(root, aside string) { require.NoError(t, os.Rename(root, aside)); other(t, root) },
		"empty":     func(root, aside string) { require.NoError(t, os.Mkdir(aside, 0o755)); moveAll(t, root, aside) },
	} {
		before := s.link("media-nas")
		for _, n := range s.order {
			do(s.root(n, "media"), s.root(n, "media")+"-aside")
		}
		for _, n := range s.order {
			p := s.awaitProblem("root", "primary/"+n+" "+s.root(n, "media"))
			assert.Contains(t, p.What, what)
			assert.Equal(t, proto.Red, p.Health)
		}
		// The other dataset goes on meanwhile.
		s.fill("docs", func(t *tree) { t.salt = what; t.file("names/forebay", 4000) }, s.order...)
		s.settle("docs-nas")
		for _, n := range s.order {
			root, aside := s.root(n, "media"), s.root(n, "media")+"-aside"
			switch what {
			case "empty":
				moveAll(t, aside, root)
				require.NoError(t, os.Remove(aside))
			case "exchanged":
				require.NoError(t, os.RemoveAll(root))
				fallthrough
			default:
				require.NoError(t, os.Rename(aside, root))
			}
		}
		s.until("the roots to be well", func() bool { return s.problem("root", "") == nil })
		s.settle("media-nas")
		s.equal(s.root("a", "media"), "media-nas")
		assert.Equal(t, before.ConfirmedObjects, s.link("media-nas").ConfirmedObjects, "%s: nothing was flushed, deleted or sent again", what)
	}
	s.equalBut(s.root("b", "docs"), "docs-nas", "names") // changed by the test at different times
}

// other makes a directory with other content.
func other(t *testing.T, root string) {
	t.Helper()
	require.NoError(t, os.Mkdir(root, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "deleted"), []byte("of another dataset"), 0o644))
}

// moveAll moves what is in one directory into another.
func moveAll(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())))
	}
}
