package relay

import (
	"context"
	"errors"
	"fmt"
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

// sweep frees segments that nothing needs, lets go what only stalled links need when they are over their share, drops
// tombstones that everybody has seen, and follows links that are being seeded or dropped.
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
		r.dropTombstones()
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

// releaseOver lets go of segments of stalled links while the cache is over its high water or an object does not find room:
// still owed, asked for again when the target is back. What no live holder has is kept (I1).
func (r *Relay) releaseOver() error {
	used, goal, pressed := r.admission.pressure()
	if !pressed || r.flush == nil {
		return nil
	}
	x, err := r.admission.expansion()
	if err != nil {
		return nil //nolint:nilerr // no healthy geometry: nothing is accepted, so nothing needs to be let go
	}
	capacity := float64(r.stores.Capacity())
	ls, err := ledger.Links(r.ledger)
	if err != nil {
		return err
	}
	var stalled []ledger.LinkRow
	var holds []holding
	for _, l := range ls {
		cfg, ok := r.link(l.Name)
		if !ok || cfg.Hold || !r.flush.Stalled(l.Name) {
			continue
		}
		stalled = append(stalled, l)
		holds = append(holds, holding{cached: int64(float64(l.CachedBytes) * x), share: int64(capacity * r.share(l.Name))})
	}
	for i, n := range letGo(used, goal, holds) {
		if n <= 0 {
			continue
		}
		if err := r.releaseLink(stalled[i], int64(float64(n)/x)); err != nil {
			return err
		}
	}
	return nil
}

func (r *Relay) releaseLink(l ledger.LinkRow, bytes int64) error {
	keepers, err := r.keepers(l.Dataset)
	if err != nil {
		return err
	}
	var vers []proto.VersionID
	left := bytes
	err = ledger.EachOwed(r.ledger, l, 0, func(q ledger.OwedVersion) (bool, error) {
		if q.Owed.State != ledger.OwedCached || q.Owed.Bytes == 0 || q.Row.Content.From > 0 || q.Row.Superseded {
			return true, nil
		}
		o, _, err := ledger.Object(r.ledger, l.Dataset, q.Row.Path)
		if err != nil || o.Current.Version != q.Version || !keepers.have(&o) {
			return err == nil, err
		}
		vers = append(vers, q.Version)
		left -= q.Owed.Bytes - q.Owed.Staged
		return left > 0 && len(vers) < 4096, nil
	})
	if err != nil || len(vers) == 0 {
		return err
	}
	e := &ledger.Release{Link: l.ID, Versions: vers}
	if err := r.ledger.Update(e); err != nil {
		return err
	}
	r.deps.Fault.At(faultpoint.RelayReleased)
	r.event("released", fmt.Sprintf("link %s is stalled and over its share of the cache: %d objects (%d bytes) were let go; they are still owed and will be asked for again", l.Name, len(vers), e.Bytes),
		map[string]string{"link": l.Name, "objects": fmt.Sprint(len(vers)), "bytes": fmt.Sprint(e.Bytes)})
	return nil
}

// keepers are the live holders of a dataset, with the generation of each one's index.
type keepers map[proto.HolderID]uint32

func (r *Relay) keepers(ds proto.DatasetID) (keepers, error) {
	hs, err := ledger.Holders(r.ledger)
	if err != nil {
		return nil, err
	}
	alive, out := r.alive(ds), keepers{}
	for _, h := range hs {
		if slices.Contains(alive, h.ID) {
			out[h.ID] = h.IndexGen
		}
	}
	return out, nil
}

// have reports whether one of them has said, of its present index, that it has an object's current version. What it said before its
// index was made anew is hearsay: a new index often comes with a new disk, and what only hearsay keeps must not be let go (I1).
func (k keepers) have(o *ledger.ObjectRow) bool {
	return slices.ContainsFunc(o.Holders, func(h ledger.Holding) bool {
		gen, alive := k[h.Holder]
		return alive && gen == h.IndexGen && h.State == ledger.HoldingHas && h.Version == o.Current.Version
	})
}
