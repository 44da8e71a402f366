package ledger

import (
	"encoding/binary"

	"forebay/proto"
)

// apply takes a segment that cannot be read out of the ledger: links that needed a version in it own it as released, uploads
// lack the ranges again.
func (e *LoseSegment) apply(tx Tx) error {
	if err := e.loseRanges(tx); err != nil {
		return err
	}
	if err := e.loseVersions(tx); err != nil {
		return err
	}
	// Nothing refers to it now; what is left in the stores is freed like any segment that is not needed.
	return tx.Set(key(pFree, e.Seq), nil2)
}

func (e *LoseSegment) name(path string) {
	if len(e.Lost) < 1000 {
		e.Lost = append(e.Lost, path)
	}
}

func (e *LoseSegment) loseVersions(tx Tx) error {
	type at struct {
		ds  proto.DatasetID
		ver proto.VersionID
	}
	var hit []at
	lo := key(pSegVer, e.Seq)
	err := tx.Scan(lo, after(lo), func(k, _ []byte) (bool, error) {
		hit = append(hit, at{proto.DatasetID(binary.BigEndian.Uint32(k[9:])), proto.VersionID(tail64(k))})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, h := range hit {
		if err := e.loseVersion(tx, h.ds, h.ver); err != nil {
			return err
		}
	}
	return nil
}

// loseVersion makes every link that needed the version from the cache own it as released.
func (e *LoseSegment) loseVersion(tx Tx, ds proto.DatasetID, ver proto.VersionID) error {
	ls, err := links(tx, ds)
	if err != nil {
		return err
	}
	for i := range ls {
		l := &ls[i]
		err := editOwed(tx, l, ver, func(v *VersionRow, q OwedRow) error {
			if q.State != OwedCached {
				return nil
			}
			if !v.Desc.Kind.HasContent() || v.Desc.Size == 0 {
				return nil // described by the ledger: nothing is lost
			}
			e.name(v.Path)
			out := q
			out.State = OwedReleased
			return rewrite(tx, l, ver, v, q, out)
		})
		if err != nil {
			return err
		}
		if err := put(tx, key(pLink, l.ID), *l); err != nil {
			return err
		}
	}
	return nil
}

// loseRanges handles uploads with ranges in the segment: one that is being received lacks them again, the ranges of a sealed
// version mean that the version is lost.
func (e *LoseSegment) loseRanges(tx Tx) error {
	type at struct {
		id  proto.UploadID
		off int64
	}
	var hit []at
	lo := key(pSegRange, e.Seq)
	err := tx.Scan(lo, after(lo), func(k, _ []byte) (bool, error) {
		hit = append(hit, at{proto.UploadID(binary.BigEndian.Uint64(k[9:])), int64(tail64(k))})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, h := range hit {
		var u UploadRow
		ok, err := get(tx, key(pUpload, h.id), &u)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		e.name(u.Path)
		if u.Sealed {
			err = e.loseSealed(tx, h.id, u)
		} else {
			err = e.loseRange(tx, h.id, h.off, u)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *LoseSegment) loseRange(tx Tx, id proto.UploadID, off int64, u UploadRow) error {
	var r RangeRow
	if ok, err := get(tx, key(pRange, id, off), &r); err != nil || !ok {
		return err
	}
	u.Acked -= int64(r.Length)
	if err := tx.Delete(key(pRange, id, off)); err != nil {
		return err
	}
	if err := tx.Delete(key(pSegRange, e.Seq, id, off)); err != nil {
		return err
	}
	if err := addRef(tx, e.Seq, -1, -int64(r.Length)); err != nil {
		return err
	}
	return put(tx, key(pUpload, id), u)
}

// loseSealed finds the versions of the upload's path that retain it.
func (e *LoseSegment) loseSealed(tx Tx, id proto.UploadID, u UploadRow) error {
	var hit []proto.VersionID
	lo := key(pVersion, u.Dataset)
	err := tx.Scan(lo, after(lo), func(k, b []byte) (bool, error) {
		var v VersionRow
		if err := proto.Unmarshal(b, &v); err != nil {
			return false, err
		}
		if v.Content.Upload == id {
			hit = append(hit, proto.VersionID(tail64(k)))
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, ver := range hit {
		if err := e.loseVersion(tx, u.Dataset, ver); err != nil {
			return err
		}
	}
	return nil
}

func (e *MoveSegment) apply(tx Tx) error {
	k := key(pSegment, e.Seq)
	var s SegmentRow
	if ok, err := get(tx, k, &s); err != nil || !ok {
		return err
	}
	was := s.Stored
	s.Placement, s.Stored, s.Degraded = e.Placement, e.Stored, e.Degraded
	if err := editMeta(tx, func(m *Meta) { m.StoredBytes += e.Stored - was }); err != nil {
		return err
	}
	return put(tx, k, s)
}

func (e *FreeSegments) apply(tx Tx) error {
	var n, bytes int64
	for _, seq := range e.Seqs {
		var s SegmentRow
		ok, err := get(tx, key(pSegment, seq), &s)
		if err != nil {
			return err
		}
		if err := tx.Delete(key(pFree, seq)); err != nil {
			return err
		}
		if !ok {
			continue
		}
		n++
		bytes += s.Stored
		if err := tx.Delete(key(pSegment, seq)); err != nil {
			return err
		}
		for _, lo := range [][]byte{key(pSegVer, seq), key(pSegRange, seq)} {
			if err := tx.DeleteRange(lo, after(lo)); err != nil {
				return err
			}
		}
	}
	return editMeta(tx, func(m *Meta) { m.Segments -= n; m.StoredBytes -= bytes })
}

func (e *Waste) apply(tx Tx) error {
	return editMeta(tx, func(m *Meta) { m.WastedBytes += e.Bytes })
}

func (e *BumpScan) apply(tx Tx) error {
	return editMeta(tx, func(m *Meta) { m.ScanToken++; e.Token = m.ScanToken })
}

func (e *SetStores) apply(tx Tx) error {
	return editMeta(tx, func(m *Meta) { m.Stores = e.Stores })
}

func (e *AddEvent) apply(tx Tx) error {
	if err := editMeta(tx, func(m *Meta) { m.LastEvent++; e.Seq = m.LastEvent }); err != nil {
		return err
	}
	e.Event.Seq = e.Seq
	if e.Keep > 0 && e.Seq > e.Keep {
		if err := tx.Delete(key(pEvent, e.Seq-e.Keep)); err != nil {
			return err
		}
	}
	return put(tx, key(pEvent, e.Seq), e.Event)
}
