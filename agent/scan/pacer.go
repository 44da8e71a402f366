package scan

import (
	"context"
	"time"
)

// Pacer keeps a scan to a share of one core: it takes the time between its calls as busy, waiting for the disk included,
// and sleeps in proportion. It belongs to one scan at a time. A nil Pacer does not sleep.
type Pacer struct {
	share float64
	now   func() time.Time
	sleep func(ctx context.Context, d time.Duration) error
	last  time.Time
	debt  time.Duration // sleep still owed; negative after having slept too long
}

// minSleep is the least that is slept at once: timers are not exact below.
const minSleep = 10 * time.Millisecond

// NewPacer returns a Pacer for a share of a core, 0 < share; from 1 on it never sleeps. Sleep returns the context's error
// when it ends first.
func NewPacer(share float64, now func() time.Time, sleep func(ctx context.Context, d time.Duration) error) *Pacer {
	return &Pacer{share: share, now: now, sleep: sleep}
}

// start begins to measure.
func (p *Pacer) start() {
	if p != nil {
		p.last = p.now()
	}
}

// Pace is called every few entries. It returns the context's error.
func (p *Pacer) Pace(ctx context.Context) error {
	if p == nil || p.share >= 1 {
		return ctx.Err()
	}
	at := p.now()
	p.debt += time.Duration(float64(at.Sub(p.last)) * (1 - p.share) / p.share)
	p.last = at
	if p.debt < minSleep {
		return ctx.Err()
	}
	if err := p.sleep(ctx, p.debt); err != nil {
		return err
	}
	p.last = p.now()
	p.debt -= p.last.Sub(at)
	return ctx.Err()
}
