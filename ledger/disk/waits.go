package disk

import "sync"

// waits knows which calls wait for the disk. None of them has a deadline: a sync that hangs cannot be taken back, and what it was to make
// durable may be so in the end. Whoever has a clock looks at Oldest again and again, and sees how long the same call is the oldest.
type waits struct {
	mu    sync.Mutex
	last  uint64
	under map[uint64]struct{}
}

// begin notes a call; what it returns notes its end.
func (w *waits) begin() (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.under == nil {
		w.under = map[uint64]struct{}{}
	}
	w.last++
	call := w.last
	w.under[call] = struct{}{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.under, call)
	}
}

func (w *waits) oldest() (call uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := range w.under {
		if call == 0 || n < call {
			call = n
		}
	}
	return call
}

// Oldest returns the number of the call that writes and has been under way for the longest, 0 when none is. Numbers are not used twice. It
// waits for no disk.
func (l *Ledger) Oldest() (call uint64) { return l.waits.oldest() }
