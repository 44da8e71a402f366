package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard"
)

// Heal looks at every shard of a segment and writes those anew that are damaged, absent, or in a store that is not in use:
// into the same store if that takes data, else into one that holds no other shard of the segment. The geometry stays. It
// returns the placement that is then in force, which the caller records when it changed. On an error the returned placement
// is valid too, but some shards are still lacking: ClassOverload when there was no store for them, a *LostError when the
// segment cannot be read at all.
func (s *Set) Heal(ctx context.Context, id proto.SegmentID, p Placement) (Placement, error) {
	r, err := s.read(ctx, id, p, p.Geometry.Shards())
	if err != nil {
		return p, err
	}
	broken := slices.Concat(r.Bad, r.Away)
	if len(broken) == 0 {
		return p, nil
	}
	// Prove every byte first: what is written now carries fresh checksums.
	if _, err := segment.Decode(r.Segment.Raw); err != nil {
		return p, fmt.Errorf("heal segment %s: %w", id, err)
	}
	e, err := s.coder.Encode(id, r.Segment.Raw, p.Geometry)
	if err != nil {
		return p, fmt.Errorf("heal segment %s: %w", id, err)
	}
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
