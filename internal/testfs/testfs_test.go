package testfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What other tests start must not make a file system look used.
func TestUnmountBesideChildren(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	var children sync.WaitGroup
	defer children.Wait()
	defer close(done)
	for range 4 {
		children.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					assert.NoError(t, exec.CommandContext(t.Context(), "true").Run())
				}
			}
		})
	}
	for range 300 {
		dir := t.TempDir()
		unmount := Tmpfs(t, dir, "64k")
		f, err := os.Create(filepath.Join(dir, "f"))
		require.NoError(t, err)
		require.NoError(t, f.Close())
		unmount()
	}
}

func TestOpenIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	Tmpfs(t, dir, "64k")
	requireOpen := func(want ...string) {
		t.Helper()
		open, err := openIn(dir)
		require.NoError(t, err)
		require.ElementsMatch(t, want, open)
	}
	top, err := os.Open(dir)
	require.NoError(t, err)
	f, err := os.Create(filepath.Join(dir, "f"))
	require.NoError(t, err)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	require.NoError(t, err)
	nameless, err := os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(fd)))
	require.NoError(t, err)
	requireOpen(dir, f.Name(), nameless)
	require.NoError(t, unix.Close(fd))
	require.NoError(t, f.Close())
	requireOpen(dir)
	require.NoError(t, top.Close())
	requireOpen()
}
