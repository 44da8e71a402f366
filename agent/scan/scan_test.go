package scan

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/agent/index"
	"forebay/proto"
)

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
	require.Equal(t, int64(1), r.ix.Counts().Unreadable, "it shows at the directory that it is in")
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
		p := NewPacer(0.5, 0, func() time.Time { n++; return time.Unix(int64(n), 0) }, func(ctx context.Context, _ time.Duration) error {
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
