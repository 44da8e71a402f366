package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard"
)

// Read is a segment that was read back, and what was wrong with its shards.
type Read struct {
	// Segment's header is proved; the reader proves each piece that it uses (segment.Prove). The caller owns its bytes.
	Segment *segment.Segment
	Bad     []int // shards that are damaged or absent, as far as they were looked at: Heal mends them
	Away    []int // shards whose store is not in use, or did not answer
	Gone    []int // shards in stores that an operator gave up: those never come back
}

// LostError says that a segment cannot be read: fewer good shards than needed. Temporary tells a segment whose stores are
// only away from one that is gone.
type LostError struct {
	ID   proto.SegmentID
	Need int
	Good int // shards that are good
	Bad  []int
	Away []int
	Gone []int
	Err  error // what the first bad or absent shard said
}

// Error says which shards are lacking.
func (e *LostError) Error() string {
	return fmt.Sprintf("segment %s cannot be read: it needs %d shards; damaged or absent are %v, in stores that are away %v, in stores given up %v: %v", e.ID, e.Need, e.Bad, e.Away, e.Gone, e.Err)
}

// Unwrap returns a proto.Error of ClassCorrupt when the segment is gone, of ClassTransient while stores are away.
func (e *LostError) Unwrap() error {
	if e.Temporary() {
		return proto.Errorf(proto.ClassTransient, "stores are away: %w", e.Err)
	}
	return proto.Errorf(proto.ClassCorrupt, "too many shards are damaged: %w", e.Err)
}

// Temporary reports whether the segment may be readable again when stores come back.
func (e *LostError) Temporary() bool { return len(e.Away) > 0 && e.Good+len(e.Away) >= e.Need }

// Get reads a segment back: its data shards, and parity only where those fail. It returns a *LostError when fewer shards
// than needed are good; wrong bytes are never returned (I3). Damaged shards are told as events too.
func (s *Set) Get(ctx context.Context, id proto.SegmentID, p Placement) (Read, error) {
	return s.read(ctx, id, p, p.Geometry.Data)
}

// read gathers at least enough good shards, reading eager ones at once.
func (s *Set) read(ctx context.Context, id proto.SegmentID, p Placement, eager int) (Read, error) {
	if err := p.check(id); err != nil {
		return Read{}, err
	}
	for {
		g := &gathering{set: s, id: id, p: p}
		again, err := g.gather(ctx, eager)
		if err != nil {
			return Read{}, err
		}
		if !again {
			return g.finish()
		}
		// A read hangs and may yet write into the memory it was given: begin anew with other memory. The store has been
		// taken out of use, so this ends.
	}
}

// gathering is one attempt to read a segment.
type gathering struct {
	set  *Set
	id   proto.SegmentID
	p    Placement
	join *shard.Join
	good []int
	bad  []int
	away []int
	gone []int
	err  error // of the first shard that was not good
}

// gather reads shards until enough are good or none is left. It reports true when it must be begun anew.
func (g *gathering) gather(ctx context.Context, eager int) (again bool, err error) {
	if g.join, err = g.set.coder.Join(g.p.Code(g.id)); err != nil {
		return false, err
	}
	for next, n := 0, eager; n > 0; n = min(g.join.Missing(), len(g.p.Stores)-next) {
		errs := g.batch(ctx, next, n)
		for i, err := range errs {
			if isHung(err) {
				again = true
			}
			g.note(next+i, err)
		}
		if err := ctx.Err(); err != nil { // reads may still be going on: the memory is left to them
			return false, fmt.Errorf("read segment %s: %w", g.id, err)
		}
		if again {
			return true, nil
		}
		next += n
	}
	return false, nil
}

// batch reads n shards from first on, side by side.
func (g *gathering) batch(ctx context.Context, first, n int) []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		index := first + i
		d := g.set.disk(g.p.Stores[index])
		if d == nil {
			errs[i] = fmt.Errorf("%w: %s", errDown, g.p.Stores[index])
			if g.set.givenUp(g.p.Stores[index]) {
				errs[i] = fmt.Errorf("%w: %s", errGivenUp, g.p.Stores[index])
			}
			continue
		}
		// Ends at the latest with the deadline of the store's call.
		all.Go(func() { errs[i] = d.get(ctx, Found{g.p.Code(g.id), index}, g.join) })
	}
	all.Wait()
	return errs
}

func (g *gathering) note(index int, err error) {
	if err == nil {
		g.good = append(g.good, index)
		return
	}
	if g.err == nil {
		g.err = err
	}
	if errors.Is(err, errGivenUp) {
		g.gone = append(g.gone, index)
		return
	}
	if !damaged(err) {
		g.away = append(g.away, index)
		return
	}
	g.bad = append(g.bad, index)
	e := Event{Kind: ShardBad, Store: g.p.Stores[index], Segment: g.id, Shard: index, Err: err}
	if d := g.set.disk(e.Store); d != nil {
		e.Path = d.path
	}
	g.set.deps.Event(e)
}

func (g *gathering) finish() (Read, error) {
	lost := func(err error) error {
		return &LostError{ID: g.id, Need: g.p.Geometry.Data, Good: len(g.good), Bad: g.bad, Away: g.away, Gone: g.gone, Err: err}
	}
	if g.join.Missing() > 0 {
		return Read{}, lost(g.err)
	}
	raw, err := g.join.Raw()
	if err != nil {
		return Read{}, lost(err)
	}
	g.join.Release()
	seg, err := segment.DecodeHeader(raw)
	if err == nil && seg.ID != g.id {
		err = proto.Errorf(proto.ClassCorrupt, "segment %s decodes to segment %s", g.id, seg.ID)
	}
	if err != nil {
		g.bad, g.away, g.good = append(g.bad, g.good...), nil, nil // the shards agree on something that is no segment
		slices.Sort(g.bad)
		return Read{}, lost(err)
	}
	return Read{Segment: seg, Bad: g.bad, Away: g.away, Gone: g.gone}, nil
}

func isHung(err error) bool { return errors.Is(err, errHung) }
