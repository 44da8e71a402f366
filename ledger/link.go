package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"forebay/proto"
)

// apply creates or updates a link. A link of the same name whose source, target or prefix differs is a new link: the old one
// loses its name, owes nothing new, and keeps its debt until the relay drops it.
func (e *SetLink) apply(tx *txn) error {
	d, err := makeDataset(tx, e.From)
	if err != nil {
		return err
	}
	var spent BudgetRow
	next := LinkRow{Name: e.Name, Dataset: d.ID, From: e.From, Target: e.Target, Prefix: e.Prefix, Coalesce: e.Coalesce, CreatedNs: e.NowNs, SeedHead: d.Head}
	nk := key(pLinkName, e.Name)
	b, err := tx.Get(nk)
	if err != nil {
		return err
	}
	if b != nil {
		l, err := tx.link(LinkID(binary.BigEndian.Uint32(b)))
		if err != nil {
			return err
		}
		if l.Dataset == d.ID && l.Target == e.Target && l.Prefix == e.Prefix {
			if !e.Anew {
				l.Coalesce, l.Orphaned = e.Coalesce, false
				e.Link = *l
				return nil
			}
			next.Paused, next.PausedUntil, next.PausedUp, next.Overrides = l.Paused, l.PausedUntil, l.PausedUp, l.Overrides
			if spent, err = Budget(tx, l.ID); err != nil { // what was sent was sent
				return err
			}
		}
		l.Name, l.Orphaned = "", true // the name goes to the new link; the relay drops the old one
	}
	m, err := tx.meta()
	if err != nil {
		return err
	}
	m.LastLink++
	next.ID = m.LastLink
	e.Link = next
	tx.linkRows.add(key(pLink, e.Link.ID), e.Link)
	if err := (&RecoverBudget{Link: next.ID, Windows: spent.Windows}).apply(tx); err != nil {
		return err
	}
	return tx.Set(nk, u32(uint32(e.Link.ID)))
}

func (e *Seed) apply(tx *txn) error {
	l, err := tx.link(e.Link)
	if err != nil {
		return err
	}
	type item struct {
		ver proto.VersionID
		row VersionRow
	}
	var items []item
	limit := max(e.Limit, 1)
	lo := key(pVersion, l.Dataset, l.SeedCursor+1)
	err = tx.Scan(lo, key(pVersion, l.Dataset, l.SeedHead+1), func(k, b []byte) (bool, error) {
		var v VersionRow
		if err := proto.Unmarshal(b, &v); err != nil {
			return false, err
		}
		items = append(items, item{proto.VersionID(tail64(k)), v})
		return len(items) < limit, nil
	})
	if err != nil {
		return err
	}
	l.SeedCursor = l.SeedHead
	if e.Done = len(items) < limit; !e.Done {
		l.SeedCursor = items[len(items)-1].ver
	}
	for _, it := range items {
		if it.row.Desc.Kind == proto.KindTombstone {
			continue
		}
		if owed, err := tx.Get(key(pOwed, l.ID, it.ver)); err != nil {
			return err
		} else if owed != nil { // made owed again (Reowe) before the seeding came to it
			continue
		}
		q, err := it.row.debt(tx, l, it.row.SealedNs)
		if err != nil {
			return err
		}
		// What another link owes of the past is here; a link that wants all versions and comes in its place takes over what is whole.
		if it.row.Superseded && (l.Coalesce || q.State == OwedReleased) {
			continue
		}
		if err := change(tx, l, it.ver, &it.row, nil, &q); err != nil {
			return err
		}
		if err := settle(tx, l.Dataset, it.ver, &it.row); err != nil {
			return err
		}
	}
	return nil
}

func (e *OrphanLink) apply(tx *txn) error {
	l, err := tx.link(e.Link)
	if err != nil {
		return err
	}
	l.Orphaned = true
	return nil
}

func (e *DropLink) apply(tx *txn) error {
	l, err := tx.linkRows.load(tx, key(pLink, e.Link))
	if err != nil {
		return err
	}
	if e.Objects, e.Done = 0, l == nil; e.Done { // by somebody else
		return nil
	}
	if l.Name != "" { // with the first step: one that was configured again amid the steps would count what they took as confirmed
		if err := tx.Delete(key(pLinkName, l.Name)); err != nil {
			return err
		}
	}
	l.Name, l.Orphaned = "", true
	limit := max(e.Limit, 1)
	var owed []proto.VersionID
	lo := key(pOwed, l.ID)
	err = tx.Scan(lo, after(lo), func(k, _ []byte) (bool, error) {
		owed = append(owed, proto.VersionID(tail64(k)))
		return len(owed) < limit, nil
	})
	if err != nil {
		return err
	}
	for _, ver := range owed {
		err := editOwed(tx, l, ver, func(*VersionRow, OwedRow) (*OwedRow, error) { return nil, nil })
		if err != nil {
			return err
		}
	}
	if e.Objects, e.Done = int64(len(owed)), len(owed) < limit; !e.Done {
		return nil
	}
	if err := tx.Delete(key(pBudget, l.ID)); err != nil {
		return err
	}
	return tx.linkRows.remove(tx, key(pLink, l.ID))
}

func (e *TuneLink) apply(tx *txn) error {
	l, err := tx.link(e.Link)
	if err != nil {
		return err
	}
	if e.Paused != nil {
		l.Paused, l.PausedUntil, l.PausedUp = *e.Paused, e.PausedUntil, e.PausedUp
	}
	if slices.Contains(e.Reset, "*") {
		l.Overrides = nil
	}
	for _, k := range e.Reset {
		delete(l.Overrides, k)
	}
	for k, v := range e.Set {
		if l.Overrides == nil {
			l.Overrides = map[string]Override{}
		}
		l.Overrides[k] = v
	}
	if e.ApproveTo != 0 {
		l.ApprovedTo, l.ApprovedNs = e.ApproveTo, e.ApproveNs
		l.Deletes = nil
	}
	return nil
}

func (e *Confirm) apply(tx *txn) error {
	l, err := tx.link(e.Link)
	if err != nil {
		return err
	}
	e.Objects, e.Bytes = 0, 0
	for _, ver := range e.Versions {
		err := editOwed(tx, l, ver, func(_ *VersionRow, q OwedRow) (*OwedRow, error) {
			e.Objects++
			e.Bytes += q.Bytes
			return nil, nil
		})
		if err != nil {
			return err
		}
	}
	l.ConfirmedObjects += e.Objects
	l.ConfirmedBytes += e.Bytes
	if len(e.Versions) > 0 {
		l.ConfirmedNs = max(l.ConfirmedNs, e.NowNs)
	}
	l.ForcedBytes += e.Forced
	l.Batch = max(l.Batch, e.Batch)
	if e.Speed > 0 && (!e.Paced || e.Speed > l.Speed) {
		l.Speed = e.Speed
	}
	m, err := tx.meta()
	if err != nil {
		return err
	}
	l.countDeletes(m.UpNs, e.Deletes)
	return nil
}

// countDeletes adds deletes to the hour they were carried out in and forgets hours that are past.
func (l *LinkRow) countDeletes(upNs, n int64) {
	hour := upNs / int64(time.Hour)
	for h := range l.Deletes {
		if h <= hour-24 {
			delete(l.Deletes, h)
		}
	}
	if n == 0 {
		return
	}
	if l.Deletes == nil {
		l.Deletes = map[int64]int64{}
	}
	l.Deletes[hour] += n
}

// RecentDeletes is how many deletes the link carried out in the 24 hours of running time before upNs (Meta.UpNs), or since the
// last approval.
func (l *LinkRow) RecentDeletes(upNs int64) (n int64) {
	hour := upNs / int64(time.Hour)
	for h, c := range l.Deletes {
		if h > hour-24 {
			n += c
		}
	}
	return n
}

func (e *Park) apply(tx *txn) error {
	l, err := tx.link(e.Link)
	if err != nil {
		return err
	}
	if len(e.Reasons) != len(e.Versions) {
		return fmt.Errorf("ledger: %d versions to park for %d reasons", len(e.Versions), len(e.Reasons))
	}
	for i, ver := range e.Versions {
		err := editOwed(tx, l, ver, func(_ *VersionRow, q OwedRow) (*OwedRow, error) {
			q.Parked, q.Reason, q.ParkedNs = true, e.Reasons[i], e.NowNs
			return &q, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *Retry) apply(tx *txn) error {
	l, err := tx.link(e.Link)
	if err != nil {
		return err
	}
	var parked []proto.VersionID
	err = eachOwed(tx, l.ID, l.Dataset, 0, func(q OwedVersion) (bool, error) {
		if q.Owed.Parked && (len(e.Paths) == 0 || slices.Contains(e.Paths, q.Row.Path)) {
			parked = append(parked, q.Version)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	e.Count = int64(len(parked))
	for _, ver := range parked {
		err := editOwed(tx, l, ver, func(_ *VersionRow, q OwedRow) (*OwedRow, error) {
			q.Parked, q.Reason, q.ParkedNs = false, "", 0
			return &q, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *Release) apply(tx *txn) error {
	l, err := tx.link(e.Link)
	if err != nil {
		return err
	}
	e.Bytes = 0
	for _, ver := range e.Versions {
		err := editOwed(tx, l, ver, func(v *VersionRow, q OwedRow) (*OwedRow, error) {
			switch {
			case q.State != OwedCached || v.Superseded || v.Desc.Kind == proto.KindTombstone:
			case q.MetaOnly || !v.hasBytes():
				return &q, releaseHome(tx, l.Dataset, ver, v)
			default:
				e.Bytes += q.Bytes - q.Staged
				q.State, q.Staged = OwedReleased, 0
			}
			return &q, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
