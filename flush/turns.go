package flush

import (
	"context"
	"slices"
	"sync"

	"forebay/flush/policy"
)

// turns shares a bounded number of places among links, in the order of policy.Order. What is done in a place, reading and
// proving a segment, ends in bounded time whatever the targets do.
type turns struct {
	clock   Clock
	mu      sync.Mutex
	free    int
	waiting []*turn
}

type turn struct {
	view  policy.LinkView
	ready chan struct{} // closed when the place is given
}

func newTurns(places int, c Clock) *turns { return &turns{clock: c, free: places} }

// take waits for a place. Give it back with done.
func (t *turns) take(ctx context.Context, v policy.LinkView) error {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	v.ReadySince = t.clock.Now()
	w := &turn{v, make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		t.giveUp(w)
		return ctx.Err()
	}
}

// giveUp takes a waiter out; one that got its place at the same moment passes it on.
func (t *turns) giveUp(w *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting, w); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
		return
	}
	t.pass()
}

func (t *turns) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass()
}

// pass gives a place that became free to the first in the order; of one link, to who came first.
func (t *turns) pass() {
	if len(t.waiting) == 0 {
		t.free++
		return
	}
	var views []policy.LinkView
	for _, w := range t.waiting {
		if !slices.ContainsFunc(views, func(v policy.LinkView) bool { return v.Link == w.view.Link }) {
			views = append(views, w.view)
		}
	}
	next := policy.Order(views, t.clock.Now())[0].Link
	i := slices.IndexFunc(t.waiting, func(w *turn) bool { return w.view.Link == next })
	w := t.waiting[i]
	t.waiting = slices.Delete(t.waiting, i, i+1)
	close(w.ready)
}
