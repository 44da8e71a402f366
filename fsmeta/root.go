package fsmeta

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Root opens objects below one directory. Paths are relative and slash-separated, "" is the directory itself. No symbolic
// link is followed on the way or at the end, ".." is refused, and with NoXDev no mount point is crossed; what breaks these
// rules gives ELOOP, EXDEV or EINVAL. Its methods may be called concurrently.
//
// It uses openat2 (Linux 5.6). Where that is missing or a seccomp filter forbids it, it opens component by component with
// O_NOFOLLOW, which is as safe against links; mount points are then told by their device number or by statx, so that a
// file system mounted over itself on a kernel before 5.8 is not noticed.
type Root struct {
	dir    *os.File // O_PATH
	path   string
	noXDev bool
	walk   atomic.Bool // openat2 is missing
	dev    uint64
}

// Flags for OpenRoot.
const (
	NoXDev = 1 << iota // do not cross mount points
)

// OpenRoot opens the directory at path. Links in path itself are followed: it is the operator's word.
func OpenRoot(path string, flags int) (*Root, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	r := &Root{dir: os.NewFile(uintptr(fd), path), path: path, noXDev: flags&NoXDev != 0}
	st, err := StatAt(fd, "")
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	r.dev = st.Dev
	return r, nil
}

// Close closes the root; what was opened through it stays open. What uses the root at that moment keeps its directory open until it has
// ended, and what comes later has os.ErrClosed.
func (r *Root) Close() error { return r.dir.Close() }

// Path returns the path that the root was opened by.
func (r *Root) Path() string { return r.path }

// Use is Use for the root's own directory, opened with O_PATH.
func (r *Root) Use(fn func(fd int) error) error { return Use(r.dir, fn) }

// Open opens path with the given open(2) flags; O_CLOEXEC, O_NOFOLLOW and O_NOCTTY are added, and O_NONBLOCK for the open
// itself, so that a pipe does not block it. With O_PATH a symlink is opened itself; without, it gives ELOOP.
func (r *Root) Open(path string, flags int, mode uint32) (*os.File, error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if flags&unix.O_PATH == 0 {
		flags |= unix.O_NOCTTY | unix.O_NONBLOCK
	}
	var fd int
	err := r.Use(func(root int) (err error) {
		fd, err = r.open(root, path, flags, mode)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(r.path, path), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(r.path, path)), nil
}

// Parent opens, with O_PATH, the directory that path lies in, for the *at system calls with the name that it returns.
func (r *Root) Parent(path string) (dir *os.File, name string, err error) {
	parent := ""
	name = path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	if name == "" || name == "." || name == ".." {
		return nil, "", &os.PathError{Op: "open", Path: path, Err: unix.EINVAL}
	}
	dir, err = r.Open(parent, unix.O_PATH|unix.O_DIRECTORY, 0)
	return dir, name, err
}

// Stat returns the Stat of path without following a link.
func (r *Root) Stat(path string) (Stat, error) {
	if path == "" {
		return StatOf(r.dir)
	}
	dir, name, err := r.Parent(path)
	if err != nil {
		return Stat{}, err
	}
	defer func() { _ = dir.Close() }()
	return StatAt(int(dir.Fd()), name)
}

func (r *Root) open(root int, path string, flags int, mode uint32) (int, error) {
	if path == "" {
		path = "."
	}
	if strings.IndexByte(path, 0) >= 0 || path[0] == '/' {
		return -1, unix.EINVAL
	}
	if !r.walk.Load() {
		fd, err := r.openat2(root, path, flags, mode)
		if !errors.Is(err, unix.ENOSYS) && !(errors.Is(err, unix.EPERM) && forbidden(root)) {
			return fd, err
		}
		r.walk.Store(true)
	}
	return r.openWalk(root, path, flags, mode)
}

func (r *Root) openat2(root int, path string, flags int, mode uint32) (int, error) {
	for _, part := range strings.Split(path, "/") {
		if part == ".." { // the kernel would allow it below the root
			return -1, unix.EINVAL
		}
	}
	how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	if flags&(unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) != 0 {
		how.Mode = uint64(mode)
	}
	if r.noXDev {
		how.Resolve |= unix.RESOLVE_NO_XDEV
	}
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat2(root, path, &how)
		return err
	})
	return fd, err
}

// forbidden tells an openat2 that a seccomp filter refuses from a file that may not be opened.
func forbidden(root int) bool {
	fd, err := unix.Openat2(root, ".", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC})
	if err == nil {
		_ = unix.Close(fd)
	}
	return errors.Is(err, unix.EPERM)
}

// openWalk opens path component by component.
func (r *Root) openWalk(root int, path string, flags int, mode uint32) (int, error) {
	parts := strings.Split(path, "/")
	at, last := root, parts[len(parts)-1]
	leave := func(next int) {
		if at != root {
			_ = unix.Close(at)
		}
		at = next
	}
	defer func() { leave(-1) }()
	for _, part := range parts[:len(parts)-1] {
		fd, err := r.step(at, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		leave(fd)
	}
	return r.step(at, last, flags, mode)
}

// step opens one component and refuses it when it lies on another mount.
func (r *Root) step(at int, name string, flags int, mode uint32) (int, error) {
	if name == ".." {
		return -1, unix.EINVAL
	}
	if name == "" {
		name = "."
	}
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(at, name, flags, mode)
		return err
	})
	if err != nil {
		if errors.Is(err, unix.ENOTDIR) && flags&unix.O_DIRECTORY != 0 && isLink(at, name) {
			err = unix.ELOOP
		}
		return -1, err
	}
	if !r.noXDev || name == "." {
		return fd, nil
	}
	if st, err := StatAt(fd, ""); err != nil || st.Dev != r.dev || st.MountRoot {
		_ = unix.Close(fd)
		return -1, errors.Join(err, unix.EXDEV)
	}
	return fd, nil
}

func isLink(at int, name string) bool {
	st, err := StatAt(at, name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// FSIdentity returns the type and id of the file system that the root lies on, and the inode of its directory: what tells
// a root from the empty mount point below it, or from another one put in its place. Not every id lasts: see Volume.
func (r *Root) FSIdentity() (fsType, fsID, ino uint64, err error) {
	var s unix.Statfs_t
	if err := r.Use(func(fd int) error { return retry(func() error { return unix.Fstatfs(fd, &s) }) }); err != nil {
		return 0, 0, 0, fmt.Errorf("statfs %s: %w", r.path, err)
	}
	st, err := StatOf(r.dir)
	if err != nil {
		return 0, 0, 0, err
	}
	id := uint64(uint32(s.Fsid.Val[0])) | uint64(uint32(s.Fsid.Val[1]))<<32
	return uint64(s.Type), id, st.Ino, nil
}
