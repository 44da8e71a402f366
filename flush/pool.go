package flush

import (
	"context"
	"slices"
	"sync"
	"time"

	"forebay/flush/policy"
	"forebay/ledger"
	"forebay/units"
)

// Bandwidth is what all links of the relay together may send.
type Bandwidth struct {
	Table policy.Timetable // off = unlimited
	Zone  policy.Zone      // of Table
}

// pool shares the relay's bandwidth among its links by their weights. Who waits is served in the order of start-time fair queueing
// (Goyal, Vin and Cheng, 1996): each request has a start tag, the later of the pool's virtual time and the end of the link's last
// request, whose length is its bytes by the link's weight; the lowest is next. So a link that asks for less than its part, or for
// nothing, leaves the rest to those that wait, and gets no credit for it; and one that just began does not wait for what others
// had before.
type pool struct {
	clock Clock

	mu      sync.Mutex
	set     Bandwidth
	rate    units.Rate // in force; 0 = unlimited
	asked   time.Time  // when rate was asked for
	until   time.Time  // rate holds until then; zero = for ever
	tokens  float64    // bytes that may go now
	at      time.Time  // when tokens was brought up to date
	virtual float64
	ends    map[ledger.LinkID]float64 // by link: the end tag of its last request; only those after virtual
	waiting []*request                // by start tag
	seq     uint64
}

type request struct {
	link       ledger.LinkID
	bytes      int
	start, end float64
	seq        uint64        // of equal start tags, who came first
	wake       chan struct{} // of size 1: look again
}

func newPool(c Clock) *pool { return &pool{clock: c, ends: map[ledger.LinkID]float64{}} }

// configure puts another bandwidth in force at once, for those that wait too.
func (p *pool) configure(b Bandwidth) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refill(p.clock.Now()) // what passed until now passed under the old rate
	p.set, p.asked = b, time.Time{}
	p.refill(p.clock.Now())
	p.wakeFirst()
}

// inForce returns what is in force and the rate that it means now, 0 when it is unlimited.
func (p *pool) inForce() (Bandwidth, units.Rate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refill(p.clock.Now())
	return p.set, p.rate
}

// chunk is how many bytes to ask for at a time: little enough for links to take turns many times a second.
func (p *pool) chunk() int {
	if _, r := p.inForce(); r > 0 {
		return poolChunk(r)
	}
	return maxChunk
}

// poolChunk is what a sixteenth of a second lets through.
func poolChunk(r units.Rate) int { return int(max(minChunk, min(int64(r)/16, maxChunk))) }

// refill adds what may go since the last time. Time that went back adds nothing. The lock is held.
func (p *pool) refill(now time.Time) {
	if p.rate > 0 && now.After(p.at) {
		p.tokens = min(p.tokens+float64(p.rate)*now.Sub(p.at).Seconds(), p.burst())
	}
	p.at = now
	if p.asked.IsZero() || now.Before(p.asked) || !p.until.IsZero() && !now.Before(p.until) {
		loc, before := p.set.Zone.Location(), p.rate
		p.rate, p.asked = p.set.Table.At(now, loc), now
		p.until, _ = p.set.Table.NextChange(now, loc)
		if before == 0 {
			p.tokens = 0 // no burst at the start
		}
		p.tokens = min(p.tokens, float64(poolChunk(p.rate)))
	}
}

// burst is the most that can go at once: a piece, and one that was cut for a higher rate whole. The lock is held.
func (p *pool) burst() float64 {
	most := poolChunk(p.rate)
	if len(p.waiting) > 0 {
		most = max(most, p.waiting[0].bytes)
	}
	return float64(most)
}

// take waits until n bytes of a link may be sent, at most chunk, or ctx ends.
func (p *pool) take(ctx context.Context, link ledger.LinkID, weight, n int) error {
	p.mu.Lock()
	p.refill(p.clock.Now())
	if p.rate == 0 {
		p.mu.Unlock()
		return ctx.Err()
	}
	r := p.enqueue(link, weight, n)
	for {
		now := p.clock.Now()
		p.refill(now)
		if p.rate == 0 || p.waiting[0] == r && p.tokens >= float64(n) {
			p.serve(r)
			p.mu.Unlock()
			return ctx.Err()
		}
		var fired <-chan time.Time
		stop := func() {}
		if p.waiting[0] == r { // the first alone waits for the time, and wakes the next
			wait := time.Duration((float64(n) - p.tokens) / float64(p.rate) * float64(time.Second))
			if !p.until.IsZero() {
				wait = min(wait, p.until.Sub(now))
			}
			fired, stop = p.clock.Timer(max(wait, time.Millisecond))
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			stop()
			p.giveUp(r)
			return ctx.Err()
		case <-r.wake:
		case <-fired:
		}
		stop()
		p.mu.Lock()
	}
}

// enqueue gives a request its tags and its place. The lock is held.
func (p *pool) enqueue(link ledger.LinkID, weight, n int) *request {
	p.seq++
	r := &request{link: link, bytes: n, start: max(p.virtual, p.ends[link]), seq: p.seq, wake: make(chan struct{}, 1)}
	r.end = r.start + float64(n)/float64(max(weight, 1))
	p.ends[link] = r.end
	i := 0
	for i < len(p.waiting) && p.waiting[i].start <= r.start {
		i++
	}
	p.waiting = slices.Insert(p.waiting, i, r)
	return r
}

// serve lets a request through. The lock is held.
func (p *pool) serve(r *request) {
	p.tokens -= float64(r.bytes)
	p.virtual = max(p.virtual, r.start)
	p.leave(r)
}

// giveUp takes out a request that is not made any more. Its link's place moves up by it.
func (p *pool) giveUp(r *request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends[r.link] -= r.end - r.start
	p.leave(r)
}

// leave takes a request out of the queue, and wakes who is first then. The lock is held.
func (p *pool) leave(r *request) {
	if i := slices.Index(p.waiting, r); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	for link, end := range p.ends {
		if end <= p.virtual {
			delete(p.ends, link)
		}
	}
	if len(p.ends) == 0 {
		p.virtual = 0 // all begin alike
	}
	p.wakeFirst()
}

func (p *pool) wakeFirst() {
	if len(p.waiting) > 0 {
		signal(p.waiting[0].wake)
	}
}
