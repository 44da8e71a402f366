package fsmeta

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/testfs"
)

func TestVolumeWhoseIdLasts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testfs.Tmpfs(t, dir, "64k")
	v, err := openRoot(t, dir, 0).Volume()
	require.NoError(t, err)
	require.Zero(t, v)
}

// On XFS the device's number is in the id; UUID and birth tell the file system, and are others when it is made anew.
func TestVolumeOnXFS(t *testing.T) {
	t.Parallel()
	disk := testfs.NewXFS(t, t.TempDir())
	look := func() (id, ino uint64, v Volume) {
		r, err := OpenRoot(disk.Dir, 0)
		require.NoError(t, err)
		_, id, ino, err = r.FSIdentity()
		require.NoError(t, err)
		v, err = r.Volume()
		require.NoError(t, err)
		f, err := r.Open("", unix.O_RDONLY, 0)
		require.NoError(t, err)
		uuid, err := xfsUUID(int(f.Fd()))
		require.NoError(t, err)
		require.Equal(t, v.UUID, uuid, "by its own way, as kernels before 6.9 have it")
		require.NoError(t, f.Close())
		require.NoError(t, r.Close())
		return id, ino, v
	}
	id, ino, v := look()
	require.True(t, v.Numbered)
	require.NotZero(t, v.UUID)
	require.NotZero(t, v.BornNs)
	disk.Unmount()
	disk.Mount()
	id2, ino2, v2 := look()
	require.NotEqual(t, id, id2)
	require.Equal(t, ino, ino2)
	require.Equal(t, v, v2)
	disk.Unmount()
	disk.Remake()
	disk.Mount()
	_, ino3, v3 := look()
	require.Equal(t, ino, ino3)
	require.NotEqual(t, v.UUID, v3.UUID)
	require.NotEqual(t, v.BornNs, v3.BornNs)
}

func TestDeviceID(t *testing.T) {
	t.Parallel()
	for dev, id := range map[uint64]uint64{
		unix.Mkdev(7, 0): 0x700, unix.Mkdev(8, 17): 0x811, unix.Mkdev(259, 3): 0x10303, unix.Mkdev(253, 0x12345): 0x1230fd45,
	} {
		require.Equal(t, id, deviceID(dev), "%x", dev)
	}
}
