package upload

import (
	"context"

	"golang.org/x/sync/errgroup"

	"forebay/proto"
	"forebay/proto/segment"
)

// Of an object that has a version already, only what changed travels: the relay tells the digests of that version's blocks, those
// read here are compared, and runs that are equal are named instead of sent (proto/segment.PieceSame). The relay may say of a run
// that it cannot use it; then it is sent after all. What is named is proved like the rest by the digest of the seal.

// base is what the version before is known to be.
type base struct {
	sums  []proto.Digest
	whole []proto.Range // of which all or nothing can be named
}

// base asks the relay for it; nil where it knows nothing, or does not answer: then all is sent.
func (l *large) base(ctx context.Context) *base {
	if !l.job.Sums {
		return nil
	}
	b := &base{}
	for want := proto.Blocks(l.size); int64(len(b.sums)) < want; {
		q := proto.SumsRequest{Session: l.u.Session, Dataset: l.u.Dataset.Name, Path: l.job.Entry.Path, Version: l.job.Parent, From: int64(len(b.sums))}
		reply, err := l.u.Relay.Sums(ctx, q)
		if err != nil || len(reply.Sums) > proto.MaxSums {
			return nil
		}
		if q.From == 0 {
			b.whole = reply.Whole
		}
		b.sums = append(b.sums, reply.Sums...)
		if len(reply.Sums) < proto.MaxSums {
			break
		}
	}
	if len(b.sums) == 0 {
		return nil
	}
	return b
}

// unit returns the run of blocks from block i on, at most limit, that are compared together, and whether they can be named only all.
func (b *base) unit(i, limit int64) (to int64, whole bool) {
	for len(b.whole) > 0 && b.whole[0].Offset+b.whole[0].Length <= i*proto.BlockSize {
		b.whole = b.whole[1:]
	}
	to = min(i+segmentBlocks, limit)
	if len(b.whole) == 0 {
		return to, false
	}
	w := b.whole[0]
	from, end := w.Offset/proto.BlockSize, proto.Blocks(w.Offset+w.Length)
	if i < from {
		return min(to, from), false
	}
	return min(to, end), true
}

// names reports whether a run of blocks with these digests can be named: they are the version's at the same place, and where whole
// is set, they are one of the runs of which all is named or nothing.
func (b *base) names(from int64, own []proto.Digest, whole bool) bool {
	to := from + int64(len(own))
	if to > int64(len(b.sums)) {
		return false
	}
	for i, d := range own {
		if b.sums[from+int64(i)] != d {
			return false
		}
	}
	return !whole || b.whole[0].Offset == from*proto.BlockSize && proto.Blocks(b.whole[0].Offset+b.whole[0].Length) == to
}

// sameBlocks is how many equal blocks are named at a time at most: what is not named yet is read again after a takeover.
const sameBlocks = 256

// span is a run of blocks.
type span struct{ from, to int64 }

// delta sends what an object has of its own, and names the rest.
type delta struct {
	l     *large
	base  *base
	group *errgroup.Group // of the segments on their way

	settled *blocks // not to be sent: what the relay had, what was sent, and what was named and taken
	room    *room   // of the segment that is being filled; nil while it is empty
	used    int
	sends   []span // in it
	named   []span // to be told with the next piece Same
	count   int64  // blocks of named
	lost    bool   // a read that was left behind may still fill the buffer of unit
}

func newDelta(l *large, b *base, group *errgroup.Group) *delta {
	d := &delta{l: l, base: b, group: group, settled: newBlocks(l.size)}
	l.mu.Lock()
	defer l.mu.Unlock()
	copy(d.settled.bits, l.acked.bits)
	return d
}

// run goes through the object from a block on. When group has ended, settled says what is left to be sent.
func (d *delta) run(ctx context.Context, next int64) error {
	buf := d.l.u.Window.room()
	defer func() {
		if !d.lost {
			d.l.u.Window.release(buf)
		}
		if d.room != nil {
			d.l.u.Window.release(d.room)
		}
	}()
	for from, to, ok := d.l.skip.next(next, d.l.skip.n); ok; from, to, ok = d.l.skip.next(to, d.l.skip.n) {
		for i := from; i < to; {
			end, whole := d.base.unit(i, to)
			if err := d.unit(ctx, buf.payload(), i, end, whole); err != nil {
				return err
			}
			i = end
		}
	}
	if err := d.ship(ctx); err != nil {
		return err
	}
	return d.name(ctx)
}

// unit reads a run of blocks and sorts them.
func (d *delta) unit(ctx context.Context, buf []byte, from, to int64, whole bool) error {
	l := d.l
	n := l.bytes(from, to)
	if err := l.u.Reads.pace(ctx, l.u.Read, n); err != nil {
		return err
	}
	over, err := l.read(ctx, buf[:n], from*proto.BlockSize, true)
	d.lost = d.lost || !over
	if err != nil {
		return err
	}
	proto.BlockDigests(l.digests[from:from:to], buf[:n])
	step := int64(1)
	if whole {
		step = to - from
	}
	for i := from; i < to; i += step {
		if d.base.names(i, l.digests[i:i+step], whole) {
			if err := d.equal(ctx, i, i+step); err != nil {
				return err
			}
			continue
		}
		if err := d.own(ctx, i, i+step, buf[(i-from)*proto.BlockSize:n]); err != nil {
			return err
		}
	}
	return nil
}

// extend adds a run of blocks to a list of runs.
func extend(list []span, from, to int64) []span {
	if n := len(list); n > 0 && list[n-1].to == from {
		list[n-1].to = to
		return list
	}
	return append(list, span{from, to})
}

// equal notes blocks that are named.
func (d *delta) equal(ctx context.Context, from, to int64) error {
	d.named, d.count = extend(d.named, from, to), d.count+to-from
	if d.count < sameBlocks {
		return nil
	}
	return d.name(ctx)
}

// own puts blocks that begin at p into the next segment.
func (d *delta) own(ctx context.Context, from, to int64, p []byte) error {
	n := int(d.l.bytes(from, to))
	if d.room != nil && d.used+n > proto.MaxPayload {
		if err := d.ship(ctx); err != nil {
			return err
		}
	}
	if d.room == nil {
		d.room = d.l.u.Window.room()
	}
	copy(d.room.payload()[d.used:], p[:n])
	d.used += n
	d.sends = extend(d.sends, from, to)
	return nil
}

// ship sends the segment that was filled.
func (d *delta) ship(ctx context.Context) error {
	if d.room == nil {
		return nil
	}
	pieces := make([]segment.Piece, len(d.sends))
	at := uint32(0)
	for i, s := range d.sends {
		pieces[i] = d.l.piece(s.from, s.to)
		pieces[i].At = at
		at += pieces[i].Length
	}
	r, sends, bytes := d.room, d.sends, d.used
	d.room, d.used, d.sends = nil, 0, nil
	raw, err := d.l.u.encodeIn(pieces, r, bytes)
	if err != nil {
		d.l.u.Window.release(r)
		return err
	}
	d.settle(sends...)
	return d.send(ctx, int64(bytes), func() error {
		defer d.l.u.Window.release(r)
		return d.l.putRuns(ctx, raw, sends)
	})
}

// name tells the runs that are equal.
func (d *delta) name(ctx context.Context) error {
	if len(d.named) == 0 {
		return nil
	}
	l, runs := d.l, d.named
	d.named, d.count = nil, 0
	pieces := make([]segment.Piece, len(runs))
	for i, s := range runs {
		pieces[i] = l.piece(s.from, s.to)
		pieces[i].Kind, pieces[i].Span, pieces[i].Length = segment.PieceSame, l.bytes(s.from, s.to), 0
	}
	raw, err := l.u.encode(pieces, nil)
	if err != nil {
		return err
	}
	return d.send(ctx, 0, func() error {
		reply, err := l.u.put(ctx, raw, len(pieces))
		if err != nil {
			return err
		}
		for i, s := range runs {
			switch reply.Pieces[i].State {
			case proto.PieceAccepted, proto.PieceDuplicate:
				d.settle(s)
				l.note(s.from, s.to)
			case proto.PieceMissing: // it is sent
			default:
				return l.stale()
			}
		}
		return nil
	})
}

// settle notes that runs need not be sent any more.
func (d *delta) settle(runs ...span) {
	d.l.mu.Lock()
	defer d.l.mu.Unlock()
	for _, s := range runs {
		for i := s.from; i < s.to; i++ {
			d.settled.set(i)
		}
	}
}

// send does fn beside what follows, when the window has room for n bytes.
func (d *delta) send(ctx context.Context, n int64, fn func() error) error {
	leave, err := d.l.u.Window.enter(ctx, n)
	if err != nil {
		return err
	}
	d.group.Go(func() error { // ends with the relay's answer, or with the upload
		defer leave()
		return fn()
	})
	return nil
}
