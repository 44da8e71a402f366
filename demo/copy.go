package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// copiers is how many files are copied at the same time.
const copiers = 4

// reserved is the folder name that is never part of a dataset.
const reserved = ".forebay"

// leftOut is a path of the source that the replicas cannot have, and why. The demo then ends "done in part".
type leftOut struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// tree is what a copy found.
type tree struct {
	objects int64
	files   int64
	bytes   int64 // content of files, hard links counted once
	left    []leftOut
	// small are regular files of one name, not empty and of at most smallFile bytes, sorted: candidates for changes.
	small []string
}

// smallFile is up to which size a file is changed by hand in the demo.
const smallFile = 1 << 20

// covers reports whether path, or a directory above it, was left out.
func (t *tree) covers(path string) bool {
	for _, l := range t.left {
		if path == l.Path || strings.HasPrefix(path, l.Path+"/") {
			return true
		}
	}
	return false
}

// copier copies one tree, metadata and all, as an operator would with cp -a.
type copier struct {
	from, to string
	add      func(bytes int64) // progress
	found    tree
	dirs     []entry     // finished last, deepest first: what is made in a directory changes its times
	links    [][2]string // path, path of the first name of its inode
	first    map[inode]string
	files    *errgroup.Group
}

type inode struct{ dev, ino uint64 }

type entry struct {
	path string
	st   unix.Stat_t
}

// copyTree copies the tree from into the new directory to. What cannot be read becomes an empty file or directory without
// any permission, for an agent to stumble over as it would at the source; what is no file, directory or symlink is left out.
func copyTree(ctx context.Context, from, to string, add func(bytes int64)) (tree, error) {
	if err := os.Mkdir(to, 0o700); err != nil {
		return tree{}, err
	}
	files, ctx := errgroup.WithContext(ctx)
	files.SetLimit(copiers)
	c := &copier{from: from, to: to, add: add, first: map[inode]string{}, files: files}
	err := filepath.WalkDir(from, func(path string, _ fs.DirEntry, err error) error { return c.visit(ctx, path, err) })
	if e := files.Wait(); e != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = e
	}
	if err != nil {
		return tree{}, fmt.Errorf("copy %s: %w", from, err)
	}
	for _, l := range c.links {
		if err := os.Link(filepath.Join(to, l[1]), filepath.Join(to, l[0])); err != nil {
			return tree{}, fmt.Errorf("copy %s: %w", from, err)
		}
	}
	for i := len(c.dirs) - 1; i >= 0; i-- {
		if err := c.dress(c.dirs[i]); err != nil {
			return tree{}, fmt.Errorf("copy %s: %w", from, err)
		}
	}
	sort.Strings(c.found.small)
	return c.found, nil
}

// visit is called for everything in the source, directories before what is in them.
func (c *copier) visit(ctx context.Context, path string, failed error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	rel, err := filepath.Rel(c.from, path)
	if err != nil {
		return err
	}
	if failed != nil {
		return c.unlisted(rel, failed)
	}
	if filepath.Base(rel) == reserved {
		return fs.SkipDir
	}
	e := entry{path: rel}
	if err := unix.Lstat(path, &e.st); err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	if rel == "." {
		return nil
	}
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		c.found.objects++
		c.dirs = append(c.dirs, e)
		return os.Mkdir(filepath.Join(c.to, rel), 0o700)
	case unix.S_IFLNK:
		c.found.objects++
		return c.symlink(e)
	case unix.S_IFREG:
		c.found.objects++
		c.found.files++
		return c.plan(ctx, e)
	}
	c.found.left = append(c.found.left, leftOut{rel, "neither file, directory nor symlink"})
	return nil
}

// unlisted handles a directory that could not be read: its entry was visited and made before.
func (c *copier) unlisted(rel string, failed error) error {
	if !errors.Is(failed, fs.ErrPermission) || rel == "." || len(c.dirs) == 0 {
		return failed
	}
	c.found.left = append(c.found.left, leftOut{rel, "permission denied"})
	for i := range c.dirs {
		if c.dirs[i].path == rel {
			c.dirs[i].st.Mode &^= 0o7777
		}
	}
	return fs.SkipDir
}

func (c *copier) symlink(e entry) error {
	text, err := os.Readlink(filepath.Join(c.from, e.path))
	if err != nil {
		return err
	}
	if err := os.Symlink(text, filepath.Join(c.to, e.path)); err != nil {
		return err
	}
	return c.dress(e)
}

// plan hands a file to a worker, or remembers a further name of one.
func (c *copier) plan(ctx context.Context, e entry) error {
	if e.st.Nlink > 1 {
		id := inode{e.st.Dev, e.st.Ino}
		if first, ok := c.first[id]; ok {
			c.links = append(c.links, [2]string{e.path, first})
			return nil
		}
		c.first[id] = e.path
	}
	in, err := os.Open(filepath.Join(c.from, e.path))
	if errors.Is(err, fs.ErrPermission) {
		c.found.left = append(c.found.left, leftOut{e.path, "permission denied"})
		return os.WriteFile(filepath.Join(c.to, e.path), nil, 0)
	}
	if err != nil {
		return err
	}
	c.found.bytes += e.st.Size
	if e.st.Nlink == 1 && e.st.Size > 0 && e.st.Size <= smallFile {
		c.found.small = append(c.found.small, e.path)
	}
	c.files.Go(func() error { // ends when the file is copied
		defer func() { _ = in.Close() }()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := c.copyFile(ctx, in, e); err != nil {
			return err
		}
		return c.dress(e)
	})
	return nil
}

// copyFile copies the data of a file and leaves its holes.
func (c *copier) copyFile(ctx context.Context, in *os.File, e entry) (err error) {
	out, err := os.OpenFile(filepath.Join(c.to, e.path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(e.st.Size); err != nil {
		return err
	}
	const step = 8 << 20 // so that progress shows and an end of ctx is heeded
	for at := int64(0); at < e.st.Size; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		data, end := extent(in, at, e.st.Size)
		if data >= e.st.Size {
			c.add(e.st.Size - at)
			return nil
		}
		end = min(end, data+step)
		if _, err := in.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, in, end-data); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		c.add(end - at)
		at = end
	}
	return nil
}

// extent returns the next data at or behind an offset. A file system without holes is all data.
func extent(f *os.File, at, size int64) (data, end int64) {
	data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err != nil {
		return at, size
	}
	if end, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil {
		return data, size
	}
	return data, end
}

// dress gives a copy the metadata of its original: owner (root only), mode, attributes, times, in the order in which one
// does not undo the other.
func (c *copier) dress(e entry) error {
	to := filepath.Join(c.to, e.path)
	link := e.st.Mode&unix.S_IFMT == unix.S_IFLNK
	if os.Geteuid() == 0 {
		if err := os.Lchown(to, int(e.st.Uid), int(e.st.Gid)); err != nil {
			return err
		}
	}
	if err := copyXattrs(filepath.Join(c.from, e.path), to); err != nil {
		return err
	}
	if !link {
		if err := unix.Chmod(to, e.st.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	return setTimes(to, e.st.Mtim)
}

// setTimes sets the mtime of what is at path, without following it.
func setTimes(path string, mtime unix.Timespec) error {
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{mtime, mtime}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}

// copyXattrs copies the attributes that this user may read and set.
func copyXattrs(from, to string) error {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(from, names)
	if err != nil || n == 0 {
		return nil // none here, or none that we may see
	}
	value := make([]byte, 64<<10)
	for _, name := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(from, name, value)
		if err != nil {
			continue
		}
		err = unix.Lsetxattr(to, name, value[:n], 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
			return &os.PathError{Op: "set " + name + " of", Path: to, Err: err}
		}
	}
	return nil
}

// removeAll removes a tree, also one with directories that their owner may not write.
func removeAll(root string) error {
	err := os.RemoveAll(root)
	if err == nil {
		return nil
	}
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, _ error) error { // as far as it goes: RemoveAll tells
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(root)
}

// stamp is an instant as a file's time.
func stamp(t time.Time) unix.Timespec { return unix.NsecToTimespec(t.UnixNano()) }
