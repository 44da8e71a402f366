package flush

import (
	"fmt"
	"time"

	"forebay/flush/policy"
	"forebay/ledger"
	"forebay/proto"
)

// planFirst bounds the objects that a plan names.
const planFirst = 20

// Plan says what the next flush of a link would do, and when.
func (e *Engine) Plan(name string) (proto.PlanReport, error) {
	p := proto.PlanReport{Link: name, First: []proto.BacklogItem{}}
	l, err := e.known(name)
	if err != nil {
		return p, err
	}
	err = e.deps.Ledger.View(func(r ledger.Rows) error {
		k, err := l.glance(r)
		if err != nil {
			return err
		}
		if k.row.ID == 0 {
			return proto.Errorf(proto.ClassConflict, "link %s was dropped", name)
		}
		p.Action, p.Reason, p.Forced = string(k.plan.Action), k.plan.Reason, k.plan.Forced
		p.NextLook, p.Held = stamp(k.plan.NextLook), k.guard.held
		return planItems(r, k, e.cfg.BatchObjects, &p)
	})
	return p, err
}

// planItems counts what the next batch would have.
func planItems(r ledger.Rows, k *look, limit int, p *proto.PlanReport) error {
	return ledger.EachDebt(r, k.row.ID, 0, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
		if !k.flushable(ver, q) || !k.plan.AckedUpTo.IsZero() && k.acked(q.AckedNs).After(k.plan.AckedUpTo) {
			return true, nil
		}
		if p.Objects > 0 && p.Bytes+q.Bytes > k.plan.MaxBytes {
			return false, nil
		}
		p.Objects++
		p.Bytes += q.Bytes
		if q.Kind == proto.KindTombstone {
			p.Deletes++
		}
		if len(p.First) < planFirst {
			v, _, err := ledger.Version(r, k.row.Dataset, ver)
			if err != nil {
				return false, err
			}
			p.First = append(p.First, proto.BacklogItem{
				Link: k.row.Name, Path: v.Path, Version: ver, Kind: q.Kind.String(), Bytes: q.Bytes,
				AckedAt: stamp(time.Unix(0, q.AckedNs)), State: "cached",
			})
		}
		return p.Objects < int64(limit), nil
	})
}

// FlushNow flushes all that is owed at this moment whatever the conditions say, and outside the window too when
// ignoreWindow is set. What failed and waits for its next try is tried at once. A paused link, and an outdated ledger, are ClassConflict.
func (e *Engine) FlushNow(name string, ignoreWindow bool) (proto.FlushReply, error) {
	var reply proto.FlushReply
	l, err := e.known(name)
	if err != nil {
		return reply, err
	}
	now := e.deps.Clock.Now()
	err = e.deps.Ledger.View(func(r ledger.Rows) error {
		row, err := ledger.Link(r, l.id)
		if err != nil {
			return err
		}
		m, err := ledger.ReadMeta(r)
		if err != nil {
			return err
		}
		if m.Outdated {
			return proto.Errorf(proto.ClassConflict, "%s", ledgerOutdated)
		}
		if p := pauseOf(row, m.UpNs); p.On && (p.Until.IsZero() || now.Before(p.Until)) {
			return proto.Errorf(proto.ClassConflict, "link %s is paused: resume it first", name)
		}
		ds, err := ledger.Dataset(r, row.Dataset)
		reply = proto.FlushReply{Objects: row.OwedObjects, Bytes: row.OwedBytes, Until: ds.Head}
		return err
	})
	if err != nil {
		return reply, fmt.Errorf("flush link %s: %w", name, err)
	}
	l.mu.Lock()
	ignoreWindow = ignoreWindow || l.demand.IgnoreWindow
	l.demand = policy.Demand{At: now, IgnoreWindow: ignoreWindow}
	if l.shared.State.State == StatePaused { // resumed a moment ago: the loop has not looked yet, and who asked looks at this
		l.shared.State.State, l.shared.Reason = StateWaiting, "asked to flush"
	}
	l.mu.Unlock()
	l.hasty.Store(true)
	l.poke()
	return reply, nil
}

// Failures lists up to limit objects of a link that are not backed up and will not be without an operator: parked ones and
// deletes that are held.
func (e *Engine) Failures(name string, limit int) ([]proto.FailureInfo, error) {
	l, err := e.known(name)
	if err != nil {
		return nil, err
	}
	var out []proto.FailureInfo
	err = e.deps.Ledger.View(func(r ledger.Rows) error {
		k, err := l.glance(r)
		if err != nil || k.row.ParkedObjects == 0 && k.guard.held == 0 {
			return err
		}
		return ledger.EachDebt(r, l.id, 0, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
			f := proto.FailureInfo{Dataset: k.row.From.String(), Link: name, Kind: proto.FailParked, Reason: q.Reason, Since: stamp(time.Unix(0, q.ParkedNs))}
			if !q.Parked {
				if !k.guard.holds(ver, q) {
					return true, nil
				}
				f.Kind, f.Reason, f.Since = proto.FailHeld, k.guard.reason, stamp(time.Unix(0, q.AckedNs))
			}
			v, _, err := ledger.Version(r, k.row.Dataset, ver)
			f.Path = v.Path
			out = append(out, f)
			return len(out) < limit, err
		})
	})
	return out, err
}

// stamp prints a time as answers to operators have it.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
