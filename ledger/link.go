package ledger

import (
	"encoding/binary"
	"slices"
	"time"

	"forebay/proto"
)

func editLink(tx Tx, id LinkID, fn func(l *LinkRow) error) error {
	var l LinkRow
	ok, err := get(tx, key(pLink, id), &l)
	if err != nil {
		return err
	}
	if !ok {
		return proto.Errorf(proto.ClassConflict, "link %d was dropped", id)
	}
	if err := fn(&l); err != nil {
		return err
	}
	return put(tx, key(pLink, id), l)
}

// apply creates or updates a link. A link of the same name whose source, target or prefix differs is a new link: the old one
// keeps its debt under a name of its own until the relay drops it.
func (e *SetLink) apply(tx Tx) error {
	d, err := dataset(tx, e.From)
	if err != nil {
		return err
	}
	nk := key(pLinkName, e.Name)
	b, err := tx.Get(nk)
	if err != nil {
		return err
	}
	if b != nil {
		id := LinkID(binary.BigEndian.Uint32(b))
		var l LinkRow
		if _, err := get(tx, key(pLink, id), &l); err != nil {
			return err
		}
		if l.Dataset == d.ID && l.Target == e.Target && l.Prefix == e.Prefix {
			l.Coalesce, l.Orphaned = e.Coalesce, false
			e.Link = l
			return put(tx, key(pLink, id), l)
		}
		l.Name, l.Orphaned = "", true // the name goes to the new link; the relay drops the old one
		if err := put(tx, key(pLink, id), l); err != nil {
			return err
		}
	}
	l := LinkRow{Name: e.Name, Dataset: d.ID, From: e.From, Target: e.Target, Prefix: e.Prefix, Coalesce: e.Coalesce, CreatedNs: e.NowNs, SeedHead: d.Head}
	if err := editMeta(tx, func(m *Meta) { m.LastLink++; l.ID = m.LastLink }); err != nil {
		return err
	}
	e.Link = l
	if err := tx.Set(nk, u32(uint32(l.ID))); err != nil {
		return err
	}
	return put(tx, key(pLink, l.ID), l)
}

func (e *Seed) apply(tx Tx) error {
	return editLink(tx, e.Link, func(l *LinkRow) error {
		type item struct {
			ver proto.VersionID
			row VersionRow
		}
		var items []item
		lo := key(pVersion, l.Dataset, l.SeedCursor+1)
		err := tx.Scan(lo, key(pVersion, l.Dataset, l.SeedHead+1), func(k, b []byte) (bool, error) {
			var v VersionRow
			if err := proto.Unmarshal(b, &v); err != nil {
				return false, err
			}
			items = append(items, item{proto.VersionID(tail64(k)), v})
			return len(items) < e.Limit, nil
		})
		if err != nil {
			return err
		}
		l.SeedCursor = l.SeedHead
		if e.Done = len(items) < e.Limit; !e.Done {
			l.SeedCursor = items[len(items)-1].ver
		}
		for _, it := range items {
			if it.row.Superseded || it.row.Desc.Kind == proto.KindTombstone {
				continue
			}
			q := OwedRow{State: OwedReleased, Bytes: it.row.Desc.Size, AckedNs: it.row.SealedNs, Kind: it.row.Desc.Kind}
			if it.row.Cached && it.row.Need > 0 {
				q.State = OwedCached
			}
			if err := owe(tx, l, it.ver, &it.row, q); err != nil {
				return err
			}
			if err := settle(tx, l.Dataset, it.ver, &it.row); err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *OrphanLink) apply(tx Tx) error {
	return editLink(tx, e.Link, func(l *LinkRow) error { l.Orphaned = true; return nil })
}

func (e *DropLink) apply(tx Tx) error {
	err := editLink(tx, e.Link, func(l *LinkRow) error {
		l.Orphaned = true
		owed, err := Owed(tx, l.ID, 0, e.Limit)
		if err != nil {
			return err
		}
		for _, q := range owed {
			if err := unowe(tx, l, q.Version, &q.Row, q.Owed); err != nil {
				return err
			}
			if err := settle(tx, l.Dataset, q.Version, &q.Row); err != nil {
				return err
			}
		}
		e.Objects, e.Done = int64(len(owed)), len(owed) < e.Limit
		return nil
	})
	if err != nil || !e.Done {
		return err
	}
	var l LinkRow
	if _, err := get(tx, key(pLink, e.Link), &l); err != nil {
		return err
	}
	if l.Name != "" {
		if err := tx.Delete(key(pLinkName, l.Name)); err != nil {
			return err
		}
	}
	return tx.Delete(key(pLink, e.Link))
}

func (e *TuneLink) apply(tx Tx) error {
	return editLink(tx, e.Link, func(l *LinkRow) error {
		if e.Paused != nil {
			l.Paused, l.PausedUntil = *e.Paused, e.PausedUntil
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
	})
}

func (e *Confirm) apply(tx Tx) error {
	return editLink(tx, e.Link, func(l *LinkRow) error {
		for _, ver := range e.Versions {
			err := e.each(tx, l, ver)
			if err != nil {
				return err
			}
		}
		if len(e.Versions) > 0 {
			l.ConfirmedNs = max(l.ConfirmedNs, e.NowNs)
		}
		l.ForcedBytes += e.Forced
		l.countDeletes(e.NowNs, e.Deletes)
		return nil
	})
}

func (e *Confirm) each(tx Tx, l *LinkRow, ver proto.VersionID) error {
	return editOwed(tx, l, ver, func(v *VersionRow, q OwedRow) error {
		e.Objects++
		e.Bytes += q.Bytes
		l.ConfirmedObjects++
		l.ConfirmedBytes += q.Bytes
		return unowe(tx, l, ver, v, q)
	})
}

// countDeletes adds deletes to the hour they were carried out in and forgets hours that are past.
func (l *LinkRow) countDeletes(nowNs, n int64) {
	hour := nowNs / int64(time.Hour)
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

// RecentDeletes is how many deletes the link carried out in the 24 hours before nowNs, or since the last approval.
func (l *LinkRow) RecentDeletes(nowNs int64) (n int64) {
	hour := nowNs / int64(time.Hour)
	for h, c := range l.Deletes {
		if h > hour-24 {
			n += c
		}
	}
	return n
}

// editOwed changes what a link owes of one version; a version it does not owe (any more) is passed over.
func editOwed(tx Tx, l *LinkRow, ver proto.VersionID, fn func(v *VersionRow, q OwedRow) error) error {
	var q OwedRow
	if ok, err := get(tx, key(pOwed, l.ID, ver), &q); err != nil || !ok {
		return err
	}
	var v VersionRow
	if _, err := get(tx, key(pVersion, l.Dataset, ver), &v); err != nil {
		return err
	}
	if err := fn(&v, q); err != nil {
		return err
	}
	return settle(tx, l.Dataset, ver, &v)
}

func (e *Park) apply(tx Tx) error {
	return editLink(tx, e.Link, func(l *LinkRow) error {
		for i, ver := range e.Versions {
			err := editOwed(tx, l, ver, func(v *VersionRow, q OwedRow) error {
				parked := q
				parked.Parked, parked.Reason, parked.ParkedNs = true, e.Reasons[i], e.NowNs
				return rewrite(tx, l, ver, v, q, parked)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *Retry) apply(tx Tx) error {
	return editLink(tx, e.Link, func(l *LinkRow) error {
		var parked []OwedVersion
		err := eachOwed(tx, l.ID, l.Dataset, 0, func(q OwedVersion) (bool, error) {
			if q.Owed.Parked && (len(e.Paths) == 0 || slices.Contains(e.Paths, q.Row.Path)) {
				parked = append(parked, q)
			}
			return true, nil
		})
		if err != nil {
			return err
		}
		for _, p := range parked {
			err := editOwed(tx, l, p.Version, func(v *VersionRow, q OwedRow) error {
				back := q
				back.Parked, back.Reason, back.ParkedNs = false, "", 0
				return rewrite(tx, l, p.Version, v, q, back)
			})
			if err != nil {
				return err
			}
			e.Count++
		}
		return nil
	})
}

func (e *Release) apply(tx Tx) error {
	return editLink(tx, e.Link, func(l *LinkRow) error {
		for _, ver := range e.Versions {
			err := editOwed(tx, l, ver, func(v *VersionRow, q OwedRow) error {
				if q.State != OwedCached {
					return nil
				}
				out := q
				out.State = OwedReleased
				e.Bytes += q.Bytes
				return rewrite(tx, l, ver, v, q, out)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
