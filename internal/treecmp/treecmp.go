// Package treecmp compares two directory trees, content and metadata, and lists what differs. It is the witness of the demo
// and of the end-to-end tests, and so shares no code with what it judges: it imports the standard library and x/sys/unix
// only, never package agent, fsmeta, flush or proto.
//
// It walks both trees at once, a directory at a time, with a few workers over one stack. Its memory is bounded by the widest
// directory, the depth times the width of directories still to be visited, and one small entry for each inode that has
// several names.
package treecmp

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// Options say what counts as a difference. The zero value compares everything but owners, with a worker a processor.
type Options struct {
	// Owner compares uid and gid too: for trees written with the right to chown.
	Owner bool
	// Exclude names entries directly below either root that are left out, such as a program's own records.
	Exclude []string
	// Skip leaves out paths on both sides, with everything below; nil skips nothing. It is called by several workers at
	// once.
	Skip func(path string) bool
	// Workers is how many compare at the same time; 0 is one a processor.
	Workers int
	// List is how many differences are kept by name; 0 is 1,000. All are counted.
	List int
	// Progress, when set, is called after each file's range and each directory with what was compared since the last call.
	// It is called by several workers at once.
	Progress func(objects, bytes int64)
}

// Result is the outcome of a comparison.
type Result struct {
	Objects     int64        `json:"objects"` // paths found in either tree, the roots not counted
	Files       int64        `json:"files"`
	Directories int64        `json:"directories"`
	Bytes       int64        `json:"bytes"`       // content compared, of one side
	Differences int64        `json:"differences"` // all of them
	Listed      []Difference `json:"listed,omitempty"`
}

// Equal reports whether nothing differed.
func (r Result) Equal() bool { return r.Differences == 0 }

// Difference is one thing that differs.
type Difference struct {
	Path   string `json:"path"`
	What   string `json:"what"` // missing, extra, type, size, content, mode, owner, mtime, xattrs, link, hardlinks, unreadable
	Detail string `json:"detail"`
}

// String returns the difference on one line, the path quoted.
func (d Difference) String() string { return fmt.Sprintf("%q: %s: %s", d.Path, d.What, d.Detail) }

// Compare compares the tree got with the tree want. The roots themselves are not compared, only what is in them. What cannot
// be read is a difference. An error means that a root could not be opened or that ctx ended; the result then is only what
// was seen until then.
func Compare(ctx context.Context, want, got string, opt Options) (Result, error) {
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	if opt.List <= 0 {
		opt.List = 1000
	}
	w := &walk{opt: opt, pairs: map[inode]inode{}, back: map[inode]inode{}}
	w.more.L = &w.mu
	for i, root := range []string{want, got} {
		fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return Result{}, fmt.Errorf("open tree %s: %w", root, err)
		}
		defer func() { _ = unix.Close(fd) }()
		w.roots[i] = fd
	}
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.more.Broadcast()
	})
	defer stop()

	w.push(task{})
	var wg sync.WaitGroup
	for range opt.Workers {
		wg.Add(1)
		go func() { // ends when the stack is empty and no worker can fill it, or when ctx ends
			defer wg.Done()
			w.work(ctx)
		}()
	}
	wg.Wait()
	sort.Slice(w.result.Listed, func(i, j int) bool { return w.result.Listed[i].Path < w.result.Listed[j].Path })
	return w.result, ctx.Err()
}

// inode names a file whatever its paths are.
type inode struct{ dev, ino uint64 }

// task is one unit of work: a directory that both trees have (dir "" is the root), or a range of a file that both have.
type task struct {
	path   string
	file   *file // nil for a directory
	offset int64
	length int64
}

// walk is the state of one comparison.
type walk struct {
	opt   Options
	roots [2]int // descriptors of want and got

	mu     sync.Mutex
	more   sync.Cond
	stack  []task // last in, first out: depth first, which keeps it short
	active int    // workers that may still push
	result Result
	// pairs and back hold, for inodes with several names, which inode of the other tree stands for it: the hard links of
	// two trees are the same when this is one to one.
	pairs, back map[inode]inode
}

func (w *walk) push(t ...task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stack = append(w.stack, t...)
	w.more.Broadcast()
}

// next waits for a task; ok is false when there is nothing more to do.
func (w *walk) next(ctx context.Context, done bool) (t task, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if done {
		w.active--
	}
	for len(w.stack) == 0 && w.active > 0 && ctx.Err() == nil {
		w.more.Wait()
	}
	if len(w.stack) == 0 || ctx.Err() != nil {
		w.more.Broadcast()
		return task{}, false
	}
	t = w.stack[len(w.stack)-1]
	w.stack = w.stack[:len(w.stack)-1]
	w.active++
	return t, true
}

func (w *walk) work(ctx context.Context) {
	buf := make([]byte, 2*bufferLen)
	for t, ok := w.next(ctx, false); ok; t, ok = w.next(ctx, true) {
		if t.file != nil {
			w.compareRange(ctx, t, buf)
		} else {
			w.compareDir(ctx, t.path)
		}
	}
}

// differ records a difference.
func (w *walk) differ(path, what, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Differences++
	if len(w.result.Listed) < w.opt.List {
		w.result.Listed = append(w.result.Listed, Difference{Path: path, What: what, Detail: fmt.Sprintf(format, args...)})
	}
}

func (w *walk) count(objects, files, dirs, bytes int64) {
	w.mu.Lock()
	w.result.Objects += objects
	w.result.Files += files
	w.result.Directories += dirs
	w.result.Bytes += bytes
	w.mu.Unlock()
	if w.opt.Progress != nil {
		w.opt.Progress(objects, bytes)
	}
}

// pair records that a of want stands for b of got and reports whether that agrees with what was seen before.
func (w *walk) pair(a, b inode) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	first, known := w.pairs[a]
	second, knownBack := w.back[b]
	if !known && !knownBack {
		w.pairs[a], w.back[b] = b, a
		return true
	}
	return known && knownBack && first == b && second == a
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// at is the path under which the *at calls reach rel below a root.
func at(rel string) string {
	if rel == "" {
		return "."
	}
	return filepath.FromSlash(rel)
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
