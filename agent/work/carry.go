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

// again is how soon the carrier looks once more for objects that another part of the worker has in hand, or that wait for a slot.
const again = 200 * time.Millisecond

// Ended tells of a lease that ended: what this root has of it is claimed when its turn among the others has come.
func (w *Worker) Ended(e proto.LeaseEnded) error {
	w.Heard.Forget(e.Path, e.Upload, e.Epoch)
	wait := pick.Next(w.Holder, w.Session.Members(w.Dataset.Name), e, w.Session.Suspicion())
	err := w.edit([]string{e.Path}, func(_ int, cur index.Entry) (index.Entry, bool) {
		next, ok := settle.Ended(cur, e.Size, wait, w.Now())
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

// carryOn claims what others had begun and lost, where it is due, and returns how long to sleep before the next time. It goes beside the
// queue: that may have thousands of objects before it, and wait for what it sends. It fails only with the index.
func (w *Worker) carryOn(ctx context.Context) (time.Duration, error) {
	now := w.Now()
	lost, wait, err := w.carried(now)
	if err != nil || len(lost) == 0 {
		return wait, err
	}
	if rest := w.rests(now); rest > 0 {
		return rest, nil
	}
	var list []index.Entry
	for _, e := range lost {
		if w.busy.take(e.Path) || w.startable() > 0 && w.unwait(e.Path) {
			list = append(list, e)
		}
	}
	if list, err = w.fresh(list, now); err != nil || len(list) == 0 {
		return again, err // others have them in hand
	}
	small, err := w.work(ctx, list, now)
	if err != nil {
		return 0, err
	}
	for _, j := range small { // their content is there already
		w.started(j.Entry.Path)
	}
	w.packLater(ctx, small)
	w.Wake() // it may have passed over what was busy
	return again, nil
}

// carried returns what is to be carried on and due, and how long to sleep when there is none. What is settled, and what has become
// another object, is not carried on any more.
func (w *Worker) carried(now time.Time) (list []index.Entry, wait time.Duration, err error) {
	w.mu.Lock()
	names := slices.Sorted(maps.Keys(w.carry))
	w.mu.Unlock()
	wait = time.Hour // the end of a lease wakes it
	for _, path := range names {
		e, ok, err := w.Index.Get(path)
		switch {
		case err != nil:
			return nil, 0, err
		case !ok || !e.State.Queued() || !upload.Job{Entry: e}.Large():
			w.started(path)
		case due(e, now):
			list = append(list, e)
		default:
			wait = min(wait, idle, time.Duration(e.Due-now.UnixNano()))
		}
	}
	return list, wait, nil
}

// packLater sends small objects once there is a slot for a pack. It does not wait for that.
func (w *Worker) packLater(ctx context.Context, jobs []upload.Job) {
	if len(jobs) == 0 {
		return
	}
	w.jobs.Add(1)
	go func() { // ends with the slot, or with ctx
		defer w.jobs.Done()
		if w.packs.Acquire(ctx, 1) != nil {
			w.unsent(ctx, jobs)
			return
		}
		w.startPack(ctx, jobs)
	}()
}
