package demo

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

// sampleEvery is how often the relay's counters and the processes' memory are read.
const sampleEvery = 200 * time.Millisecond

// meter follows the relay's counters from the agents' start, and shows them.
type meter struct {
	relay    *operator.Client
	link     string
	now      func() time.Time
	children func() []*child

	acked, confirmed *show.Bar

	started time.Time // when the agents were

	mu        sync.Mutex
	total     int64        // bytes that are to be acknowledged and confirmed
	firstCopy int64        // those of them that were there from the start
	acks      progressMark // of the first copy
	confirms  progressMark
	last      proto.Status
}

// progressMark is a counter that grows, and when it reached nearly all of the first copy: what comes later waits for changes
// and scans and would say nothing of speed.
type progressMark struct {
	bytes, mark int64
	at          time.Time
}

// nearly is which share of the first copy counts as its end, in percent: the last few files are a matter of settling.
const nearly = 99

func (p *progressMark) grow(bytes, firstCopy int64, now time.Time) {
	if bytes <= p.bytes {
		return
	}
	if p.bytes*100 < firstCopy*nearly {
		p.mark, p.at = bytes, now
	}
	p.bytes = bytes
}

// rate is bytes a second until the mark.
func (p *progressMark) rate(since time.Time) float64 {
	over := p.at.Sub(since)
	if over <= 0 {
		return 0
	}
	return float64(p.mark) / over.Seconds()
}

// run samples until ctx ends.
func (m *meter) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		for _, c := range m.children() {
			c.sample()
		}
		if s, err := m.relay.Status(ctx); err == nil {
			m.note(s)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// note takes in one status.
func (m *meter) note(s proto.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.last = s
	m.acks.grow(s.Cache.AckedBytes, m.firstCopy, now)
	if l, ok := m.find(s); ok {
		m.confirms.grow(l.ConfirmedBytes, m.firstCopy, now)
	}
	m.acked.Set(m.acks.bytes, max(m.total, m.acks.bytes))
	m.confirmed.Set(m.confirms.bytes, max(m.total, m.confirms.bytes))
}

func (m *meter) find(s proto.Status) (proto.LinkStatus, bool) {
	for _, l := range s.Links {
		if l.Name == m.link {
			return l, true
		}
	}
	return proto.LinkStatus{}, false
}

// expect says how many more bytes are to come after the first copy.
func (m *meter) expect(more int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total += more
}

// figures writes what was measured into the summary.
func (m *meter) figures(s *Summary) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.last.Cache
	s.LogicalBytes = m.total
	s.AckedBytes, s.WastedBytes, s.StoredBytes = c.AckedBytes, c.WastedBytes, c.WrittenBytes
	s.WireBytes = c.AckedBytes + c.WastedBytes
	if s.LogicalBytes > 0 {
		s.WireOverObjects = float64(s.WireBytes) / float64(s.LogicalBytes)
	}
	if s.Coding = c.Coding; c.AckedBytes > 0 {
		s.WriteAmplification = float64(c.WrittenBytes) / (float64(c.AckedBytes) * overhead(c.Coding))
	}
	s.AckedPerSecond = m.acks.rate(m.started)
	s.FlushedPerSecond = m.confirms.rate(m.started)
	if l, ok := m.find(m.last); ok {
		s.ConfirmedObjects, s.ConfirmedBytes = l.ConfirmedObjects, l.ConfirmedBytes
	}
	for _, d := range m.last.Datasets {
		s.Objects += d.Objects
		s.Bytes += d.Bytes
	}
}

// overhead is (k+m)/k of a coding such as 2+1.
func overhead(coding string) float64 {
	k, m, ok := strings.Cut(coding, "+")
	data, err1 := strconv.Atoi(k)
	parity, err2 := strconv.Atoi(m)
	if !ok || err1 != nil || err2 != nil || data <= 0 {
		return 1
	}
	return float64(data+parity) / float64(data)
}
