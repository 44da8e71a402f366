package work

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"

	"forebay/agent/index"
	"forebay/agent/pick"
	"forebay/agent/settle"
	"forebay/agent/upload"
	"forebay/proto"
)

// batch is what one pass found to do.
type batch struct {
	wait  []index.Entry // put back as they are here
	match []index.Entry
	claim []claim
	have  []claim
	drop  []index.Entry
}

// claim is an entry with what is known of its metadata; busy until it is done.
type claim struct {
	entry   index.Entry
	sums    [4]uint64 // of the metadata now, where it was read
	meta    proto.Meta
	changed proto.MetaField
	read    bool                // sums and meta are set
	wanted  bool                // the relay wants the metadata, see settle.AgreeBut
	slot    *semaphore.Weighted // that it holds as a large object; nil: none
	alone   bool                // see upload.Job.Alone
}

// grant is a large object that may be sent; without a slot it waits for one first.
type grant struct {
	upload.Job
	slot *semaphore.Weighted
}

// pass takes what is due, one batch, does what settle.Next says, and returns how long to sleep before the next. It fails only with the
// index.
func (w *Worker) pass(ctx context.Context) (time.Duration, error) {
	now := w.Now()
	if rest := w.rests(now); rest > 0 {
		return rest, nil
	}
	w.gather(ctx)
	now = w.Now()
	if err := w.packs.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	given := false // the pack's slot goes to whoever sends
	defer func() {
		if !given {
			w.packs.Release(1)
		}
	}()
	span := w.span()
	due, err := w.Index.Due(now, span+w.busy.len())
	if err != nil {
		return 0, err
	}
	more := len(due) >= proto.MaxClaims
	due = w.busy.free(due)
	full := len(due) >= span
	due, err = w.fresh(due, now)
	if err != nil {
		return 0, err
	}
	if len(due) == 0 && w.startable() == 0 {
		return w.untilNext(now, more)
	}
	if !full {
		w.passed = now
	}
	small, err := w.work(ctx, append(w.takeWaiting(), due...), now)
	if err != nil {
		return 0, err
	}
	if len(small) > 0 {
		given = true
		w.startPack(ctx, small)
	}
	return 0, nil
}

// gather waits for more to claim after a pass that took all that was due: what is found a little at a time is claimed together, for as long
// as what the others are told of gathers. A queue that is long does not wait, nor does a large object that has a slot, nor what comes first
// after a silence.
func (w *Worker) gather(ctx context.Context) {
	most := min(proto.GossipInterval, w.Session.Suspicion()/12)
	for w.startable() == 0 && !w.passed.IsZero() {
		rest := most - w.Now().Sub(w.passed)
		if rest <= 0 || rest > most || !sleep(ctx, w.wake, rest) {
			break
		}
	}
	w.passed = time.Time{}
}

// maxSpan is how many times as many entries as one message claims are looked at in one pass at most.
const maxSpan = 4

// span is how many entries are looked at in one pass: as many as it takes to fill a message with those that are this holder's to claim,
// where a long queue has them. The others wait for their turn.
func (w *Worker) span() int {
	return proto.MaxClaims * min(max(len(w.Session.Members(w.Dataset.Name)), 1), maxSpan)
}

// rests returns how long nothing may be claimed; 0 when something may.
func (w *Worker) rests(now time.Time) time.Duration {
	status, ok := w.Session.Dataset(w.Dataset.Name)
	if !ok || !status.Wanted || w.Root.Problem() != "" {
		return idle
	}
	return max(0, w.pausedUntil().Sub(now))
}

// work does what is to be done with entries, which are busy, and returns the small objects that may be sent.
func (w *Worker) work(ctx context.Context, list []index.Entry, now time.Time) (small []upload.Job, err error) {
	b, err := w.sort(ctx, list, now)
	if err != nil {
		return nil, err
	}
	if err := w.putBack(b.wait); err != nil {
		return nil, err
	}
	if err := w.compare(ctx, b); err != nil {
		return nil, err
	}
	if len(b.have) > 0 {
		select {
		case w.haves <- b.have:
		case <-ctx.Done():
			w.dropClaims(b.claim) // the slots are those of all sessions
			return nil, ctx.Err()
		}
	}
	small, large, err := w.ask(ctx, b.claim)
	if err != nil {
		return nil, err
	}
	w.startLarge(ctx, large)
	return small, nil
}

// fresh reads busy entries again: between the queue's offer and their being taken, whoever had them before may have moved
// them on, and a decision on what they were would undo that. Those that are not due any more are freed.
func (w *Worker) fresh(list []index.Entry, now time.Time) ([]index.Entry, error) {
	kept := list[:0]
	for i, e := range list {
		cur, ok, err := w.Index.Get(e.Path)
		if err != nil {
			w.free(list[i:])
			w.free(kept)
			return nil, err
		}
		if !ok || !cur.State.Queued() || !due(cur, now) {
			w.busy.done(e.Path)
			continue
		}
		kept = append(kept, cur)
	}
	return kept, nil
}

// due reports whether an entry's time has come. One that is too far off was set by a clock that was wrong.
func due(e index.Entry, now time.Time) bool {
	return e.Due <= now.UnixNano() || e.Due >= now.Add(index.TooFar).UnixNano()
}

// untilNext is the time to sleep when nothing is to be done now.
func (w *Worker) untilNext(now time.Time, more bool) (time.Duration, error) {
	next, ok, err := w.Index.NextDue()
	switch {
	case err != nil:
		return 0, err
	case !ok, more, !next.After(now):
		return idle, nil // all that is due is being worked on; its end wakes the queue
	}
	return min(next.Sub(now), idle), nil
}

// sort decides on each entry. All of them are busy; those that end here are freed.
func (w *Worker) sort(ctx context.Context, list []index.Entry, now time.Time) (*batch, error) {
	b := &batch{}
	for i, e := range list {
		if len(b.claim) >= proto.MaxClaims { // a message is full: the rest is offered again
			w.free(list[i:])
			break
		}
		w.decide(ctx, b, e, now)
	}
	if len(b.drop) > 0 {
		defer w.free(b.drop)
		if err := w.forget(b.drop); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (w *Worker) decide(ctx context.Context, b *batch, e index.Entry, now time.Time) {
	e, step := settle.Next(e, w.view(e.Path, now))
	switch step {
	case settle.StepWait:
		b.wait = append(b.wait, e)
	case settle.StepHash:
		b.wait = append(b.wait, w.hand(e, now)...)
	case settle.StepMatch:
		b.match = append(b.match, e)
	case settle.StepClaim:
		w.enter(b, claim{entry: e}, now)
	case settle.StepDrop:
		b.drop = append(b.drop, e)
	case settle.StepGone:
		w.busy.done(e.Path) // the reports take it from the index
	}
}

// view gathers what settle.Next needs to know of a path.
func (w *Worker) view(path string, now time.Time) settle.View {
	suspicion := w.Session.Suspicion()
	return settle.View{
		Now: now, Suspicion: suspicion, Busy: w.Heard.Since(path, now.Add(-suspicion)),
		Turn: func() time.Duration { return pick.Turn(path, w.Holder, w.Session.Members(w.Dataset.Name), suspicion) },
	}
}

// enter puts a claim into the batch; a large object needs a slot first, and waits when there is none.
func (w *Worker) enter(b *batch, c claim, now time.Time) {
	large := upload.Job{Entry: c.entry, Alone: c.alone}.Large()
	if large {
		c.slot = w.slot(c.entry.Path)
	}
	if !large || c.slot != nil {
		b.claim = append(b.claim, c)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) < maxWaiting || w.carry[c.entry.Path] {
		w.waiting = append(w.waiting, c.entry)
		return
	}
	c.entry.Due = now.Add(w.spread()).UnixNano()
	b.wait = append(b.wait, c.entry)
}

// spread is how far entries that find no room are put back: so far that the queue offers about a thousand a second.
func (w *Worker) spread() time.Duration {
	return min(max(time.Duration(w.Index.Counts().UnsentCount)*time.Millisecond, 2*time.Second), 10*time.Minute)
}

// slot takes a slot for a large object, nil when there is none for it.
func (w *Worker) slot(path string) *semaphore.Weighted {
	w.mu.Lock()
	carried := w.carry[path]
	w.mu.Unlock()
	switch {
	case w.Large.TryAcquire(1):
		return w.Large
	case carried && w.Carried.TryAcquire(1):
		return w.Carried
	}
	return nil
}

// startable is how many waiting large objects to look at, for some could start now.
func (w *Worker) startable() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.waiting {
		for _, slots := range []*semaphore.Weighted{w.Large, w.Carried} {
			if (slots == w.Large || w.carry[e.Path]) && slots.TryAcquire(1) {
				slots.Release(1)
				return len(w.waiting)
			}
		}
	}
	return 0
}

// takeWaiting returns the large objects that wait for a slot, as the index has them now, if there is a slot.
func (w *Worker) takeWaiting() []index.Entry {
	if w.startable() == 0 {
		return nil
	}
	w.mu.Lock()
	list := w.waiting
	w.waiting = nil
	w.mu.Unlock()
	kept := list[:0]
	for _, e := range list {
		cur, ok, err := w.Index.Get(e.Path)
		if err != nil || !ok || !cur.State.Queued() {
			w.busy.done(e.Path)
			continue
		}
		kept = append(kept, cur)
	}
	return kept
}

// unwait takes a large object out of those that wait for a slot, which may take hours. It stays busy, for the caller.
func (w *Worker) unwait(path string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.waiting)
	w.waiting = slices.DeleteFunc(w.waiting, func(e index.Entry) bool { return e.Path == path })
	return len(w.waiting) < n
}

// putBack writes the entries with their new times, unless they changed meanwhile, or more was heard of them, and frees them.
func (w *Worker) putBack(list []index.Entry) error {
	defer w.free(list)
	return w.edit(paths(list), func(i int, cur index.Entry) (index.Entry, bool) {
		if !cur.State.Queued() || !settle.SameObject(cur, list[i]) || cur.Heard != list[i].Heard {
			return cur, false
		}
		put := list[i]
		cur.State, cur.Due, cur.Waited, cur.Attempts, cur.Reason = put.State, put.Due, put.Waited, put.Attempts, put.Reason
		return cur, true
	})
}

func (w *Worker) free(list []index.Entry) {
	for _, e := range list {
		w.busy.done(e.Path)
	}
}

// forget removes entries of which the relay never heard.
func (w *Worker) forget(list []index.Entry) error {
	return w.Index.Edit(func(tx *index.Tx) error {
		for _, e := range list {
			cur, ok, err := tx.Get(e.Path)
			if err != nil {
				return err
			}
			if ok && cur.State == index.StateGone && cur.Version == e.Version {
				if err := tx.Delete(e.Path); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Paused keeps the worker from claiming for a while, at the relay's wish.
func (w *Worker) Paused(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if until := w.Now().Add(d); until.After(w.until) {
		w.until = until
	}
}

func (w *Worker) pausedUntil() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.until
}
