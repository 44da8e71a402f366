package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"forebay/proto"
)

// apply takes a segment that cannot be read out of the ledger: links that needed bytes in it owe them as released, uploads
// lack the ranges again, and what only was described in it lives on by the ledger's row.
func (e *LoseSegment) apply(tx *txn) error {
	seg, err := tx.segment(e.Seq)
	if err != nil || seg == nil {
		return err
	}
	l := loser{tx: tx, e: e, ds: seg.Dataset, seen: map[string]bool{}}
	e.Lost = nil
	if l.links, err = tx.links(seg.Dataset); err != nil {
		return err
	}
	if err := l.ranges(); err != nil {
		return err
	}
	if err := l.versions(); err != nil {
		return err
	}
	if seg.Refs != 0 {
		return fmt.Errorf("ledger: lost segment %d is still needed by %d pieces", e.Seq, seg.Refs)
	}
	return nil
}

// loser carries out one LoseSegment.
type loser struct {
	tx    *txn
	e     *LoseSegment
	ds    proto.DatasetID
	links []*LinkRow
	seen  map[string]bool
}

// name notes a path whose bytes are lost.
func (l *loser) name(path string) {
	if len(l.e.Lost) < 1000 && !l.seen[path] {
		l.seen[path] = true
		l.e.Lost = append(l.e.Lost, path)
	}
}

// tails returns the last bytes of the keys below lo, which the caller is about to change.
func (l *loser) tails(lo []byte) (out [][]byte, err error) {
	err = l.tx.Scan(lo, after(lo), func(k, _ []byte) (bool, error) {
		out = append(out, bytes.Clone(k[len(lo):]))
		return true, nil
	})
	return out, err
}

// ranges handles uploads with ranges in the segment: one that is being received lacks them again, the ranges of sealed
// versions mean that those are lost.
func (l *loser) ranges() error {
	hit, err := l.tails(key(pSegRange, l.e.Seq))
	if err != nil {
		return err
	}
	for _, k := range hit {
		id, off := proto.UploadID(binary.BigEndian.Uint64(k)), int64(tail64(k))
		var u UploadRow
		if ok, err := get(l.tx, key(pUpload, id), &u); err != nil {
			return err
		} else if !ok {
			continue // went with the range before
		}
		l.name(u.Path)
		if u.Sealed {
			err = l.sealed(id)
		} else {
			err = l.oneRange(id, off, u)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *loser) oneRange(id proto.UploadID, off int64, u UploadRow) error {
	var r RangeRow
	if ok, err := get(l.tx, key(pRange, id, off), &r); err != nil || !ok {
		return err
	}
	u.Acked -= int64(r.Length)
	if r.Same {
		u.Same -= int64(r.Length)
	}
	if err := dropRange(l.tx, id, placed{off, r}); err != nil {
		return err
	}
	return put(l.tx, key(pUpload, id), u)
}

// sealed handles the versions that retain an upload.
func (l *loser) sealed(id proto.UploadID) error {
	hit, err := l.tails(key(pUpVer, id))
	if err != nil {
		return err
	}
	for _, k := range hit {
		if err := l.version(proto.VersionID(tail64(k)), id); err != nil {
			return err
		}
	}
	return nil
}

// versions handles those whose description or inline bytes lie in the segment.
func (l *loser) versions() error {
	hit, err := l.tails(key(pSegVer, l.e.Seq))
	if err != nil {
		return err
	}
	for _, k := range hit {
		if err := l.version(proto.VersionID(tail64(k)), 0); err != nil {
			return err
		}
	}
	return nil
}

// version takes from a version what it has in the segment: its bytes when they lie there or in the upload given, its
// description when that does.
func (l *loser) version(ver proto.VersionID, upload proto.UploadID) error {
	var v VersionRow
	if ok, err := get(l.tx, key(pVersion, l.ds, ver), &v); err != nil || !ok {
		return err
	}
	if v.Content.Segment == l.e.Seq || upload != 0 && v.Content.Upload == upload {
		l.name(v.Path)
		if err := l.bytes(ver, &v); err != nil {
			return err
		}
	}
	if v.Home == l.e.Seq {
		if err := releaseHome(l.tx, l.ds, ver, &v); err != nil {
			return err
		}
	}
	return settle(l.tx, l.ds, ver, &v)
}

// bytes makes every link that needed a version's bytes owe it as released, or give it up when it is superseded.
func (l *loser) bytes(ver proto.VersionID, v *VersionRow) error {
	for _, link := range l.links {
		var q OwedRow
		ok, err := get(l.tx, key(pOwed, link.ID, ver), &q)
		if err != nil {
			return err
		}
		if !ok || q.State != OwedCached || q.MetaOnly {
			continue
		}
		var out *OwedRow
		if !v.Superseded {
			released := q
			released.State, released.Staged = OwedReleased, 0
			out = &released
		}
		if err := change(l.tx, link, ver, v, &q, out); err != nil {
			return err
		}
	}
	return nil
}

func (e *MoveSegment) apply(tx *txn) error {
	s, err := tx.segment(e.Seq)
	if err != nil || s == nil {
		return err
	}
	m, err := tx.meta()
	if err != nil {
		return err
	}
	m.StoredBytes += e.Stored - s.Stored
	s.Placement, s.Stored, s.Degraded = e.Placement, e.Stored, e.Degraded
	return nil
}

func (e *FreeSegments) apply(tx *txn) error {
	m, err := tx.meta()
	if err != nil {
		return err
	}
	for _, seq := range e.Seqs {
		s, err := tx.segment(seq)
		if err != nil {
			return err
		}
		if s == nil {
			continue
		}
		if s.Refs != 0 {
			return fmt.Errorf("ledger: segment %d was freed and is needed by %d pieces", seq, s.Refs)
		}
		m.Segments--
		m.StoredBytes -= s.Stored
		if err := tx.removeSegment(seq); err != nil {
			return err
		}
		if seq >= m.Kept {
			continue
		}
		if err := tx.Set(key(pFreed, seq), mark); err != nil {
			return err
		}
	}
	return nil
}

// Freed reports whether a segment below Meta.Kept that is not known was known, and was freed since the ledger was rebuilt.
func Freed(r Rows, seq uint64) (bool, error) {
	b, err := r.Get(key(pFreed, seq))
	return b != nil, err
}

func (e *Waste) apply(tx *txn) error {
	return editMeta(tx, func(m *Meta) { m.WastedBytes += e.Bytes })
}

func (e *BumpScan) apply(tx *txn) error {
	return editMeta(tx, func(m *Meta) { m.ScanToken++; e.Token = m.ScanToken })
}

func (e *SetStores) apply(tx *txn) error {
	return editMeta(tx, func(m *Meta) { m.Stores = e.Stores })
}

func (e *SetNote) apply(tx *txn) error {
	if len(e.Value) == 0 {
		return tx.Delete(key(pNote, e.Name))
	}
	return tx.Set(key(pNote, e.Name), e.Value)
}

func (e *AddEvent) apply(tx *txn) error {
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

func editMeta(tx *txn, fn func(m *Meta)) error {
	m, err := tx.meta()
	if err == nil {
		fn(m)
	}
	return err
}
