package policy

import (
	"fmt"
	"strings"
	"time"

	"forebay/units"
)

// Problem is a setting that does not go together with another.
type Problem struct {
	Key  string // the setting to change, in full
	Text string // what is wrong and what to do
}

// Problems is the error of Validate.
type Problems []Problem

// Error lists all of them.
func (p Problems) Error() string {
	out := make([]string, len(p))
	for i, one := range p {
		out[i] = one.Key + ": " + one.Text
	}
	return strings.Join(out, "\n")
}

// Validate checks what Set cannot: whether the settings make sense together. The error is of type Problems.
func Validate(p *Policy) error {
	var found Problems
	add := func(key, format string, args ...any) {
		found = append(found, Problem{key, fmt.Sprintf(format, args...)})
	}
	if p.Deadline > 0 && p.Deadline < p.Age {
		add("flush.deadline", "the deadline of %s is shorter than the age of %s, so that each flush would be forced: raise deadline or lower age", p.Deadline, p.Age)
	}
	if p.BatchMax <= 0 {
		add("flush.batch_max", "a batch needs room: set at least 1MiB")
	} else if p.BatchMin > p.BatchMax {
		add("flush.batch_min", "batch_min %s is more than batch_max %s: no batch would ever be right", p.BatchMin, p.BatchMax)
	}
	if p.Size > 0 && p.BatchMin > p.Size {
		add("flush.batch_min", "batch_min %s is more than size %s, which would never be enough: lower batch_min or raise size", p.BatchMin, p.Size)
	}
	if p.BatchMin > 0 && p.Age == 0 && p.Deadline == 0 {
		add("flush.batch_min", "with batch_min %s and neither age nor deadline the last objects would wait for ever: set age or deadline", p.BatchMin)
	}
	validateBudget(p, add)
	validateDeadline(p, add)
	if found == nil {
		return nil
	}
	return found
}

// adder notes a problem of a key.
type adder func(key, format string, args ...any)

func validateBudget(p *Policy, add adder) {
	if p.Budget == 0 {
		return
	}
	if p.Budget < MinBudget {
		add("flush.budget", "the budget of %s is less than %s: contents up to that size are sent in one go, and one of them might never fit into a window: set at least %s, or none", p.Budget, MinBudget, MinBudget)
		return
	}
	if p.BatchMin > p.Budget {
		add("flush.budget", "the budget of %s is less than batch_min %s, so that no window could send one batch: raise budget or lower batch_min", p.Budget, p.BatchMin)
	}
}

// validateDeadline refuses a deadline that the windows cannot meet. Where the clocks are set back, a stretch can be an hour longer
// than it counts here.
func validateDeadline(p *Policy, add adder) {
	from, to := p.Windows.longestClosed()
	closed := units.Duration(to-from) * units.Duration(time.Second)
	if p.Deadline == 0 || closed <= p.Deadline {
		return
	}
	add("flush.deadline", "no window can meet the deadline of %s: from %s to %s all are closed, for %s, and what is acknowledged as they close would be forced %s before they open: "+
		"raise deadline to %s or more, open a window in between, or take deadline out", p.Deadline, formatMoment(from), formatMoment(to), closed, closed-p.Deadline, closed)
}
