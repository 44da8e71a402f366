package flush

import (
	"sync"
	"time"

	"forebay/flush/policy"
	"forebay/ledger"
)

// verdict is what the policy says of the batch under way. It is asked before every write and renewed at each moment at
// which it may change, so that a window that closes, a pause or a new policy stops a batch in its middle (I14).
type verdict struct {
	mu     sync.Mutex
	asked  time.Time // when it was asked
	until  time.Time // good until then
	change uint64    // and as long as the link's count of changes is this
	lets   bool
	upTo   time.Time // only what was acknowledged up to then; zero = all
	terms  terms
	forced int64 // bytes sent outside the window, or over its budget
}

// verdictLife bounds how long a verdict is good: the high water mark and the ledger give no sign when they change.
const verdictLife = time.Second

// terms reports whether bytes of an item may be written now, and what spending them goes by.
func (s *staging) terms(it *item) (t terms, ok bool) {
	v, l := &s.b.verdict, s.l
	v.mu.Lock()
	defer v.mu.Unlock()
	now, change := l.now(), l.change.Load()
	if v.until.IsZero() || !now.Before(v.until) || now.Before(v.asked) || v.change != change {
		plan, terms := l.judge(s.b, 0) // what the oldest needs was promised to it
		v.asked, v.change, v.lets, v.upTo, v.terms = now, change, plan.Action == policy.Flush, plan.AckedUpTo, terms
		life := verdictLife
		for _, at := range []time.Time{plan.NextLook, plan.RateUntil} {
			if !at.IsZero() {
				life = min(life, max(at.Sub(now), 0))
			}
		}
		v.until = now.Add(life) // as now has it: the clock may be set meanwhile
		l.pacer.set(plan.Rate)
	}
	return v.terms, v.lets && (v.upTo.IsZero() || !s.b.look.acked(it.owed.AckedNs).After(v.upTo))
}

// expire has the policy asked before the next write.
func (v *verdict) expire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.until = time.Time{}
}

// sent counts bytes that are written.
func (v *verdict) sent(n int64, forced bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if forced {
		v.forced += n
	}
}

func (v *verdict) forcedBytes() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.forced
}

// judge decides again about the batch under way, with what may have changed since it was picked. whole is View.Whole.
func (l *link) judge(b *batch, whole int64) (policy.Plan, terms) {
	k := *b.look
	k.now = l.now()
	row, err := ledger.Link(l.e.deps.Ledger, l.id)
	if err != nil || row.ID == 0 || row.Orphaned {
		return policy.Plan{Action: policy.Wait}, terms{} // the loop finds out why
	}
	cfg := l.config()
	k.policy, _ = Effective(cfg.Policy, row.Overrides) // the loop reports what is wrong with it
	if k.stream {
		k.policy = unconditional(k.policy)
	}
	m, err := ledger.ReadMeta(l.e.deps.Ledger)
	if err == nil {
		k.view.Whole = whole
		k.view.Spent, err = l.spentOf(l.e.deps.Ledger, k.policy, k.now)
	}
	if err != nil {
		return policy.Plan{Action: policy.Wait}, terms{}
	}
	k.up = m.UpNs
	k.view.Pause = pauseOf(row, k.up)
	k.view.HighWater = (k.stream || row.CachedBytes > 0) && l.e.deps.HighWater()
	k.view.Target = policy.TargetState{}
	l.mu.Lock()
	k.view.Demand = l.demand
	l.mu.Unlock()
	l.decide(&k)
	over := k.plan.OverBudget && k.plan.Action == policy.Flush
	return k.plan, terms{since: k.plan.BudgetSince, budget: k.policy.Budget, over: over, forced: over || k.outside(), weight: k.policy.Weight}
}
