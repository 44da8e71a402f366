package relay

import (
	"sync"
	"time"
)

// meter measures a rate over its last sixty steps.
type meter struct {
	step int64 // seconds
	// anew has a minute of silence end what was before it: the rate is that of what came since.
	anew bool

	mu    sync.Mutex
	began time.Time
	since int64 // second from which on it is measured
	last  int64 // second of the last addition
	slot  [60]int64
	at    [60]int64 // which step a slot is of
}

func (m *meter) init(now time.Time, step time.Duration, anew bool) {
	m.began, m.step, m.anew = now, int64(step/time.Second), anew
}

func (m *meter) second(now time.Time) int64 { return max(int64(now.Sub(m.began).Seconds()), 0) }

func (m *meter) add(n int64, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sec := m.second(now)
	if m.anew && sec-m.last > 60 {
		m.since, m.slot = sec, [60]int64{}
	}
	m.last = sec
	k := sec / m.step
	if i := k % 60; m.at[i] != k {
		m.at[i], m.slot[i] = k, n
	} else {
		m.slot[i] += n
	}
}

// recent returns what was added in this step and the one before.
func (m *meter) recent(now time.Time) (sum int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.second(now) / m.step
	for i := range m.slot {
		if m.at[i] >= k-1 {
			sum += m.slot[i]
		}
	}
	return sum
}

// rate returns bytes a second.
func (m *meter) rate(now time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	sec := m.second(now)
	k, sum := sec/m.step, int64(0)
	for i := range m.slot {
		if m.at[i] > k-60 {
			sum += m.slot[i]
		}
	}
	return float64(sum) / float64(min(sec-m.since, 59*m.step+sec%m.step)+1)
}
