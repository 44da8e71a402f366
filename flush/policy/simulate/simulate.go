// Package simulate tries a flush policy on an inflow: it asks policy.Decide, which runs in production too, over virtual time, and
// says how late, how full and how often forced the link would have been. Time goes from event to event, so that a month takes
// seconds. Bytes are a fluid: single objects are not looked at.
//
// It is pure and imports policy and units only. What it does not know is in Unknown.
package simulate

import (
	"errors"
	"time"

	"forebay/flush/policy"
	"forebay/units"
)

// Setup is what is tried.
type Setup struct {
	Policy policy.Policy
	Trace  Trace         // from its first slot on, see Trace.Cover
	Length time.Duration // from the first slot
	// HighWater and LowWater are those of the cache in bytes of contents, 0 = an endless cache.
	HighWater, LowWater int64
	Rate                float64       // bytes a second that the target takes
	PerObject           time.Duration // what each object takes on top of its bytes
	// Bandwidth of the relay and its zone: taken as this link's alone.
	Bandwidth policy.Timetable
	Zone      policy.Zone
	// Grain is the shortest time from one flush to the next, and how exact lags are; 0 = 30s.
	Grain time.Duration
}

// Unknown says what a simulation does not know, for operators.
var unknown = [...]string{
	"other links: they share the cache, and the relay's bandwidth is taken as this link's alone",
	"coalescing: what is overwritten before its flush counts twice here, and once in production",
	"outages, retries and pauses: the target is taken as always there, at one speed",
	"single objects: bytes flow, so that batches are not cut at objects, and one that is larger than the cache is not streamed",
	"deletes and changes of metadata: they are in the objects that were recorded, and cost no bytes",
}

// Unknown returns what a simulation does not know, for operators.
func Unknown() []string { return unknown[:] }

// batchObjects is how many objects a batch has at most, as flush.Config has it by default.
const batchObjects = 4096

// wholeBelow is the size below which contents are not cut in the middle, as in package flush.
const wholeBelow = int64(policy.MinBudget)

// cohort is some of the inflow that came together.
type cohort struct {
	born, until time.Time // when it was there at the source, from and to
	acked       time.Time // the acknowledgement of the first of it
	bytes       float64
	objects     float64
}

// run is a simulation under way.
type run struct {
	Setup
	now, end time.Time
	slot     int // the next of the trace to begin
	flow     cohort
	flowEnd  time.Time // flow is the rest of a slot that ends then

	queue   []cohort // acknowledged and waiting, oldest first
	bytes   float64  // of queue
	objects float64
	blocked []cohort // at the source: the cache is full
	full    bool

	batch      []cohort // on its way
	left, rest float64  // bytes of it to send; time of its objects, in seconds
	sent       float64  // of it
	cargo      float64  // bytes of it
	view       policy.View
	next       time.Time // no flush before that

	plan     policy.Plan
	judgedAt time.Time
	drain    time.Time // see flush's link.drain
	spent    map[int64]float64
	report   Report
	forcing  bool
	sampleAt time.Time
}

// Run tries a setup.
func Run(s Setup) (*Report, error) {
	switch {
	case len(s.Trace.Slots) == 0:
		return nil, errors.New("simulate: there is no inflow")
	case s.Rate <= 0:
		return nil, errors.New("simulate: the target's speed is not known")
	}
	if s.Grain == 0 {
		s.Grain = 30 * time.Second
	}
	if s.Policy.BatchMax <= 0 {
		s.Policy.BatchMax = units.GiB
	}
	r := &run{Setup: s, now: s.Trace.Slots[0].At, spent: map[int64]float64{}}
	r.end, r.sampleAt = r.now.Add(s.Length), r.now
	r.report.Start, r.report.Length = r.now, s.Length
	for r.now.Before(r.end) {
		r.beginSlots()
		r.decide()
		r.advance(r.nextEvent())
	}
	r.finish()
	return &r.report, nil
}

// beginSlots takes up the slot of the trace that begins now.
func (r *run) beginSlots() {
	if !r.flowEnd.IsZero() && !r.now.Before(r.flowEnd) {
		r.flow, r.flowEnd = cohort{}, time.Time{}
	}
	for r.slot < len(r.Trace.Slots) && !r.Trace.Slots[r.slot].At.After(r.now) {
		s := r.Trace.Slots[r.slot]
		r.slot++
		r.flow, r.flowEnd = cohort{bytes: float64(s.Bytes), objects: float64(s.Objects)}, s.At.Add(r.Trace.Step)
		r.report.InBytes, r.report.InObjects = r.report.InBytes+s.Bytes, r.report.InObjects+s.Objects
	}
}

// decide asks the policy, about the batch under way or a new one.
func (r *run) decide() {
	if r.batch != nil {
		r.judge()
		return
	}
	r.plan = policy.Plan{Action: policy.Wait}
	if len(r.queue) == 0 {
		r.bytes, r.objects, r.drain = 0, 0, time.Time{}
		return
	}
	oldest := r.queue[0].acked
	if oldest.After(r.drain) {
		r.drain = time.Time{}
	}
	r.view = policy.View{Objects: int64(max(r.objects, 1)), Bytes: int64(r.bytes + 0.5), Oldest: oldest, Whole: r.whole()}
	r.ask()
	conditions := r.Policy.Size > 0 || r.Policy.Age > 0 || r.Policy.Objects > 0
	if r.plan.Action == policy.Flush && !r.plan.Forced && !r.plan.ByHand && conditions && r.drain.IsZero() {
		r.drain = r.now
	}
	if r.plan.Action == policy.Flush && !r.now.Before(r.next) {
		r.load()
	}
}

// ask is Decide, of r.view with what changes all the time.
func (r *run) ask() {
	v := r.view
	since, _ := r.Policy.BudgetWindow(r.now)
	v.Spent = int64(r.spent[since.UnixNano()] + 0.5)
	v.HighWater = r.full
	v.Demand.At = r.drain
	r.plan = policy.Decide(v, r.now, r.Policy)
	r.judgedAt = r.now
}

// whole is View.Whole, of the mean size of objects.
func (r *run) whole() int64 {
	c := r.queue[0]
	if mean := int64(c.bytes / max(c.objects, 1)); mean < wholeBelow {
		return mean
	}
	return 0
}

// load puts the next batch on its way: as much as one may have, or, where batches are quicker than Grain, as several have.
func (r *run) load() {
	rate := r.rate()
	most, limit := max(float64(r.plan.MaxBytes), rate*r.Grain.Seconds()), float64(batchObjects)
	if r.PerObject > 0 {
		limit = max(limit, r.Grain.Seconds()/r.PerObject.Seconds())
	} else {
		limit = max(limit, r.objects)
	}
	left := r.budgetLeft()
	if w := float64(r.view.Whole); w > 0 {
		left = float64(int64(left/w)) * w
	}
	most = min(most, left)
	for len(r.queue) > 0 && limit > 0 {
		c := &r.queue[0]
		if up := r.plan.AckedUpTo; !up.IsZero() && c.acked.After(up) {
			break
		}
		room := min(most-r.cargo, c.bytes)
		if c.objects > limit {
			room = min(room, c.bytes*limit/c.objects)
		}
		if room <= 0 && c.bytes > 0 {
			break
		}
		part := c.split(room)
		r.batch, r.cargo, limit = append(r.batch, part), r.cargo+part.bytes, limit-part.objects
		r.bytes, r.objects = r.bytes-part.bytes, r.objects-part.objects
		if c.bytes > 1e-6 {
			break
		}
		r.queue = r.queue[1:]
	}
	if r.batch == nil {
		return
	}
	r.left, r.sent, r.next = r.cargo, 0, r.now.Add(r.Grain)
	r.rest = 0
	for _, c := range r.batch {
		r.rest += c.objects * r.PerObject.Seconds()
	}
	if r.plan.Forced && !r.forcing {
		r.report.ForcedFlushes++
	}
	r.forcing = r.plan.Forced
	r.view.Whole = 0
}

// split takes so many bytes of a cohort off its beginning, with their part of the objects and of the time.
func (c *cohort) split(bytes float64) cohort {
	share := 1.0
	if c.bytes > 0 {
		share = bytes / c.bytes
	}
	part := cohort{born: c.born, acked: c.acked, bytes: c.bytes * share, objects: c.objects * share}
	part.until = c.born.Add(time.Duration(float64(c.until.Sub(c.born)) * share))
	if c.acked.Before(part.until) { // what was blocked was acknowledged at one moment
		c.acked = part.until
	}
	c.born, c.bytes, c.objects = part.until, c.bytes-part.bytes, c.objects-part.objects
	return part
}

// judge asks about the batch under way, when that can have changed, and unloads it where it may not go on.
func (r *run) judge() {
	if look := r.plan.NextLook; r.judgedAt.Equal(r.now) || (look.IsZero() || r.now.Before(look)) && r.plan.Action == policy.Flush &&
		r.budgetLeft() > 0.5 && !r.full {
		return
	}
	if r.ask(); r.plan.Action != policy.Flush {
		r.unload()
	}
}

// budgetLeft is what a batch may send yet; endless without a budget, or over it.
func (r *run) budgetLeft() float64 {
	if r.Policy.Budget == 0 || r.plan.OverBudget {
		return 1 << 62
	}
	return float64(r.Policy.Budget) - r.spent[r.plan.BudgetSince.UnixNano()]
}

// rate is how fast bytes go now.
func (r *run) rate() float64 {
	rate := r.Rate
	if p := r.plan.Rate; p > 0 {
		rate = min(rate, float64(p))
	}
	if p := r.Bandwidth.At(r.now, r.Zone.Location()); p > 0 {
		rate = min(rate, float64(p))
	}
	return rate
}

// unload ends the batch: what was sent is confirmed, the rest waits again.
func (r *run) unload() {
	for i := range r.batch {
		c := &r.batch[i]
		r.sent -= c.split(min(max(r.sent, 0), c.bytes)).bytes
	}
	var rest []cohort
	for _, c := range r.batch {
		if c.bytes > 1e-6 {
			rest = append(rest, c)
			r.bytes, r.objects = r.bytes+c.bytes, r.objects+c.objects
		}
	}
	r.queue = append(rest, r.queue...)
	r.batch, r.cargo, r.left, r.sent = nil, 0, 0, 0
	r.admit()
}
