package flush

import (
	"context"
	"errors"
	"sync"
	"time"

	"forebay/flush/policy"
	"forebay/ledger"
	"forebay/proto"
	"forebay/units"
)

// purse keeps a link to the budgets of its windows (I14). Bytes are charged in the ledger, durably, before they are sent, in steps;
// what of a step is not sent is given back with the end of the batch. So a relay that is killed has charged too much, by a step at
// most, and never too little. Without a budget bytes are charged when a batch has ended, so that a budget which is set in the
// middle of a window holds for all of it.
type purse struct {
	mu      sync.Mutex
	since   time.Time // when the window opened that the rest is about; zero = none
	charged int64     // to it, by the ledger
	held    int64     // of charged: not sent
	owing   int64     // sent without a budget, and not charged yet
	// promised is set aside, of what is left of the budget, for contents under way that would have to begin anew if they were
	// cut in the middle.
	promised int64
}

// sent is what of the window was sent. The lock is held.
func (u *purse) sent() int64 { return u.charged - u.held + u.owing }

// Bounds of what is charged at a time: little, so that a kill costs little of the budget, and enough for syncs of the ledger to be
// seldom.
const (
	minCharge = 1 << 20
	maxCharge = 64 << 20
)

// chargeStep is what is charged at a time: a hundredth of the budget, within the bounds.
func chargeStep(budget units.Size) int64 { return max(minCharge, min(int64(budget)/100, maxCharge)) }

// terms is what a verdict says about spending.
type terms struct {
	since  time.Time  // the window
	budget units.Size // 0 = none
	over   bool       // the budget does not bind: the policy forces, or an operator's hand
	forced bool       // what is sent counts as forced
	weight int        // see pool
}

// binds reports whether the budget bounds what may be sent.
func (t terms) binds() bool { return t.budget > 0 && !t.over }

// spentOf returns what was sent in the window that p has at now; r is the ledger or a view of it.
func (l *link) spentOf(r ledger.Rows, p policy.Policy, now time.Time) (int64, error) {
	since, _ := p.BudgetWindow(now)
	u := &l.purse
	u.mu.Lock()
	defer u.mu.Unlock()
	if since.Equal(u.since) {
		return u.sent(), nil
	}
	row, err := ledger.Budget(r, l.id)
	return row.Spent(since.UnixNano(), now.UnixNano()), err
}

// promise sets n bytes of the budget aside for a content that cannot be cut in the middle. It returns how many were, and whether
// the content may begin. Give back what spend did not take of them with unpromise.
func (l *link) promise(t terms, n int64) (promised int64, ok bool, err error) {
	if !t.binds() {
		return 0, true, nil
	}
	u := &l.purse
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := l.enter(t.since); err != nil || int64(t.budget)-u.sent()-u.promised < n {
		return 0, false, err
	}
	u.promised += n
	return n, true, nil
}

func (l *link) unpromise(n int64) {
	l.purse.mu.Lock()
	defer l.purse.mu.Unlock()
	l.purse.promised -= n
}

// spend takes up to n bytes out of the budget for a content that was promised so many, and returns how many of them may be written
// now, 0 when it is spent: they are charged durably. more is how much the batch may have to send after them.
func (l *link) spend(t terms, n, promised, more int64) (int64, error) {
	u := &l.purse
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := l.enter(t.since); err != nil {
		return 0, err
	}
	if t.budget == 0 {
		u.owing += n
		return n, nil
	}
	if t.binds() {
		if n = min(n, int64(t.budget)-u.sent()-max(u.promised-promised, 0)); n <= 0 {
			return 0, nil
		}
	}
	if need := n - u.held + u.owing; need > 0 {
		// What was sent before there was a budget is charged with it.
		c := l.charge(max(need, min(chargeStep(t.budget), need+more)))
		if t.binds() {
			c.Limit = int64(t.budget)
		}
		if err := l.e.deps.Ledger.Update(c); err != nil {
			return 0, err
		}
		u.charged, u.held, u.owing = c.Spent, u.held+c.Charged-u.owing, 0
		if n = min(n, u.held); n <= 0 {
			return 0, nil
		}
	}
	u.held -= n
	u.promised -= min(n, promised)
	return n, nil
}

// charge is an entry that charges bytes to the window of the purse. The lock is held.
func (l *link) charge(bytes int64) *ledger.Charge {
	return &ledger.Charge{Link: l.id, OpenedNs: l.purse.since.UnixNano(), NowNs: l.now().UnixNano(), Bytes: bytes}
}

// enter makes since the window of the purse, and closes the accounts of the one before. The lock is held.
func (l *link) enter(since time.Time) error {
	u := &l.purse
	if since.Equal(u.since) {
		return nil
	}
	if entries := l.close(); len(entries) > 0 {
		if err := l.e.deps.Ledger.Update(entries...); err != nil {
			return err
		}
	}
	row, err := ledger.Budget(l.e.deps.Ledger, l.id)
	if err == nil {
		u.since, u.charged = since, row.Spent(since.UnixNano(), l.now().UnixNano())
	}
	return err
}

// close empties the purse and returns the entries that bring the ledger to what was really sent. The lock is held.
func (l *link) close() (entries []ledger.Entry) {
	u := &l.purse
	if rest := u.owing - u.held; rest != 0 {
		entries = append(entries, l.charge(rest))
	}
	u.since, u.charged, u.held, u.owing = time.Time{}, 0, 0, 0
	return entries
}

// settleUp ends the spending of a batch. The entries give back what was not sent; where they are not written, the window stays
// charged with it.
func (l *link) settleUp() []ledger.Entry {
	l.purse.mu.Lock()
	defer l.purse.mu.Unlock()
	return l.close()
}

// pay takes n bytes at most of the writer's content out of the budget, and asks the policy again where it is spent. It returns how
// many may be written now, 0 when none may.
func (w *writer) pay(ctx context.Context, n int64) (int64, error) {
	for again := true; ; again = false {
		t, ok := w.s.terms(w.it)
		if !ok || ctx.Err() != nil {
			return 0, ctx.Err()
		}
		paid, err := w.s.l.spend(t, n, w.it.promised, w.s.b.left.Load())
		if err != nil {
			w.it.cache = true
			return 0, err
		}
		if paid > 0 {
			w.it.promised = max(w.it.promised-paid, 0)
			w.s.b.left.Add(-paid)
			w.s.b.verdict.sent(paid, t.forced)
			return paid, nil
		}
		if !again {
			return 0, nil
		}
		w.s.b.verdict.expire() // the policy may force what the budget does not let
	}
}

// errUnit: a target keeps nothing less of a content than no window lets it have.
var errUnit = errors.New("the target keeps whole parts of it and nothing less")

// checkUnit refuses a content of which no window can send as much as the target keeps.
func (s *staging) checkUnit(it *item, unit int64) error {
	if t, _ := s.terms(it); t.binds() && unit > int64(t.budget) {
		return proto.Errorf(proto.ClassPermanent, "%w: parts of %s, and flush.budget lets a window send %s: raise the budget to several times that, then retry",
			errUnit, units.Size(unit).Human(), t.budget)
	}
	return nil
}
