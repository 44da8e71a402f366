package scan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/agent/index"
	"forebay/internal/testfs"
	"forebay/proto"
)

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
	// It shows in the index, until it can be listed again.
	require.Equal(t, []string{"blind", "closed"}, r.in(index.StateUnreadable))
	require.Equal(t, int64(2), r.ix.Counts().Unreadable)
	require.Contains(t, r.get("closed").Unlisted, "permission denied")
	require.Contains(t, r.get("blind").Unlisted, `"file" in it cannot be looked at`)
	r.settle()
	require.Equal(t, []string{"blind", "closed"}, r.in(index.StateUnreadable))
	require.NoError(t, os.Chmod(r.path("closed"), 0o700))
	require.NoError(t, os.Chmod(r.path("blind"), 0o700))
	_, err := r.scan.ScanPaths(context.Background(), []string{"closed"}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"blind"}, r.in(index.StateUnreadable))
	r.full()
	require.Zero(t, r.ix.Counts().Unreadable)
}

// What is listed and cannot be looked at is there (I13). Root gives up its rights for this: those to files are a thread's own.
func TestWhatCannotBeLookedAtIsNotGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("blind/file", "x")
	r.write("open", "x")
	r.full()
	r.settle()
	require.NoError(t, os.Chmod(r.path("blind"), 0o444))
	t.Cleanup(func() { _ = os.Chmod(r.path("blind"), 0o755) })
	if os.Geteuid() == 0 {
		for dir := r.dir; dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
			require.NoError(t, os.Chmod(dir, 0o755))
		}
		runtime.LockOSThread() // for good: the thread ends with this test
		require.NoError(t, unix.Setfsuid(65534))
		defer func() { _ = unix.Setfsuid(0) }()
	}
	if _, err := os.Stat(r.path("blind/file")); err == nil {
		t.Skip("this user may look at everything")
	}
	res := r.full()
	require.Equal(t, map[string]proto.FailureKind{"blind/file": proto.FailUnreadable}, failures(res))
	require.Empty(t, r.in(index.StateGone))
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
	require.NoError(t, os.Chmod(r.dir, 0o400))
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

func TestRootUnmounted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	unmount := testfs.Tmpfs(t, r.dir, "256k")
	r.write("a/b", "x")
	r.full()
	r.settle()
	unmount()
	r.refused(RootExchanged)
	r.write("x", "x") // somebody writes into the empty mount point
	r.refused(RootExchanged)
	testfs.Tmpfs(t, r.dir, "256k") // another file system
	r.write("a/b", "x")
	r.refused(RootExchanged)
}

func TestMountPointsInside(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("walked/file", "x")
	require.NoError(t, os.Mkdir(r.path("fresh"), 0o755))
	unmount := testfs.Tmpfs(t, r.path("fresh"), "256k")
	r.write("fresh/inside", "x")
	res := r.full()
	require.Equal(t, map[string]proto.FailureKind{"fresh": proto.FailSkipped}, failures(res))
	require.Contains(t, res.Failures[0].Reason, "mount point")
	r.none("fresh/inside")
	r.settle()

	over := testfs.Tmpfs(t, r.path("walked"), "256k")
	res = r.full()
	require.Equal(t, int64(2), res.Skipped)
	require.Zero(t, res.Gone)
	require.Equal(t, index.StateSettled, r.get("walked").State)
	require.Equal(t, index.StateSettled, r.get("walked/file").State)
	require.Contains(t, r.get("walked").Unlisted, "mount point")
	over()
	unmount()
	res = r.full()
	require.Zero(t, res.Skipped)
	require.Equal(t, proto.KindDir, r.get("fresh").Kind)
	require.Empty(t, r.get("walked").Unlisted)
	require.Equal(t, index.StateSettled, r.get("walked/file").State)
}

func TestRefusedText(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("x: %w", &Refused{Cause: RootMissing, Root: "/srv", err: unix.ENOENT, Do: "mount it"})
	require.ErrorIs(t, err, unix.ENOENT)
	require.EqualError(t, errors.Unwrap(err), "root /srv is missing (no such file or directory): mount it")
}
