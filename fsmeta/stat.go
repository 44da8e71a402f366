package fsmeta

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"forebay/proto"
)

// Stat is what lstat says of an object.
type Stat struct {
	Size    int64
	Blocks  int64 // of 512 bytes; fewer than Size needs when the file has holes
	MtimeNs int64 // nanoseconds since 1970
	CtimeNs int64
	Ino     uint64
	Dev     uint64
	Mode    uint32 // st_mode, type bits included
	UID     uint32
	GID     uint32
	Nlink   uint32
	// MountRoot is set when something is mounted here: the object belongs to another mount than its directory.
	MountRoot bool
}

// Kind returns what the object is as a version: a file, a directory or a symlink, and KindNone for what is never sent.
func (s Stat) Kind() proto.Kind {
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return proto.KindFile
	case unix.S_IFDIR:
		return proto.KindDir
	case unix.S_IFLNK:
		return proto.KindSymlink
	}
	return proto.KindNone
}

// TypeName names the object's type for people.
func (s Stat) TypeName() string {
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFCHR:
		return "character device"
	}
	return "object of unknown type"
}

// StatAt returns the Stat of name in the directory fd, without following a link; with an empty name, of fd itself.
// Where statx is missing (kernels before 4.11) or forbidden by an old seccomp filter, MountRoot is never set.
func StatAt(fd int, name string) (Stat, error) {
	if st, err := statx(fd, name); !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return st, err
	}
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstatat(fd, name, &st, flags) }); err != nil {
		return Stat{}, fmt.Errorf("stat %q: %w", name, err)
	}
	return Stat{
		Size: st.Size, Blocks: st.Blocks, MtimeNs: st.Mtim.Nano(), CtimeNs: st.Ctim.Nano(), Ino: st.Ino, Dev: st.Dev,
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink),
	}, nil
}

func statx(fd int, name string) (Stat, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var x unix.Statx_t
	if err := retry(func() error { return unix.Statx(fd, name, flags, unix.STATX_BASIC_STATS, &x) }); err != nil {
		return Stat{}, fmt.Errorf("stat %q: %w", name, err)
	}
	return Stat{
		Size: int64(x.Size), Blocks: int64(x.Blocks),
		MtimeNs: x.Mtime.Sec*1e9 + int64(x.Mtime.Nsec), CtimeNs: x.Ctime.Sec*1e9 + int64(x.Ctime.Nsec),
		Ino: x.Ino, Dev: unix.Mkdev(x.Dev_major, x.Dev_minor), Mode: uint32(x.Mode), UID: x.Uid, GID: x.Gid, Nlink: x.Nlink,
		MountRoot: x.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
	}, nil
}

// ReadlinkAt returns the text of the symlink name in the directory fd; with an empty name, of the symlink fd itself.
func ReadlinkAt(fd int, name string) (string, error) {
	b := make([]byte, 256)
	for {
		var n int
		err := retry(func() (err error) { n, err = unix.Readlinkat(fd, name, b); return err })
		if err != nil {
			return "", fmt.Errorf("read link %q: %w", name, err)
		}
		if n < len(b) {
			return string(b[:n]), nil
		}
		b = make([]byte, 2*len(b))
	}
}

// Use calls fn with the descriptor of f, which stays open while fn runs even if f is closed; afterwards it gives os.ErrClosed. A disk that hangs
// may keep somebody in fn whom the owner of f has left behind: were the descriptor closed meanwhile, its number would soon be another file's.
func Use(f *os.File, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err == nil {
		var used error
		if err = raw.Control(func(fd uintptr) { used = fn(int(fd)) }); err == nil {
			return used
		}
	}
	return fmt.Errorf("%s: %w", f.Name(), os.ErrClosed) // neither has another error
}

// StatOf returns the Stat of an open file, which may be closed meanwhile: see Use.
func StatOf(f *os.File) (st Stat, err error) {
	err = Use(f, func(fd int) (err error) {
		st, err = StatAt(fd, "")
		return err
	})
	return st, err
}

// retry repeats a system call that a signal interrupted.
func retry(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
