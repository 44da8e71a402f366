package policy

import (
	"time"

	"forebay/units"
)

// View is what a link's owner knows of it at one moment.
type View struct {
	// Objects and Bytes wait to be flushed: owed, not on their way, not parked, and not deletes that the guard holds.
	// Deletes and changes of metadata count as objects of 0 bytes.
	Objects, Bytes int64
	// Oldest is the acknowledgement of the oldest of Objects; meaningless when there are none.
	Oldest time.Time

	InFlight    int64 // objects that a batch under way carries
	Parked      int64 // objects set aside with a reason
	HeldDeletes int64 // deletes that wait for approval

	// Spent is what was charged to the present window, see Policy.BudgetWindow: bytes sent, and bytes set aside to be sent.
	Spent int64
	// Whole is how many bytes the oldest of Objects has to be sent in one go; 0 where it can be cut in the middle and goes on.
	Whole int64

	HighWater bool // the cache is over its high water mark and this link's flush would free room
	Pause     Pause
	Barred    string // why nothing may be sent or deleted whatever anybody asks for; "" when nothing says so
	Demand    Demand
	Target    TargetState
}

// Pause stops a link by an operator's order, forced flushes too.
type Pause struct {
	On    bool
	Until time.Time // zero = until resumed
}

// Demand is an operator's order to flush now. It is done when nothing acknowledged up to At waits any more.
type Demand struct {
	At           time.Time // what was acknowledged up to here is to go; zero = no demand
	IgnoreWindow bool      // and the budget
}

// TargetState says whether the target was there when last used.
type TargetState struct {
	Reason  string    // why it is not there
	NextTry time.Time // when to try it again; zero = it is there
}

// Action is what to do with a link.
type Action string

// The actions.
const (
	Flush Action = "flush"
	Wait  Action = "wait"
)

// Plan is the decision about a link.
type Plan struct {
	Action Action
	Reason string // for operators: why it goes, or what it waits for
	// Forced is set when only the deadline or the high water mark lets it go: conditions, window or budget would not. ByHand
	// is set when only a Demand does.
	Forced, ByHand bool
	// AckedUpTo restricts the flush to what was acknowledged up to it; zero = everything that waits.
	AckedUpTo time.Time
	MaxBytes  int64 // of the next batch, within what is left of the budget; it has one object at least

	// NextLook is when the passing of time alone can next change the decision; zero = never. Before that only a change of
	// the view or the policy does. It may be early, never late.
	NextLook time.Time

	Rate      units.Rate // in force now; 0 = unlimited
	RateUntil time.Time  // when the rate changes; zero = never

	// WindowOpensAt is zero while the window is open and where there is none; WindowClosesAt is zero where it never closes.
	WindowOpensAt, WindowClosesAt time.Time

	// BudgetSince is when the window opened that bytes sent now are charged to. BudgetRenews is when the next one opens, zero
	// without a budget. OverBudget is set when the budget does not let what waits go: what goes all the same counts as forced.
	BudgetSince, BudgetRenews time.Time
	OverBudget                bool
}

// Decide says whether a link flushes at now, and why. It is a function of its arguments.
//
// In this order: a pause stops everything; then an absent target; conditions that are met within the window and its budget let
// everything through; then an operator's demand; then the high water mark and the deadline, which force. The bandwidth applies
// to forced flushes too. A deadline outside the window, or beyond its budget, forces only what is past it.
func Decide(v View, now time.Time, p Policy) Plan {
	d := decision{view: v, now: now, policy: p}
	d.plan.MaxBytes = int64(p.BatchMax)
	d.window()
	since, renews := p.BudgetWindow(now)
	if d.plan.BudgetSince = since; p.Budget > 0 {
		d.plan.BudgetRenews, d.plan.OverBudget = renews, d.exhausted()
	}
	loc := p.Zone.Location()
	d.plan.Rate = p.Bandwidth.At(now, loc)
	d.plan.RateUntil, _ = p.Bandwidth.NextChange(now, loc)
	d.decide()
	return d.plan
}

// decision is the state of one call of Decide.
type decision struct {
	view   View
	now    time.Time
	policy Policy
	open   bool
	plan   Plan
}

// window fills in when the window opens and closes.
func (d *decision) window() {
	w, loc := d.policy.Windows, d.policy.Zone.Location()
	d.open = w.Open(d.now, loc)
	next, changes := w.NextChange(d.now, loc)
	switch {
	case !changes:
	case d.open:
		d.plan.WindowClosesAt = next
	default:
		d.plan.WindowOpensAt = next
		d.plan.WindowClosesAt, _ = w.NextChange(next, loc)
	}
}

func (d *decision) decide() {
	v := d.view
	if v.Barred != "" {
		d.wait(v.Barred)
		return
	}
	if v.Pause.On && (v.Pause.Until.IsZero() || d.now.Before(v.Pause.Until)) {
		d.wait(d.pausedReason(), v.Pause.Until)
		return
	}
	if v.Objects <= 0 {
		d.wait(idleReason(v))
		return
	}
	if d.now.Before(v.Target.NextTry) {
		d.wait("target: "+v.Target.Reason+"; next try at "+d.clock(v.Target.NextTry), v.Target.NextTry)
		return
	}
	met, why := d.conditions()
	switch {
	case met && d.open && !d.exhausted():
		d.flush(why)
	case d.demanded():
		d.plan.ByHand, d.plan.AckedUpTo = true, v.Demand.At
		d.flush("flush asked for by hand" + d.despite(met))
	case v.HighWater:
		d.plan.Forced = true
		d.flush("forced: the cache is over its high water mark" + d.despite(met))
	case d.overdue():
		d.plan.Forced, d.plan.AckedUpTo = true, d.now.Add(-d.policy.Deadline.Std())
		d.flush("forced: older than the deadline of " + d.policy.Deadline.String() + d.despite(met))
	default:
		d.wait(d.waitReason(met), d.windowChange(), d.plan.BudgetRenews, d.ageAt(), d.deadlineAt())
	}
}

// flush ends the decision. It is looked at again when the window, its budget or the rate changes, or when the age is reached,
// since the flush may then no longer be forced.
func (d *decision) flush(reason string) {
	d.plan.Action, d.plan.Reason = Flush, reason
	if d.policy.Budget > 0 && !d.plan.OverBudget {
		d.plan.MaxBytes = min(d.plan.MaxBytes, max(d.policy.BudgetLeft(d.view.Spent), 1))
	}
	d.plan.NextLook = earliest(d.now, d.plan.RateUntil, d.windowChange(), d.plan.BudgetRenews, d.ageAt(), d.deadlineAt(), d.view.Oldest)
}

func (d *decision) wait(reason string, looks ...time.Time) {
	d.plan.Action, d.plan.Reason = Wait, reason
	d.plan.NextLook = earliest(d.now, looks...)
}

func (d *decision) windowChange() time.Time {
	if d.open {
		return d.plan.WindowClosesAt
	}
	return d.plan.WindowOpensAt
}

// conditions reports whether size, age or objects let the backlog through, and which.
func (d *decision) conditions() (bool, string) {
	v, p := d.view, d.policy
	enough := v.Bytes >= int64(p.BatchMin)
	switch {
	case p.Age > 0 && !d.now.Before(d.ageAt()):
		return true, "the oldest has reached the age of " + p.Age.String()
	case !enough:
		return false, ""
	case p.Size > 0 && v.Bytes >= int64(p.Size):
		return true, units.Size(v.Bytes).Human() + " wait, size is " + p.Size.String()
	case p.Objects > 0 && v.Objects >= p.Objects:
		return true, countObjects(v.Objects) + " wait, objects is " + countObjects(p.Objects)
	}
	return p.Size == 0 && p.Age == 0 && p.Objects == 0, "flushed as it comes"
}

// ageAt is when the age condition is met; zero when there is none. An acknowledgement in the future means that the clock
// was set back: its age cannot be told, so it counts as reached rather than being waited for.
func (d *decision) ageAt() time.Time {
	switch {
	case d.policy.Age == 0:
		return time.Time{}
	case d.view.Oldest.After(d.now):
		return d.now
	}
	return d.view.Oldest.Add(d.policy.Age.Std())
}

// deadlineAt is when the deadline forces the oldest; zero when there is none.
func (d *decision) deadlineAt() time.Time {
	if d.policy.Deadline == 0 {
		return time.Time{}
	}
	return d.view.Oldest.Add(d.policy.Deadline.Std())
}

func (d *decision) overdue() bool {
	return d.policy.Deadline > 0 && !d.now.Before(d.deadlineAt())
}

func (d *decision) demanded() bool {
	by := d.view.Demand
	return !by.At.IsZero() && !d.view.Oldest.After(by.At) && (d.open && !d.exhausted() || by.IgnoreWindow)
}

// earliest returns the first of times that lies after now; zero when none does.
func earliest(now time.Time, times ...time.Time) (first time.Time) {
	for _, t := range times {
		if t.After(now) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}
