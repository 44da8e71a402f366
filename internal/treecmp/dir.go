package treecmp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// compareDir merges the sorted names of one directory on both sides.
func (w *walk) compareDir(ctx context.Context, dir string) {
	var (
		names [2][]string
		fds   [2]*os.File
	)
	for i, root := range w.roots {
		f, list, err := w.readDir(root, dir)
		if err != nil {
			w.differ(dir, "unreadable", "%s: %v", side(i), err)
			closeAll(fds)
			return
		}
		fds[i], names[i] = f, list
	}
	defer closeAll(fds)

	a, b := names[0], names[1]
	for (len(a) > 0 || len(b) > 0) && ctx.Err() == nil {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0] < b[0]:
			w.alone(join(dir, a[0]), "missing", "only in the first tree")
			a = a[1:]
		case len(a) == 0 || b[0] < a[0]:
			w.alone(join(dir, b[0]), "extra", "only in the second tree")
			b = b[1:]
		default:
			w.compareEntry(fds, dir, a[0])
			a, b = a[1:], b[1:]
		}
	}
}

func (w *walk) alone(path, what, detail string) {
	w.count(1, 0, 0, 0)
	w.differ(path, what, "%s", detail)
}

// readDir opens a directory below a root and returns its names, sorted, without what is left out.
func (w *walk) readDir(root int, dir string) (*os.File, []string, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(root, at(dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), at(dir))
	names, err := f.Readdirnames(-1)
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	kept := names[:0]
	for _, name := range names {
		if dir == "" && slices.Contains(w.opt.Exclude, name) {
			continue
		}
		if w.opt.Skip != nil && w.opt.Skip(join(dir, name)) {
			continue
		}
		kept = append(kept, name)
	}
	sort.Strings(kept)
	return f, kept, nil
}

// compareEntry compares one name that both directories have: type and metadata at once, content and what is below later.
func (w *walk) compareEntry(fds [2]*os.File, dir, name string) {
	path := join(dir, name)
	var st [2]unix.Stat_t
	for i := range fds {
		err := retry(func() error {
			return unix.Fstatat(int(fds[i].Fd()), name, &st[i], unix.AT_SYMLINK_NOFOLLOW)
		})
		if err != nil {
			w.differ(path, "unreadable", "%s: stat: %v", side(i), err)
			w.count(1, 0, 0, 0)
			return
		}
	}
	kind := st[0].Mode & unix.S_IFMT
	if other := st[1].Mode & unix.S_IFMT; kind != other {
		w.count(1, 0, 0, 0)
		w.differ(path, "type", "%s, not %s", kindName(other), kindName(kind))
		return
	}
	w.compareMeta(path, kind, &st[0], &st[1])
	w.compareXattrs(fds, path, name)
	switch kind {
	case unix.S_IFDIR:
		w.count(1, 0, 1, 0)
		w.push(task{path: path})
	case unix.S_IFREG:
		w.count(1, 1, 0, 0)
		w.compareLinks(path, &st[0], &st[1])
		w.compareFile(path, &st[0], &st[1])
	case unix.S_IFLNK:
		w.count(1, 0, 0, 0)
		w.compareText(fds, path, name)
	default:
		w.count(1, 0, 0, 0)
		if st[0].Rdev != st[1].Rdev {
			w.differ(path, "type", "device %x, not %x", st[1].Rdev, st[0].Rdev)
		}
	}
}

func (w *walk) compareMeta(path string, kind uint32, a, b *unix.Stat_t) {
	const bits = 0o7777
	if kind != unix.S_IFLNK && a.Mode&bits != b.Mode&bits { // a symlink's mode means nothing on Linux
		w.differ(path, "mode", "%04o, not %04o", b.Mode&bits, a.Mode&bits)
	}
	if w.opt.Owner && (a.Uid != b.Uid || a.Gid != b.Gid) {
		w.differ(path, "owner", "%d:%d, not %d:%d", b.Uid, b.Gid, a.Uid, a.Gid)
	}
	if a.Mtim != b.Mtim {
		w.differ(path, "mtime", "%d.%09d, not %d.%09d", b.Mtim.Sec, b.Mtim.Nsec, a.Mtim.Sec, a.Mtim.Nsec)
	}
}

func (w *walk) compareLinks(path string, a, b *unix.Stat_t) {
	if a.Nlink < 2 && b.Nlink < 2 {
		return
	}
	if !w.pair(inode{a.Dev, a.Ino}, inode{b.Dev, b.Ino}) {
		w.differ(path, "hardlinks", "shares its inode with other paths than in the first tree")
	}
}

func (w *walk) compareText(fds [2]*os.File, path, name string) {
	var text [2]string
	for i := range fds {
		buf := make([]byte, unix.PathMax+1)
		n, err := unix.Readlinkat(int(fds[i].Fd()), name, buf)
		if err != nil {
			w.differ(path, "unreadable", "%s: readlink: %v", side(i), err)
			return
		}
		text[i] = string(buf[:n])
	}
	if text[0] != text[1] {
		w.differ(path, "link", "%q, not %q", text[1], text[0])
	}
}

// compareXattrs compares all attributes that the process may see, POSIX ACLs as the raw attributes they are.
func (w *walk) compareXattrs(fds [2]*os.File, path, name string) {
	var sets [2]map[string][]byte
	for i := range fds {
		// There is no listxattrat on older kernels; this path needs no right to open the object and follows nothing.
		set, err := xattrs(fmt.Sprintf("/proc/self/fd/%d/%s", fds[i].Fd(), name))
		if err != nil {
			w.differ(path, "unreadable", "%s: extended attributes: %v", side(i), err)
			return
		}
		sets[i] = set
	}
	var wrong []string
	for key, value := range sets[0] {
		if other, ok := sets[1][key]; !ok {
			wrong = append(wrong, key+" missing")
		} else if !bytes.Equal(value, other) {
			wrong = append(wrong, fmt.Sprintf("%s is %q, not %q", key, other, value))
		}
	}
	for key := range sets[1] {
		if _, ok := sets[0][key]; !ok {
			wrong = append(wrong, key+" extra")
		}
	}
	if len(wrong) > 0 {
		sort.Strings(wrong)
		w.differ(path, "xattrs", "%s", strings.Join(wrong, ", "))
	}
}

// xattrs reads all attributes of what is at path, without following it.
func xattrs(path string) (map[string][]byte, error) {
	list, err := sized(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if errors.Is(err, unix.ENOTSUP) || err == nil && len(list) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	set := map[string][]byte{}
	for _, key := range strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		value, err := sized(func(buf []byte) (int, error) { return unix.Lgetxattr(path, key, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue // listed, but not for us
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		set[key] = value
	}
	return set, nil
}

// sized makes a call that tells its size when asked with an empty buffer, again when the answer grew meanwhile.
func sized(call func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := call(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		buf := make([]byte, n)
		if n, err = call(buf); errors.Is(err, unix.ERANGE) {
			continue
		}
		return buf[:max(n, 0)], err
	}
}

func closeAll(fds [2]*os.File) {
	for _, f := range fds {
		if f != nil {
			_ = f.Close()
		}
	}
}

func side(i int) string { return [2]string{"first tree", "second tree"}[i] }

func kindName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device"
	}
	return fmt.Sprintf("type %o", mode&unix.S_IFMT)
}
