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
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a tmpfs")
	}
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
		// Not refused when busy: a child that another test starts has, until its exec is through, a copy of every handle that
		// was open at the fork, also of those that were closed here since.
		require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH))
	}
	t.Cleanup(unmount)
	return unmount
}

// ExFAT mounts an empty exFAT file system of the size (as truncate(1) takes it) at a directory until the test ends: a real one that folds
// case, takes no owners, modes, links and not every name. It is served through FUSE, by exfat-fuse. The test is skipped where that may
// not be done.
func ExFAT(t *testing.T, dir, size string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts an exFAT image")
	}
	image := filepath.Join(t.TempDir(), "image")
	for _, command := range [][]string{{"truncate", "-s", size, image}, {"mkfs.exfat", image}} {
		if _, err := run(t, command...); err != nil {
			t.Skipf("cannot make an exFAT file system here (Debian packages exfat-fuse and exfatprogs): %v", err)
		}
	}
	device, err := run(t, "losetup", "-f", "--show", image)
	if err != nil {
		t.Skipf("cannot mount an image here: %v", err)
	}
	t.Cleanup(func() {
		_, err := run(t, "losetup", "-d", device)
		assert.NoError(t, err)
	})
	if _, err := run(t, "mount.exfat-fuse", device, dir); err != nil {
		t.Skipf("cannot mount exFAT here (Debian package exfat-fuse): %v", err)
	}
	// Not refused when busy, as above; the device goes with its last user.
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
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
