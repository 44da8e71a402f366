package restore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"forebay/flush/target"
)

// source is what a restore reads from, for all its workers together: one that fails is waited for by all of them, and asked by one
// whether it is there again. Its methods may be called concurrently.
type source struct {
	probe func(context.Context) (target.Info, error)
	now   func() time.Time
	tell  func(error) // may be nil; called with mu held

	mu     sync.Mutex
	out    outage
	heard  int       // how often it answered
	told   bool      // that it is waited for
	lost   error     // it stayed away
	asking int       // who asks it for something, or waits to
	quiet  time.Time // since when nobody does
	turn   chan struct{}
}

func newSource(o Options, now func() time.Time) *source {
	return &source{probe: o.From.Probe, now: now, tell: o.Waiting, turn: make(chan struct{}, 1)}
}

// awayError ends a restore: the source stayed away.
type awayError struct {
	over time.Duration // for how long it gave nothing
	last error
}

func (e *awayError) Error() string {
	return fmt.Sprintf("nothing could be read from the source for %s: %v", e.over, e.last)
}

func (e *awayError) Unwrap() error { return e.last }

func isAway(err error) bool {
	var away *awayError
	return errors.As(err, &away)
}

// ask calls do, which reads from the source, again for as long as that may help. do calls answered for what comes in pieces.
func (s *source) ask(ctx context.Context, do func(*tries) error) error {
	return s.askAgain(ctx, &tries{}, do)
}

// askFor is ask for one object's sake, which is not waited for as long where waiting helped none of those before.
func (s *source) askFor(ctx context.Context, do func(*tries) error) error {
	return s.askAgain(ctx, &tries{object: true}, do)
}

func (s *source) askAgain(ctx context.Context, t *tries, do func(*tries) error) error {
	s.enter()
	defer s.leave()
	for {
		err := do(t)
		if ctx.Err() != nil || hereFailed(err) || isAway(err) {
			return err
		}
		if !mayPass(err) {
			s.answered(t) // a no, too
			return err
		}
		if err := s.wait(ctx, t, err); err != nil {
			return err
		}
	}
}

// answered notes that something came of what t counts. Nil: something that does not bring it further.
func (s *source) answered(t *tries) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.answered(t != nil && t.n > 0)
	s.heard++
	if t != nil {
		*t = tries{object: t.object}
	}
	if s.told {
		s.told = false
		s.tell(nil)
	}
}

// wait returns nil when what failed with why is to be tried again, else what becomes of it. That the source is there is found out
// first: what one object alone does not give must not look like a source that is away, nor cost an object its time while it is.
func (s *source) wait(ctx context.Context, t *tries, why error) error {
	s.enter()
	defer s.leave()
	now := s.now()
	s.mu.Lock()
	s.out.failed(now)
	if lost := s.over(now, why); lost != nil {
		defer s.mu.Unlock()
		return lost
	}
	heard := s.heard
	patience := objectPatience
	if t.object {
		patience = s.out.patience()
	}
	d, again := t.next(why, patience, rand.Float64())
	if !again && t.object {
		s.out.gaveUp(why)
	}
	s.mu.Unlock()
	if !again {
		return fmt.Errorf("given up after %d tries: %w", t.n, why)
	}
	if err := s.pause(ctx, d, why); err != nil {
		return err
	}
	return s.look(ctx, heard)
}

// look returns when the source is there, unless it answered since heard: one looks, the others wait for what it finds.
func (s *source) look(ctx context.Context, heard int) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()
	for n := 0; ; n++ {
		s.mu.Lock()
		lost, answered := s.lost, s.heard != heard
		s.mu.Unlock()
		if lost != nil || answered {
			return lost
		}
		_, err := s.probe(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if lost := s.probed(err); err == nil || lost != nil {
			return lost
		}
		if err := s.pause(ctx, wait(n, err, rand.Float64()), err); err != nil {
			return err
		}
	}
}

// probed notes what came of a look whether the source is there, and returns an error once it was not for too long.
func (s *source) probed(err error) error {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out.probed(err == nil, now); err == nil {
		s.heard++
		return s.lost
	}
	return s.over(now, err)
}

// over returns what ends the restore, if it ends. The lock is held.
func (s *source) over(now time.Time, last error) error {
	if d := s.out.over(now); s.lost == nil && d > 0 {
		s.lost = &awayError{d, last}
	}
	return s.lost
}

// pause waits, and says so when it has been long.
func (s *source) pause(ctx context.Context, d time.Duration, why error) error {
	s.mu.Lock()
	if s.tell != nil && !s.told && s.out.notable(s.now().Add(d)) {
		s.told = true
		s.tell(why)
	}
	s.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enter and leave stand around what asks the source: while nobody does, nobody knows whether it is there.
func (s *source) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking == 0 && !s.quiet.IsZero() {
		s.out.idle(s.now().Sub(s.quiet))
	}
	s.asking++
}

func (s *source) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking--; s.asking == 0 {
		s.quiet = s.now()
	}
}
