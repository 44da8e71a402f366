package ledger

import (
	"encoding/binary"
	"slices"

	"forebay/proto"
	"forebay/proto/segment"
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

// Move is one piece that was copied: what describes a version, what has its inline bytes, or both, or a range of an upload.
type Move struct {
	From    uint64          // the segment it was in
	Version proto.VersionID // 0 for a range
	Home    bool            // the piece describes Version
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
	home := mv.Home && v.Home == mv.From
	bytes := v.Content.Segment == mv.From && v.Content.At == mv.Was && v.Content.Length == mv.Length && mv.Length > 0
	if !home && !bytes {
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
	if v.Home != mv.From && v.Content.Segment != mv.From {
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

// Copy is a piece that a resident needs.
type Copy struct {
	Piece int // its index in the segment
	Move  Move
}

// Copies returns the pieces of segment seq, which it lies in, that it needs: a rebuild of a lost ledger must find in the copy
// what it would have found here. What is not returned stays where it is. At of the moves is left to the caller.
func (it Resident) Copies(seq uint64, pieces []segment.Piece) (out []Copy) {
	find := func(is func(p *segment.Piece) bool) int {
		return slices.IndexFunc(pieces, func(p segment.Piece) bool { return p.Path == it.Path && is(&p) })
	}
	add := func(i int, home bool) {
		p := &pieces[i]
		out = append(out, Copy{i, Move{From: seq, Version: it.Version, Home: home, Upload: it.Upload, Offset: it.Offset, Was: p.At, Length: p.Length}})
	}
	if it.Version == 0 {
		if it.Range.Segment != seq { // named here, and nowhere in the cache
			return nil
		}
		i := find(func(p *segment.Piece) bool {
			return p.Kind == segment.PieceRange && (p.Upload == it.Upload || it.Range.Same) && p.Offset == it.Offset && p.At == it.Range.At && p.Length == it.Range.Length
		})
		if i >= 0 {
			add(i, false)
		}
		return out
	}
	home, body := -1, -1
	if c := it.Row.Content; c.Segment == seq && c.Length > 0 {
		body = find(func(p *segment.Piece) bool {
			return p.Kind == segment.PieceObject && p.At == c.At && p.Length == c.Length
		})
	}
	if it.Row.Home == seq {
		home = find(func(p *segment.Piece) bool {
			gone := p.Kind == segment.PieceDelete
			is := p.Kind != segment.PieceRange && p.Epoch == it.Row.Epoch && gone == (it.Row.Desc.Kind == proto.KindTombstone)
			return is && p.Desc != nil && p.Desc.SameContent(it.Row.Desc) && (!gone || p.Parent == it.Row.Parent) // deletes of one generation have one epoch
		})
		if home < 0 { // it was sent again, so what has the bytes describes it too
			home = body
		}
	}
	if body >= 0 {
		add(body, home == body)
	}
	if home >= 0 && home != body && pieces[home].Length == 0 { // a copy of one with bytes would bring them along
		add(home, true)
	}
	return out
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
