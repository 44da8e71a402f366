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

// Examine reads every shard of a segment, parity too, and says which are not good. It returns a *LostError when fewer than
// needed are. Damaged shards are told as events.
func (s *Set) Examine(ctx context.Context, id proto.SegmentID, p Placement) (Read, error) {
	return s.read(ctx, id, p, p.Geometry.Shards())
}

// Heal looks at every shard of a segment and writes those anew that are damaged, absent, in a store that is not in use or in
// one that is being drained: into the same store if that takes data, else into one that holds no other shard of the segment.
// The geometry stays. It returns the placement that is then in force, which the caller records when it changed. On an error
// the returned placement is valid too, but some shards are still lacking: ClassOverload when there was no store for them, a
// *LostError when the segment cannot be read at all.
func (s *Set) Heal(ctx context.Context, id proto.SegmentID, p Placement) (Placement, error) {
	r, err := s.Examine(ctx, id, p)
	if err != nil {
		return p, err
	}
	broken := s.broken(p, r)
	if len(broken) == 0 {
		return p, nil
	}
	e, err := s.codeAnew(id, r, p.Geometry)
	if err != nil {
		return p, err
	}
	return s.patch(p, e, broken)
}

// Recode brings a segment that was examined back to its full number of shards: those that are lacking are written anew as
// Heal does, or, when the stores do not suffice for that, the whole segment in a narrower geometry with the configured
// parity. With widen a segment that is narrower than configured is coded in the configured geometry, when the stores suffice.
//
// Nothing of the old placement is overwritten or freed, but for damaged shards: until the caller has recorded the returned
// placement the old one is as good as before, and afterwards Superseded says what FreeShards may free. An error is as Heal's.
func (s *Set) Recode(ctx context.Context, id proto.SegmentID, p Placement, r Read, widen bool) (Placement, error) {
	if err := ctx.Err(); err != nil {
		return p, fmt.Errorf("recode segment %s: %w", id, err)
	}
	broken := s.broken(p, r)
	takers := s.writable(nil)
	g := remedy(p.Geometry, s.Coding(), len(broken), len(s.spares(p, broken)), len(takers), widen)
	if g == p.Geometry && len(broken) == 0 {
		return p, nil
	}
	e, err := s.codeAnew(id, r, g)
	if err != nil {
		return p, err
	}
	if g == p.Geometry {
		return s.patch(p, e, broken)
	}
	return s.place(p, e, takers)
}

// remedy decides in which geometry a segment is to be: as it is when the spare stores suffice for the broken shards (or when
// there is nothing else to try), else as wide as the stores that take data allow at the configured parity.
func remedy(now, coding shard.Geometry, broken, spare, takers int, widen bool) shard.Geometry {
	best, ok := shard.Narrow(coding, takers)
	switch {
	case !ok:
		return now
	case widen && best == coding && Narrower(now, coding):
		return coding
	case broken > spare:
		return best
	}
	return now
}

// Narrower reports whether a segment in geometry g rests on fewer shards than coding asks for: fewer data shards, which costs
// space, or less parity, which costs safety.
func Narrower(g, coding shard.Geometry) bool { return g.Data < coding.Data || g.Parity < coding.Parity }

// broken returns the shards that are not good where they are: damaged, out of reach, or in a store that is being drained.
func (s *Set) broken(p Placement, r Read) []int {
	out := slices.Concat(r.Bad, r.Away, r.Gone)
	for i, id := range p.Stores {
		if d := s.disk(id); d != nil && d.leaving() && !slices.Contains(out, i) {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return out
}

// spares returns the stores that take data and hold no shard of p but broken ones.
func (s *Set) spares(p Placement, broken []int) (out []*disk) {
	for _, d := range s.writable(nil) {
		i := slices.Index(p.Stores, d.storeID())
		if i < 0 || slices.Contains(broken, i) {
			out = append(out, d)
		}
	}
	return out
}

// codeAnew proves every byte, for what is written now carries fresh checksums, and codes it.
func (s *Set) codeAnew(id proto.SegmentID, r Read, g shard.Geometry) (*shard.Encoded, error) {
	if _, err := segment.Decode(r.Segment.Raw); err != nil {
		return nil, fmt.Errorf("code segment %s anew: %w", id, err)
	}
	e, err := s.coder.Encode(id, r.Segment.Raw, g)
	if err != nil {
		return nil, fmt.Errorf("code segment %s anew: %w", id, err)
	}
	return e, nil
}

// patch writes the broken shards of a segment whose geometry stays.
func (s *Set) patch(p Placement, e *shard.Encoded, broken []int) (Placement, error) {
	healed, hung := p, false
	healed.Stores = slices.Clone(p.Stores)
	var errs []error
	for _, i := range broken {
		err := s.healShard(&healed, Found{e.Code, i}, e.Shards[i])
		hung = hung || isHung(err)
		errs = append(errs, err)
	}
	if !hung {
		e.Release()
	}
	return healed, errors.Join(errs...)
}

func (s *Set) healShard(p *Placement, f Found, sh shard.Shard) error {
	d := s.healTarget(*p, f.Index)
	if d == nil {
		return proto.Errorf(proto.ClassOverload, "heal shard %d of segment %s: no store is left that takes data and holds no other shard of it", f.Index, f.ID)
	}
	if err := d.replace(job{f, sh}); err != nil {
		return fmt.Errorf("heal shard %d of segment %s: %w", f.Index, f.ID, err)
	}
	p.Stores[f.Index] = d.storeID()
	return nil
}

// healTarget returns where a shard may be written: its own store, else the one with the most room of those that hold none.
func (s *Set) healTarget(p Placement, index int) *disk {
	var best *disk
	bestFree := int64(0)
	for _, d := range s.writable(nil) {
		id := d.storeID()
		if id == p.Stores[index] {
			return d
		}
		d.mu.Lock()
		free := d.free
		d.mu.Unlock()
		if !slices.Contains(p.Stores, id) && (best == nil || free > bestFree) {
			best, bestFree = d, free
		}
	}
	return best
}

// place writes all shards of a segment in a new geometry, beside those of the old one.
func (s *Set) place(p Placement, e *shard.Encoded, takers []*disk) (Placement, error) {
	next := make([]Placement, 1)
	jobs := s.distribute(takers, []*shard.Encoded{e}, []int{0}, next)
	var (
		mu   sync.Mutex
		all  sync.WaitGroup
		errs []error
		hung bool
	)
	for d, list := range jobs {
		// Ends at the latest with the deadline of the store's call.
		all.Go(func() {
			if err := d.replace(list[0]); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				hung = hung || isHung(err)
			}
		})
	}
	all.Wait()
	if !hung {
		e.Release()
	}
	if len(errs) == 0 {
		return next[0], nil
	}
	_ = s.FreeShards(context.Background(), Superseded(e.ID, next[0], p)) // best effort; the sweep frees what no placement names
	return p, fmt.Errorf("code segment %s anew as %s: %w", e.ID, e.Geometry, errors.Join(errs...))
}

// At is one shard in one store.
type At struct {
	Store StoreID
	Found
}

// Holds reports whether p says that the shard f of its segment lies in the store.
func (p Placement) Holds(store StoreID, f Found) bool {
	return p.Code(f.ID) == f.Code && f.Index < len(p.Stores) && p.Stores[f.Index] == store
}

// Superseded returns the shards of a segment that old names and now does not.
func Superseded(id proto.SegmentID, old, now Placement) (out []At) {
	for i, st := range old.Stores {
		if f := (Found{old.Code(id), i}); !now.Holds(st, f) {
			out = append(out, At{st, f})
		}
	}
	return out
}

// FreeShards takes single shards out of stores and gives their space back; other shards of their segments stay. It may be
// repeated. Stores not in use are passed over, as by Free.
func (s *Set) FreeShards(ctx context.Context, list []At) error {
	var errs []error
	touched := make(map[*disk]bool)
	for _, at := range list {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("free shards: %w", err))...)
		}
		d := s.disk(at.Store)
		if d == nil {
			continue
		}
		touched[d] = true
		if err := d.freeShard(at.Found); err != nil && !errors.Is(err, errDown) {
			errs = append(errs, err)
		}
	}
	for d := range touched {
		d.look()
	}
	return errors.Join(errs...)
}
