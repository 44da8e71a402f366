package ledger

import (
	"fmt"

	"forebay/proto"
)

// An Owed row, the counts of it in its link and in its version, and what the version retains of the cache change together,
// in change and nowhere else.

// count adds an owed row to a link's counts (sign 1) or takes it out (sign -1).
func (l *LinkRow) count(q OwedRow, sign int64) {
	if q.State == OwedCached {
		l.CachedBytes += sign * (q.Bytes - q.Staged)
	}
	if q.Parked {
		l.ParkedObjects += sign
		return
	}
	l.OwedObjects += sign
	l.OwedBytes += sign * q.Bytes
	if q.Kind == proto.KindTombstone {
		l.OwedDeletes += sign
	}
	if q.State == OwedReleased {
		l.ReleasedObjects += sign
		l.ReleasedBytes += sign * q.Bytes
	}
}

// count adds an owed row to a version's counts (sign 1) or takes it out (sign -1).
func (v *VersionRow) count(q OwedRow, sign int) {
	v.Owed += sign
	switch {
	case q.State == OwedCached:
		v.Need += sign
		if !q.MetaOnly {
			v.NeedBytes += sign
		}
	case !q.Parked:
		v.Asking += sign
	}
}

// debt returns the row of a link that owes v in full: from the cache if it has what it takes, with what the link's target has
// staged of a stream.
func (v *VersionRow) debt(tx *txn, l *LinkRow, ackedNs int64) (OwedRow, error) {
	q := OwedRow{State: OwedCached, AckedNs: ackedNs, Kind: v.Desc.Kind}
	if !v.hasBytes() {
		return q, nil
	}
	q.Bytes = v.Desc.Size
	able, err := v.able(tx, l)
	if !able {
		q.State = OwedReleased
	} else {
		q.Staged = v.Content.From
	}
	return q, err
}

// able reports whether a link can flush v's bytes with what is in the cache, and in its target's stage.
func (v *VersionRow) able(tx *txn, l *LinkRow) (bool, error) {
	return v.ableWith(tx, l, false)
}

// ableWith is able; with is set where the link's target has the bytes that v lacks, or will have before v's turn.
func (v *VersionRow) ableWith(tx *txn, l *LinkRow, with bool) (bool, error) {
	if !v.Cached || v.Content.Lacks > 0 && !with {
		return false, nil
	}
	if v.Content.From == 0 {
		return true, nil
	}
	d, err := Staged(tx, v.Content.Upload, l.ID)
	return d >= v.Content.From, err
}

// change replaces what a link owes of a version: old nil for what it did not owe, new nil for what it owes no more. It changes
// l and v in place; the caller settles v.
func change(tx *txn, l *LinkRow, ver proto.VersionID, v *VersionRow, old, new *OwedRow) error {
	need, bytes := v.Need, v.NeedBytes
	if old != nil {
		l.count(*old, -1)
		v.count(*old, -1)
	}
	k := key(pOwed, l.ID, ver)
	var err error
	if new != nil {
		l.count(*new, 1)
		v.count(*new, 1)
		err = put(tx, k, new)
	} else {
		err = tx.Delete(k)
	}
	if err != nil {
		return err
	}
	if v.Owed < 0 || v.Need < 0 || v.NeedBytes < 0 || v.Asking < 0 {
		return fmt.Errorf("ledger: version %d of dataset %d would be owed by %d links, needed by %d (bytes: %d), asked for by %d", ver, l.Dataset, v.Owed, v.Need, v.NeedBytes, v.Asking)
	}
	return retention(tx, l.Dataset, ver, v, need, bytes)
}

// whole reports whether the cache has what any link needs of v, but for what streams let go of.
func (v *VersionRow) whole() bool { return v.Cached && v.Content.Lacks == 0 }

// settle writes a version back after links came or went: one that is superseded and owed by nobody leaves the ledger; one
// that an unparked link owes and the cache has not, or not all of, is asked for. What is superseded is not: no holder would be believed
// to have it.
func settle(tx *txn, ds proto.DatasetID, ver proto.VersionID, v *VersionRow) error {
	asked := v.Asking > 0 && !v.whole() && !v.Superseded
	if asked != v.Asked {
		if err := setAsked(tx, ds, ver, asked); err != nil {
			return err
		}
		v.Asked = asked
	}
	if v.Superseded && v.Owed == 0 {
		return tx.Delete(key(pVersion, ds, ver))
	}
	return put(tx, key(pVersion, ds, ver), v)
}

// setAsked puts a version on the list of those to be asked for again, or takes it off.
func setAsked(tx *txn, ds proto.DatasetID, ver proto.VersionID, on bool) error {
	d, err := tx.dataset(ds)
	if err != nil {
		return err
	}
	k := key(pAsked, ds, ver)
	if on {
		d.Asked++
		return tx.Set(k, mark)
	}
	d.Asked--
	return tx.Delete(k)
}

// editOwed changes what a link owes of one version: fn returns the row that replaces q, or nil when it is owed no more. A
// version that the link does not owe (any more) is passed over.
func editOwed(tx *txn, l *LinkRow, ver proto.VersionID, fn func(v *VersionRow, q OwedRow) (*OwedRow, error)) error {
	var q OwedRow
	if ok, err := get(tx, key(pOwed, l.ID, ver), &q); err != nil || !ok {
		return err
	}
	var v VersionRow
	if ok, err := get(tx, key(pVersion, l.Dataset, ver), &v); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("ledger: link %d owes version %d of dataset %d, which is not known", l.ID, ver, l.Dataset)
	}
	now, err := fn(&v, q)
	if err != nil {
		return err
	}
	if err := change(tx, l, ver, &v, &q, now); err != nil {
		return err
	}
	return settle(tx, l.Dataset, ver, &v)
}
