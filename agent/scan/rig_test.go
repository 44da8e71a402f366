package scan

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/agent/index"
	"forebay/proto"
)

// rig is a root, its index and a scanner.
type rig struct {
	t    *testing.T
	dir  string
	ix   *index.Root
	scan *Scanner
	now  time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	base := t.TempDir()
	r := &rig{t: t, dir: filepath.Join(base, "root"), now: time.Now()}
	require.NoError(t, os.Mkdir(r.dir, 0o755))
	db, err := index.Open(filepath.Join(base, "index"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	r.ix, err = db.Root("root")
	require.NoError(t, err)
	r.rules(nil, nil)
	return r
}

func (r *rig) rules(include, exclude []string) {
	r.t.Helper()
	s, err := New(Config{Root: r.dir, Include: include, Exclude: exclude}, Deps{Index: r.ix, Now: func() time.Time { return r.now }})
	require.NoError(r.t, err)
	r.scan = s
}

func (r *rig) path(p string) string { return filepath.Join(r.dir, p) }

func (r *rig) write(p, content string) {
	r.t.Helper()
	require.NoError(r.t, os.MkdirAll(filepath.Dir(r.path(p)), 0o755))
	require.NoError(r.t, os.WriteFile(r.path(p), []byte(content), 0o644))
}

func (r *rig) full() Result {
	r.t.Helper()
	res, err := r.scan.Scan(context.Background(), nil)
	require.NoError(r.t, err)
	s, err := r.ix.Suspects("", 0)
	require.NoError(r.t, err)
	require.Empty(r.t, s)
	return res
}

func (r *rig) refused(c Cause) {
	r.t.Helper()
	before := r.snapshot()
	_, err := r.scan.Scan(context.Background(), nil)
	var ref *Refused
	require.ErrorAs(r.t, err, &ref)
	require.Equal(r.t, c, ref.Cause, "%v", err)
	require.Equal(r.t, before, r.snapshot(), "a refused scan changes nothing")
}

// settle does as if the agent had sent everything that is pending, as version 1.
func (r *rig) settle() {
	r.t.Helper()
	r.edit("", func(e *index.Entry) {
		if e.State == index.StatePending {
			e.State, e.Version, e.Digest, e.HasDigest = index.StateSettled, 1, proto.Digest{1}, true
		}
	})
}

// edit changes the entry of a path, or all.
func (r *rig) edit(path string, fn func(*index.Entry)) {
	r.t.Helper()
	all, err := r.ix.Below("", "", 0)
	require.NoError(r.t, err)
	require.NoError(r.t, r.ix.Edit(func(tx *index.Tx) error {
		for _, e := range all {
			if path == "" || path == e.Path {
				fn(&e)
				require.NoError(r.t, tx.Put(e))
			}
		}
		return nil
	}))
}

func (r *rig) get(p string) index.Entry {
	r.t.Helper()
	e, ok, err := r.ix.Get(p)
	require.NoError(r.t, err)
	require.True(r.t, ok, "no entry %q", p)
	return e
}

func (r *rig) none(p string) {
	r.t.Helper()
	_, ok, err := r.ix.Get(p)
	require.NoError(r.t, err)
	require.False(r.t, ok, "entry %q", p)
}

func (r *rig) snapshot() map[string]index.Entry {
	r.t.Helper()
	all, err := r.ix.Below("", "", 0)
	require.NoError(r.t, err)
	m := map[string]index.Entry{}
	for _, e := range all {
		m[e.Path] = e
	}
	return m
}

// in returns the paths in a state.
func (r *rig) in(s index.State) []string {
	r.t.Helper()
	es, err := r.ix.InState(s, "", 0)
	require.NoError(r.t, err)
	out := []string{}
	for _, e := range es {
		out = append(out, e.Path)
	}
	sort.Strings(out)
	return out
}

func failures(res Result) map[string]proto.FailureKind {
	m := map[string]proto.FailureKind{}
	for _, f := range res.Failures {
		m[f.Path] = f.Kind
	}
	return m
}

func (r *rig) compareWalk() {
	r.t.Helper()
	want := map[string]string{}
	leaders := map[string]uint64{}
	require.NoError(r.t, filepath.WalkDir(r.dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil || p == r.dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(r.dir, p)
		want[rel] = fmt.Sprintf("%o %d %d", st.Mode, st.Ino, st.Size)
		leaders[rel] = st.Ino
		return nil
	}))
	got := map[string]string{}
	files := map[uint64]int{}
	for p, e := range r.snapshot() {
		if !e.Present() {
			continue
		}
		got[p] = fmt.Sprintf("%o %d %d", e.Stat.Mode, e.Stat.Ino, e.Stat.Size)
		if e.Kind == proto.KindHardlink {
			require.Equal(r.t, e.Stat.Ino, leaders[e.LinkTo], "%q is a link to %q", p, e.LinkTo)
			require.Equal(r.t, proto.KindFile, r.get(e.LinkTo).Kind)
		}
		if e.Kind == proto.KindFile {
			files[e.Stat.Ino]++
			require.Equal(r.t, 1, files[e.Stat.Ino], "two files for the inode of %q", p)
		}
	}
	require.Equal(r.t, want, got)
}

func openPath(t *testing.T, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}
