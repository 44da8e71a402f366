// Package watch tells in which directories of a root something may have changed, so that a change is found sooner than by
// the next full scan. What it says are hints: they may come late, twice or not at all, and nothing is concluded from their
// absence (package scan). It stands beside scan in the agent and imports fsmeta and proto only.
//
// Three ways, the best one that works here:
//
//	fanotify   one mark on the root's file system, no memory per directory; needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH
//	inotify    a watch on each directory; any user, but bounded by fs.inotify.max_user_watches
//	scan       no hints at all
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"forebay/fsmeta"
	"forebay/proto"
)

// The modes, as status shows them.
const (
	ModeFanotify = "fanotify"
	ModeInotify  = "inotify"
	ModeScan     = "scan"
)

// Defaults of Deps.
const (
	DefaultInterval   = 250 * time.Millisecond
	DefaultMaxWatches = 100_000
)

// maxDirs is how many directories one hint names; with more, it is everything.
const maxDirs = 4096

// Deps are what a Watch works with; the zero value does.
type Deps struct {
	// Wanted reports whether a directory (path relative to the root) belongs to the dataset; nil: all do.
	Wanted func(dir string) bool
	// Interval is the least time between two hints; changes in between become one. 0: DefaultInterval.
	Interval time.Duration
	// MaxWatches bounds the directories that inotify may watch, about 150 bytes of memory each. 0: DefaultMaxWatches.
	MaxWatches int
}

// Hint names directories in which something may have changed: entries created, changed, removed, or the directory's own
// metadata.
type Hint struct {
	Dirs       []string // relative to the root, "" is the root; sorted, at most some thousand
	Everything bool     // hints were lost: anything may have changed
}

// source is one way to learn of changes.
type source interface {
	// collect blocks until something happened, then adds the directories concerned and returns. It fails with an error
	// that wraps errGiveUp when it cannot go on but scanning can, and with os.ErrDeadlineExceeded after interrupt.
	collect(c *collector) error
	interrupt()
	Close() error
}

// errGiveUp wraps why a source is of no more use.
var errGiveUp = errors.New("no more hints")

// Watch watches one root.
type Watch struct {
	deps Deps
	root *fsmeta.Root

	mu     sync.Mutex
	src    source // nil in ModeScan
	mode   string
	reason string
}

// Open starts to watch the directory root. With inotify it walks the whole tree once before it returns. It fails only when
// the root cannot be opened; where nothing better works, Mode is ModeScan and Reason says why.
func Open(root string, deps Deps) (*Watch, error) {
	return open(root, deps, ModeFanotify, ModeInotify)
}

func open(path string, deps Deps, modes ...string) (*Watch, error) {
	if deps.Wanted == nil {
		deps.Wanted = func(string) bool { return true }
	}
	if deps.Interval <= 0 {
		deps.Interval = DefaultInterval
	}
	if deps.MaxWatches <= 0 {
		deps.MaxWatches = DefaultMaxWatches
	}
	root, err := fsmeta.OpenRoot(path, fsmeta.NoXDev)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	w := &Watch{deps: deps, root: root, mode: ModeScan}
	var why []string
	for _, mode := range modes {
		var src source
		var err error
		if mode == ModeFanotify {
			src, err = newFanotify(root)
		} else {
			src, err = newInotify(root, deps)
		}
		if err == nil {
			w.src, w.mode = src, mode
			break
		}
		why = append(why, fmt.Sprintf("no %s: %v", mode, err))
	}
	w.reason = strings.Join(why, "; ")
	return w, nil
}

// Mode returns the way in use: ModeFanotify, ModeInotify or ModeScan. It can become ModeScan while Run runs.
func (w *Watch) Mode() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mode
}

// Reason says why no better mode is in use; "" with the best.
func (w *Watch) Reason() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reason
}

// Run calls fn with hints, one call at a time and not more often than the interval, until ctx ends; then it returns nil.
// While fn works, hints gather in the kernel, whose queue is bounded: past it, the next hint is everything. When the source
// fails, the mode becomes ModeScan, fn is told everything once, and Run goes on without hints. Run is called once.
func (w *Watch) Run(ctx context.Context, fn func(Hint)) error {
	src := w.src
	if src == nil {
		<-ctx.Done()
		return nil
	}
	done := make(chan struct{})
	defer close(done)
	go func() { // ends with Run
		select {
		case <-ctx.Done():
			src.interrupt()
		case <-done:
		}
	}()
	timer := time.NewTimer(w.deps.Interval)
	defer timer.Stop()
	for ctx.Err() == nil {
		c := &collector{wanted: w.deps.Wanted, dirs: map[string]bool{}}
		err := src.collect(c)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			w.giveUp(err)
			fn(Hint{Everything: true})
			<-ctx.Done()
			break
		}
		if h, ok := c.hint(); ok {
			fn(h)
		}
		// Let changes gather: a file that is being written is one hint an interval, not one a write.
		timer.Reset(w.deps.Interval)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return nil
}

func (w *Watch) giveUp(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mode, w.reason = ModeScan, strings.TrimPrefix(w.mode+" ended: "+err.Error(), "; ")
}

// Close ends the watching; Run must have returned.
func (w *Watch) Close() error {
	err := w.root.Close()
	if w.src != nil {
		err = errors.Join(err, w.src.Close())
	}
	return err
}

// collector gathers the directories of one hint.
type collector struct {
	wanted     func(string) bool
	dirs       map[string]bool
	everything bool
}

func (c *collector) add(dir string) {
	if c.everything || c.dirs[dir] || reserved(dir) || dir != "" && !c.wanted(dir) {
		return
	}
	if len(c.dirs) >= maxDirs {
		c.everything = true
		return
	}
	c.dirs[dir] = true
}

func (c *collector) hint() (Hint, bool) {
	if c.everything {
		return Hint{Everything: true}, true
	}
	h := Hint{Dirs: make([]string, 0, len(c.dirs))}
	for d := range c.dirs {
		h.Dirs = append(h.Dirs, d)
	}
	sort.Strings(h.Dirs)
	return h, len(h.Dirs) > 0
}

// reserved reports whether a path lies in the folder that is never part of a dataset.
func reserved(dir string) bool {
	for rest, more := dir, true; more; {
		var name string
		if name, rest, more = strings.Cut(rest, "/"); name == proto.ReservedName {
			return true
		}
	}
	return false
}

// events reads from a kernel queue: it blocks for the first bytes, then takes what else is there.
type events struct {
	f   *os.File
	raw int // f's descriptor, which must not be asked for with Fd: that would make reading block
	buf []byte
}

// maxReads bounds what goes into one hint, so that hints come out while events pour in.
const maxReads = 64

// each calls fn with each read's bytes.
func (e *events) each(fn func([]byte) error) error {
	n, err := e.f.Read(e.buf)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, fs.ErrClosed) {
			return err
		}
		return fmt.Errorf("%w: read events: %w", errGiveUp, err)
	}
	for reads := 1; n > 0; reads++ {
		if err := fn(e.buf[:n]); err != nil || reads == maxReads {
			return err
		}
		if n, err = read(e.raw, e.buf); err != nil {
			return fmt.Errorf("%w: read events: %w", errGiveUp, err)
		}
	}
	return nil
}

// interrupt ends a read that waits.
func (e *events) interrupt() { _ = e.f.SetReadDeadline(time.Unix(1, 0)) }

func (e *events) Close() error { return e.f.Close() }
