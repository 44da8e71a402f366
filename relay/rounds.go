package relay

import (
	"context"
	"time"

	"forebay/proto/bus"
)

// rounds is when what Run's loops do was done last.
type rounds struct {
	seen      mark
	tended    mark
	watched   mark
	judged    mark
	swept     mark
	looked    mark
	kept      mark
	leftovers mark
	sweeps    int
	looks     int
	bus       bus.Bus
}

// every calls fn each interval, for the n-th time from 0, until ctx ends.
func every(ctx context.Context, interval time.Duration, fn func(n int)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		fn(n)
	}
}

// mark is when something was done last. Not for concurrent use.
type mark struct{ at time.Time }

// due reports whether something that is done at intervals is due, and takes it for done. The first interval begins with the
// first call.
func (m *mark) due(now time.Time, every time.Duration) bool {
	if m.at.IsZero() {
		m.at = now
	}
	if d := now.Sub(m.at); d >= 0 && d < every { // else it is due, or the clock was set back
		return false
	}
	m.at = now
	return true
}

// Round does once, in the calling goroutine and in a fixed order, what is due now of all that Run does in the background. It
// is for a driver that owns the time, with Deps.Driven; the functions are those of Run's loops. It fails when the ledger has
// failed. Never call it beside Run.
func (r *Relay) Round(ctx context.Context) error {
	select {
	case err := <-r.fatal:
		return err
	default:
	}
	now, s := r.now(), &r.rounds
	if s.tended.due(now, time.Second) {
		r.stores.Tend()
	}
	if s.watched.due(now, r.book.Suspicion()/10) {
		r.watchRound()
	}
	r.ledgerRound()
	r.drainSuspects(ctx)
	if r.judgeDue(now) {
		r.judgeRound(ctx)
	}
	if s.sweeps == 0 || s.swept.due(now, sweepEvery) {
		r.sweepRound(ctx, s.sweeps)
		s.sweeps++
	}
	if s.kept.due(now, upkeepTick) {
		r.upkeepRound(ctx)
		r.scrubRound(ctx)
	}
	if s.looked.due(now, time.Second) {
		r.problemRound(ctx, s.looks)
		s.looks++
	}
	r.eventRound(false)
	r.busRound()
	return nil
}

// judgeDue reports whether deletes are to be judged: once a second, and whenever there is news.
func (r *Relay) judgeDue(now time.Time) bool {
	due := r.rounds.judged.due(now, time.Second)
	select {
	case <-r.judge:
		return true
	default:
		return due
	}
}

func (r *Relay) drainSuspects(ctx context.Context) {
	for {
		select {
		case s := <-r.suspects:
			r.judgeSuspect(ctx, s)
		default:
			return
		}
	}
}

// busRound sends what there is to say, once the bus could be reached. One that cannot is tried again with the next round.
func (r *Relay) busRound() {
	s := &r.rounds
	if r.deps.Bus == nil {
		return
	}
	if s.bus == nil {
		b, err := r.deps.Bus()
		if err != nil {
			return // a hint that is not given: the next poll tells
		}
		s.bus = b
		_, _ = r.hearBeats(b) // the subscription ends with the bus; without it polls alone are signs of life
	}
	r.sendNudges(s.bus)
}
