package ledger

import (
	"fmt"

	"forebay/proto"
	"forebay/proto/segment"
)

// apply records the segment. The row is written first with no references; each accepted piece adds its own.
func (e *StoreSegment) apply(tx Tx) error {
	ls, err := links(tx, e.Dataset)
	if err != nil {
		return err
	}
	seg := SegmentRow{Dataset: e.Dataset, Length: e.Length, Stored: e.Stored, Placement: e.Placement, AckedNs: e.NowNs, Degraded: e.Degraded}
	if err := put(tx, key(pSegment, e.Seq), seg); err != nil {
		return err
	}
	if err := tx.Set(key(pFree, e.Seq), nil2); err != nil { // taken off by the first reference
		return err
	}
	s := sealer{tx: tx, e: e, links: ls}
	if _, err := get(tx, key(pDataset, e.Dataset), &s.ds); err != nil {
		return err
	}
	var acked, wasted int64
	for i := range e.Pieces {
		p := &e.Pieces[i]
		r, err := s.piece(p)
		if err != nil {
			return fmt.Errorf("ledger: segment %d piece %d (%q): %w", e.Seq, i, p.Path, err)
		}
		e.Results = append(e.Results, r)
		acked += r.Bytes
		wasted += int64(p.Length) - r.Bytes
	}
	return s.finish(acked, wasted)
}

// sealer applies the pieces of one segment; dataset and link rows are kept in memory and written once at the end.
type sealer struct {
	tx    Tx
	e     *StoreSegment
	ds    DatasetRow
	links []LinkRow
}

func (s *sealer) finish(acked, wasted int64) error {
	// Asked is changed by setAsked while pieces are applied; everything else in the row only here.
	var now DatasetRow
	if _, err := get(s.tx, key(pDataset, s.e.Dataset), &now); err != nil {
		return err
	}
	s.ds.Asked = now.Asked
	if err := put(s.tx, key(pDataset, s.e.Dataset), s.ds); err != nil {
		return err
	}
	for i := range s.links {
		if err := put(s.tx, key(pLink, s.links[i].ID), s.links[i]); err != nil {
			return err
		}
	}
	if err := s.countHolder(acked); err != nil {
		return err
	}
	return editMeta(s.tx, func(m *Meta) {
		m.AckedBytes += acked
		m.WastedBytes += wasted
		m.Segments++
		m.StoredBytes += s.e.Stored
	})
}

// countHolder adds what was accepted to the node that sent it.
func (s *sealer) countHolder(acked int64) error {
	if s.e.Holder == 0 || acked == 0 {
		return nil
	}
	var h HolderRow
	if ok, err := get(s.tx, key(pHolder, s.e.Holder), &h); err != nil || !ok {
		return err
	}
	var n NodeRow
	k := key(pNode, h.Cluster+"/"+h.Node)
	if ok, err := get(s.tx, k, &n); err != nil || !ok {
		return err
	}
	n.Uploaded += acked
	return put(s.tx, k, n)
}

func (s *sealer) piece(p *segment.Piece) (Result, error) {
	ok := s.objectKey(p.Path)
	var o ObjectRow
	if _, err := get(s.tx, ok, &o); err != nil {
		return Result{}, err
	}
	var r Result
	var err error
	switch p.Kind {
	case segment.PieceRange:
		r, err = s.rangePiece(p, &o)
	case segment.PieceObject:
		r, err = s.seal(p, &o, Content{Segment: s.contentSegment(p), At: p.At, Length: p.Length})
		if r.State == proto.PieceAccepted {
			r.Bytes = int64(p.Length)
		}
	case segment.PieceSeal:
		r, err = s.sealUpload(p, &o)
	case segment.PieceMeta:
		r, err = s.sealMeta(p, &o)
	case segment.PieceDelete:
		r, err = s.seal(p, &o, Content{})
	default:
		err = fmt.Errorf("unknown piece kind %d", p.Kind)
	}
	if err != nil {
		return r, err
	}
	return r, put(s.tx, ok, o)
}

func (s *sealer) objectKey(path string) []byte { return key(pObject, s.e.Dataset, path) }

// contentSegment is 0 for pieces without bytes: their version lives by its description alone.
func (s *sealer) contentSegment(p *segment.Piece) uint64 {
	if p.Length == 0 {
		return 0
	}
	return s.e.Seq
}

func result(st proto.PieceState, v proto.VersionID) Result {
	return Result{PieceResult: proto.PieceResult{State: st, Version: v}}
}

// rangePiece adds a run of bytes to an upload.
func (s *sealer) rangePiece(p *segment.Piece, o *ObjectRow) (Result, error) {
	uk := key(pUpload, p.Upload)
	var u UploadRow
	known, err := get(s.tx, uk, &u)
	if err != nil {
		return Result{}, err
	}
	if !known {
		if o.Upload != 0 && o.Upload != p.Upload { // a newer grant replaced an upload that nobody finished
			if err := changeUsers(s.tx, o.Upload, -1); err != nil {
				return Result{}, err
			}
		}
		u = UploadRow{Dataset: s.e.Dataset, Path: p.Path, Parent: p.Parent, Size: p.ObjectSize, Epoch: p.Epoch, Users: 1, BeganNs: s.e.NowNs}
		o.Upload = p.Upload
	}
	if o.Upload != p.Upload || u.Sealed || p.Epoch.Less(u.Epoch) || u.Size != p.ObjectSize || u.Path != p.Path {
		return result(proto.PieceStale, 0), nil
	}
	overlap, covered, err := s.overlap(p)
	if err != nil {
		return Result{}, err
	}
	if covered {
		return result(proto.PieceDuplicate, 0), nil
	}
	if overlap {
		return result(proto.PieceStale, 0), nil
	}
	row := RangeRow{Segment: s.e.Seq, At: p.At, Length: p.Length, Blocks: p.Blocks}
	if err := put(s.tx, key(pRange, p.Upload, p.Offset), row); err != nil {
		return Result{}, err
	}
	if err := s.tx.Set(key(pSegRange, s.e.Seq, p.Upload, p.Offset), nil2); err != nil {
		return Result{}, err
	}
	if err := addRef(s.tx, s.e.Seq, 1, int64(p.Length)); err != nil {
		return Result{}, err
	}
	u.Epoch, u.Holder = p.Epoch, s.e.Holder
	u.Acked += int64(p.Length)
	r := result(proto.PieceAccepted, 0)
	r.Bytes = int64(p.Length)
	return r, put(s.tx, uk, u)
}

// overlap says whether some or all of a range's bytes were acknowledged before.
func (s *sealer) overlap(p *segment.Piece) (some, all bool, err error) {
	lo, end := max(p.Offset-proto.MaxPayload, 0), p.Offset+int64(p.Length)
	next := p.Offset
	err = s.tx.Scan(key(pRange, p.Upload, lo), key(pRange, p.Upload, end), func(k, v []byte) (bool, error) {
		var row RangeRow
		if err := proto.Unmarshal(v, &row); err != nil {
			return false, err
		}
		from, to := int64(tail64(k)), int64(tail64(k))+int64(row.Length)
		if to > p.Offset {
			some = true
			if from <= next {
				next = max(next, to)
			}
		}
		return true, nil
	})
	return some, next >= end, err
}

// sealUpload completes an upload: the acknowledged blocks, with zeros where the holder says holes are, must have the content
// digest that the holder computed from its own copy alone. So a successor proves the prefix it did not send (I8, I9).
func (s *sealer) sealUpload(p *segment.Piece, o *ObjectRow) (Result, error) {
	var u UploadRow
	known, err := get(s.tx, key(pUpload, p.Upload), &u)
	if err != nil {
		return Result{}, err
	}
	if !known && o.Upload == 0 && p.Desc.Size > 0 { // a file that is one hole has no ranges
		u = UploadRow{Dataset: s.e.Dataset, Path: p.Path, Parent: p.Parent, Size: p.Desc.Size, Epoch: p.Epoch, Users: 1, BeganNs: s.e.NowNs}
		o.Upload = p.Upload
	} else if !known || o.Upload != p.Upload || u.Sealed || p.Epoch.Less(u.Epoch) {
		return result(proto.PieceStale, 0), nil
	}
	if u.Size != p.Desc.Size {
		return s.abandon(p.Upload, o)
	}
	sum, missing, err := uploadDigest(s.tx, p.Upload, p.Desc)
	if err != nil {
		return Result{}, err
	}
	if missing {
		return result(proto.PieceMissing, 0), nil
	}
	if sum != p.Desc.Digest {
		return s.abandon(p.Upload, o)
	}
	u.Epoch, u.Sealed = p.Epoch, true
	if err := put(s.tx, key(pUpload, p.Upload), u); err != nil {
		return Result{}, err
	}
	r, err := s.seal(p, o, Content{Upload: p.Upload})
	if err != nil {
		return r, err
	}
	if r.State == proto.PieceStale { // the path moved on: what was received is kept for the next grant
		u.Sealed = false
		return r, put(s.tx, key(pUpload, p.Upload), u)
	}
	o.Upload = 0
	return r, changeUsers(s.tx, p.Upload, -1) // the receiving itself
}

// abandon ends an upload whose bytes are no version of the holder that tried to seal it.
func (s *sealer) abandon(id proto.UploadID, o *ObjectRow) (Result, error) {
	o.Upload = 0
	r := result(proto.PieceMismatch, 0)
	r.Abandoned = true
	return r, dropUpload(s.tx, id)
}

// uploadDigest computes the content digest of an upload's ranges; missing is set when a block is neither acknowledged nor
// inside a hole of d.
func uploadDigest(r Rows, id proto.UploadID, d *proto.Desc) (sum proto.Digest, missing bool, err error) {
	h := proto.NewContentHasher()
	next := int64(0)
	holes := holeWalker{extents: d.Extents}
	fill := func(to int64) {
		for next < to {
			n := min(int64(proto.BlockSize), d.Size-next)
			if !holes.covers(next, n) {
				missing = true
				return
			}
			h.Add(proto.ZeroBlockDigest(n))
			next += n
		}
	}
	err = eachRange(r, id, func(off int64, row RangeRow) (bool, error) {
		fill(off)
		for _, b := range row.Blocks {
			h.Add(b)
		}
		next = off + int64(row.Length)
		return !missing, nil
	})
	if err == nil && !missing {
		fill(d.Size)
	}
	return h.Sum(), missing, err
}

// holeWalker answers, for ascending offsets, whether a run lies inside holes.
type holeWalker struct {
	extents []proto.Extent
}

func (w *holeWalker) covers(off, n int64) bool {
	for len(w.extents) > 0 && w.extents[0].Offset+w.extents[0].Length <= off {
		w.extents = w.extents[1:]
	}
	for i := 0; i < len(w.extents) && n > 0; i++ {
		e := w.extents[i]
		if e.Kind != proto.ExtentHole || e.Offset > off {
			return false
		}
		step := min(n, e.Offset+e.Length-off)
		off, n = off+step, n-step
	}
	return n <= 0
}
