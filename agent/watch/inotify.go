package watch

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/fsmeta"
)

// inotify watches each directory below the root.
type inotify struct {
	events
	root   *fsmeta.Root
	deps   Deps
	nodes  map[int32]node
	rootWD int32
}

// node is a watched directory: its name in the directory with the watch parent. Paths are put together when needed, so
// that renaming a directory changes one node.
type node struct {
	parent int32
	name   string
}

const inMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_CLOSE_WRITE |
	unix.IN_ATTRIB | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK

func newInotify(root *fsmeta.Root, deps Deps) (source, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("%w (fs.inotify.max_user_instances too small?)", err)
	}
	w := &inotify{
		events: events{f: os.NewFile(uintptr(fd), "inotify"), raw: fd, buf: make([]byte, 64<<10)},
		root:   root, deps: deps, nodes: map[int32]node{},
	}
	if err := w.walk("", 0, ""); err != nil {
		_ = w.Close()
		return nil, err
	}
	return w, nil
}

// walk watches dir, called name in the directory with the watch parent, and all directories below it. A directory that
// has its watch already keeps it. What cannot be opened has no hints; a scan tells of it.
func (w *inotify) walk(dir string, parent int32, name string) error {
	if dir != "" && (reserved(dir) || !w.deps.Wanted(dir)) {
		return nil
	}
	f, err := w.root.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		if dir == "" {
			return err
		}
		return nil
	}
	wd, err := w.watch(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.nodes[wd] = node{parent: parent, name: name}
	if dir == "" {
		w.rootWD = wd
	}
	subs := subdirs(f)
	if err := f.Close(); err != nil {
		return err
	}
	for _, sub := range subs {
		if err := w.walk(join(dir, sub), wd, sub); err != nil {
			return err
		}
	}
	return nil
}

func (w *inotify) watch(f *os.File) (int32, error) {
	if len(w.nodes) >= w.deps.MaxWatches {
		return 0, fmt.Errorf("more than %d directories", w.deps.MaxWatches)
	}
	wd, err := unix.InotifyAddWatch(w.raw, procPath(int(f.Fd())), inMask)
	if errors.Is(err, unix.ENOSPC) {
		return 0, fmt.Errorf("watches ran out after %d directories: raise fs.inotify.max_user_watches", len(w.nodes))
	}
	if err != nil {
		return 0, fmt.Errorf("watch %s: %w", f.Name(), err)
	}
	return int32(wd), nil
}

// subdirs returns the names of the directories in f, as far as they can be read.
func subdirs(f *os.File) (names []string) {
	entries, _ := f.ReadDir(-1)
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// path returns the path of a watched directory, and false for one that lies no longer below the root.
func (w *inotify) path(wd int32) (string, bool) {
	var parts []string
	for depth := 0; wd != w.rootWD; depth++ {
		n, ok := w.nodes[wd]
		if !ok || depth > 4096 {
			return "", false
		}
		parts = append(parts, n.name)
		wd = n.parent
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, "/"), true
}

func (w *inotify) collect(c *collector) error {
	return w.each(func(b []byte) error { return w.parse(b, c) })
}

// Layout of an event, in the machine's byte order (inotify(7)): wd s32 | mask u32 | cookie u32 | len u32 | name, NULs.
func (w *inotify) parse(b []byte, c *collector) error {
	for len(b) >= unix.SizeofInotifyEvent {
		wd, mask, n := int32(order.Uint32(b)), order.Uint32(b[4:]), int(order.Uint32(b[12:]))
		if n > len(b)-unix.SizeofInotifyEvent {
			return fmt.Errorf("%w: an event longer than what was read", errGiveUp)
		}
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+n]), "\x00")
		b = b[unix.SizeofInotifyEvent+n:]
		if err := w.event(wd, mask, name, c); err != nil {
			return fmt.Errorf("%w: %w", errGiveUp, err)
		}
	}
	return nil
}

func (w *inotify) event(wd int32, mask uint32, name string, c *collector) error {
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		c.everything = true
		return w.walk("", 0, "") // directories made meanwhile have no watch
	case mask&unix.IN_IGNORED != 0:
		delete(w.nodes, wd)
		return nil
	}
	dir, ok := w.path(wd)
	if !ok {
		return nil
	}
	c.add(dir)
	if mask&unix.IN_ISDIR != 0 && mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 && name != "" {
		// The watch first, then the hint: what is made in it before the scan comes is found by the scan.
		return w.walk(join(dir, name), wd, name)
	}
	return nil
}
