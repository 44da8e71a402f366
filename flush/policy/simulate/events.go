package simulate

import (
	"time"

	"forebay/flush/policy"
)

// nextEvent is when something happens next: in the trace, in the policy, with the batch, in the cache.
func (r *run) nextEvent() time.Time {
	next := r.end
	by := func(t time.Time) {
		if t.After(r.now) && t.Before(next) {
			next = t
		}
	}
	in := func(amount, perSecond float64) {
		if perSecond > 0 && amount >= 0 && amount/perSecond < 1e9 {
			by(r.now.Add(max(time.Duration(amount/perSecond*float64(time.Second)), time.Millisecond)))
		}
	}
	by(r.flowEnd)
	if r.slot < len(r.Trace.Slots) {
		by(r.Trace.Slots[r.slot].At)
	}
	by(r.sampleAt)
	by(r.plan.NextLook)
	by(r.plan.RateUntil)
	if change, ok := r.Bandwidth.NextChange(r.now, r.Zone.Location()); ok {
		by(change)
	}
	bytes, objects := r.inflow()
	if r.HighWater > 0 && !r.full {
		in(float64(r.HighWater)-r.cached(), bytes)
	}
	switch {
	case r.batch != nil:
		in(r.left, r.rate()*r.share())
		if r.left <= 0 {
			in(r.rest, 1)
		}
		in(r.budgetLeft(), r.rate()*r.share())
	case r.plan.Action == policy.Flush:
		by(r.next)
	default: // a condition may be reached
		for _, size := range []int64{int64(r.Policy.Size), int64(r.Policy.BatchMin)} {
			if size > 0 && r.bytes < float64(size) {
				in(float64(size)-r.bytes, bytes)
			}
		}
		if n := float64(r.Policy.Objects); n > r.objects {
			in(n-r.objects, objects)
		}
		if len(r.queue) == 0 && bytes+objects > 0 { // something will be there
			by(r.now.Add(r.Grain))
		}
	}
	return next
}

// inflow is what comes a second.
func (r *run) inflow() (bytes, objects float64) {
	if r.flowEnd.IsZero() {
		return 0, 0
	}
	d := r.Trace.Step.Seconds()
	return r.flow.bytes / d, r.flow.objects / d
}

// share is the part of the time in which bytes of the batch go, and not what each object takes besides.
func (r *run) share() float64 {
	if r.rest <= 0 || r.left <= 0 {
		return 1
	}
	bytes := r.left / r.rate()
	return bytes / (bytes + r.rest)
}

// advance lets time pass to t, in which nothing changes but what flows.
func (r *run) advance(t time.Time) {
	d := t.Sub(r.now).Seconds()
	began := r.now
	r.now = t
	r.send(d)
	if bytes, objects := r.inflow(); bytes+objects > 0 {
		r.arrive(cohort{born: began, until: t, acked: began, bytes: bytes * d, objects: objects * d})
	}
	r.account(d)
	if r.batch != nil && r.left <= 0.5 && r.rest <= 1e-9 {
		r.sent = r.cargo
		r.unload()
	}
	if !r.now.Before(r.sampleAt) {
		r.sample()
	}
}

// send moves the batch under way.
func (r *run) send(d float64) {
	if r.batch == nil {
		return
	}
	share := r.share()
	n := min(d*share*r.rate(), r.left)
	r.rest = max(r.rest-d*(1-share), 0)
	if r.left <= 0 {
		r.rest = max(r.rest-d, 0)
	}
	r.left, r.sent = r.left-n, r.sent+n
	r.spent[r.plan.BudgetSince.UnixNano()] += n
	forced := 0.0
	if r.plan.OverBudget || !r.plan.WindowOpensAt.IsZero() {
		forced = n
	}
	r.report.sent(r.plan.BudgetSince, n, forced)
}

// arrive takes in what came, as far as the cache accepts.
func (r *run) arrive(c cohort) {
	if r.full {
		r.blocked = append(r.blocked, c)
		r.report.blockedBytes += c.bytes
		return
	}
	r.enqueue(c)
}

// enqueue has a cohort wait, together with the last where they belong together: of several acknowledgements the first counts.
func (r *run) enqueue(c cohort) {
	r.bytes, r.objects = r.bytes+c.bytes, r.objects+c.objects
	if n := len(r.queue); n > 0 {
		last := &r.queue[n-1]
		if last.until.Equal(c.born) && c.until.Sub(last.born) <= r.Grain && last.acked.Equal(last.born) && c.acked.Equal(c.born) {
			last.until, last.bytes, last.objects = c.until, last.bytes+c.bytes, last.objects+c.objects
			r.fill()
			return
		}
	}
	r.queue = append(r.queue, c)
	r.fill()
}

// cached is what the cache holds.
func (r *run) cached() float64 { return r.bytes + r.cargo }

// fill notes whether the cache is full: at high water, until low water.
func (r *run) fill() {
	switch {
	case r.HighWater == 0:
	case r.cached() >= float64(r.HighWater)-0.5:
		r.full = true
	case r.cached() < float64(r.LowWater):
		r.full = false
	}
}

// admit takes in what waited at the source, once there is room.
func (r *run) admit() {
	r.fill()
	for len(r.blocked) > 0 && !r.full {
		c := &r.blocked[0]
		part := c.split(min(c.bytes, float64(r.HighWater)-r.cached()))
		part.acked = r.now
		r.enqueue(part)
		if c.bytes <= 1e-6 {
			r.blocked = r.blocked[1:]
		}
	}
}
