package work

import "sync"

// turns numbers the messages that tell the relay what this holder has, so that a report of what is gone can say which of them are over:
// one that was given up may still be on its way.
type turns struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]struct{}
}

// begin returns the number of a message that is about to be sent.
func (t *turns) begin() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = map[uint64]struct{}{}
	}
	t.last++
	t.open[t.last] = struct{}{}
	return t.last
}

// end is told that nobody waits for the answer to a message any more.
func (t *turns) end(n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, n)
}

// past returns up to which number all are over.
func (t *turns) past() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	past := t.last
	for n := range t.open { // a few at most
		past = min(past, n-1)
	}
	return past
}
