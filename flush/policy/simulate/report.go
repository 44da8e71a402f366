package simulate

import (
	"slices"
	"time"
)

// Report is what became of a setup. Lags are of the oldest that is not confirmed, from when it was at the source, in seconds.
type Report struct {
	Start     time.Time     `json:"start"`
	Length    time.Duration `json:"-"`
	InBytes   int64         `json:"in_bytes"`
	InObjects int64         `json:"in_objects"`
	SentBytes int64         `json:"sent_bytes"`

	LagP50 float64 `json:"lag_p50_seconds"` // over time
	LagP95 float64 `json:"lag_p95_seconds"`
	LagMax float64 `json:"lag_max_seconds"`

	PeakCacheBytes int64 `json:"peak_cache_bytes"` // of contents
	LeftBytes      int64 `json:"left_bytes"`       // not sent at the end, at the source too

	ForcedFlushes int64 `json:"forced_flushes"` // each as long as it goes on
	ForcedBytes   int64 `json:"forced_bytes"`   // outside the window, or over its budget

	BlockedSeconds float64 `json:"blocked_seconds"` // in which the cache was full and nothing was accepted
	BlockedBytes   int64   `json:"blocked_bytes"`   // that had to wait at the source for it

	Windows []Window `json:"windows"` // those in which something was sent
	Samples []Sample `json:"samples"`

	blockedBytes, peak float64
}

// Window is what one window sent. Without windows it is a day.
type Window struct {
	Opened      time.Time `json:"opened"`
	Bytes       int64     `json:"bytes"`
	ForcedBytes int64     `json:"forced_bytes"` // of Bytes

	bytes, forced float64
}

// Sample is how things were at one moment.
type Sample struct {
	At         time.Time `json:"at"`
	LagSeconds float64   `json:"lag_seconds"`
	CacheBytes int64     `json:"cache_bytes"`
}

func (p *Report) sent(window time.Time, bytes, forced float64) {
	if n := len(p.Windows); n == 0 || !p.Windows[n-1].Opened.Equal(window) {
		p.Windows = append(p.Windows, Window{Opened: window})
	}
	w := &p.Windows[len(p.Windows)-1]
	w.bytes, w.forced = w.bytes+bytes, w.forced+forced
}

// lag is the age of the oldest that is not confirmed.
func (r *run) lag() float64 {
	for _, q := range [][]cohort{r.batch, r.queue, r.blocked} {
		if len(q) > 0 {
			return max(r.now.Sub(q[0].born).Seconds(), 0)
		}
	}
	return 0
}

// account measures the time that passed.
func (r *run) account(d float64) {
	p := &r.report
	p.LagMax = max(p.LagMax, r.lag())
	p.peak = max(p.peak, r.cached())
	if r.full {
		p.BlockedSeconds += d
	}
}

// samples is how many a report has about.
const samples = 4000

func (r *run) sample() {
	r.report.Samples = append(r.report.Samples, Sample{r.now, r.lag(), int64(r.cached())})
	r.sampleAt = r.now.Add(max(r.Length/samples, min(r.Grain, r.Length/100)))
}

// finish rounds, and orders lags.
func (r *run) finish() {
	p := &r.report
	r.sample()
	lags := make([]float64, len(p.Samples))
	for i, s := range p.Samples {
		lags[i] = s.LagSeconds
	}
	slices.Sort(lags)
	p.LagP50, p.LagP95 = lags[(len(lags)-1)/2], lags[(len(lags)-1)*95/100]
	left := r.cached() - r.sent
	for _, c := range r.blocked {
		left += c.bytes
	}
	p.LeftBytes, p.PeakCacheBytes, p.BlockedBytes = int64(left+0.5), int64(p.peak+0.5), int64(p.blockedBytes+0.5)
	for i := range p.Windows {
		w := &p.Windows[i]
		w.Bytes, w.ForcedBytes = int64(w.bytes+0.5), int64(w.forced+0.5)
		p.SentBytes, p.ForcedBytes = p.SentBytes+w.Bytes, p.ForcedBytes+w.ForcedBytes
	}
}
