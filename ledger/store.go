package ledger

import (
	"fmt"

	"forebay/proto"
	"forebay/proto/segment"
)

// apply records the segment. It begins with no references; each accepted piece adds its own.
func (e *StoreSegment) apply(tx *txn) error {
	s, err := newSealer(tx, e)
	if err != nil {
		return err
	}
	seg := SegmentRow{Dataset: e.Dataset, Length: e.Length, Stored: e.Stored, Placement: e.Placement, AckedNs: e.NowNs, Degraded: e.Degraded}
	if err := tx.addSegment(e.Seq, seg); err != nil {
		return err
	}
	acked, wasted := int64(0), int64(0)
	var no RefusedRow
	e.Results = make([]Result, 0, len(e.Pieces))
	for i := range e.Pieces {
		p := &e.Pieces[i]
		r, err := s.piece(p)
		if err != nil {
			return fmt.Errorf("ledger: segment %d piece %d (%q): %w", e.Seq, i, p.Path, err)
		}
		e.Results = append(e.Results, r)
		acked += r.Bytes
		wasted += int64(p.Length) - r.Bytes
		no.note(p, r)
	}
	for i := range e.Late {
		p := &e.Late[i]
		r, err := s.late(p)
		if err != nil {
			return err
		}
		wasted += int64(p.Length)
		no.note(p, r)
	}
	if e.Noted = len(no.Pieces) > 0; e.Noted {
		if err := put(tx, key(pRefused, e.Seq), no); err != nil {
			return err
		}
	}
	m := s.meta
	m.AckedBytes += acked
	m.WastedBytes += wasted
	m.Segments++
	m.Taken++
	m.StoredBytes += e.Stored
	return s.countHolder(acked)
}

// sealer applies the pieces of one segment.
type sealer struct {
	tx     *txn
	e      *StoreSegment
	meta   *Meta
	ds     *DatasetRow
	links  []*LinkRow
	sender HolderRow // zero when the relay wrote the segment, or the holder was forgotten
}

func newSealer(tx *txn, e *StoreSegment) (*sealer, error) {
	s := &sealer{tx: tx, e: e}
	var err error
	if s.meta, err = tx.meta(); err != nil {
		return nil, err
	}
	if s.ds, err = tx.dataset(e.Dataset); err != nil {
		return nil, err
	}
	if s.links, err = tx.links(e.Dataset); err != nil {
		return nil, err
	}
	if e.Holder != 0 {
		_, err = get(tx, key(pHolder, e.Holder), &s.sender)
	}
	return s, err
}

// countHolder adds what was accepted to the node that sent it.
func (s *sealer) countHolder(acked int64) error {
	if s.sender.ID == 0 || acked == 0 {
		return nil
	}
	var n NodeRow
	k := key(pNode, s.sender.Cluster+"/"+s.sender.Node)
	if ok, err := get(s.tx, k, &n); err != nil || !ok {
		return err
	}
	n.Uploaded += acked
	return put(s.tx, k, n)
}

// piece applies one piece. A stale one changes nothing.
func (s *sealer) piece(p *segment.Piece) (Result, error) {
	ok := key(pObject, s.e.Dataset, p.Path)
	var o ObjectRow
	if _, err := get(s.tx, ok, &o); err != nil {
		return Result{}, err
	}
	if s.fenced(p, &o) {
		return stale(p, &o), nil
	}
	before := o
	r, err := s.apply(p, &o)
	if err == nil && r.State == proto.PieceStale {
		r = stale(p, &before)
	}
	if err != nil || r.State == proto.PieceStale {
		return r, err
	}
	if o.Epoch.Less(p.Epoch) {
		o.Epoch = p.Epoch
	}
	return r, putObject(s.tx, ok, &o)
}

// fenced reports whether a piece was granted before something that has been accepted since, or before the relay's last start
// (I7). Deletes are the relay's own and fenced by their parent alone.
func (s *sealer) fenced(p *segment.Piece, o *ObjectRow) bool {
	return p.Kind != segment.PieceDelete && s.e.Holder != 0 && (p.Epoch.Less(o.Epoch) || p.Epoch.Generation < s.meta.Generation)
}

// stale is what becomes of a piece that changes nothing.
func stale(p *segment.Piece, o *ObjectRow) Result {
	r := result(proto.PieceStale, 0)
	r.Older = p.Desc != nil && o.Older(*p.Desc) != nil
	return r
}

// late is what becomes of a piece without a lease.
func (s *sealer) late(p *segment.Piece) (Result, error) {
	var o ObjectRow
	_, err := get(s.tx, key(pObject, s.e.Dataset, p.Path), &o)
	return stale(p, &o), err
}

func (s *sealer) apply(p *segment.Piece, o *ObjectRow) (Result, error) {
	switch p.Kind {
	case segment.PieceRange:
		return s.rangePiece(p, o)
	case segment.PieceSame:
		return s.samePiece(p, o)
	case segment.PieceObject:
		r, err := s.seal(p, o, s.inline(p))
		if r.State == proto.PieceAccepted {
			r.Bytes = int64(p.Length)
		}
		return r, err
	case segment.PieceSeal:
		return s.sealUpload(p, o)
	case segment.PieceMeta:
		return s.sealMeta(p, o)
	case segment.PieceDelete:
		return s.seal(p, o, Content{})
	}
	return Result{}, fmt.Errorf("unknown piece kind %d", p.Kind)
}

// inline is where a piece's own bytes are: nowhere for what lives by its description alone.
func (s *sealer) inline(p *segment.Piece) Content {
	if p.Length == 0 {
		return Content{}
	}
	return Content{Segment: s.e.Seq, At: p.At, Length: p.Length}
}

func result(st proto.PieceState, v proto.VersionID) Result {
	return Result{PieceResult: proto.PieceResult{State: st, Version: v}}
}

// receiving returns the upload that a piece belongs to, making it with its first piece: a newer grant replaces an upload that
// nobody finished. ok is false when the piece belongs to none that is being received.
func (s *sealer) receiving(p *segment.Piece, o *ObjectRow, size int64) (u UploadRow, ok bool, err error) {
	known, err := get(s.tx, key(pUpload, p.Upload), &u)
	switch {
	case err != nil:
		return u, false, err
	case known:
		return u, o.Upload == p.Upload && u.Dataset == s.e.Dataset && !u.Sealed, nil
	case p.Upload == 0 || !s.follows(p, o):
		return u, false, nil
	}
	if err := dropReceiving(s.tx, o); err != nil {
		return u, false, err
	}
	o.Upload = p.Upload
	u = UploadRow{Dataset: s.e.Dataset, Path: p.Path, Parent: p.Parent, Size: size, Users: 1, BeganNs: s.e.NowNs}
	return u, true, nil
}

// rangePiece adds a run of bytes to an upload.
func (s *sealer) rangePiece(p *segment.Piece, o *ObjectRow) (Result, error) {
	u, ok, err := s.receiving(p, o, p.ObjectSize)
	if err != nil {
		return Result{}, err
	}
	if !ok || u.Size != p.ObjectSize {
		return result(proto.PieceStale, 0), nil
	}
	some, all, err := overlap(s.tx, p.Upload, p.Offset, int64(p.Length))
	if err != nil {
		return Result{}, err
	}
	if all {
		return result(proto.PieceDuplicate, 0), nil
	}
	if some {
		return result(proto.PieceStale, 0), nil
	}
	if s.e.Stream && u.Same > 0 { // a stream has all of it, for what it leaves out is holes
		return s.abandon(o)
	}
	if s.e.Stream && !u.Stream {
		if err := beginStream(s.tx, p.Upload, &u, s.e.Again); err != nil {
			return Result{}, err
		}
	}
	u.Again = u.Again && s.e.Again // another holder carries it on as a new content
	row := RangeRow{Segment: s.e.Seq, At: p.At, Length: p.Length, Blocks: p.Blocks}
	if err := putRange(s.tx, p.Upload, placed{p.Offset, row}); err != nil {
		return Result{}, err
	}
	u.Epoch, u.Holder = p.Epoch, s.e.Holder
	u.Acked += int64(p.Length)
	r := result(proto.PieceAccepted, 0)
	r.Bytes = int64(p.Length)
	return r, put(s.tx, key(pUpload, p.Upload), u)
}

// overlap says whether some or all of n bytes of an upload were acknowledged before.
func overlap(r Rows, id proto.UploadID, off, n int64) (some, all bool, err error) {
	lo, end := max(off-proto.MaxPayload, 0), off+n
	next := off
	err = r.Scan(key(pRange, id, lo), key(pRange, id, end), func(k, v []byte) (bool, error) {
		var row RangeRow
		if err := proto.Unmarshal(v, &row); err != nil {
			return false, err
		}
		from, to := int64(tail64(k)), int64(tail64(k))+int64(row.Length)
		if to > off {
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
	if !s.follows(p, o) { // the path moved on: what was received is kept for the next grant
		return result(proto.PieceStale, 0), nil
	}
	u, ok, err := s.receiving(p, o, p.Desc.Size) // makes one for a file that is one hole, which has no ranges
	if err != nil {
		return Result{}, err
	}
	if !ok {
		return result(proto.PieceStale, 0), nil
	}
	if err := put(s.tx, key(pUpload, p.Upload), u); err != nil {
		return Result{}, err
	}
	if u.Size != p.Desc.Size {
		return s.abandon(o)
	}
	sums, missing, err := sumUpload(s.tx, p.Upload, p.Desc)
	if err != nil {
		return Result{}, err
	}
	if missing {
		return result(proto.PieceMissing, 0), nil
	}
	if proto.DigestOfBlocks(sums.blocks) != p.Desc.Digest {
		return s.abandon(o)
	}
	u.Epoch, u.Sealed = p.Epoch, true
	if err := put(s.tx, key(pUpload, p.Upload), u); err != nil {
		return Result{}, err
	}
	if err := endStream(s.tx, p.Upload); err != nil {
		return Result{}, err
	}
	o.Upload = 0
	r, err := s.seal(p, o, Content{Upload: p.Upload, Stream: u.Stream, From: u.Freed, Lacks: sums.lacks})
	if err != nil {
		return r, err
	}
	if r.State == proto.PieceAccepted {
		err = putSums(s.tx, s.e.Dataset, p.Path, p.Desc.Digest, sums.blocks)
	} else { // nobody needs what was received
		s.meta.WastedBytes += u.Acked - u.Same
	}
	if err != nil {
		return r, err
	}
	return r, changeUsers(s.tx, p.Upload, -1) // the receiving itself
}

// abandon ends an upload whose bytes are no version of the holder that tried to seal it.
func (s *sealer) abandon(o *ObjectRow) (Result, error) {
	r := result(proto.PieceMismatch, 0)
	r.Abandoned = true
	return r, dropReceiving(s.tx, o)
}

// sums are the digests of the blocks of an upload.
type sums struct {
	blocks []proto.Digest
	lacks  int64 // see Content.Lacks
}

// sumUpload gathers the digests of all blocks of an upload; missing is set when one is neither acknowledged nor inside a hole of d.
func sumUpload(r Rows, id proto.UploadID, d *proto.Desc) (s sums, missing bool, err error) {
	next := int64(0)
	holes := holeWalker{extents: d.Extents}
	fill := func(to int64) {
		for next < to {
			n := min(int64(proto.BlockSize), d.Size-next)
			if !holes.covers(next, n) {
				missing = true
				return
			}
			s.blocks = append(s.blocks, proto.ZeroBlockDigest(n))
			next += n
		}
	}
	err = eachRange(r, id, func(off int64, row RangeRow) (bool, error) {
		fill(off)
		s.blocks = append(s.blocks, row.Blocks...)
		s.lacks += row.lacks()
		next = off + int64(row.Length)
		return !missing, nil
	})
	if err == nil && !missing {
		fill(d.Size)
	}
	return s, missing, err
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
