package ledger

import "forebay/proto"

// Reowe makes a link owe current versions in full, whatever it had confirmed: what a verify found missing or different at the
// target, what turned out to have no content there for its new metadata, and what was released while another link kept it
// in the cache. A version is owed as cached where the cache has it and as released where not, so that a holder is asked for
// it. Superseded, unknown and parked versions are passed over; repeating it changes nothing.
type Reowe struct {
	Link     LinkID
	Versions []proto.VersionID
	NowNs    int64 // the age of a debt that is made anew counts from here

	Objects int64 // result: versions whose debt is new or changed
}

func (e *Reowe) apply(tx *txn) error {
	l, err := tx.link(e.Link)
	if err != nil {
		return err
	}
	e.Objects = 0
	for _, ver := range e.Versions {
		if err := e.one(tx, l, ver); err != nil {
			return err
		}
	}
	return nil
}

func (e *Reowe) one(tx *txn, l *LinkRow, ver proto.VersionID) error {
	var v VersionRow
	if ok, err := get(tx, key(pVersion, l.Dataset, ver), &v); err != nil || !ok || v.Superseded {
		return err
	}
	var q OwedRow
	owed, err := get(tx, key(pOwed, l.ID, ver), &q)
	if err != nil || q.Parked {
		return err
	}
	old := (*OwedRow)(nil)
	full, err := v.debt(tx, l, e.NowNs)
	if err != nil {
		return err
	}
	if owed {
		full.AckedNs, old = q.AckedNs, &q
		if q == full {
			return nil
		}
	}
	if err := change(tx, l, ver, &v, old, &full); err != nil {
		return err
	}
	e.Objects++
	return settle(tx, l.Dataset, ver, &v)
}

// EachDebt calls fn for what a link owes, oldest first, above a version, without reading the versions: for passing over many.
func EachDebt(r Rows, link LinkID, above proto.VersionID, fn func(ver proto.VersionID, q OwedRow) (bool, error)) error {
	return r.Scan(key(pOwed, link, above+1), after(key(pOwed, link)), func(k, b []byte) (bool, error) {
		var q OwedRow
		if err := proto.Unmarshal(b, &q); err != nil {
			return false, err
		}
		return fn(proto.VersionID(tail64(k)), q)
	})
}
