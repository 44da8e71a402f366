package ledger

import (
	"slices"

	"forebay/proto"
	"forebay/proto/segment"
)

// What a large object has unchanged since its current version is neither sent nor kept a second time. The digests of the current
// content's blocks stay in the ledger, wherever its bytes went; a holder that has a new version compares its own with them, and
// names in a piece Same what it found equal. Where the cache has the current version, the ranges of the new one refer to the
// same segments; where it is flushed, they refer to nothing, and each link's target takes them from the object that it has.

// SumsRow has digests of blocks of a path's current content.
type SumsRow struct {
	Digest proto.Digest   `cbor:"1,keyasint"` // of the content
	Blocks []proto.Digest `cbor:"2,keyasint"`
}

// sumsBlocks is how many digests a row has.
const sumsBlocks = 1024

// putSums writes down the digests of a path's current content, which has none yet, or the same. One block is never worth it.
func putSums(tx *txn, ds proto.DatasetID, path string, content proto.Digest, blocks []proto.Digest) error {
	if len(blocks) < 2 {
		return nil
	}
	for n := 0; n < len(blocks); n += sumsBlocks {
		row := SumsRow{Digest: content, Blocks: blocks[n:min(n+sumsBlocks, len(blocks))]}
		if err := put(tx, key(pSums, ds, path, byte(0), uint64(n)), row); err != nil {
			return err
		}
	}
	return nil
}

func dropSums(tx *txn, ds proto.DatasetID, path string) error {
	lo := key(pSums, ds, path, byte(0))
	_, err := deleteRows(tx, lo, after(lo), 0)
	return err
}

// Sums returns up to limit digests of the blocks of a path's current content, from the block from on: fewer at its end, none where
// they are not known.
func Sums(r Rows, ds proto.DatasetID, path string, content proto.Digest, from int64, limit int) (out []proto.Digest, err error) {
	for limit > 0 {
		row, skip := from/sumsBlocks*sumsBlocks, from%sumsBlocks
		var s SumsRow
		ok, err := get(r, key(pSums, ds, path, byte(0), uint64(row)), &s)
		if err != nil || !ok || s.Digest != content || skip >= int64(len(s.Blocks)) {
			return out, err
		}
		got := s.Blocks[skip:min(skip+int64(limit), int64(len(s.Blocks)))]
		out = append(out, got...)
		from, limit = from+int64(len(got)), limit-len(got)
	}
	return out, nil
}

// Whole returns the runs of a version that can stand for those of the next one as a whole only: they are in the cache, where they
// are kept as they were sent.
func Whole(r Rows, v VersionRow) (out []proto.Range, err error) {
	if v.Content.Upload == 0 {
		return nil, nil
	}
	err = eachRange(r, v.Content.Upload, func(off int64, row RangeRow) (bool, error) {
		if row.Segment != 0 && row.Length > proto.BlockSize {
			out = append(out, proto.Range{Offset: off, Length: int64(row.Length)})
		}
		return true, nil
	})
	return out, err
}

// samePiece adds a run of an upload that the current version has too. Where it cannot stand for it, the answer is missing.
func (s *sealer) samePiece(p *segment.Piece, o *ObjectRow) (Result, error) {
	if !s.follows(p, o) {
		return result(proto.PieceStale, 0), nil
	}
	ranges, bases, err := s.standIn(p, o)
	if err != nil || len(ranges) == 0 {
		return result(proto.PieceMissing, 0), err
	}
	u, ok, err := s.receiving(p, o, p.ObjectSize)
	if err != nil || !ok || u.Size != p.ObjectSize {
		return result(proto.PieceStale, 0), err
	}
	r := result(proto.PieceDuplicate, 0)
	for _, g := range ranges {
		some, all, err := overlap(s.tx, p.Upload, g.off, int64(g.row.Length))
		if err != nil {
			return Result{}, err
		}
		if all {
			continue
		}
		if some || u.Stream { // its holder learns what there is, and sends the rest
			r.State = proto.PieceMissing
			break
		}
		if g.row.Segment != s.e.Seq {
			g.row.Named = s.e.Seq
		}
		if err := putRange(s.tx, p.Upload, g); err != nil {
			return Result{}, err
		}
		r.State, r.Same = proto.PieceAccepted, r.Same+int64(g.row.Length)
	}
	if r.Same > 0 {
		for _, b := range bases {
			if !slices.Contains(u.Bases, b) {
				u.Bases = append(u.Bases, b)
			}
		}
	}
	u.Acked, u.Same = u.Acked+r.Same, u.Same+r.Same
	u.Epoch, u.Holder = p.Epoch, s.e.Holder
	return r, put(s.tx, key(pUpload, p.Upload), u)
}

// maxBases bounds how many changes that are not flushed yet are built one on the other with bytes that only targets have.
const maxBases = 64

// standIn returns the ranges by which the current version of a path stands for a run of the next one, none when it cannot: it has
// other blocks, or not all links that will owe the next version could build on it. bases are the contents one of which targets have.
func (s *sealer) standIn(p *segment.Piece, o *ObjectRow) (out []placed, bases []proto.Digest, err error) {
	cur := o.Current
	var v VersionRow
	if ok, err := get(s.tx, key(pVersion, s.e.Dataset, cur.Version), &v); err != nil || !ok || v.Desc.Kind != proto.KindFile {
		return nil, nil, err
	}
	blocks, err := Sums(s.tx, s.e.Dataset, p.Path, cur.Digest, p.Offset/proto.BlockSize, len(p.Blocks))
	if err != nil || !slices.Equal(blocks, p.Blocks) {
		return nil, nil, err
	}
	switch {
	case v.Content.Upload != 0:
		out, err = cachedRanges(s.tx, p, v.Content.Upload)
		if v.Content.Lacks == 0 {
			return out, nil, err
		}
		if len(v.Bases) >= maxBases || len(v.Bases) == 0 {
			return nil, nil, err
		}
		return out, append(slices.Clip(v.Bases), cur.Digest), err
	case v.Cached:
		return nil, nil, nil
	}
	for _, l := range s.links {
		var q OwedRow
		owed, err := get(s.tx, key(pOwed, l.ID, cur.Version), &q)
		if err != nil || l.mustSend(cur.Version, owed, q) {
			return nil, nil, err
		}
	}
	for off, end := p.Offset, p.Offset+p.Span; off < end; {
		n := min(end-off, proto.MaxPayload)
		out = append(out, placed{off, RangeRow{Length: uint32(n), Blocks: blocksOf(p, off, n), Same: true}})
		off += n
	}
	return out, []proto.Digest{cur.Digest}, nil
}

// cachedRanges returns the ranges of an upload that make up a piece's run exactly, none when there are none such.
func cachedRanges(r Rows, p *segment.Piece, id proto.UploadID) (out []placed, err error) {
	next, end := p.Offset, p.Offset+p.Span
	err = rangesFrom(r, id, p.Offset, func(off int64, row RangeRow) (bool, error) {
		to := off + int64(row.Length)
		switch {
		case off >= end:
			return false, nil
		case row.lacks() > 0: // any part of it
			off, to = max(off, p.Offset), min(to, end)
		case row.Segment == 0 || off < p.Offset || to > end:
			return false, nil
		}
		if off != next {
			return false, nil
		}
		n := to - off
		out = append(out, placed{off, RangeRow{Segment: row.Segment, At: row.At, Length: uint32(n), Blocks: blocksOf(p, off, n), Same: true}})
		next = to
		return true, nil
	})
	if next != end {
		return nil, err
	}
	return out, err
}

// blocksOf returns the digests of n bytes from off on of a piece's run.
func blocksOf(p *segment.Piece, off, n int64) []proto.Digest {
	i := (off - p.Offset) / proto.BlockSize
	return p.Blocks[i : i+proto.Blocks(n)]
}

// complete puts a whole content in the place of one that some links can do with and others cannot.
func (s *sealer) complete(ver proto.VersionID, v *VersionRow, c Content) error {
	if err := releaseContent(s.tx, s.e.Dataset, ver, v); err != nil {
		return err
	}
	v.setContent(c)
	if err := retainContent(s.tx, s.e.Dataset, ver, v); err != nil {
		return err
	}
	for _, l := range s.links {
		var q OwedRow
		ok, err := get(s.tx, key(pOwed, l.ID, ver), &q)
		if err != nil {
			return err
		}
		if !ok || q.State != OwedCached || q.Staged == 0 {
			continue
		}
		now := q
		now.Staged = 0
		if err := change(s.tx, l, ver, v, &q, &now); err != nil {
			return err
		}
	}
	return nil
}
