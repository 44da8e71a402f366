package relay

import (
	"context"
	"errors"
	"slices"
	"time"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/shard/store"
)

const (
	sweepEvery = 500 * time.Millisecond
	freeBatch  = 256
)

// sweep frees segments that nothing needs, has links let go of content when there is no room, drops tombstones that everybody has
// seen, and follows links that are being seeded or dropped.
func (r *Relay) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		r.sweepRound(ctx, n)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// sweepRound is the n-th round of the sweep, from 0.
func (r *Relay) sweepRound(ctx context.Context, n int) {
	if err := r.freeSegments(ctx); err != nil && !errors.Is(err, context.Canceled) {
		r.deps.Log.Warn().Err(err).Msg("segments were not freed")
	}
	if err := r.tendStreams(); err != nil {
		r.deps.Log.Warn().Err(err).Msg("streams were not looked after")
	}
	if err := r.releaseOver(); err != nil {
		r.deps.Log.Warn().Err(err).Msg("nothing was released")
	}
	r.recordInflow(false)
	if n%4 == 0 {
		r.keepMemo()
	}
	if n%120 == 0 {
		r.burials.under = true
	}
	if r.burials.under {
		r.burials.under = !r.dropTombstones(burialLook)
	}
	if n%10 == 0 {
		if err := r.repack(ctx); err != nil && ctx.Err() == nil {
			r.deps.Log.Warn().Err(err).Msg("sparse segments were not repacked")
		}
	}
}

// freeSegments gives space back: out of the stores first, then out of the ledger, so that a crash in between only means
// doing it again. A segment that is being moved or mended is left for later: its shards are not all where its row says.
func (r *Relay) freeSegments(ctx context.Context) error {
	for ctx.Err() == nil {
		seqs, err := ledger.FreeList(r.ledger, freeBatch)
		if err != nil || len(seqs) == 0 {
			return err
		}
		listed := len(seqs)
		seqs = slices.DeleteFunc(seqs, func(seq uint64) bool { return !r.upkeep.take(seq) })
		err = r.freeThese(ctx, seqs)
		r.upkeep.give(seqs...)
		if err != nil || len(seqs) < listed {
			return err
		}
		r.deps.Fault.At(faultpoint.RelayFreeRecorded)
	}
	return ctx.Err()
}

// freeThese frees segments that are the caller's own.
func (r *Relay) freeThese(ctx context.Context, seqs []uint64) error {
	var list []store.IDPlacement
	for _, seq := range seqs {
		row, ok, err := ledger.Segment(r.ledger, seq)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		it := store.IDPlacement{ID: proto.SegmentID{Relay: r.meta.Relay, Seq: seq}}
		if err := proto.Unmarshal(row.Placement, &it.Placement); err != nil {
			return err
		}
		list = append(list, it)
	}
	// What can be read in the ledger need not be durable yet; without what let go of a segment, a power cut would leave a
	// debt whose bytes are gone. An update returns when everything before it is durable.
	if err := r.ledger.Update(); err != nil {
		return err
	}
	r.deps.Fault.At(faultpoint.RelayFreeChosen)
	if err := r.stores.Free(ctx, list); err != nil {
		return err
	}
	r.deps.Fault.At(faultpoint.RelayFreed)
	return r.ledger.Update(&ledger.FreeSegments{Seqs: seqs})
}
