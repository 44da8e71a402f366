package ledger

import "forebay/proto"

// owe and its kin keep three things together: the Owed row, the version's Owed and Need, and the link's counts.

// count adds an owed row to a link's counts (sign 1) or takes it out (sign -1).
func (l *LinkRow) count(q OwedRow, sign int64) {
	if q.State == OwedCached {
		l.CachedBytes += sign * q.Bytes
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

// owe makes a link owe a version. Writes the Owed row and changes l and v, which the caller writes back.
func owe(tx Tx, l *LinkRow, ver proto.VersionID, v *VersionRow, q OwedRow) error {
	v.Owed++
	if q.State == OwedCached {
		if err := need(tx, l.Dataset, ver, v, 1); err != nil {
			return err
		}
	} else if err := setAsked(tx, l.Dataset, ver, true); err != nil {
		return err
	}
	l.count(q, 1)
	return put(tx, key(pOwed, l.ID, ver), q)
}

// unowe is the reverse of owe.
func unowe(tx Tx, l *LinkRow, ver proto.VersionID, v *VersionRow, q OwedRow) error {
	v.Owed--
	l.count(q, -1)
	if err := tx.Delete(key(pOwed, l.ID, ver)); err != nil {
		return err
	}
	if q.State == OwedCached {
		return need(tx, l.Dataset, ver, v, -1)
	}
	return nil
}

// rewrite replaces an owed row by one in another state.
func rewrite(tx Tx, l *LinkRow, ver proto.VersionID, v *VersionRow, old, new OwedRow) error {
	if err := unowe(tx, l, ver, v, old); err != nil {
		return err
	}
	return owe(tx, l, ver, v, new)
}

// setAsked puts a version on the list of those to be asked for again, or takes it off.
func setAsked(tx Tx, ds proto.DatasetID, ver proto.VersionID, on bool) error {
	k := key(pAsked, ds, ver)
	old, err := tx.Get(k)
	if err != nil || (old != nil) == on {
		return err
	}
	var d DatasetRow
	if _, err := get(tx, key(pDataset, ds), &d); err != nil {
		return err
	}
	if on {
		d.Asked++
		err = tx.Set(k, nil2)
	} else {
		d.Asked--
		err = tx.Delete(k)
	}
	if err != nil {
		return err
	}
	return put(tx, key(pDataset, ds), d)
}

// links returns the links of a dataset, orphaned ones too: they owe until they are dropped.
func links(r Rows, ds proto.DatasetID) ([]LinkRow, error) {
	var out []LinkRow
	lo := key(pLink)
	err := r.Scan(lo, after(lo), func(_, v []byte) (bool, error) {
		var l LinkRow
		if err := proto.Unmarshal(v, &l); err != nil {
			return false, err
		}
		if l.Dataset == ds {
			out = append(out, l)
		}
		return true, nil
	})
	return out, err
}

// settle writes a version back after links came or went: one that is superseded and owed by nobody leaves the ledger, and
// one that no released link owes any more is no longer asked for.
func settle(tx Tx, ds proto.DatasetID, ver proto.VersionID, v *VersionRow) error {
	if v.Owed == 0 || v.Cached {
		if err := setAsked(tx, ds, ver, false); err != nil {
			return err
		}
	}
	if v.Superseded && v.Owed == 0 {
		return tx.Delete(key(pVersion, ds, ver))
	}
	return put(tx, key(pVersion, ds, ver), v)
}
