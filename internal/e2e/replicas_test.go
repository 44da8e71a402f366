package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/treecmp"
	"forebay/proto"
)

// three is a site of three nodes with one dataset, and a second link beside the first, which must see the same.
func three(more string) spec {
	return spec{
		nodes: []nodeSpec{{name: "a", datasets: []string{"media"}}, {name: "b", datasets: []string{"media"}}, {name: "c", datasets: []string{"media"}}},
		links: []link{{name: "media-nas", from: "primary/media", to: "nas", more: more}, {name: "media-vault", from: "primary/media", to: "vault", prefix: "media", more: more}},
	}
}

// content makes files small and large and some directories.
func content(t *tree) {
	t.t.Helper()
	t.dir("dir", 0o755)
	for i := range 300 {
		t.file(fmt.Sprintf("dir/small-%03d", i), int64(i)*97)
	}
	t.dir("large", 0o755)
	for i := range 3 {
		t.file(fmt.Sprintf("large/%d", i), int64(9+7*i)<<20)
	}
}

// sentOnce requires that the relay acknowledged each byte of a tree once, and that next to nothing came in vain.
func (s *site) sentOnce(bytes int64) {
	s.t.Helper()
	c := s.status().Cache
	assert.Equal(s.t, bytes, c.AckedBytes, "bytes acknowledged: each object once")
	assert.LessOrEqual(s.t, c.WastedBytes, bytes/50, "bytes that came in vain")
}

// Replicas made by an application differ in times and owners. They are one object each, sent once, and settle: nothing is
// written again and again because of them.
func TestReplicasOfAnApplicationAreSentOnce(t *testing.T) {
	t.Parallel()
	s := runs(t, three(""), func(s *site) {
		for i, n := range []string{"a", "b", "c"} {
			tr := s.newTree(s.root(n, "media"))
			tr.skew = time.Duration(i) * (5*time.Minute + 123*time.Nanosecond)
			if os.Geteuid() == 0 {
				tr.uid, tr.gid = 1000+i, 2000+i
			}
			content(tr)
			tr.finish()
		}
	})
	s.settle("media-nas", "media-vault")
	s.sentOnce(total(t, s.root("a", "media")))
	before := s.dataset("primary/media")
	for range 2 { // fresh scans of everything find no news
		s.settle("media-nas", "media-vault")
	}
	after := s.dataset("primary/media")
	assert.Equal(t, before.Head, after.Head, "no versions but the first")
	assert.LessOrEqual(t, int64(after.Head), 3*after.Objects, "of each object one version, and little more for metadata")
	for _, n := range s.order {
		assert.Zero(t, s.node(n).Divergent, n)
		assert.Zero(t, s.node(n).UnsentObjects, n)
	}
	// What is at the target is one of the replicas, object by object.
	for _, link := range []string{"media-nas", "media-vault"} {
		r, err := treecmp.Compare(t.Context(), s.root("a", "media"), s.mirror(link), treecmp.Options{Exclude: []string{proto.ReservedName}})
		require.NoError(t, err)
		for _, d := range r.Listed {
			assert.Contains(t, []string{"mtime", "owner"}, d.What, d)
		}
		require.NoError(t, filepath.WalkDir(s.mirror(link), func(path string, d os.DirEntry, err error) error {
			rel, relErr := filepath.Rel(s.mirror(link), path)
			require.NoError(t, relErr)
			if err != nil || rel == "." {
				return err
			}
			if rel == proto.ReservedName {
				return filepath.SkipDir
			}
			got, err := os.Lstat(path)
			require.NoError(t, err)
			var times []time.Time
			for _, n := range s.order {
				st, err := os.Lstat(filepath.Join(s.root(n, "media"), rel))
				require.NoError(t, err)
				times = append(times, st.ModTime())
			}
			assert.Contains(t, times, got.ModTime(), rel)
			return nil
		}))
	}
}

// Copying tools set the time of a directory back once they have filled it. Where the copy took its time, the time in between
// was published; the one that stays is published too.
func TestTimesSetBack(t *testing.T) {
	t.Parallel()
	s := runs(t, three(""), func(s *site) { s.fill("media", content, "a", "b", "c") })
	s.settle("media-nas", "media-vault")
	for _, n := range s.order {
		require.NoError(t, os.WriteFile(filepath.Join(s.root(n, "media"), "dir/copied"), []byte("now"), 0o600))
	}
	s.settle("media-nas", "media-vault")
	for _, n := range s.order {
		tr := s.newTree(s.root(n, "media"))
		tr.stamp("dir/copied", tr.when("dir/copied"))
		tr.stamp("dir", tr.when("dir"))
	}
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-nas")
	s.equal(s.root("c", "media"), "media-vault")
}

// A holder of half of the tree takes part with that half, and what only it has is backed up too.
func TestPartialHolder(t *testing.T) {
	t.Parallel()
	s := runs(t, three("delete: {propagate: true}"), func(s *site) {
		s.fill("media", content, "a", "b")
		s.fill("media", func(t *tree) {
			t.dir("dir", 0o755)
			for i := range 150 {
				t.file(fmt.Sprintf("dir/small-%03d", 2*i), int64(2*i)*97)
			}
			t.dir("own", 0o755)
			t.file("own/only at c", 12345)
		}, "c")
	})
	s.settle("media-nas", "media-vault")
	s.sentOnce(total(t, s.root("a", "media")) + 12345)
	for _, link := range []string{"media-nas", "media-vault"} {
		s.subset(s.root("a", "media"), s.mirror(link), 1) // a directory with what is in it
		s.subset(s.root("c", "media"), s.mirror(link), -1)
	}
	// What the partial holder deletes of what others have stays; what it alone had is gone when it says so.
	require.NoError(t, os.RemoveAll(filepath.Join(s.root("c", "media"), "own")))
	require.NoError(t, os.Remove(filepath.Join(s.root("c", "media"), "dir/small-002")))
	w := s.wait("media-nas", "confirm")
	assert.True(t, w.Partial, "an under-held object is listed: %+v", w)
	s.wait("media-vault", "confirm")
	for _, link := range []string{"media-nas", "media-vault"} {
		assert.FileExists(t, filepath.Join(s.mirror(link), "dir/small-002"))
		s.subset(s.root("a", "media"), s.mirror(link), 0)
	}
	assert.EqualValues(t, 1, s.dataset("primary/media").UnderHeld)
}

// subset requires that everything in want is in got, and that got has so many objects more; -1 does not count.
func (s *site) subset(want, got string, extra int) {
	s.t.Helper()
	r, err := treecmp.Compare(s.t.Context(), want, got, treecmp.Options{Exclude: []string{proto.ReservedName}})
	require.NoError(s.t, err)
	var more int
	for _, d := range r.Listed {
		if d.What == "extra" {
			more++
			continue
		}
		if d.What == "mtime" && d.Path == "dir" { // directories of partial holders were changed at other times
			continue
		}
		s.t.Errorf("%s and %s differ: %s", want, got, d)
	}
	if extra >= 0 {
		assert.Equal(s.t, extra, more, "objects in %s that %s has not", got, want)
	}
}

// Two roots of one node are two holders: what cannot be read from one is read from the other.
func TestReadErrorGoesOnFromTheOtherRoot(t *testing.T) {
	t.Parallel()
	s := runs(t, spec{
		ordinary: os.Geteuid() == 0,
		nodes:    []nodeSpec{{name: "a", datasets: []string{"media", "docs", "media"}}},
		links:    []link{{name: "media-nas", from: "primary/media", to: "nas"}, {name: "docs-vault", from: "primary/docs", to: "vault"}},
	}, func(s *site) {
		for i := range 2 {
			tr := s.newTree(s.rootPath("a", "media", i))
			content(tr)
			for k := range 100 { // each is locked in one of the two roots
				tr.file(fmt.Sprintf("dir/locked-%d", k), int64(k)*1000)
			}
			tr.file("large/locked", 11<<20)
			tr.finish()
			for k := range 100 {
				if k%2 == i {
					tr.chmod(fmt.Sprintf("dir/locked-%d", k), 0)
				}
			}
			if i == 0 {
				tr.chmod("large/locked", 0)
			}
		}
		s.fill("docs", names, "a")
	})
	w := s.wait("media-nas", "confirm")
	require.True(t, w.Partial, "each root has files that it cannot read: %+v", w)
	s.settle("docs-vault")
	s.equal(s.root("a", "docs"), "docs-vault")
	r, err := treecmp.Compare(t.Context(), s.root("a", "media"), s.mirror("media-nas"), treecmp.Options{Exclude: []string{proto.ReservedName}})
	require.NoError(t, err)
	for _, d := range r.Listed {
		assert.Equal(t, "mode", d.What, d) // of those that the other root lent
	}
	for _, f := range s.failures("media-nas") {
		assert.EqualValues(t, "unreadable", f.Kind, f)
	}
}
