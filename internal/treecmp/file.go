package treecmp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	bufferLen = 256 << 10 // bytes read of a side at a time
	rangeLen  = 64 << 20  // bytes of a file that one task compares, so that several workers share a large file
)

// file is a file that both trees have, while its ranges are compared.
type file struct {
	told atomic.Bool // its first difference is recorded: one a file is enough

	mu   sync.Mutex
	open [2]*os.File
	left int // ranges still to be compared; the last closes
}

// compareFile compares sizes and, when they are equal, plans the content.
func (w *walk) compareFile(path string, a, b *unix.Stat_t) {
	if a.Size != b.Size {
		w.differ(path, "size", "%d bytes, not %d", b.Size, a.Size)
		return
	}
	if a.Size == 0 {
		return
	}
	f := &file{left: int((a.Size + rangeLen - 1) / rangeLen)}
	var tasks []task
	for off := int64(0); off < a.Size; off += rangeLen {
		tasks = append(tasks, task{path: path, file: f, offset: off, length: min(rangeLen, a.Size-off)})
	}
	w.push(tasks...)
}

// compareRange compares one range of a file.
func (w *walk) compareRange(ctx context.Context, t task, buf []byte) {
	defer t.file.done()
	if t.file.told.Load() {
		return
	}
	fds, err := t.file.files(w.roots, t.path)
	if err != nil {
		w.differFile(t, "unreadable", "%v", err)
		return
	}
	var failed [2]error
	for done := int64(0); done < t.length && ctx.Err() == nil; {
		n := min(bufferLen, t.length-done)
		a, b := buf[:n], buf[bufferLen:bufferLen+n]
		for i, p := range [2][]byte{a, b} {
			_, failed[i] = fds[i].ReadAt(p, t.offset+done)
		}
		for i, err := range failed {
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = errors.New("ends early: it was cut while it was compared")
				}
				w.differFile(t, "unreadable", "%s: read at %d: %v", side(i), t.offset+done, err)
				return
			}
		}
		if !bytes.Equal(a, b) {
			w.differFile(t, "content", "first at byte %d", t.offset+done+firstDifference(a, b))
			return
		}
		done += n
		w.count(0, 0, 0, n)
	}
}

func (w *walk) differFile(t task, what, format string, args ...any) {
	if t.file.told.CompareAndSwap(false, true) {
		w.differ(t.path, what, format, args...)
	}
}

// files opens both sides, once a file.
func (f *file) files(roots [2]int, path string) ([2]*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, root := range roots {
		if f.open[i] != nil {
			continue
		}
		var fd int
		err := retry(func() (err error) {
			fd, err = unix.Openat(root, at(path), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			return err
		})
		if err != nil {
			return f.open, &os.PathError{Op: "open in the " + side(i), Path: path, Err: err}
		}
		f.open[i] = os.NewFile(uintptr(fd), path)
	}
	return f.open, nil
}

func (f *file) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left == 0 {
		closeAll(f.open)
	}
}

func firstDifference(a, b []byte) int64 {
	for i := range a {
		if a[i] != b[i] {
			return int64(i)
		}
	}
	return int64(len(a))
}
