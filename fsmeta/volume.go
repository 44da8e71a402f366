package fsmeta

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Volume tells a file system, and the root's directory in it, from others where the id that FSIdentity has does not.
type Volume struct {
	// Numbered is set where that id is nothing but the number of the device, on XFS and F2FS. Such an id may be another one
	// when the machine starts, and may then belong to another file system. ext4, btrfs, tmpfs and others make theirs of the
	// file system's UUID, and what has no device (NFS, FUSE) has none or its server's. FAT and exFAT have the number, too, but
	// inodes and births that are made up at each mount. The rest is only there where this is set.
	Numbered bool
	UUID     [16]byte // zero: the kernel does not tell
	BornNs   int64    // when the root's directory was made, nanoseconds since 1970; 0: the file system does not tell
}

// Volume looks at the file system that the root lies on.
func (r *Root) Volume() (Volume, error) {
	fsType, id, _, err := r.FSIdentity()
	if err != nil {
		return Volume{}, err
	}
	if fsType != unix.XFS_SUPER_MAGIC && fsType != unix.F2FS_SUPER_MAGIC || id == 0 || id != deviceID(r.dev) {
		return Volume{}, nil
	}
	v := Volume{Numbered: true}
	var x unix.Statx_t
	err = r.Use(func(fd int) error {
		return retry(func() error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &x) })
	})
	if err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return Volume{}, fmt.Errorf("stat %s: %w", r.path, err)
	}
	if x.Mask&unix.STATX_BTIME != 0 {
		v.BornNs = x.Btime.Sec*1e9 + int64(x.Btime.Nsec)
	}
	dir, err := r.Open("", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return v, nil // whoever lists it finds out why
	}
	defer func() { _ = dir.Close() }() // only asked
	v.UUID, err = volumeUUID(int(dir.Fd()))
	if err != nil {
		return Volume{}, fmt.Errorf("ask for the UUID of the file system of %s: %w", r.path, err)
	}
	return v, nil
}

// deviceID is the id that the kernel makes of a device's number (huge_encode_dev, as both halves of f_fsid).
func deviceID(dev uint64) uint64 {
	major, minor := uint64(unix.Major(dev)), uint64(unix.Minor(dev))
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// The kernel's ways to tell a UUID: of any file system since Linux 6.9, of XFS always.
const (
	fsIocGetFSUUID   = 0x80111500 // _IOR(0x15, 0, struct fsuuid2)
	xfsIocFSGeometry = 0x80705864 // _IOR('X', 100, struct xfs_fsop_geom_v1)
)

// fsUUID is struct fsuuid2.
type fsUUID struct {
	length byte
	uuid   [16]byte
}

// xfsGeometry is struct xfs_fsop_geom_v1.
type xfsGeometry struct {
	_    [64]byte
	uuid [16]byte
	_    [32]byte
}

// volumeUUID returns the UUID of the file system that fd is open on; zero when the kernel does not tell.
func volumeUUID(fd int) ([16]byte, error) {
	var told fsUUID
	err := ioctl(fd, fsIocGetFSUUID, unsafe.Pointer(&told))
	if err == nil && told.length == 16 {
		return told.uuid, nil
	}
	if err != nil && !untold(err) {
		return [16]byte{}, err
	}
	return xfsUUID(fd)
}

func xfsUUID(fd int) ([16]byte, error) {
	var xfs xfsGeometry
	if err := ioctl(fd, xfsIocFSGeometry, unsafe.Pointer(&xfs)); err != nil && !untold(err) {
		return [16]byte{}, err
	}
	return xfs.uuid, nil
}

// untold reports whether err says that a file system, or a filter before the kernel, has no answer to an ioctl.
func untold(err error) bool {
	for _, no := range []error{unix.ENOTTY, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOSYS, unix.EPERM, unix.EACCES} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	return retry(func() error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
			return errno
		}
		return nil
	})
}
