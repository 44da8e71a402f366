package policy

import (
	"fmt"
	"strings"
	"time"

	"forebay/units"
)

// The sentences of a plan. Times are shown by the clock of the policy's zone, since windows and timetables are.

func (d *decision) clock(t time.Time) string {
	return t.In(d.policy.Zone.Location()).Format("2006-01-02 15:04:05 MST")
}

func (d *decision) pausedReason() string {
	reason := "paused until resumed"
	if until := d.view.Pause.Until; !until.IsZero() {
		reason = "paused until " + d.clock(until)
	}
	if d.view.Objects > 0 && d.overdue() {
		reason += "; the deadline passed at " + d.clock(d.deadlineAt())
	}
	return reason
}

func idleReason(v View) string {
	var parts []string
	if v.InFlight > 0 {
		parts = append(parts, countObjects(v.InFlight)+" on the way")
	}
	if v.HeldDeletes > 0 {
		parts = append(parts, deletes(v.HeldDeletes)+" held by the guard until approved")
	}
	if v.Parked > 0 {
		parts = append(parts, countObjects(v.Parked)+" parked")
	}
	if parts == nil {
		return "nothing to flush"
	}
	return "nothing else to flush: " + strings.Join(parts, ", ")
}

// despite says what a forced flush overrides.
func (d *decision) despite(met bool) string {
	switch {
	case !d.open:
		return ", outside the window"
	case d.exhausted():
		return ", beyond the window's budget of " + d.policy.Budget.String()
	case !met:
		return ", before its conditions are met"
	}
	return ""
}

func (d *decision) waitReason(met bool) string {
	var parts []string
	if !d.open {
		parts = append(parts, "the window opens at "+d.clock(d.plan.WindowOpensAt))
	}
	if d.open && d.exhausted() {
		parts = append(parts, d.spentReason())
	}
	if !met {
		parts = append(parts, d.missing())
	}
	reason := "waits: " + strings.Join(parts, "; ")
	if d.policy.Deadline > 0 {
		reason += "; the deadline forces it at " + d.clock(d.deadlineAt())
	}
	return reason
}

// spentReason says that the budget holds the link back, and until when.
func (d *decision) spentReason() string {
	p := &d.plan
	reason := fmt.Sprintf("the budget of %s is spent, %s since %s", d.policy.Budget, units.Size(d.view.Spent).Human(), d.clock(p.BudgetSince))
	if left := d.policy.BudgetLeft(d.view.Spent); left > 0 {
		reason += fmt.Sprintf("; the %s left are less than the %s of the oldest", units.Size(left).Human(), units.Size(d.view.Whole).Human())
	}
	if !p.BudgetRenews.IsZero() {
		reason += "; the next window opens at " + d.clock(p.BudgetRenews)
	}
	return reason
}

// missing says how far the conditions are.
func (d *decision) missing() string {
	v, p := d.view, d.policy
	var parts []string
	if p.Size > 0 {
		parts = append(parts, fmt.Sprintf("%s of %s", units.Size(v.Bytes).Human(), p.Size))
	}
	if p.Objects > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s", v.Objects, countObjects(p.Objects)))
	}
	if v.Bytes < int64(p.BatchMin) {
		parts = []string{fmt.Sprintf("%s of batch_min %s", units.Size(v.Bytes).Human(), p.BatchMin)}
	}
	if p.Age > 0 {
		parts = append(parts, "age "+p.Age.String()+" at "+d.clock(d.ageAt()))
	}
	return strings.Join(parts, ", or ")
}

func countObjects(n int64) string {
	if n == 1 {
		return "1 object"
	}
	return fmt.Sprintf("%d objects", n)
}
