package flush

import (
	"time"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// seedStep is how many versions one entry makes a new link owe.
const seedStep = 1000

// seed makes a new link owe the next of the versions that were there before it.
func (l *link) seed() (done bool, err error) {
	step := &ledger.Seed{Link: l.id, Limit: seedStep}
	if err = l.e.deps.Ledger.Update(step); err == nil {
		l.at(faultpoint.FlushSeeded)
	}
	return step.Done, err
}

// reclaimEvery is how often released debt is looked through while a link can flush.
const reclaimEvery = 30 * time.Second

// reclaimStep bounds the debts of one look.
const reclaimStep = 2000

// reclaim looks through what a link owes and had to let go. What another link keeps in the cache is flushed from there; more is true when it has to be called again before the link's debts are what they
// can be.
func (l *link) reclaim(k *look) (more bool, err error) {
	if k.row.ReleasedObjects == 0 {
		l.reclaimAt, l.reclaimFrom = time.Time{}, 0
		return false, nil
	}
	if l.reclaimFrom == 0 && k.now.Before(l.reclaimAt) {
		return false, nil
	}
	entry := &ledger.Reowe{Link: l.id, NowNs: k.now.UnixNano()}
	from, rows := l.reclaimFrom, 0
	err = l.e.deps.Ledger.View(func(r ledger.Rows) error {
		return ledger.EachDebt(r, l.id, from, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
			rows++
			l.reclaimFrom = ver
			if q.State != ledger.OwedReleased || q.Parked {
				return rows < reclaimStep, nil
			}
			here, err := inCache(r, k.row.Dataset, ver)
			if here {
				entry.Versions = append(entry.Versions, ver)
			}
			return rows < reclaimStep, err
		})
	})
	if err != nil {
		return false, err
	}
	if rows < reclaimStep { // all of it
		l.reclaimFrom, l.reclaimAt = 0, l.now().Add(reclaimEvery)
	}
	if len(entry.Versions) > 0 {
		if err := l.e.deps.Ledger.Update(entry); err != nil {
			return false, err
		}
		l.at(faultpoint.FlushReclaimed)
	}
	return rows == reclaimStep || entry.Objects > 0, nil
}

// tellLoose tells again of parked hard links whose leader has another content: a holder that was away may bring them yet.
func (l *link) tellLoose(k *look) error {
	if k.row.ParkedObjects == 0 {
		l.looseAt = time.Time{}
		return nil
	}
	if k.now.Before(l.looseAt) {
		return nil
	}
	l.looseAt = k.now.Add(reclaimEvery)
	rows := 0
	return l.e.deps.Ledger.View(func(r ledger.Rows) error {
		return ledger.EachDebt(r, l.id, 0, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
			if rows++; !q.Parked || q.Kind != proto.KindHardlink {
				return rows < reclaimStep, nil
			}
			v, known, err := ledger.Version(r, k.row.Dataset, ver)
			if err == nil && known && !v.Superseded {
				l.e.deps.Loose(k.row.Dataset, v.Path, ver) // whether it is, the relay finds out
			}
			return rows < reclaimStep, err
		})
	})
}

// inCache reports whether a released version is in the cache all the same.
func inCache(r ledger.Rows, ds proto.DatasetID, ver proto.VersionID) (bool, error) {
	v, known, err := ledger.Version(r, ds, ver)
	if err != nil || !known || v.Superseded {
		return false, err // what is superseded goes with its successor
	}
	return v.Cached, nil
}
