package rebuild

import (
	"cmp"
	"slices"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// The ranges of large objects: what was sent of an upload, what stands for the rest, and what of that makes up a content.

type ranged struct {
	seq   uint64 // 0: in no segment
	piece *segment.Piece
	named uint64 // the segment that names it; 0: it was sent
}

// standIn makes ranges of a run of blocks that was not sent, because the version before had them: where one that was sent has just those
// bytes, it is that one, whatever upload it was of; else only targets have them.
func (p *path) standIn(e ledger.Evidence) {
	q := e.Piece
	add := func(seq uint64, at uint32, off, n int64) {
		i := (off - q.Offset) / proto.BlockSize
		s := *q
		s.Offset, s.At, s.Length, s.Blocks = off, at, uint32(n), q.Blocks[i:i+proto.Blocks(n)]
		p.same[q.Upload] = append(p.same[q.Upload], ranged{seq: seq, piece: &s, named: e.Segment})
	}
	for off, end := q.Offset, q.Offset+q.Span; off < end; {
		seq, at, n := p.sentAs(q, off)
		if n == 0 {
			n = min(end-off, proto.BlockSize)
		}
		add(seq, at, off, n)
		off += n
	}
}

// sentAs returns where the longest range lies that was sent and is a run's from off on, n 0 when there is none.
func (p *path) sentAs(q *segment.Piece, off int64) (seq uint64, at uint32, n int64) {
	for _, r := range p.sent[off] {
		o := r.piece
		if int64(o.Length) <= n || off+int64(o.Length) > q.Offset+q.Span {
			continue
		}
		if i := (off - q.Offset) / proto.BlockSize; slices.Equal(o.Blocks, q.Blocks[i:i+int64(len(o.Blocks))]) {
			seq, at, n = r.seq, o.At, int64(o.Length)
		}
	}
	return seq, at, n
}

// accepted returns the ranges of an upload that count. Of those that overlap, these are the ones under the highest epoch, for
// whoever had it was told what the ledger had and sent only what it lacked.
func (p *path) accepted(id proto.UploadID) []ledger.RecoveredRange {
	return choose(p.ranges[id], byEpoch)
}

// proved returns the ranges of an upload that have the digest of d, if some do: which of two that overlap was taken, and which
// was refused as a duplicate, the digest knows best. Of several that have it, these are the ones that lack the least.
func (p *path) proved(id proto.UploadID, d *proto.Desc) (ranges []ledger.RecoveredRange, v verdict) {
	ranges, v = proven(p.ranges[id], d)
	if v == proved || len(p.same[id]) == 0 { // what is only named may be a hole, or may have been refused
		return ranges, v
	}
	return proven(slices.Concat(p.ranges[id], p.same[id]), d)
}

// proven is proved for given ranges.
func proven(all []ranged, d *proto.Desc) (ranges []ledger.RecoveredRange, v verdict) {
	for i, choice := range []func() []ledger.RecoveredRange{
		func() []ledger.RecoveredRange { return choose(all, byEpoch) },
		func() []ledger.RecoveredRange { return choose(all, bySegment) },
		func() []ledger.RecoveredRange { return widest(all) },
	} {
		got := choice()
		is := proof(got, d)
		if i == 0 || is == proved && (v != proved || lacks(got) < lacks(ranges)) {
			ranges, v = got, is
		}
		if v == proved && lacks(ranges) == 0 {
			break
		}
	}
	return ranges, v
}

// lacks returns how many bytes of ranges are in no segment.
func lacks(ranges []ledger.RecoveredRange) (n int64) {
	for _, g := range ranges {
		if g.Row.Segment == 0 {
			n += int64(g.Row.Length)
		}
	}
	return n
}

func byEpoch(a, b ranged) int {
	return cmp.Or(b.piece.Epoch.Compare(a.piece.Epoch), bySegment(a, b))
}

func bySegment(a, b ranged) int {
	return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.piece.At, b.piece.At))
}

// choose takes ranges of an upload in an order, those that were sent first, but for those that overlap what was taken.
func choose(all []ranged, order func(a, b ranged) int) []ledger.RecoveredRange {
	in := slices.Clone(all)
	slices.SortStableFunc(in, func(a, b ranged) int { return cmp.Or(cmp.Compare(min(a.named, 1), min(b.named, 1)), order(a, b)) })
	var out []ledger.RecoveredRange
	for _, r := range in {
		q := r.piece
		i, taken := slices.BinarySearchFunc(out, q.Offset, func(g ledger.RecoveredRange, off int64) int { return cmp.Compare(g.Offset, off) })
		if taken || i > 0 && out[i-1].Offset+int64(out[i-1].Row.Length) > q.Offset || i < len(out) && q.Offset+int64(q.Length) > out[i].Offset {
			continue
		}
		out = slices.Insert(out, i, r.row())
	}
	return out
}

// row is the range as the ledger has it.
func (r ranged) row() ledger.RecoveredRange {
	q := r.piece
	row := ledger.RangeRow{Segment: r.seq, At: q.At, Length: q.Length, Blocks: q.Blocks, Same: r.named != 0}
	if r.named != r.seq {
		row.Named = r.named
	}
	return ledger.RecoveredRange{Offset: q.Offset, Row: row}
}

func (r ranged) end() int64 { return r.piece.Offset + int64(r.piece.Length) }

// widest returns those of an upload's ranges that cover the most of it without overlapping (weighted interval scheduling): others
// may have been taken and lost since. Of two ways to cover as much, it is the one with more in segments.
func widest(all []ranged) (out []ledger.RecoveredRange) {
	in := slices.Clone(all)
	slices.SortFunc(in, func(a, b ranged) int { return cmp.Or(cmp.Compare(a.end(), b.end()), bySegment(a, b)) })
	most := make([]cover, len(in)+1) // by the first n
	before := make([]int, len(in))   // how many end where this one begins or earlier
	for n, r := range in {
		before[n], _ = slices.BinarySearchFunc(in, r.piece.Offset+1, func(o ranged, at int64) int { return cmp.Compare(o.end(), at) })
		most[n+1] = most[n]
		if with := most[before[n]].and(r); with.more(most[n]) {
			most[n+1] = with
		}
	}
	for n := len(in); n > 0; {
		if most[n] == most[n-1] {
			n--
			continue
		}
		out = append(out, in[n-1].row())
		n = before[n-1]
	}
	slices.Reverse(out)
	return out
}

// cover is what a choice of ranges covers, in bytes.
type cover struct{ all, stored int64 }

func (c cover) and(r ranged) cover {
	n := int64(r.piece.Length)
	c.all += n
	if r.seq != 0 {
		c.stored += n
	}
	return c
}

func (c cover) more(o cover) bool {
	return cmp.Or(cmp.Compare(c.all, o.all), cmp.Compare(c.stored, o.stored)) > 0
}

// extents are the ranges of an upload with holes between them.
func extents(ranges []ledger.RecoveredRange, size int64) (out []proto.Extent) {
	next := int64(0)
	hole := func(to int64) {
		if next < to {
			out = append(out, proto.Extent{Kind: proto.ExtentHole, Offset: next, Length: to - next})
		}
	}
	for _, g := range ranges {
		hole(g.Offset)
		out = append(out, proto.Extent{Kind: proto.ExtentData, Offset: g.Offset, Length: int64(g.Row.Length)})
		next = g.Offset + int64(g.Row.Length)
	}
	hole(size)
	return out
}

// verdict is what the ranges of an upload prove.
type verdict uint8

const (
	lacking verdict = iota // some are missing
	proved
	refuted
)

// proof compares ranges, with zeros between them, with a content digest.
func proof(ranges []ledger.RecoveredRange, d *proto.Desc) verdict {
	sum, whole := ledger.RecoveredDigest(ranges, d)
	switch {
	case sum == d.Digest:
		return proved
	case whole:
		return refuted
	}
	return lacking
}
