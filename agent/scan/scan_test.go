package scan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
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

func TestFirstScan(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("a/b/file", "hello")
	require.NoError(t, os.Mkdir(r.path("empty"), 0o700))
	require.NoError(t, os.Symlink("../\xff/x", r.path("a/link")))
	require.NoError(t, unix.Mkfifo(r.path("pipe"), 0o600))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer func() { _ = unix.Close(fd) }()
	sock := &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/sock", openPath(t, r.dir))}
	require.NoError(t, unix.Bind(fd, sock))
	r.write(".forebay/journal", "x")
	r.write("a/.forebay/x", "x")

	res := r.full()
	require.Equal(t, int64(5), res.Objects)
	require.Equal(t, int64(5), res.Bytes)
	require.Equal(t, int64(5), res.Changed)
	require.Equal(t, int64(2), res.Skipped)
	require.Equal(t, map[string]proto.FailureKind{"pipe": proto.FailSkipped, "sock": proto.FailSkipped}, failures(res))
	require.Equal(t, []string{"a", "a/b", "a/b/file", "a/link", "empty"}, r.in(index.StatePending))
	require.Equal(t, []string{"pipe", "sock"}, r.in(index.StateSkipped))
	e := r.get("a/link")
	require.Equal(t, proto.KindSymlink, e.Kind)
	require.Equal(t, "../\xff/x", e.LinkTo)
	f := r.get("a/b/file")
	require.Equal(t, r.now.UnixNano(), f.FirstSeen)
	require.GreaterOrEqual(t, f.Due, r.now.UnixNano(), "a fresh file waits until it has been still")
	require.LessOrEqual(t, f.Due, r.now.Add(proto.SettleTime).UnixNano())
	require.Equal(t, "socket", r.get("sock").Reason)
	c := r.ix.Counts()
	require.Equal(t, int64(5), c.Objects)
	require.Equal(t, int64(5), c.UnsentCount)
	require.Equal(t, int64(2), c.Skipped)
}

func openPath(t *testing.T, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func TestUnchangedCostsNoWrite(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("a/file", "x")
	require.NoError(t, os.Link(r.path("a/file"), r.path("a/other")))
	require.NoError(t, os.Symlink("x", r.path("link")))
	require.NoError(t, unix.Mkfifo(r.path("pipe"), 0o600))
	r.full()
	r.settle()
	before := r.snapshot()
	r.now = r.now.Add(time.Hour)
	res := r.full()
	require.Zero(t, res.Changed)
	require.Equal(t, before, r.snapshot())
	require.Equal(t, int64(1), res.Bytes, "hard links count once")
}

func TestChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, p := range []string{"d/grown", "d/touched", "d/mode", "d/rewritten", "d/swapped", "d/same", "d/tofile/x/y", "d/todir", "d/tolink", "d/topipe"} {
		r.write(p, "content of "+p)
	}
	require.NoError(t, os.Symlink("one", r.path("d/link")))
	r.full()
	r.settle()
	r.now = r.now.Add(time.Hour)

	keep, err := os.Stat(r.path("d/rewritten"))
	require.NoError(t, err)
	r.write("d/grown", "something longer than before, by far")
	require.NoError(t, os.Chtimes(r.path("d/touched"), time.Time{}, time.Unix(5, 6)))
	require.NoError(t, os.Chmod(r.path("d/mode"), 0o600))
	r.write("d/rewritten", "CONTENT OF D/REWRITTEN") // same size, and the old mtime
	require.NoError(t, os.Chtimes(r.path("d/rewritten"), time.Time{}, keep.ModTime()))
	r.write("new", "content of d/swapped")
	require.NoError(t, os.Rename(r.path("new"), r.path("d/swapped")))
	require.NoError(t, os.Remove(r.path("d/link")))
	require.NoError(t, os.Symlink("two", r.path("d/link")))
	require.NoError(t, os.RemoveAll(r.path("d/tofile")))
	r.write("d/tofile", "now a file")
	require.NoError(t, os.Remove(r.path("d/todir")))
	r.write("d/todir/z", "z")
	require.NoError(t, os.Remove(r.path("d/tolink")))
	require.NoError(t, os.Symlink("x", r.path("d/tolink")))
	require.NoError(t, os.Remove(r.path("d/topipe")))
	require.NoError(t, unix.Mkfifo(r.path("d/topipe"), 0o600))

	res := r.full()
	require.Equal(t, []string{"d", "d/grown", "d/link", "d/mode", "d/rewritten", "d/swapped", "d/todir", "d/todir/z", "d/tofile", "d/tolink", "d/touched"}, r.in(index.StatePending))
	require.Equal(t, int64(11), res.Changed)
	require.Equal(t, []string{"d/tofile/x", "d/tofile/x/y"}, r.in(index.StateGone), "what was below a directory that became a file")
	for _, p := range []string{"d/grown", "d/touched", "d/mode", "d/rewritten", "d/swapped", "d/link", "d/tofile", "d/todir", "d/tolink"} {
		e := r.get(p)
		require.False(t, e.HasDigest, p)
		require.Equal(t, proto.VersionID(1), e.Version, "%s: the parent of its next claim", p)
		require.Equal(t, r.now.UnixNano(), e.FirstSeen, p)
	}
	require.Equal(t, "two", r.get("d/link").LinkTo)
	require.Equal(t, index.StateSkipped, r.get("d/topipe").State)
	require.Equal(t, proto.VersionID(1), r.get("d/topipe").Version)
	require.True(t, r.get("d/same").HasDigest)

	// Back again.
	require.NoError(t, os.Remove(r.path("d/topipe")))
	r.write("d/topipe", "a file again")
	r.full()
	require.Equal(t, index.StatePending, r.get("d/topipe").State)
	require.Equal(t, proto.KindFile, r.get("d/topipe").Kind)
}

func TestGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 1200 { // more than a page of suspects
		r.write(fmt.Sprintf("many/f%04d", i), "x")
	}
	r.write("dir/sub/deep/file", "x")
	r.write("dir-other", "x")
	r.write("stay", "x")
	r.full()
	r.settle()
	r.write("unsent", "x")
	r.full()
	require.NoError(t, r.ix.Edit(func(tx *index.Tx) error {
		// What the feed told of a path that this root never had is no object of it.
		return tx.Put(index.Entry{Path: "heard", State: index.StateLagging, Heard: 9, HeardKind: proto.KindFile})
	}))
	require.NoError(t, os.RemoveAll(r.path("many")))
	require.NoError(t, os.RemoveAll(r.path("dir")))
	require.NoError(t, os.Remove(r.path("unsent")))
	res := r.full()
	require.Equal(t, int64(1201+4+1), res.Gone)
	require.Len(t, r.in(index.StateGone), 1205)
	require.Equal(t, index.StateGone, r.get("dir/sub/deep/file").State)
	require.Equal(t, proto.VersionID(1), r.get("dir/sub/deep/file").Version)
	r.none("unsent")
	require.Equal(t, index.StateLagging, r.get("heard").State)
	require.Equal(t, index.StateSettled, r.get("dir-other").State)
	due, err := r.ix.Due(r.now, 0)
	require.NoError(t, err)
	require.Len(t, due, 1205)
	require.Equal(t, int64(1205), r.ix.Counts().Gone)

	res = r.full()
	require.Zero(t, res.Gone, "gone once")
	r.write("dir/sub/deep/file", "back")
	r.full()
	require.Equal(t, index.StatePending, r.get("dir/sub/deep/file").State)
	require.Equal(t, proto.VersionID(1), r.get("dir/sub/deep/file").Version)
}

func TestHardLinks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("b", "content")
	require.NoError(t, os.Mkdir(r.path("c"), 0o755))
	for _, p := range []string{"a", "c/d", "e"} {
		require.NoError(t, os.Link(r.path("b"), r.path(p)))
	}
	group := func(leader string, links ...string) {
		t.Helper()
		require.Equal(t, proto.KindFile, r.get(leader).Kind, leader)
		require.Empty(t, r.get(leader).LinkTo)
		for _, l := range links {
			require.Equal(t, proto.KindHardlink, r.get(l).Kind, l)
			require.Equal(t, leader, r.get(l).LinkTo, l)
		}
	}
	r.full()
	group("a", "b", "e", "c/d")
	require.Equal(t, int64(7), r.ix.Counts().Bytes)
	r.settle()

	// The leader goes: the next path becomes the file, and the others follow it.
	require.NoError(t, os.Remove(r.path("a")))
	r.full()
	group("b", "e", "c/d")
	require.Equal(t, []string{"a"}, r.in(index.StateGone))
	require.Equal(t, proto.VersionID(1), r.get("b").Version)
	r.settle()

	// A smaller path that is new does not take over.
	require.NoError(t, os.Link(r.path("b"), r.path("0")))
	r.full()
	group("b", "0", "e", "c/d")
	r.settle()

	// The leader is replaced by another file.
	require.NoError(t, os.Remove(r.path("b")))
	r.write("b", "another")
	r.full()
	group("0", "e", "c/d")
	require.Equal(t, proto.KindFile, r.get("b").Kind)
	r.settle()

	// The leader is renamed: the new name is one of the others until its turn comes.
	require.NoError(t, os.Rename(r.path("0"), r.path("z")))
	r.full()
	r.full()
	group("e", "z", "c/d")

	// One link is left, then none.
	require.NoError(t, os.Remove(r.path("e")))
	require.NoError(t, os.Remove(r.path("z")))
	r.full()
	group("c/d")
	e := r.get("c/d")
	_, ok, err := r.ix.Leader(e.Stat.Dev, e.Stat.Ino)
	require.NoError(t, err)
	require.False(t, ok, "no leader is kept for a file with one link")
}

func TestHardLinkLeaderExcluded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("a", "content")
	require.NoError(t, os.Link(r.path("a"), r.path("b")))
	r.full()
	require.Equal(t, proto.KindHardlink, r.get("b").Kind)
	r.rules(nil, []string{"/a"})
	r.full()
	r.none("a")
	require.Equal(t, proto.KindFile, r.get("b").Kind)
}

func TestStrangeNames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	names := []string{"new\nline", "\xff\xfe", strings.Repeat("n", 255), strings.Repeat("\xe4", 255), " ", "-rf", "*", "\\", "a\x01b", "..."}
	for _, n := range names {
		r.write("d"+"/"+n, "x")
		require.NoError(t, os.MkdirAll(r.path("e/"+n), 0o755))
		r.write("e/"+n+"/"+n, "x")
	}
	r.full()
	for _, n := range names {
		require.Equal(t, proto.KindFile, r.get("d/"+n).Kind)
		require.Equal(t, proto.KindFile, r.get("e/"+n+"/"+n).Kind)
	}
	require.Len(t, r.snapshot(), 3*len(names)+2)
	r.settle()
	require.Zero(t, r.full().Changed)
	require.NoError(t, os.RemoveAll(r.path("e/*")))
	require.Equal(t, int64(2), r.full().Gone)
}

func TestDeepPathsAreListed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	at := openPath(t, r.dir)
	name := strings.Repeat("d", 250)
	for range 17 { // 17 * 251 > MaxPath
		require.NoError(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		defer func() { _ = unix.Close(next) }()
		at = next
	}
	res := r.full()
	require.Equal(t, int64(16), res.Objects)
	require.Equal(t, int64(1), res.Skipped)
	require.Contains(t, res.Failures[0].Reason, "4096")
}

func TestLargeDirectory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const n = 10_000
	require.NoError(t, os.Mkdir(r.path("big"), 0o755))
	for i := range n {
		require.NoError(t, os.WriteFile(r.path(fmt.Sprintf("big/%d", i)), nil, 0o644))
	}
	require.Equal(t, int64(n+1), r.full().Changed)
	r.settle()
	for i := 0; i < n; i += 1000 {
		require.NoError(t, os.Remove(r.path(fmt.Sprintf("big/%d", i))))
		require.NoError(t, os.WriteFile(r.path(fmt.Sprintf("big/%d", i+1)), []byte("x"), 0o644))
	}
	res := r.full()
	require.Equal(t, int64(10), res.Gone)
	require.Equal(t, int64(11), res.Changed)
}

func TestUnreadableDirectoryProtects(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may read everything: needs an ordinary user")
	}
	r := newRig(t)
	r.write("closed/sub/file", "x")
	r.write("blind/file", "x")
	r.write("open", "x")
	r.full()
	r.settle()
	require.NoError(t, os.Chmod(r.path("closed"), 0))
	require.NoError(t, os.Chmod(r.path("blind"), 0o400)) // can be listed, but nothing in it looked at
	t.Cleanup(func() {
		_ = os.Chmod(r.path("closed"), 0o700)
		_ = os.Chmod(r.path("blind"), 0o700)
	})
	require.NoError(t, os.Remove(r.path("open")))
	r.write("other", "x")
	res := r.full()
	require.Equal(t, map[string]proto.FailureKind{"closed": proto.FailUnreadable, "blind/file": proto.FailUnreadable}, failures(res))
	require.Equal(t, int64(2), res.Unreadable)
	require.Equal(t, []string{"open"}, r.in(index.StateGone))
	require.Equal(t, index.StateSettled, r.get("closed/sub/file").State)
	require.Equal(t, index.StateSettled, r.get("blind/file").State)
}

func TestUnreadableRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may read everything: needs an ordinary user")
	}
	r := newRig(t)
	r.write("a", "x")
	r.full()
	require.NoError(t, os.Chmod(r.dir, 0))
	t.Cleanup(func() { _ = os.Chmod(r.dir, 0o700) })
	r.refused(RootUnreadable)
}

func TestRootRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("a/b", "x")
	r.full()
	r.settle()
	aside := r.dir + ".aside"

	require.NoError(t, os.Rename(r.dir, aside))
	r.refused(RootMissing)
	require.NoError(t, os.WriteFile(r.dir, nil, 0o644))
	r.refused(RootMissing)
	require.NoError(t, os.Remove(r.dir))

	require.NoError(t, os.Mkdir(r.dir, 0o755))
	r.write("other", "x")
	r.refused(RootExchanged)
	require.NoError(t, os.RemoveAll(r.dir))
	require.NoError(t, os.Rename(aside, r.dir))
	require.Zero(t, r.full().Gone)

	require.NoError(t, os.RemoveAll(r.path("a")))
	r.refused(RootEmpty)
	require.NoError(t, os.Mkdir(r.path("lost+found"), 0o755))
	r.write(".forebay/x", "x")
	r.refused(RootEmpty)
	r.write("something", "x")
	require.Equal(t, int64(2), r.full().Gone)
}

// TestRootNotYetMounted: an empty folder at the first start is not taken for the dataset.
func TestRootNotYetMounted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	require.Zero(t, r.full().Objects)
	require.NoError(t, os.Rename(r.dir, r.dir+".aside"))
	require.NoError(t, os.Mkdir(r.dir, 0o755))
	r.write("a", "x")
	require.Equal(t, int64(1), r.full().Objects)
}

// TestRootExchangedMeanwhile: the root is exchanged after it was walked and before the suspects are judged.
func TestRootExchangedMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("a", "x")
	r.write("b", "x")
	r.full()
	r.settle()
	require.NoError(t, os.Remove(r.path("a")))
	moved := false
	s, err := New(r.scan.cfg, Deps{Index: r.ix, Now: func() time.Time { return r.now }})
	require.NoError(t, err)
	run := func() error {
		_, err := s.with(nil, true, func(w *run) error {
			if err := w.tree(context.Background(), "", true); err != nil {
				return err
			}
			if err := w.flush(); err != nil {
				return err
			}
			if !moved {
				moved = true
				require.NoError(t, os.Rename(r.dir, r.dir+".aside"))
				require.NoError(t, os.Mkdir(r.dir, 0o755))
			}
			return w.judge(context.Background())
		})
		return err
	}
	var ref *Refused
	require.ErrorAs(t, run(), &ref)
	require.Equal(t, RootExchanged, ref.Cause)
	require.Empty(t, r.in(index.StateGone))
	require.NoError(t, os.Remove(r.dir))
	require.NoError(t, os.Rename(r.dir+".aside", r.dir))
	require.NoError(t, run())
	require.Equal(t, []string{"a"}, r.in(index.StateGone))
}

func mount(t *testing.T, dir string) (unmount func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	done := false
	unmount = func() {
		if !done {
			done = true
			require.NoError(t, unix.Unmount(dir, 0))
		}
	}
	t.Cleanup(unmount)
	return unmount
}

func TestRootUnmounted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	unmount := mount(t, r.dir)
	r.write("a/b", "x")
	r.full()
	r.settle()
	unmount()
	r.refused(RootExchanged)
	r.write("x", "x") // somebody writes into the empty mount point
	r.refused(RootExchanged)
	mount(t, r.dir) // another file system
	r.write("a/b", "x")
	r.refused(RootExchanged)
}

func TestMountPointsInside(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("walked/file", "x")
	require.NoError(t, os.Mkdir(r.path("fresh"), 0o755))
	unmount := mount(t, r.path("fresh"))
	r.write("fresh/inside", "x")
	res := r.full()
	require.Equal(t, map[string]proto.FailureKind{"fresh": proto.FailSkipped}, failures(res))
	require.Contains(t, res.Failures[0].Reason, "mount point")
	r.none("fresh/inside")
	r.settle()

	over := mount(t, r.path("walked"))
	res = r.full()
	require.Equal(t, int64(2), res.Skipped)
	require.Zero(t, res.Gone)
	require.Equal(t, index.StateSettled, r.get("walked").State)
	require.Equal(t, index.StateSettled, r.get("walked/file").State)
	over()
	unmount()
	res = r.full()
	require.Zero(t, res.Skipped)
	require.Equal(t, proto.KindDir, r.get("fresh").Kind)
	require.Equal(t, index.StateSettled, r.get("walked/file").State)
}

func TestIncludeExclude(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, p := range []string{"a/x.jpg", "a/x.tmp", "a/cache/y.jpg", "b/z.txt", "c/d/e.jpg"} {
		r.write(p, "x")
	}
	r.full()
	r.settle()
	r.rules(nil, []string{"*.tmp", "cache/"})
	res := r.full()
	require.Zero(t, res.Gone, "what is excluded is forgotten, not gone")
	for _, p := range []string{"a/x.tmp", "a/cache", "a/cache/y.jpg"} {
		r.none(p)
	}
	r.rules([]string{"/a/**", "*.jpg"}, []string{"cache/"})
	require.NoError(t, os.RemoveAll(r.path("b")))
	require.NoError(t, os.Remove(r.path("a/x.tmp")))
	res = r.full()
	require.Equal(t, int64(1), res.Gone, "the folder b, which an include could reach into")
	r.none("b/z.txt")
	require.Equal(t, index.StateSettled, r.get("c/d/e.jpg").State)
	r.rules(nil, nil)
	r.full()
	require.Equal(t, index.StatePending, r.get("a/cache/y.jpg").State)
}

func TestScanPaths(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("a/old", "x")
	r.write("a/sub/untouched", "x")
	r.write("b/file", "x")
	r.full()
	r.settle()
	r.write("a/old", "longer")
	r.write("a/new/deep/file", "x")
	r.write("a/sub/unseen", "x")
	require.NoError(t, os.Remove(r.path("b/file")))
	res, err := r.scan.ScanPaths(context.Background(), []string{"a", "b", "b", "nowhere/at/all", ""}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "a/new", "a/new/deep", "a/new/deep/file", "a/old", "a/sub", "b"}, r.in(index.StatePending))
	require.Equal(t, int64(7), res.Changed)
	require.Empty(t, r.in(index.StateGone))
	require.Equal(t, index.StateSettled, r.get("b/file").State, "only a full scan concludes gone")
	r.none("a/sub/unseen")
	// A directory that the index does not know is found from above.
	r.write("c/d/e/f", "x")
	_, err = r.scan.ScanPaths(context.Background(), []string{"c/d/e"}, nil)
	require.NoError(t, err)
	require.Equal(t, index.StatePending, r.get("c/d/e/f").State)
	// A directory that became a file leaves what was below it to the next full scan.
	r.settle()
	require.NoError(t, os.RemoveAll(r.path("a")))
	r.write("a", "file")
	_, err = r.scan.ScanPaths(context.Background(), []string{""}, nil)
	require.NoError(t, err)
	require.Equal(t, proto.KindFile, r.get("a").Kind)
	require.Empty(t, r.in(index.StateGone))
	r.full()
	require.Contains(t, r.in(index.StateGone), "a/new/deep/file")
	require.Contains(t, r.in(index.StateGone), "a/sub/untouched")
}

// TestStoppedScan: a scan that is stopped anywhere concludes nothing, and the next one everything.
func TestStoppedScan(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 300 {
		r.write(fmt.Sprintf("d%d/f", i%30)+fmt.Sprint(i), "x")
	}
	r.full()
	r.settle()
	for i := range 150 {
		require.NoError(t, os.Remove(r.path(fmt.Sprintf("d%d/f", i%30)+fmt.Sprint(i))))
	}
	for stop := range 6 {
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		p := NewPacer(0.5, func() time.Time { n++; return time.Unix(int64(n), 0) }, func(ctx context.Context, _ time.Duration) error {
			if stop--; stop < 0 {
				cancel()
			}
			return ctx.Err()
		})
		_, err := r.scan.Scan(ctx, p)
		cancel()
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, r.in(index.StateGone))
	}
	require.Equal(t, int64(150), r.full().Gone)
}

// TestEditedMeanwhile: what the agent wrote between the walk and the batch is not overwritten with older news.
func TestEditedMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("f", "x")
	r.full()
	r.settle()
	r.write("f", "longer")
	_, err := r.scan.with(nil, false, func(w *run) error {
		if err := w.tree(context.Background(), "", false); err != nil {
			return err
		}
		// The agent reads and settles the new content before the batch is written.
		r.edit("f", func(e *index.Entry) {
			st, err := w.root.Stat("f")
			require.NoError(t, err)
			e.State, e.Stat, e.Version, e.HasDigest = index.StateSettled, toStat(st), 2, true
		})
		return w.flush()
	})
	require.NoError(t, err)
	e := r.get("f")
	require.Equal(t, index.StateSettled, e.State)
	require.True(t, e.HasDigest)
}

// TestAgainstWalk compares the index after random changes with a walk of the tree.
func TestAgainstWalk(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	r := newRig(t)
	r.write("anchor", "x")
	at := func() string {
		parts := []string{}
		for range 1 + rnd.IntN(3) {
			parts = append(parts, []string{"a", "b", "a-b", "c\n", "\xff"}[rnd.IntN(5)])
		}
		return strings.Join(parts, "/")
	}
	for range 25 {
		for range 1 + rnd.IntN(8) {
			p := r.path(at())
			_ = os.MkdirAll(filepath.Dir(p), 0o755)
			switch rnd.IntN(6) {
			case 0:
				_ = os.RemoveAll(p)
			case 1:
				_ = os.Mkdir(p, 0o755)
			case 2:
				_ = os.Symlink(fmt.Sprint(rnd.IntN(3)), p)
			case 3:
				_ = os.Rename(r.path(at()), p)
			case 4:
				_ = os.Link(r.path(at()), p)
			default:
				_ = os.WriteFile(p, make([]byte, rnd.IntN(100)), 0o644)
			}
		}
		if rnd.IntN(2) == 0 {
			_, err := r.scan.ScanPaths(context.Background(), []string{at(), "", at()}, nil)
			require.NoError(t, err)
		}
		if rnd.IntN(2) == 0 {
			r.settle()
		}
		r.full()
		r.compareWalk()
	}
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

func TestRefusedText(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("x: %w", &Refused{Cause: RootMissing, Root: "/srv", err: unix.ENOENT, Do: "mount it"})
	require.ErrorIs(t, err, unix.ENOENT)
	require.EqualError(t, errors.Unwrap(err), "root /srv is missing (no such file or directory): mount it")
}
