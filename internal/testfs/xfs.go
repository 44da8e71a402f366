package testfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// XFS is a disk with a file system whose statfs id is the number of its device. Its methods end the test when they fail.
type XFS struct {
	Dir     string // where it is mounted
	t       *testing.T
	image   string
	mounted bool
	last    uint64 // number of the device that it was on last
}

// leastXFS is what mkfs.xfs asks for. Images are sparse.
const leastXFS = "330M"

// NewXFS mounts an empty XFS at a directory until the test ends, and skips the test where that may not be done.
func NewXFS(t *testing.T, dir string) *XFS {
	t.Helper()
	needRoot(t)
	x := &XFS{Dir: dir, t: t, image: filepath.Join(t.TempDir(), "image")}
	must(t, "make an image", "truncate", "-s", leastXFS, x.image)
	must(t, "make an XFS (Debian package xfsprogs)", "mkfs.xfs", "-q", x.image)
	must(t, "mount an XFS", "mount", "-t", "xfs", "-o", "loop", x.image, dir)
	x.mounted, x.last = true, x.number()
	t.Cleanup(func() {
		if x.mounted {
			detach(t, dir)
		}
	})
	return x
}

// Unmount takes the disk away. What was written is in its image. Whoever uses it must have ended.
func (x *XFS) Unmount() {
	x.t.Helper()
	x.last = x.number()
	x.mounted = false
	var err error
	for range 200 { // a child that another test starts has this one's handles for a moment, see detach
		if _, err = run(x.t, "umount", x.Dir); err == nil {
			return
		}
	}
	require.NoError(x.t, err)
}

// Mount brings it back under another number than it had last, as a start of the machine may.
func (x *XFS) Mount() {
	x.t.Helper()
	for range 20 {
		x.do("mount", "-t", "xfs", "-o", "loop", x.image, x.Dir)
		x.mounted = true
		if x.number() != x.last {
			return
		}
		x.Unmount()
		other := filepath.Join(x.t.TempDir(), "other") // takes that number for the while
		require.NoError(x.t, os.WriteFile(other, make([]byte, 1<<20), 0o600))
		device := x.do("losetup", "-f", "--show", other)
		x.t.Cleanup(func() {
			_, err := run(x.t, "losetup", "-d", device)
			assert.NoError(x.t, err)
		})
	}
	require.FailNow(x.t, "there is no other device")
}

// Copy returns a copy of the unmounted disk, for PutBack.
func (x *XFS) Copy() (image string) {
	x.t.Helper()
	image = filepath.Join(x.t.TempDir(), "copy")
	x.do("cp", "--sparse=always", x.image, image)
	return image
}

// PutBack puts a copy in the place of the unmounted disk.
func (x *XFS) PutBack(image string) {
	x.t.Helper()
	x.do("cp", "--sparse=always", image, x.image)
}

// Remake makes a new file system on the unmounted disk.
func (x *XFS) Remake() {
	x.t.Helper()
	x.do("mkfs.xfs", "-q", "-f", x.image)
}

func (x *XFS) number() uint64 {
	x.t.Helper()
	var st unix.Stat_t
	require.NoError(x.t, unix.Stat(x.Dir, &st))
	return st.Dev
}

func (x *XFS) do(command ...string) string {
	x.t.Helper()
	out, err := run(x.t, command...)
	require.NoError(x.t, err, strings.Join(command, " "))
	return out
}
