package agent

import (
	"context"
	"errors"
	"time"

	"forebay/agent/scan"
	"forebay/agent/watch"
	"forebay/internal/faultpoint"
)

// The times of scanning.
const (
	coalesce     = 500 * time.Millisecond // hints that come together are looked at together
	retryProblem = time.Minute            // a root that cannot be scanned
	watchedEvery = time.Hour              // full scans with a watch,
	aloneEvery   = 5 * time.Minute        // and without
	leastShare   = 0.01                   // of a core that a scan in the background takes
	lostPause    = time.Minute            // between full scans for lost hints,
	lostShare    = 0.25                   // of a core that they take
)

// plan is what decides on the next scan.
type plan struct {
	now     time.Time
	started time.Time     // of the last full scan; zero: there was none
	cost    time.Duration // of a full scan at full speed
	every   time.Duration // as configured; 0 = auto
	watched bool
	problem bool // the last scan was refused
	asked   bool // the relay waits for a fresh scan
	lost    bool // hints were lost
}

// next returns when the next full scan is due, the share of a core that it takes, where 1 is full speed, and the interval between such
// scans. One that somebody waits for runs at full speed; the others as slowly as lets them end in half of their interval.
func (p plan) next() (at time.Time, share float64, every time.Duration) {
	if every = p.every; every == 0 {
		every = aloneEvery
		if p.watched {
			every = watchedEvery
		}
		every = min(max(every, time.Duration(float64(p.cost)/leastShare)), watchedEvery)
	}
	share = min(max(2*p.cost.Seconds()/every.Seconds(), leastShare), 1)
	switch {
	case p.problem:
		return p.started.Add(min(every, retryProblem)), 1, every
	case p.started.IsZero(), p.asked:
		return p.now, 1, every
	case p.lost:
		return p.started.Add(min(every, max(lostPause, 4*p.cost))), max(share, lostShare), every
	}
	return p.started.Add(every), share, every
}

// scanLoop scans until ctx ends.
func (r *root) scanLoop(ctx context.Context) error {
	var started time.Time
	var cost time.Duration
	for ctx.Err() == nil {
		at, share, every := r.plan(started, cost).next()
		if wait := at.Sub(r.now()); wait > 0 {
			if err := r.lookAround(ctx, wait); err != nil {
				return err
			}
			continue
		}
		started = r.now()
		if took, err := r.scanAll(ctx, share, every); err == nil {
			cost = took
		}
	}
	return ctx.Err()
}

func (r *root) plan(started time.Time, cost time.Duration) plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	return plan{
		now: r.now(), started: started, cost: cost, every: r.every, watched: r.mode() != watch.ModeScan,
		problem: r.problem != "", asked: r.wanted > r.answered && r.scans > 0, lost: r.overflow,
	}
}

// lookAround waits, at most d, and follows hints meanwhile.
func (r *root) lookAround(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	case <-r.wake:
	}
	if r.idle() {
		return nil // what woke it is no hint: the plan has changed
	}
	if err := rest(ctx, coalesce); err != nil {
		return err
	}
	r.scanHints(ctx)
	return nil
}

func (r *root) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.hints) == 0
}

// scanHints looks at the directories that hints named.
func (r *root) scanHints(ctx context.Context) {
	dirs := r.takeHints()
	if len(dirs) == 0 || r.Problem() != "" {
		return // a full scan follows a problem anyway
	}
	_, err := r.part.ScanPaths(ctx, dirs, nil)
	r.scanned(ctx, err)
	r.wakeWorker()
}

// scanAll does one full scan, a share of a core's time, and returns what it costs at full speed.
func (r *root) scanAll(ctx context.Context, share float64, every time.Duration) (time.Duration, error) {
	r.mu.Lock()
	token, up, of := r.wanted, r.up, r.run
	r.running, r.runningUp, r.overflow = true, up, false
	r.mu.Unlock()
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	pacer := scan.NewPacer(share, every, r.now, func(ctx context.Context, d time.Duration) error {
		return r.paused(ctx, d, token, cancel)
	})
	res, err := r.full.Scan(run, pacer)
	if err == nil {
		r.fault.At(faultpoint.AgentScanned)
		err = r.ix.SetScanned(r.now()) // the token is noted once the relay knows the rest
	}
	if err == nil {
		err = r.ix.Sync()
	}
	r.mu.Lock()
	r.running, r.runningUp = false, 0
	if err == nil {
		r.scans++
		r.answered, r.scanUp, r.scanBare = token, up, res.Objects == 0
		if of != r.run {
			r.scanUp = 0
		}
	}
	r.mu.Unlock()
	r.scanned(ctx, err)
	r.wakeWorker()
	if err == nil {
		r.log.Info().Int64("objects", res.Objects).Int64("bytes", res.Bytes).Int64("changed", res.Changed).Int64("gone", res.Gone).
			Dur("took", res.Duration).Msg("scanned")
	}
	return pacer.Busy(), err
}

// paused fills the pauses of a slow scan: hints are followed; a scan that somebody waits for starts anew, at full speed.
func (r *root) paused(ctx context.Context, d time.Duration, token uint64, restart func()) error {
	end := r.now().Add(d)
	for ctx.Err() == nil {
		r.mu.Lock()
		asked := r.wanted > token
		r.mu.Unlock()
		if asked {
			restart()
			return context.Canceled
		}
		left := end.Sub(r.now())
		if left <= 0 {
			return nil
		}
		if err := r.lookAround(ctx, left); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// scanned notes how a scan ended.
func (r *root) scanned(ctx context.Context, err error) {
	if err != nil && (ctx.Err() != nil || errors.Is(err, context.Canceled)) {
		return
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	r.mu.Lock()
	was := r.problem
	r.problem = problem
	r.mu.Unlock()
	switch {
	case problem != "" && problem != was:
		r.log.Error().Str("problem", problem).Msg("the root cannot be scanned; nothing of it is sent or counts as deleted, and it is tried again each minute")
	case problem == "" && was != "":
		r.log.Info().Msg("the root can be scanned again")
	}
}

// rest waits for d, or for the end of ctx, which is its error.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
