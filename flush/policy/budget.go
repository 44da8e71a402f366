package policy

import (
	"time"

	"forebay/units"
)

// A budget is what one window may send. Which window a moment belongs to is said by the moment at which that window opened, so
// that a record of what was spent means the same after a restart, whatever the clock did meanwhile. One stretch without a gap
// is one window, however many entries of a list it is made of. What is sent while all windows are closed, which only force and
// an operator's hand do, belongs to the window that closed last. Where the windows never close, or there are none, a window is
// a calendar day in the policy's zone.

// MinBudget is the least budget. A content that is smaller is begun anew when it was cut in the middle, so with less than this
// one of them might never fit into any window.
const MinBudget = 8 * units.MiB

// dayMarks are the midnights of the week.
var dayMarks = []int{0, 1 * daySeconds, 2 * daySeconds, 3 * daySeconds, 4 * daySeconds, 5 * daySeconds, 6 * daySeconds}

func dayOf(moment int) int64 { return int64(moment / daySeconds) }

// BudgetWindow returns when the window opened that what is sent at now is charged to, and when the next one opens, which has a
// budget of its own. Both are exact to the second.
func (p Policy) BudgetWindow(now time.Time) (opened, next time.Time) {
	loc := p.Zone.Location()
	change, closes := p.Windows.NextChange(now, loc)
	if !closes {
		opened, _ = lastChange(now, loc, dayMarks, dayOf)
		next, _ = nextChange(now, loc, dayMarks, dayOf)
		return opened, next
	}
	opened, known := lastChange(now, loc, p.Windows.marks, p.Windows.openAt)
	if p.Windows.Open(now, loc) {
		next, _ = p.Windows.NextChange(change, loc)
		return opened, next
	}
	if known { // it closed then
		opened, _ = lastChange(opened.Add(-time.Second), loc, p.Windows.marks, p.Windows.openAt)
	}
	return opened, change
}

// BudgetLeft is what of the budget is left after spent bytes; never negative, and without meaning where there is no budget.
func (p Policy) BudgetLeft(spent int64) int64 { return max(int64(p.Budget)-spent, 0) }

// exhausted reports whether the budget keeps what waits from going: nothing is left, or less than what the oldest needs to be of
// use. What has no bytes, a delete or a change of metadata, needs none of it.
func (d *decision) exhausted() bool {
	v := d.view
	return d.policy.Budget > 0 && v.Bytes > 0 && d.policy.BudgetLeft(v.Spent) < max(v.Whole, 1)
}
