package ledger

import (
	"encoding/binary"

	"forebay/proto"
)

// Repack records a segment into which the live pieces of other segments were copied, and moves what referred to those. A
// piece that nobody needs any more by now is passed over; segments that are left without references go on the free list.
type Repack struct {
	Seq       uint64
	Dataset   proto.DatasetID
	Length    int64
	Stored    int64
	Placement []byte
	NowNs     int64
	Moves     []Move

	Moved int64 // result: pieces that were moved
}

// Move is one piece that was copied: a version's description, with its inline bytes, or a range of an upload.
type Move struct {
	From    uint64          // the segment it was in
	Version proto.VersionID // 0 for a range
	Upload  proto.UploadID
	Offset  int64  // of the range in the object
	Was     uint32 // where its bytes were in the payload
	At      uint32 // and where they are now
	Length  uint32
}

func (e *Repack) apply(tx *txn) error {
	seg := SegmentRow{Dataset: e.Dataset, Length: e.Length, Stored: e.Stored, Placement: e.Placement, AckedNs: e.NowNs}
	if err := tx.addSegment(e.Seq, seg); err != nil {
		return err
	}
	m, err := tx.meta()
	if err != nil {
		return err
	}
	m.Segments++
	m.StoredBytes += e.Stored
	for _, mv := range e.Moves {
		if mv.Version != 0 {
			err = e.moveVersion(tx, mv)
		} else {
			err = e.moveRange(tx, mv)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *Repack) moveVersion(tx *txn, mv Move) error {
	vk := key(pVersion, e.Dataset, mv.Version)
	var v VersionRow
	if ok, err := get(tx, vk, &v); err != nil || !ok {
		return err
	}
	home := v.Home == mv.From
	bytes := v.Content.Segment == mv.From && v.Content.At == mv.Was && v.Content.Length == mv.Length && mv.Length > 0
	if !home && !bytes || v.Content.Segment == mv.From && !bytes {
		return nil
	}
	if home {
		v.Home = e.Seq
		if err := e.moveRef(tx, mv.From, 0); err != nil {
			return err
		}
	}
	if bytes {
		v.Content.Segment, v.Content.At = e.Seq, mv.At
		if err := e.moveRef(tx, mv.From, int64(mv.Length)); err != nil {
			return err
		}
	}
	if v.Home != mv.From {
		if err := tx.Delete(key(pSegVer, mv.From, e.Dataset, mv.Version)); err != nil {
			return err
		}
	}
	if err := tx.Set(key(pSegVer, e.Seq, e.Dataset, mv.Version), mark); err != nil {
		return err
	}
	e.Moved++
	return put(tx, vk, v)
}

func (e *Repack) moveRange(tx *txn, mv Move) error {
	rk := key(pRange, mv.Upload, mv.Offset)
	var r RangeRow
	if ok, err := get(tx, rk, &r); err != nil || !ok || r.Segment != mv.From || r.At != mv.Was || r.Length != mv.Length {
		return err
	}
	r.Segment, r.At = e.Seq, mv.At
	if err := e.moveRef(tx, mv.From, int64(mv.Length)); err != nil {
		return err
	}
	if err := tx.Delete(key(pSegRange, mv.From, mv.Upload, mv.Offset)); err != nil {
		return err
	}
	if err := tx.Set(key(pSegRange, e.Seq, mv.Upload, mv.Offset), mark); err != nil {
		return err
	}
	e.Moved++
	return put(tx, rk, r)
}

func (e *Repack) moveRef(tx *txn, from uint64, live int64) error {
	if err := tx.addRef(from, -1, -live); err != nil {
		return err
	}
	return tx.addRef(e.Seq, 1, live)
}

// Resident is a version or a range that lies in a segment and is needed.
type Resident struct {
	Version proto.VersionID // 0 for a range
	Row     VersionRow      // of Version
	Upload  proto.UploadID
	Offset  int64
	Range   RangeRow // of Upload at Offset
	Path    string
}

// Residents returns what refers to a segment.
func Residents(r Rows, seq uint64) (out []Resident, err error) {
	lo := key(pSegVer, seq)
	err = r.Scan(lo, after(lo), func(k, _ []byte) (bool, error) {
		it := Resident{Version: proto.VersionID(tail64(k))}
		ds := proto.DatasetID(binary.BigEndian.Uint32(k[9:]))
		ok, err := get(r, key(pVersion, ds, it.Version), &it.Row)
		if it.Path = it.Row.Path; ok {
			out = append(out, it)
		}
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	lo = key(pSegRange, seq)
	err = r.Scan(lo, after(lo), func(k, _ []byte) (bool, error) {
		it := Resident{Upload: proto.UploadID(binary.BigEndian.Uint64(k[9:])), Offset: int64(tail64(k))}
		ok, err := get(r, key(pRange, it.Upload, it.Offset), &it.Range)
		if err != nil || !ok {
			return err == nil, err
		}
		var u UploadRow
		if _, err := get(r, key(pUpload, it.Upload), &u); err != nil {
			return false, err
		}
		it.Path = u.Path
		out = append(out, it)
		return true, nil
	})
	return out, err
}
