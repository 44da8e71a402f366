package flush

import (
	"errors"
	"fmt"

	"forebay/flush/policy"
	"forebay/ledger"
	"forebay/proto"
)

// guardVerdict says what the delete guard holds at a link.
type guardVerdict struct {
	held   int64 // deletes that wait for approval
	to     proto.VersionID
	reason string
	moved  map[proto.VersionID]bool // deletes of what is at a new path: they do not count
	key    guardKey
}

// guardKey is everything that a verdict depends on.
type guardKey struct {
	guard                           policy.Delete
	recent, deletes, owed, released int64
	parked, objects                 int64
	approved                        proto.VersionID
}

// holds reports whether the guard holds a debt.
func (g guardVerdict) holds(ver proto.VersionID, q ledger.OwedRow) bool {
	return g.held > 0 && q.Kind == proto.KindTombstone && ver > g.to
}

// guard asks the policy about all deletes that are due and not approved.
func (l *link) guard(r ledger.Rows, k *look) (guardVerdict, error) {
	row := k.row
	key := guardKey{
		guard: k.policy.Delete, recent: row.RecentDeletes(k.up), deletes: row.OwedDeletes, owed: row.OwedObjects,
		released: row.ReleasedObjects, parked: row.ParkedObjects, objects: k.objects, approved: row.ApprovedTo,
	}
	if key == l.guardCache.key {
		return l.guardCache, nil
	}
	g := guardVerdict{to: row.ApprovedTo, key: key}
	if k.policy.Delete.Propagate && row.OwedDeletes > 0 {
		if err := judge(r, k, &g); err != nil {
			return g, err
		}
	}
	if g.held > 0 && l.once("held") {
		l.tell(Event{Kind: DeletesHeld, Objects: g.held, Reason: g.reason})
	} else if g.held == 0 {
		l.over("held")
	}
	l.guardCache = g
	return g, nil
}

// judgeAnew asks the guard about what is there to be picked: since the look a mass of deletes may have come, and a target that is made
// ready in between takes its time.
func (l *link) judgeAnew(r ledger.Rows, k *look) error {
	row, err := ledger.Link(r, l.id)
	if err != nil || row.ID == 0 {
		return err
	}
	ds, err := ledger.Dataset(r, row.Dataset)
	if err != nil {
		return err
	}
	k.row, k.objects = row, ds.Objects
	k.guard, err = l.guard(r, k)
	return err
}

func judge(r ledger.Rows, k *look, g *guardVerdict) error {
	approved, err := countApproved(r, k.row)
	if err != nil {
		return err
	}
	wanted := k.row.OwedDeletes - approved
	if g.key.recent+wanted >= policy.GuardFloor || k.policy.Delete.Guard.Objects >= 0 && g.key.recent+wanted > k.policy.Delete.Guard.Objects {
		if g.moved, err = moved(r, k.row); err != nil {
			return err
		}
		wanted -= int64(len(g.moved))
	}
	// What the target has is not counted anywhere: it is what lives at the source, plus what is to be deleted, less what
	// the target has not got yet. Taking all that is owed for new is quick and errs to the safe side.
	creates := k.row.OwedObjects - k.row.OwedDeletes + k.row.ParkedObjects
	on := max(0, k.objects+wanted-creates)
	_, g.held, g.reason = policy.Allow(k.policy.Delete.Guard, g.key.recent, wanted, on)
	if g.held == 0 || creates == 0 {
		g.holdMoved()
		return nil
	}
	updates, err := countUpdates(r, k.row)
	if err != nil {
		return err
	}
	on = max(0, k.objects+wanted-max(0, creates-updates))
	_, g.held, g.reason = policy.Allow(k.policy.Delete.Guard, g.key.recent, wanted, on)
	g.holdMoved()
	return nil
}

// holdMoved has deletes of what was moved wait with those that are held: it is all or nothing, and an operator is told of all.
func (g *guardVerdict) holdMoved() {
	if n := int64(len(g.moved)); g.held > 0 && n > 0 {
		g.held += n
		g.reason += fmt.Sprintf(" (besides, %d of what is at a new path now)", n)
	}
}

// countApproved counts the owed deletes that an operator has approved.
func countApproved(r ledger.Rows, row ledger.LinkRow) (n int64, err error) {
	if row.ApprovedTo == 0 {
		return 0, nil
	}
	err = ledger.EachDebt(r, row.ID, 0, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
		if ver <= row.ApprovedTo && !q.Parked && q.Kind == proto.KindTombstone {
			n++
		}
		return ver <= row.ApprovedTo, nil
	})
	return n, err
}

// countLimit bounds how many debts are looked at for the guard.
const countLimit = 20_000

// countUpdates counts owed versions of paths that the target has: neither the first of their path nor of the first copy.
// Those that it does not get to count as new, which errs to the safe side.
func countUpdates(r ledger.Rows, row ledger.LinkRow) (n int64, err error) {
	seen := 0
	err = ledger.EachOwed(r, row, 0, func(q ledger.OwedVersion) (bool, error) {
		seen++
		if q.Owed.Kind != proto.KindTombstone && q.Row.Parent != 0 && q.Version > row.SeedHead {
			n++
		}
		return seen < countLimit, nil
	})
	return n, err
}

// heldLimit bounds the listing of held deletes.
const heldLimit = 1000

var errNotHeld = errors.New("no deletes are held")

// Deletes lists the deletes that the guard holds.
func (e *Engine) Deletes(name string) (proto.HeldDeletes, error) {
	_, h, _, err := e.heldDeletes(name)
	return h, err
}

// ApproveDeletes lets the deletes go that are held at this moment, and returns them. What comes later is judged anew.
func (e *Engine) ApproveDeletes(name string) (proto.HeldDeletes, error) {
	l, h, to, err := e.heldDeletes(name)
	if err != nil {
		return h, err
	}
	if h.Held == 0 {
		return h, proto.Errorf(proto.ClassPermanent, "link %s: %w", name, errNotHeld)
	}
	err = e.deps.Ledger.Update(&ledger.TuneLink{Link: l.id, ApproveTo: to, ApproveNs: e.deps.Clock.Now().UnixNano()})
	if err != nil {
		return h, fmt.Errorf("approve the deletes of link %s: %w", name, err)
	}
	l.poke()
	return h, nil
}

// heldDeletes finds what is held, and up to which version.
func (e *Engine) heldDeletes(name string) (*link, proto.HeldDeletes, proto.VersionID, error) {
	h := proto.HeldDeletes{Link: name, Paths: []string{}}
	l, err := e.known(name)
	if err != nil {
		return nil, h, 0, err
	}
	to := proto.VersionID(0)
	err = e.deps.Ledger.View(func(r ledger.Rows) error {
		k, err := l.glance(r)
		if err != nil || k.guard.held == 0 {
			return err
		}
		h.Reason = k.guard.reason
		return ledger.EachDebt(r, l.id, k.row.ApprovedTo, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
			if q.Parked || !k.guard.holds(ver, q) {
				return true, nil
			}
			h.Held++
			to = ver
			if len(h.Paths) == heldLimit {
				return true, nil
			}
			v, _, err := ledger.Version(r, k.row.Dataset, ver)
			h.Paths = append(h.Paths, v.Path)
			return true, err
		})
	})
	return l, h, to, err
}

// glance gathers what an operator asks for, apart from the loop and leaving no trace in it.
func (l *link) glance(r ledger.Rows) (*look, error) {
	l.mu.Lock()
	shadow := &link{e: l.e, id: l.id, cfg: l.cfg, demand: l.demand, drain: l.drain, ahead: l.ahead, told: map[string]bool{"held": true, "policy": true}}
	stalled := l.shared.State.State == StateStalled
	reason, next := l.shared.Reason, l.shared.NextTry
	l.mu.Unlock()
	k := &look{now: l.now()}
	if stalled && next.After(k.now) {
		shadow.reason, shadow.nextTry = reason, next
	}
	if err := shadow.gather(r, k); err != nil || k.row.ID == 0 {
		return k, err
	}
	shadow.settleDemands(k)
	shadow.decide(k)
	return k, nil
}
