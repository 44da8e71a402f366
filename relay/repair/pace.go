package repair

import (
	"time"

	"golang.org/x/time/rate"
)

// Burst is the most bytes that are taken at once: more than a segment has.
const Burst = 32 << 20

// yields is the part of the rate that is left to repairs while the cache has other work.
const yields = 0.25

// Pace is a budget of bytes a second. It is used by one goroutine.
type Pace struct {
	limit *rate.Limiter
	now   rate.Limit
}

// NewPace returns a pace that is full at the beginning.
func NewPace() *Pace { return &Pace{limit: rate.NewLimiter(rate.Inf, Burst), now: rate.Inf} }

// Take takes n bytes, at most Burst, out of a budget of bytesPerSecond, 0 meaning that there is no limit. busy says that the
// cache takes data in or is read for a flush: repairs then keep to a quarter, unless they are urgent. It reports false when the
// budget does not allow it yet.
func (p *Pace) Take(now time.Time, n int64, bytesPerSecond float64, busy, urgent bool) bool {
	if bytesPerSecond <= 0 {
		return true
	}
	if busy && !urgent {
		bytesPerSecond *= yields
	}
	if l := rate.Limit(bytesPerSecond); l != p.now {
		p.limit.SetLimitAt(now, l)
		p.now = l
	}
	return p.limit.AllowN(now, int(min(n, Burst)))
}
