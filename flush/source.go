package flush

import (
	"context"
	"fmt"
	"sort"

	"forebay/flush/policy"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// source gives the blocks of one content in order, proved.
type source struct {
	r     *segReader
	it    *item
	parts []ledger.Part // what is left of them
	all   []ledger.Part
}

// unchanged reports whether the object that the target has has all of a run.
func (s *source) unchanged(from, to int64) bool {
	i := sort.Search(len(s.all), func(i int) bool { return s.all[i].Offset+int64(s.all[i].Length) > from })
	for ; i < len(s.all) && from < to; i++ {
		if p := s.all[i]; !p.Same || p.Offset > from {
			return false
		}
		from = s.all[i].Offset + int64(s.all[i].Length)
	}
	return from >= to
}

// block is a block's digest, and where its bytes come from.
type block struct {
	data []byte // nil: zeros, when it is not old
	sum  proto.Digest
	old  bool // the object that the target has, has it
}

// block returns the i-th block. One that lies between the parts is zeros.
func (s *source) block(ctx context.Context, i, n int64) (block, error) {
	off := i * proto.BlockSize
	for len(s.parts) > 0 && s.parts[0].Offset+int64(s.parts[0].Length) <= off {
		s.parts = s.parts[1:]
	}
	if len(s.parts) == 0 || s.parts[0].Offset >= off+n {
		return block{sum: proto.ZeroBlockDigest(n)}, nil
	}
	part := s.parts[0]
	if part.Same {
		return block{sum: part.Blocks[(off-part.Offset)/proto.BlockSize], old: true}, nil
	}
	if part.Segment == 0 {
		s.it.cache = true
		return block{}, proto.Errorf(proto.ClassTransient, "%q: %w", s.it.row.Path, errLetGo)
	}
	piece, data, err := s.r.piece(ctx, part, s.it.row.Path)
	if err != nil {
		s.it.cache = true
		return block{}, s.r.l.cacheFailed(ctx, s.it, part.Segment, err)
	}
	at := off - part.Offset
	if at < 0 || at%proto.BlockSize != 0 || at+n > int64(len(data)) {
		s.it.cache = true
		return block{}, proto.Errorf(proto.ClassCorrupt, "%q: block %d is not whole in segment %d", s.it.row.Path, i, part.Segment)
	}
	return block{data: data[at : at+n], sum: piece.Blocks[at/proto.BlockSize]}, nil
}

// segReader reads segments for one worker and keeps the last one.
type segReader struct {
	l      *link
	view   policy.LinkView
	seq    uint64
	seg    *segment.Segment
	proved map[int]bool
}

// piece returns the proved piece that a part of path lies in, and its bytes.
func (r *segReader) piece(ctx context.Context, part ledger.Part, path string) (*segment.Piece, []byte, error) {
	if r.seg == nil || r.seq != part.Segment {
		r.seg = nil // let go before the next is read
		if err := r.read(ctx, part.Segment); err != nil {
			return nil, nil, err
		}
	}
	i, err := find(r.seg, part, path)
	if err != nil {
		return nil, nil, err
	}
	if !r.proved[i] {
		if err := r.prove(ctx, i); err != nil {
			return nil, nil, err
		}
	}
	return &r.seg.Header.Pieces[i], r.seg.Bytes(i), nil
}

func (r *segReader) read(ctx context.Context, seq uint64) error {
	if err := r.l.e.turns.take(ctx, r.view); err != nil {
		return err
	}
	defer r.l.e.turns.done()
	seg, err := r.l.e.deps.Cache.Read(ctx, seq)
	if err != nil {
		return fmt.Errorf("read segment %d: %w", seq, err)
	}
	r.seq, r.seg, r.proved = seq, seg, map[int]bool{}
	return nil
}

// prove checks a piece's bytes. A large one takes a turn.
func (r *segReader) prove(ctx context.Context, i int) error {
	if r.seg.Header.Pieces[i].Length >= proto.BlockSize {
		if err := r.l.e.turns.take(ctx, r.view); err != nil {
			return err
		}
		defer r.l.e.turns.done()
	}
	if err := r.seg.Prove(i); err != nil {
		return err
	}
	r.proved[i] = true
	return nil
}

// find returns the piece of a segment that a part names. Pieces follow each other in the payload; those without bytes lie
// between others and are passed over.
func find(seg *segment.Segment, part ledger.Part, path string) (int, error) {
	ps := seg.Header.Pieces
	i := sort.Search(len(ps), func(i int) bool { return ps[i].At+ps[i].Length > part.At })
	if i == len(ps) || ps[i].At != part.At || ps[i].Length != part.Length || ps[i].Path != path {
		return 0, proto.Errorf(proto.ClassCorrupt, "segment %s does not have %q at byte %d", seg.ID, path, part.At)
	}
	return i, nil
}

// cacheFailed finds out what a failed read means: the segment was freed because nobody owes it any more, which is no error,
// or it is lost, which the relay is told.
func (l *link) cacheFailed(ctx context.Context, it *item, seq uint64, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	moot := false
	lerr := l.e.deps.Ledger.View(func(r ledger.Rows) error {
		q, owed, err := ledger.OwedAt(r, l.id, it.ver)
		if err != nil || !owed || q.State != ledger.OwedCached {
			moot = err == nil
			return err
		}
		row, err := ledger.Link(r, l.id)
		if err != nil {
			return err
		}
		v, known, err := ledger.Version(r, row.Dataset, it.ver)
		moot = err == nil && (!known || v.Content != it.row.Content)
		return err
	})
	switch {
	case lerr != nil:
		return fmt.Errorf("look whether %q is still owed: %w", it.row.Path, lerr)
	case moot:
		return errMoot
	}
	if c := proto.ClassOf(err); c == proto.ClassCorrupt || c == proto.ClassPermanent {
		l.tell(Event{Kind: SegmentLost, Segment: seq, Path: it.row.Path, Version: it.ver, Err: err})
		l.e.deps.LostSegment(seq, err)
	}
	return err
}
