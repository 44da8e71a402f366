package baddisk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// yard makes a yard with some mount points, which must leave nothing behind.
func yard(t *testing.T, points ...string) (*Yard, func(string) string) {
	t.Helper()
	if why := Check(); why != "" {
		t.Skip(why)
	}
	dir := t.TempDir()
	t.Cleanup(func() { assert.NotContains(t, mountinfo(t), dir) })
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, p := range append(points, "yard") {
		require.NoError(t, os.Mkdir(in(p), 0o755))
	}
	y, err := New(in("yard"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, y.Close()) })
	return y, in
}

func mountinfo(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	return string(raw)
}

// write writes a file and syncs it; the error is that of either.
func write(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

func TestSmallDiskFills(t *testing.T) {
	t.Parallel()
	y, in := yard(t, "bytes", "inodes")
	require.NoError(t, y.Small(in("bytes"), 8<<20, 0))
	require.NoError(t, y.Small(in("inodes"), 8<<20, 100))
	soon := func(file string) { // a child of another test that is about to exec may still have what is removed open
		require.Eventually(t, func() bool { return write(file, []byte("x")) == nil }, 10*time.Second, time.Millisecond)
	}
	require.NoError(t, Fill(in("bytes")))
	require.ErrorIs(t, write(in("bytes/file"), []byte("x")), unix.ENOSPC)
	require.NoError(t, Free(in("bytes")))
	soon(in("bytes/file"))
	require.NoError(t, FillInodes(in("inodes")))
	require.ErrorIs(t, write(in("inodes/file"), []byte("x")), unix.ENOSPC)
	require.NoError(t, Free(in("inodes")))
	soon(in("inodes/file"))
}

func TestFailingDiskFailsInFsyncAndIsMended(t *testing.T) {
	t.Parallel()
	y, in := yard(t, "disk")
	disk, err := y.Failing(in("disk"), 16<<20)
	require.NoError(t, err)
	content := bytes.Repeat([]byte("content"), 100_000)
	require.NoError(t, write(in("disk/before"), content))
	require.NoError(t, write(in("disk/gone"), content))
	require.NoError(t, os.Remove(in("disk/gone")))
	require.NoError(t, disk.Break())
	f, err := os.Create(in("disk/broken"))
	require.NoError(t, err)
	large := bytes.Repeat(content, 10) // more than was freed: fstrim passes over what the file system is not done with
	_, err = f.Write(large)
	require.NoError(t, err, "the page cache takes it")
	require.Error(t, f.Sync())
	require.NoError(t, f.Sync(), "the kernel tells once")
	require.NoError(t, f.Close())
	require.NoError(t, disk.Mend())
	require.NoError(t, write(in("disk/after"), content))
	require.NoError(t, disk.Remount())
	lost, err := os.ReadFile(in("disk/broken"))
	require.True(t, err != nil || !bytes.Equal(large, lost), "what could not be written is not there")
	for _, name := range []string{"before", "after"} {
		got, err := os.ReadFile(in("disk/" + name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got), name)
	}
}

func TestCutKeepsWhatWasSynced(t *testing.T) {
	t.Parallel()
	y, in := yard(t, "disk")
	disk, err := y.Cuttable(in("disk"), 64<<20)
	require.NoError(t, err)
	content := bytes.Repeat([]byte("content"), 100_000)
	require.NoError(t, write(in("disk/synced"), content))
	require.NoError(t, os.WriteFile(in("disk/not synced"), content, 0o644))
	cut, err := disk.Cut()
	require.NoError(t, err)
	require.NoError(t, write(in("disk/later"), content))
	require.NoError(t, disk.Restore(cut))
	got, err := os.ReadFile(in("disk/synced"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	lost, err := os.ReadFile(in("disk/not synced"))
	require.True(t, err != nil || len(lost) == 0, "what was in memory only is gone")
	_, err = os.Stat(in("disk/later"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A test that is killed leaves its disks behind, full ones too; the next one takes them away, and no others.
func TestSweepTakesAwayWhatAKilledRunLeft(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("BADDISK_LEAVE"); dir != "" { // the process that is killed, below
		y, err := New(filepath.Join(dir, "yard"))
		require.NoError(t, err)
		disk, err := y.Failing(filepath.Join(dir, "failing"), 16<<20)
		require.NoError(t, err)
		_, err = y.Cuttable(filepath.Join(dir, "cuttable"), 64<<20)
		require.NoError(t, err)
		require.NoError(t, disk.Break())
		_ = write(filepath.Join(dir, "failing/file"), make([]byte, 1<<20))
		os.Exit(0)
	}
	y, in := yard(t, "failing", "cuttable", "mine", "other")
	require.NoError(t, y.Small(in("mine"), 1<<20, 0))
	require.NoError(t, os.Mkdir(in("other/yard"), 0o755))
	for _, name := range []string{"failing", "cuttable"} {
		require.NoError(t, os.Mkdir(in("other/"+name), 0o755))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "BADDISK_LEAVE="+in("other"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 5, strings.Count(mountinfo(t), in("other")+"/"))
	_, err = Sweep()
	require.NoError(t, err)
	require.NotContains(t, mountinfo(t), in("other")+"/")
	require.Contains(t, mountinfo(t), in("mine"))
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	require.NoError(t, err)
	for _, l := range loops {
		raw, _ := os.ReadFile(l)
		require.NotContains(t, string(raw), in("other"))
	}
}
