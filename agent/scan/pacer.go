package scan

import (
	"context"
	"math"
	"time"
)

// Pacer keeps a scan to a share of one core: it takes the time between its calls as busy, waiting for the disk included,
// and sleeps in proportion. It belongs to one scan at a time. A nil Pacer does not sleep.
type Pacer struct {
	share  float64
	within time.Duration
	now    func() time.Time
	sleep  func(ctx context.Context, d time.Duration) error
	began  time.Time
	last   time.Time
	busy   time.Duration
	debt   time.Duration // sleep still owed; negative after having slept too long
}

const (
	// minSleep is the least that is slept at once: timers are not exact below.
	minSleep = 10 * time.Millisecond
	// maxSlice is the most that counts as busy between two calls. What takes longer is a disk that stands still, or a machine that has no
	// time for the scan: ten seconds of that, at a hundredth of a core, would be paid for with a quarter of an hour.
	maxSlice = time.Second
)

// NewPacer returns a Pacer for a share of a core, 0 < share; from 1 on it never sleeps. A scan that is still on its way after within,
// since its tree has grown, say, gets twice the share, and so on, so that it ends; and it never sleeps for longer than half of that at
// once. Sleep returns the context's error when it ends first.
func NewPacer(share float64, within time.Duration, now func() time.Time, sleep func(ctx context.Context, d time.Duration) error) *Pacer {
	return &Pacer{share: share, within: within, now: now, sleep: sleep}
}

// start begins to measure.
func (p *Pacer) start() {
	if p != nil {
		p.last = p.now()
		p.began = p.last
	}
}

// Busy is how long the scan was at work: what it costs at full speed.
func (p *Pacer) Busy() time.Duration { return p.busy }

// shareAt is the share of a core that the scan has at a moment.
func (p *Pacer) shareAt(at time.Time) float64 {
	if p.within <= 0 {
		return p.share
	}
	return p.share * math.Exp2(float64(at.Sub(p.began)/p.within))
}

// Pace is called every few entries. It returns the context's error.
func (p *Pacer) Pace(ctx context.Context) error {
	if p == nil {
		return ctx.Err()
	}
	at := p.now()
	slice, share := min(at.Sub(p.last), maxSlice), p.shareAt(at)
	p.busy += slice
	p.last = at
	if share >= 1 {
		return ctx.Err()
	}
	p.debt += time.Duration(float64(slice) * (1 - share) / share)
	if p.debt < minSleep {
		return ctx.Err()
	}
	if p.within > 0 {
		p.debt = min(p.debt, p.within/2)
	}
	if err := p.sleep(ctx, p.debt); err != nil {
		return err
	}
	p.last = p.now()
	p.debt -= p.last.Sub(at)
	return ctx.Err()
}
