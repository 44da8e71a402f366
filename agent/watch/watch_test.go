package watch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/fsmeta"
)

// watcher runs a Watch and gathers what it says.
type watcher struct {
	t   *testing.T
	w   *Watch
	dir string

	mu  sync.Mutex
	got map[string]bool
	all bool
}

func start(t *testing.T, mode, dir string, deps Deps) *watcher {
	t.Helper()
	deps.Interval = time.Millisecond
	w, err := open(dir, deps, mode)
	require.NoError(t, err)
	if w.Mode() != mode {
		require.NoError(t, w.Close())
		t.Skip(w.Reason())
	}
	require.Empty(t, w.Reason())
	x := &watcher{t: t, w: w, dir: dir, got: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, x.hint) }() // ends with ctx
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, w.Close())
	})
	return x
}

func (x *watcher) hint(h Hint) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, d := range h.Dirs {
		x.got[d] = true
	}
	x.all = x.all || h.Everything
}

// saw waits until a directory was hinted, and forgets what was.
func (x *watcher) saw(dir string) {
	x.t.Helper()
	require.Eventually(x.t, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.got[dir] || x.all
	}, 10*time.Second, time.Millisecond, "no hint of %q", dir)
	x.mu.Lock()
	defer x.mu.Unlock()
	require.False(x.t, x.all)
	x.got = map[string]bool{}
}

func both(t *testing.T, fn func(t *testing.T, mode string)) {
	t.Parallel()
	for _, mode := range []string{ModeFanotify, ModeInotify} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			fn(t, mode)
		})
	}
}

func TestHints(t *testing.T) {
	both(t, func(t *testing.T, mode string) {
		dir := t.TempDir()
		outside := t.TempDir()
		p := func(s string) string { return filepath.Join(dir, s) }
		require.NoError(t, os.MkdirAll(p("a/b\n\xff"), 0o755))
		require.NoError(t, os.MkdirAll(p(".forebay/x"), 0o755))
		require.NoError(t, os.MkdirAll(p("unwanted"), 0o755))
		require.NoError(t, os.WriteFile(p("a/file"), nil, 0o644))
		x := start(t, mode, dir, Deps{Wanted: func(d string) bool { return !strings.HasPrefix(d, "unwanted") }})

		require.NoError(t, os.WriteFile(p(".forebay/x/y"), nil, 0o644))
		require.NoError(t, os.WriteFile(p("unwanted/y"), nil, 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(outside, "y"), nil, 0o644))
		require.NoError(t, os.WriteFile(p("root file"), nil, 0o644))
		require.Eventually(t, func() bool { x.mu.Lock(); defer x.mu.Unlock(); return x.got[""] }, 10*time.Second, time.Millisecond)
		x.mu.Lock()
		require.Equal(t, map[string]bool{"": true}, x.got, "nothing outside, reserved or unwanted")
		x.mu.Unlock()
		x.saw("")

		require.NoError(t, os.WriteFile(p("a/file"), []byte("x"), 0o644))
		x.saw("a")
		require.NoError(t, os.WriteFile(p("a/b\n\xff/new"), nil, 0o644))
		x.saw("a/b\n\xff")
		require.NoError(t, os.Chmod(p("a/file"), 0o600))
		x.saw("a")
		require.NoError(t, os.Chtimes(p("a/b\n\xff/new"), time.Time{}, time.Unix(1, 0)))
		x.saw("a/b\n\xff")
		require.NoError(t, unix.Symlink("x", p("a/link")))
		x.saw("a")
		require.NoError(t, os.Rename(p("a/file"), p("moved")))
		x.saw("")
		require.NoError(t, os.Remove(p("moved")))
		x.saw("")

		// A new directory, then something in it; a directory renamed, then something in it.
		require.NoError(t, os.MkdirAll(p("n/o"), 0o755))
		x.saw("")
		require.Eventually(t, func() bool { // until the new directory is watched
			_ = os.WriteFile(p("n/o/p"), []byte("x"), 0o644)
			x.mu.Lock()
			defer x.mu.Unlock()
			return x.got["n/o"]
		}, 10*time.Second, 5*time.Millisecond)
		require.NoError(t, os.Rename(p("n"), p("m")))
		require.Eventually(t, func() bool {
			_ = os.WriteFile(p("m/o/p"), []byte("x"), 0o644)
			x.mu.Lock()
			defer x.mu.Unlock()
			return x.got["m/o"]
		}, 10*time.Second, 5*time.Millisecond)
		require.NoError(t, os.RemoveAll(p("m")))
		x.saw("")
	})
}

func TestTooManyDirectoriesAreEverything(t *testing.T) {
	t.Parallel()
	c := &collector{wanted: func(string) bool { return true }, dirs: map[string]bool{}}
	_, ok := c.hint()
	require.False(t, ok)
	for i := range maxDirs {
		c.add(fmt.Sprint(i))
	}
	h, ok := c.hint()
	require.True(t, ok)
	require.Len(t, h.Dirs, maxDirs)
	c.add("one more")
	h, _ = c.hint()
	require.True(t, h.Everything)
}

// TestWatchesRunOut: at the start and later, inotify gives way to scanning and says why.
func TestWatchesRunOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
	w, err := open(dir, Deps{MaxWatches: 3}, ModeInotify)
	require.NoError(t, err)
	require.Equal(t, ModeScan, w.Mode())
	require.Contains(t, w.Reason(), "more than 3 directories")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, w.Run(ctx, func(Hint) { t.Error("a hint without a source") }))
	require.NoError(t, w.Close())

	x := start(t, ModeInotify, dir, Deps{MaxWatches: 4})
	require.NoError(t, os.Mkdir(filepath.Join(dir, "one more"), 0o755))
	require.Eventually(t, func() bool { return x.w.Mode() == ModeScan }, 10*time.Second, time.Millisecond)
	require.Contains(t, x.w.Reason(), "inotify ended")
	require.Contains(t, x.w.Reason(), "more than 4 directories")
	require.Eventually(t, func() bool { x.mu.Lock(); defer x.mu.Unlock(); return x.all }, 10*time.Second, time.Millisecond)
}

// TestOverflow: when the kernel lost events, the hint is everything, and directories made meanwhile are watched.
func TestOverflow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := open(dir, Deps{}, ModeInotify)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "missed/below"), 0o755))
	in := w.src.(*inotify)
	c := &collector{wanted: w.deps.Wanted, dirs: map[string]bool{}}
	require.NoError(t, in.event(-1, unix.IN_Q_OVERFLOW, "", c))
	h, ok := c.hint()
	require.True(t, ok)
	require.True(t, h.Everything)
	require.Len(t, in.nodes, 3)
}

func TestOpenFallsBack(t *testing.T) {
	t.Parallel()
	_, err := Open(filepath.Join(t.TempDir(), "none"), Deps{})
	require.ErrorIs(t, err, os.ErrNotExist)
	w, err := Open(t.TempDir(), Deps{})
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	if os.Geteuid() != 0 {
		require.NotEqual(t, ModeFanotify, w.Mode())
		require.Contains(t, w.Reason(), "no fanotify: needs CAP_SYS_ADMIN")
	}
}

func FuzzFanotifyEvents(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Fuzz(func(_ *testing.T, b []byte) {
		dir, err := os.Open("/")
		if err != nil {
			return
		}
		defer func() { _ = dir.Close() }()
		c := &collector{wanted: func(string) bool { return true }, dirs: map[string]bool{}}
		_ = (&fanotify{dir: dir}).parse(b, "/", map[string]bool{}, c)
	})
}

func FuzzInotifyEvents(f *testing.F) {
	f.Add(make([]byte, 32))
	root, err := fsmeta.OpenRoot(f.TempDir(), 0)
	require.NoError(f, err)
	f.Cleanup(func() { _ = root.Close() })
	f.Fuzz(func(_ *testing.T, b []byte) {
		c := &collector{wanted: func(string) bool { return true }, dirs: map[string]bool{}}
		in := &inotify{root: root, nodes: map[int32]node{1: {}, 2: {1, "a"}}, rootWD: 1, deps: Deps{Wanted: func(string) bool { return true }}}
		_ = in.parse(b, c)
	})
}
