package flush

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"forebay/flush/policy"
	"forebay/ledger"
	"forebay/proto"
)

// look is what a loop knows at one moment, and what follows from it.
type look struct {
	now     time.Time
	row     ledger.LinkRow
	objects int64     // of the dataset
	up      int64     // the relay's running time, see ledger.Meta
	ahead   time.Time // since when debts have been seen whose stamps lie ahead of the clock; see acked
	policy  policy.Policy
	guard   guardVerdict
	view    policy.View
	plan    policy.Plan
	notes   []string
	filling bool // the first copy is not complete at the target
	stream  bool // it is for a stream, see forStream
}

// seeding reports whether versions that were there before the link are still to be made owed.
func (k *look) seeding() bool { return k.row.SeedCursor < k.row.SeedHead }

func (k *look) paused() bool {
	p := k.view.Pause
	return p.On && (p.Until.IsZero() || k.now.Before(p.Until))
}

// ledgerOutdated is why no link of a ledger that was put back from an old copy sends anything.
const ledgerOutdated = "the ledger is older than what was acknowledged: nothing is sent or deleted before it is rebuilt (ledger-outdated)"

// outside reports whether a window is defined and closed.
func (k *look) outside() bool { return !k.plan.WindowOpensAt.IsZero() }

// look gathers a view from the ledger, in one moment of it, and decides.
func (l *link) look() (*look, error) {
	k := &look{now: l.now()}
	err := l.e.deps.Ledger.View(func(r ledger.Rows) error { return l.gather(r, k) })
	if err != nil || k.row.ID == 0 {
		return k, err
	}
	l.settleDemands(k)
	l.decide(k)
	if k.guard.held > 0 { // the deletes of a day ago cease to count, hour by hour
		k.plan.NextLook = earliest(k.plan.NextLook, k.now.Truncate(time.Hour).Add(time.Hour))
	}
	return k, nil
}

func (l *link) gather(r ledger.Rows, k *look) error {
	var err error
	if k.row, err = ledger.Link(r, l.id); err != nil || k.row.ID == 0 {
		return err
	}
	ds, err := ledger.Dataset(r, k.row.Dataset)
	if err != nil {
		return err
	}
	k.objects = ds.Objects
	m, err := ledger.ReadMeta(r)
	if err != nil {
		return err
	}
	k.up, k.ahead = m.UpNs, k.now
	l.effective(k)
	if k.guard, err = l.guard(r, k); err != nil {
		return err
	}
	v := &k.view
	v.Objects = k.row.OwedObjects - k.row.ReleasedObjects - k.guard.held
	v.Bytes = l.toSend(k.row)
	v.Parked, v.HeldDeletes = k.row.ParkedObjects, k.guard.held
	v.HighWater = k.row.CachedBytes > 0 && l.e.deps.HighWater()
	v.Pause = pauseOf(k.row, k.up)
	if m.Outdated { // what it takes for the newest may be older than what the target has (I18)
		v.Barred = ledgerOutdated
	}
	v.Target = policy.TargetState{Reason: l.reason, NextTry: l.nextTry}
	if v.Spent, err = l.spentOf(r, k.policy, k.now); err != nil {
		return err
	}
	if err := l.findOldest(r, k); err != nil {
		return err
	}
	return l.findFilling(r, k)
}

// toSend is how many bytes of what is owed and cached go to the target: at most all, and at most what the cache has of it where the target
// uses again what did not change. Parked ones that are cached make it more than it is.
func (l *link) toSend(row ledger.LinkRow) int64 {
	n := row.OwedBytes - row.ReleasedBytes
	if l.sess != nil && l.sess.info.Reuses {
		n = min(n, row.CachedBytes)
	}
	return n
}

// acked is when a debt was acknowledged, for its age. A stamp ahead of the clock is from before the clock was set back: its age
// counts from when it was first seen to lie ahead, so that no age, deadline or order by hand waits for the clock to come there.
func (k *look) acked(ns int64) time.Time {
	if at := time.Unix(0, ns); !at.After(k.now) {
		return at
	}
	return k.ahead
}

// noteAhead remembers since when the oldest debt's stamp has been ahead of the clock.
func (l *link) noteAhead(k *look, oldest time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !oldest.After(k.now):
		l.ahead = time.Time{}
	case l.ahead.IsZero() || l.ahead.After(k.now):
		l.ahead = k.now
	}
	if !l.ahead.IsZero() {
		k.ahead = l.ahead
	}
}

// pauseOf is a link's pause. One with an end is over, too, once it has been that long in the running time up: else a clock that
// was set back would make it longer.
func pauseOf(row ledger.LinkRow, up int64) policy.Pause {
	p := policy.Pause{On: row.Paused && (row.PausedUp == 0 || up < row.PausedUp)}
	if row.PausedUntil != 0 {
		p.Until = time.Unix(0, row.PausedUntil)
	}
	return p
}

// effective puts what was set by hand on top of the file's policy.
func (l *link) effective(k *look) {
	p, err := Effective(l.config().Policy, k.row.Overrides)
	k.policy = p
	if err == nil {
		l.over("policy")
		return
	}
	k.notes = append(k.notes, err.Error())
	if l.once("policy") {
		l.tell(Event{Kind: PolicyProblem, Err: err})
	}
}

// Effective returns a link's policy in force: the file's with the values set by hand on top. Values that cannot be set are
// left out; they, and relations between settings that no longer hold, are in the error.
func Effective(file policy.Policy, set map[string]ledger.Override) (policy.Policy, error) {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var errs []error
	for _, k := range keys {
		if err := policy.Set(&file, k, set[k].Value); err != nil {
			errs = append(errs, fmt.Errorf("set by hand, without effect: %w", err))
		}
	}
	if err := policy.Validate(&file); err != nil {
		errs = append(errs, fmt.Errorf("set by hand, with the file: %w", err))
	}
	return file, errors.Join(errs...)
}

// floor is a version up to which nothing can be flushed, so that what is parked, released or held for long is not walked
// over each time. Content that came again or a retry makes it wrong: it is good for a while only.
type floor struct {
	at    proto.VersionID
	since time.Time
	guard guardKey
}

const floorLife = 30 * time.Second

// flushable reports whether a debt can be flushed when its turn comes.
func (k *look) flushable(ver proto.VersionID, q ledger.OwedRow) bool {
	return !q.Parked && q.State == ledger.OwedCached && !k.guard.holds(ver, q)
}

// findOldest fills in View.Oldest and raises the floor to just below it.
func (l *link) findOldest(r ledger.Rows, k *look) error {
	if k.now.Sub(l.floor.since) > floorLife || l.floor.guard != k.guard.key {
		l.floor = floor{since: k.now, guard: k.guard.key}
	}
	if k.view.Objects <= 0 {
		return nil
	}
	for {
		found := false
		err := ledger.EachDebt(r, l.id, l.floor.at, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
			if !k.flushable(ver, q) {
				l.floor.at = ver
				return true, nil
			}
			found = true
			l.noteAhead(k, time.Unix(0, q.AckedNs))
			k.view.Oldest, k.view.Whole = k.acked(q.AckedNs), whole(q)
			return false, nil
		})
		if err != nil || found {
			return err
		}
		if l.floor.since.Equal(k.now) { // looked through all of it
			k.view.Objects, k.view.Bytes = 0, 0
			return nil
		}
		l.floor = floor{since: k.now, guard: k.guard.key}
	}
}

// findFilling reports whether something of the first copy is owed. Parked objects do not count: they are shown as such.
func (l *link) findFilling(r ledger.Rows, k *look) error {
	if k.row.SeedHead == 0 || k.row.OwedObjects == 0 {
		return nil
	}
	rows := 0
	return ledger.EachDebt(r, l.id, 0, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
		rows++
		k.filling = !q.Parked && ver <= k.row.SeedHead
		return q.Parked && ver <= k.row.SeedHead && rows < 1000, nil
	})
}

// whole is how many bytes of a debt have to go in one window: what is cut in the middle is begun anew, unless it is large.
func whole(q ledger.OwedRow) int64 {
	if q.Bytes < resumeFrom {
		return q.Bytes
	}
	return 0
}

// settleDemands forgets a flush by hand, and conditions that were met, once nothing of that time waits.
func (l *link) settleDemands(k *look) {
	done := func(at time.Time) bool { return k.view.Objects <= 0 || k.view.Oldest.After(at) }
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.drain.to.IsZero() && done(l.drain.to) {
		l.drain = drain{}
	}
	if !l.demand.At.IsZero() && done(l.demand.At) {
		l.demand = policy.Demand{}
	}
	k.view.Demand = l.demand
}

// decide asks the policy. Conditions that are met let all through that waits at that moment, in as many batches as it takes.
func (l *link) decide(k *look) {
	l.mu.Lock()
	defer l.mu.Unlock()
	byHand := !k.view.Demand.At.IsZero()
	v := k.view
	if !byHand {
		v.Demand.At = l.drain.to
	}
	k.plan = policy.Decide(v, k.now, k.policy)
	p := &k.plan
	if p.ByHand && !byHand {
		p.ByHand, p.Reason = false, l.drain.reason
		return
	}
	conditions := k.policy.Size > 0 || k.policy.Age > 0 || k.policy.Objects > 0
	if p.Action == policy.Flush && !p.ByHand && !p.Forced && conditions && l.drain.to.IsZero() {
		l.drain = drain{k.now, p.Reason}
	}
}

// announce shows what the link is doing while no batch is under way.
func (l *link) announce(k *look) {
	state, reason, next := l.describe(k)
	if n := len(l.streaming.reasons); n > 0 && state != StatePaused && state != StateStalled {
		if what := strings.Join(l.streaming.reasons, "; "); state == StateIdle {
			state, reason = StateFlushing, what
		} else {
			reason += "; " + what
		}
	}
	class := l.confirmClass(k)
	first := l.firstFailure()
	l.publish(func(s *shared) {
		s.State.State, s.Reason, s.NextTry = state, reason, next
		s.WindowOpens, s.WindowCloses = k.plan.WindowOpensAt, k.plan.WindowClosesAt
		s.Budget, s.BudgetSince, s.BudgetRenews, s.BudgetSpent = int64(k.policy.Budget), k.plan.BudgetSince, k.plan.BudgetRenews, k.view.Spent
		s.HeldDeletes, s.DeferredObjects = k.guard.held, int64(len(l.deferred))
		s.Confirm, s.StalledAt = class, l.since
		s.backlogBytes = k.view.Bytes
		s.Notes = append([]string(nil), k.notes...)
		if l.sess != nil {
			s.Target = l.sess.info
			s.Notes = append(s.Notes, l.sess.info.Notes...)
		}
		if first != nil {
			s.Notes = append(s.Notes, first.String())
		}
		if err := l.lastErr; err != nil {
			s.LastError, s.LastErrorAt = err.Error(), l.lastErrAt
		}
	})
}

// describe finds the state, its reason, and when something is tried again.
func (l *link) describe(k *look) (state, reason string, next time.Time) {
	switch {
	case k.view.Barred != "":
		return StateWaiting, k.plan.Reason, time.Time{}
	case k.paused():
		return StatePaused, k.plan.Reason, k.view.Pause.Until
	case k.seeding():
		return StateSeeding, "finding what the first copy needs", time.Time{}
	case l.troubled():
		return StateStalled, l.reason, l.nextTry
	case k.plan.Action == policy.Flush:
		if f := l.firstFailure(); f != nil && len(l.deferred) >= int(k.view.Objects) {
			return StateStalled, f.String(), f.notBefore
		}
		return filling(k, StateFlushing), k.plan.Reason, time.Time{}
	case k.view.Objects > 0:
		return StateWaiting, k.plan.Reason, k.plan.NextLook
	case k.row.ReleasedObjects > 0:
		return filling(k, StateWaiting), fmt.Sprintf("%d objects are owed and not cached: their holders are asked for them again, for what is streamed to another link once that has it", k.row.ReleasedObjects), time.Time{}
	case k.guard.held > 0:
		return StateHeld, k.guard.reason + ": look with deletes, then approve", time.Time{}
	}
	return StateIdle, k.plan.Reason, time.Time{}
}

func filling(k *look, state string) string {
	if k.filling {
		return StateSeeding
	}
	return state
}
