package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"forebay/proto"
)

// IDPlacement is a segment and where it lies.
type IDPlacement struct {
	ID proto.SegmentID
	Placement
}

// Free takes segments out of the stores of their placements and gives the space back. It may be repeated. Stores not in use
// are passed over: what stays in them is found by Each when they are back. To free what only one store holds too much,
// name a placement with that store alone.
func (s *Set) Free(ctx context.Context, list []IDPlacement) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("free segments: %w", err)
	}
	perDisk := make(map[*disk][]proto.SegmentID)
	for _, it := range list {
		for _, id := range it.Stores {
			if d := s.disk(id); d != nil {
				perDisk[d] = append(perDisk[d], it.ID)
			}
		}
	}
	var (
		mu   sync.Mutex
		errs []error
		all  sync.WaitGroup
	)
	for d, ids := range perDisk {
		slices.SortFunc(ids, func(a, b proto.SegmentID) int { return slices.Compare(a.Bytes(), b.Bytes()) })
		// Ends at the latest with the deadlines of the store's calls.
		all.Go(func() {
			if err := d.freeSegments(ids); err != nil && !errors.Is(err, errDown) {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			d.look()
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// Each calls fn for each shard that a store holds, in the order of segment ids, without reading the shards. The ledger's
// rebuild learns from it what there is, the sweep what the ledger does not know. It fails when the store is not in use, and
// with fn's error.
func (s *Set) Each(ctx context.Context, store StoreID, fn func(Found) error) error {
	d := s.disk(store)
	if d == nil {
		return proto.Errorf(proto.ClassTransient, "list store %s: %w", store, errDown)
	}
	found, err := d.each(ctx)
	if err != nil {
		return err
	}
	for _, f := range found {
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}
