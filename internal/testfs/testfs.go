// Package testfs gives tests file systems of their own.
package testfs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Tmpfs mounts an empty tmpfs at a directory until the test ends, and skips the test where that may not be done. The size is
// written as mount(8) takes it. What is returned unmounts it earlier. The test fails if this process has anything in it open
// by then: what does that keeps an operator from unmounting a disk.
func Tmpfs(t *testing.T, dir, size string) (unmount func()) {
	t.Helper()
	needRoot(t)
	if err := unix.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	mounted := true
	unmount = func() {
		t.Helper()
		if !mounted {
			return
		}
		mounted = false
		open, err := openIn(dir)
		assert.NoError(t, err)
		assert.Empty(t, open, "still open when its file system is unmounted")
		detach(t, dir)
	}
	t.Cleanup(unmount)
	return unmount
}

// ExFAT mounts an empty exFAT file system of the size (as truncate(1) takes it) until the test ends, and returns where: a real one that
// folds case, takes no owners, modes, links and not every name. It is served through FUSE, by exfat-fuse. The test is skipped where that
// may not be done.
func ExFAT(t *testing.T, size string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	device := loop(t, size, "mkfs.exfat")
	must(t, "mount exFAT (Debian packages exfat-fuse and exfatprogs)", "mount.exfat-fuse", device, dir)
	t.Cleanup(func() { detach(t, dir) })
	return dir
}

// FoldingExt4 mounts an ext4 file system like ExFAT and returns a directory in it whose names fold case. Not every kernel can.
func FoldingExt4(t *testing.T, size string) (folds string) {
	t.Helper()
	dir := t.TempDir()
	device := loop(t, size, "mkfs.ext4", "-q", "-O", "casefold")
	must(t, "mount an ext4 that folds case", "mount", device, dir)
	t.Cleanup(func() { detach(t, dir) })
	folds = filepath.Join(dir, "folds")
	require.NoError(t, os.Mkdir(folds, 0o755))
	must(t, "fold case", "chattr", "+F", folds)
	return folds
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a file system")
	}
}

// loop makes a device of a file system on an image.
func loop(t *testing.T, size string, mkfs ...string) (device string) {
	t.Helper()
	needRoot(t)
	image := filepath.Join(t.TempDir(), "image")
	must(t, "make an image", "truncate", "-s", size, image)
	must(t, "make a file system", append(mkfs, image)...)
	device = must(t, "make a device of an image", "losetup", "-f", "--show", image)
	t.Cleanup(func() { // it goes with its last user
		_, err := run(t, "losetup", "-d", device)
		assert.NoError(t, err)
	})
	return device
}

// detach unmounts, also what is busy: a child that another test starts has, until its exec is through, a copy of every handle that was open
// at the fork, also of those that were closed here since.
func detach(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH))
}

// must returns what a command prints, and skips the test where it does not work.
func must(t *testing.T, what string, command ...string) string {
	t.Helper()
	out, err := run(t, command...)
	if err != nil {
		t.Skipf("cannot %s here: %v", what, err)
	}
	return out
}

// run returns what a command prints. It is not ended with the test, for it may be part of its end.
func run(t *testing.T, command ...string) (string, error) {
	t.Helper()
	var out, trouble bytes.Buffer
	c := exec.CommandContext(context.WithoutCancel(t.Context()), command[0], command[1:]...)
	c.Stdout, c.Stderr = &out, &trouble
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", command[0], err, bytes.TrimSpace(trouble.Bytes()))
	}
	return strings.TrimSpace(out.String()), nil
}

// openIn names what this process has open in a directory.
func openIn(dir string) ([]string, error) {
	const handles = "/proc/self/fd"
	fds, err := os.ReadDir(handles)
	if err != nil {
		return nil, err
	}
	var open []string
	for _, fd := range fds {
		// A handle that is gone by now, this listing's own among them, is not open.
		at, err := os.Readlink(filepath.Join(handles, fd.Name()))
		if err == nil && (at == dir || strings.HasPrefix(at, dir+"/")) {
			open = append(open, at)
		}
	}
	return open, nil
}
