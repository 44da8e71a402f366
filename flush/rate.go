package flush

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"forebay/units"
)

// pacer keeps the bytes of one link, over all its workers, under a rate that may change at any time.
type pacer struct {
	clock Clock
	mu    sync.Mutex
	rate  units.Rate // 0 = unlimited
	lim   *rate.Limiter
}

// Bounds of what is written at a time: enough for throughput, little enough for a pause to be short.
const (
	minChunk = 4 << 10
	maxChunk = 1 << 20
)

// set changes the rate.
func (p *pacer) set(r units.Rate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r == p.rate {
		return
	}
	p.rate = r
	if r == 0 {
		return
	}
	now, burst := p.clock.Now(), chunkAt(r)
	if p.lim == nil {
		p.lim = rate.NewLimiter(rate.Limit(r), burst)
		p.lim.ReserveN(now, burst) // no burst at the start: the first second is like any other
		return
	}
	p.lim.SetLimitAt(now, rate.Limit(r))
	p.lim.SetBurstAt(now, burst)
}

// chunk is how many bytes to ask for at a time.
func (p *pacer) chunk() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate == 0 {
		return maxChunk
	}
	return chunkAt(p.rate)
}

// chunkAt is a quarter of a second's bytes.
func chunkAt(r units.Rate) int { return int(max(minChunk, min(int64(r)/4, maxChunk))) }

// delay takes n bytes, at most chunk, out of the budget and returns how long to wait before they are sent.
func (p *pacer) delay(n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate == 0 {
		return 0
	}
	now := p.clock.Now()
	d := time.Duration(0)
	for n > 0 { // the rate may have become smaller since chunk was asked
		part := min(n, p.lim.Burst())
		d = p.lim.ReserveN(now, part).DelayFrom(now)
		n -= part
	}
	return d
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, c Clock, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	fired, stop := c.Timer(d)
	defer stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-fired:
		return nil
	}
}

// meter measures the bytes per second of the last half minute.
type meter struct {
	mu      sync.Mutex
	samples []sample // oldest first
}

type sample struct {
	at    time.Time
	bytes int64
}

const (
	meterSpan = 30 * time.Second
	meterStep = 500 * time.Millisecond // what is closer together is one sample
)

func (m *meter) add(now time.Time, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(now)
	if k := len(m.samples); k > 0 && now.Sub(m.samples[k-1].at) < meterStep {
		m.samples[k-1].bytes += n
		return
	}
	m.samples = append(m.samples, sample{now, n})
}

func (m *meter) forget(now time.Time) {
	i := 0
	for i < len(m.samples) && now.Sub(m.samples[i].at) > meterSpan {
		i++
	}
	m.samples = m.samples[i:]
}

// perSecond is 0 when nothing moved lately.
func (m *meter) perSecond(now time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(now)
	if len(m.samples) == 0 {
		return 0
	}
	sum := int64(0)
	for _, s := range m.samples {
		sum += s.bytes
	}
	return float64(sum) / max(now.Sub(m.samples[0].at), time.Second).Seconds()
}
