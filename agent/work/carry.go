package work

import (
	"context"
	"maps"
	"slices"
	"time"

	"forebay/agent/index"
	"forebay/agent/pick"
	"forebay/agent/settle"
	"forebay/agent/upload"
	"forebay/proto"
)

// again is how soon the carrier looks once more for an object that another part of the worker has in hand.
const again = 100 * time.Millisecond

// Ended tells of a lease that ended: what this root has of it is claimed when its turn among the others has come.
func (w *Worker) Ended(e proto.LeaseEnded) error {
	w.Heard.Forget(e.Path, e.Upload, e.Epoch)
	rank := pick.Next(w.Holder, w.Session.Members(w.Dataset.Name), e)
	err := w.edit([]string{e.Path}, func(_ int, cur index.Entry) (index.Entry, bool) {
		next, ok := settle.Ended(cur, e.Size, rank, w.Now(), w.Session.Suspicion())
		if ok && e.Acked > 0 {
			w.carries(e.Path)
		}
		return next, ok
	})
	poke(w.lost)
	w.Wake()
	return err
}

// carries remembers that an object is to be carried on; started forgets that, for it is under way.
func (w *Worker) carries(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.carry == nil || len(w.carry) >= maxCarry {
		w.carry = map[string]bool{} // forgetting costs the wait for a slot, and for the queue
	}
	w.carry[path] = true
}

func (w *Worker) started(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.carry, path)
}

// carrier claims what others had begun and lost, beside the queue: that may have thousands of objects before it, and wait for what it
// sends.
func (w *Worker) carrier(ctx context.Context) error {
	for {
		wait, err := w.carryOn(ctx)
		if err != nil {
			return err
		}
		if !sleep(ctx, w.lost, wait) {
			return ctx.Err()
		}
	}
}

// carryOn claims what is to be carried on and due, and returns how long to sleep before the next time. It fails only with the index.
func (w *Worker) carryOn(ctx context.Context) (wait time.Duration, err error) {
	now := w.Now()
	w.mu.Lock()
	names := slices.Sorted(maps.Keys(w.carry))
	w.mu.Unlock()
	if len(names) == 0 {
		return time.Hour, nil // the end of a lease wakes it
	}
	if rest := w.rests(now); rest > 0 {
		return rest, nil
	}
	wait = idle
	var list []index.Entry
	for _, path := range names {
		if !w.busy.take(path) && !w.unwait(path) {
			wait = again
			continue
		}
		e, ok, err := w.Index.Get(path)
		switch {
		case err != nil:
			w.busy.done(path)
			w.free(list)
			return 0, err
		case !ok || !e.State.Queued() || !upload.Job{Entry: e}.Large():
			w.busy.done(path)
			w.started(path) // by another holder, or it is another object
		case !due(e, now):
			w.busy.done(path)
			wait = min(wait, time.Duration(e.Due-now.UnixNano()))
		default:
			list = append(list, e)
		}
	}
	if len(list) > 0 {
		_, err = w.work(ctx, list, now) // large objects are started at once
	}
	return wait, err
}
