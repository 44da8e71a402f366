package upload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/proto"
)

// A disk that hangs neither fails nor gives anything, and no system call on it can be taken back. So contents are read in goroutines of their
// own, which are left behind when another holder goes on instead, or when the session ends. Only the disk's own time counts, never that of
// a limit, the window or the relay: whoever waits for those has no read under way. Whether another holder could go on, the relay
// decides (Deps.Slow): where nobody else can, a slow read is better than none.

// readChunk is how much is asked of a disk at once: a read that does not come back for seconds is told from a large one.
const readChunk = 256 << 10

// Reads are the reads of one root's contents that are under way, in whatever session. A nil one watches nothing.
type Reads struct {
	now   func() time.Time
	total atomic.Int64
	mu    sync.Mutex
	under map[*pending]struct{}
}

// NewReads returns a root's.
func NewReads(now func() time.Time) *Reads { return &Reads{now: now, under: map[*pending]struct{}{}} }

// pending is one of them. Its fields are guarded by Reads.mu.
type pending struct {
	of       *Reads
	path     string
	patience time.Duration
	moved    time.Time // when something of it came last
	left     bool      // nobody waits for it any more
	ended    bool
}

// Bytes returns how many bytes were read, or are about to be.
func (r *Reads) Bytes() int64 {
	if r == nil {
		return 0
	}
	return r.total.Load()
}

// Slow returns for how long the disk has not answered the read that waits longest, 0 while none is late.
func (r *Reads) Slow() (longest time.Duration) {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for x := range r.under {
		if d := r.now().Sub(x.moved); d >= x.patience {
			longest = max(longest, d)
		}
	}
	return longest
}

// hangs reports whether a read of a path was left behind and has not come back.
func (r *Reads) hangs(path string) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for x := range r.under {
		if x.left && x.path == path {
			return true
		}
	}
	return false
}

// watch says how long a read of a path may take to bring anything, and who is asked then, again and again, whether it is given up. Without
// give nobody is.
type watch struct {
	path     string
	patience time.Duration
	give     func(waited time.Duration) bool
}

// Open runs fn, which opens something on the root's disk, and asks give again and again whether that is given up once the disk has not answered for
// patience. over is false when it was left behind: drop then puts away what fn brought after all, and fn's variables are no longer the caller's.
func (r *Reads) Open(ctx context.Context, patience time.Duration, give func(waited time.Duration) bool, fn func() error, drop func()) (over bool, err error) {
	return r.do(ctx, watch{patience: patience, give: give}, func(func()) error { return fn() }, drop)
}

// do runs fn, which reads and calls step whenever something came. over is false when it was left behind: fn may then go on using whatever it
// has, and drop is called when it has come back after all. The error is then a *Spoiled, or ctx's.
func (r *Reads) do(ctx context.Context, w watch, fn func(step func()) error, drop func()) (over bool, err error) {
	if r == nil || w.patience <= 0 {
		return true, fn(func() {})
	}
	x := &pending{of: r, path: w.path, patience: w.patience, moved: r.now()}
	r.mu.Lock()
	r.under[x] = struct{}{}
	r.mu.Unlock()
	done := make(chan error, 1)
	go func() { // ends when the disk answers
		err := fn(x.step)
		done <- err
		if x.end() && drop != nil {
			drop()
		}
	}()
	late := time.NewTimer(w.patience)
	defer late.Stop()
	for {
		select {
		case err := <-done:
			return true, err
		case <-ctx.Done():
			if x.leave() {
				return false, ctx.Err()
			}
			return true, <-done
		case <-late.C:
		}
		waited := x.waited()
		if waited < w.patience {
			late.Reset(w.patience - waited)
			continue
		}
		if w.give != nil && w.give(waited) && x.leave() {
			return false, &Spoiled{Fault: settle.FaultRead, Reason: fmt.Sprintf("%s: the disk has not answered for %s", SlowRead, waited.Round(time.Second))}
		}
		late.Reset(w.patience)
	}
}

// SlowRead begins the reason of what was given up for a disk that hangs.
const SlowRead = "slow read"

func (x *pending) step() {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	x.moved = x.of.now()
}

func (x *pending) waited() time.Duration {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	return x.of.now().Sub(x.moved)
}

// leave gives a read up; false when it has come back.
func (x *pending) leave() bool {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	x.left = !x.ended
	return x.left
}

// end takes note that a read has come back, and reports whether it had been left behind.
func (x *pending) end() (left bool) {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	x.ended = true
	delete(x.of.under, x)
	return x.left
}

// pace waits until n more bytes may be read from disk.
func (r *Reads) pace(ctx context.Context, limit *rate.Limiter, n int64) error {
	for n > 0 && limit != nil {
		part := min(n, int64(limit.Burst()))
		if err := limit.WaitN(ctx, int(part)); err != nil {
			return err
		}
		r.count(part)
		n -= part
	}
	r.count(n)
	return ctx.Err()
}

func (r *Reads) count(n int64) {
	if r != nil {
		r.total.Add(n)
	}
}

// watched runs what reads for a job.
func (u *Uploader) watched(ctx context.Context, j Job, fn func(step func()) error, drop func()) (over bool, err error) {
	w := watch{path: j.Entry.Path, patience: u.Patience}
	if u.Slow != nil {
		w.give = func(waited time.Duration) bool { return u.Slow(ctx, j, waited) }
	}
	return u.Reads.do(ctx, w, fn, drop)
}

// openWatched opens the content of e and finds its holes, in what do watches. Left behind, it closes what it opened.
func openWatched(tree Tree, e index.Entry, do func(fn func(step func()) error, drop func()) (over bool, err error)) (*opened, []proto.Extent, error) {
	var o *opened
	var extents []proto.Extent
	over, err := do(func(func()) error {
		var bad *Spoiled
		if o, bad = open(tree, e); bad != nil {
			return bad
		}
		if extents, bad = o.holes(); bad != nil {
			o.close()
			o = nil
			return bad
		}
		return nil
	}, func() {
		if o != nil {
			o.close()
		}
	})
	if err != nil || !over { // o is the reader's own where it was left behind
		return nil, nil, err
	}
	return o, extents, nil
}

// asError makes an error of what may be nil.
func asError(bad *Spoiled) error {
	if bad != nil {
		return bad
	}
	return nil
}

// slow reports whether a job was given up for a disk that hangs.
func slow(over bool, err error) bool {
	var bad *Spoiled
	return !over && errors.As(err, &bad)
}
