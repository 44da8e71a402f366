package relay

import (
	"context"
	"fmt"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/repair"
	"forebay/shard/store"
)

const (
	upkeepTick = 200 * time.Millisecond
	// walkEvery is how often all segments are looked at when nothing changes, walkLeast how often at most when something does.
	walkEvery = 30 * time.Second
	walkLeast = 2 * time.Second
	// walkShare bounds the time spent on that: one part in so many.
	walkShare = 20
	// worked is how many segments one look lists to be worked on.
	worked = 4096
)

// rebuilder is the loop that brings segments back to their full number of shards. Its state is the loop's own.
type rebuilder struct {
	r      *Relay
	pace   *repair.Pace
	work   []repair.Item
	seen   string // signature of the stores at the last walk
	walked time.Time
	took   time.Duration
	active bool // a campaign is on
	better bool // something of this look's work could be done
}

// keepStores looks after the stores until ctx ends: it sweeps what was opened, codes segments anew, and ends drains.
func (r *Relay) keepStores(ctx context.Context) error {
	tick := time.NewTicker(upkeepTick)
	defer tick.Stop()
	for {
		r.upkeepRound(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.upkeep.wake:
		}
	}
}

// upkeepRound does what is due.
func (r *Relay) upkeepRound(ctx context.Context) {
	if r.rounds.leftovers.due(r.now(), leftoversEvery) {
		r.sweepAll()
	}
	r.sweepStores(ctx)
	if err := r.freeStale(ctx); err != nil && ctx.Err() == nil {
		r.deps.Log.Warn().Err(err).Msg("shards that were moved were not freed")
	}
	if err := r.rebuilder.round(ctx); err != nil && ctx.Err() == nil {
		r.deps.Log.Warn().Err(err).Msg("segments were not looked after")
	}
}

// round walks when that is due, works as far as the budget goes, and notes what is complete.
func (b *rebuilder) round(ctx context.Context) error {
	st := b.r.standings()
	now := b.r.now()
	if b.due(signature(st), now) {
		settled := b.r.settledDrains()
		if err := b.walk(st, now); err != nil {
			return err
		}
		b.r.endDrains(settled, b.catalog())
	}
	b.tell(st)
	for len(b.work) > 0 && ctx.Err() == nil {
		it := b.work[0]
		now := b.r.now()
		urgent := it.Need == repair.Lose || it.Need == repair.Mend && it.Spare <= 0
		if !b.pace.Take(now, it.Length, b.r.upkeep.cfg.Load().RebuildRate, b.r.busyNow(now), urgent) {
			return nil
		}
		b.work = b.work[1:]
		b.do(ctx, it)
		if len(b.work) == 0 && b.better {
			b.r.upkeep.changed() // look whether that was all; where nothing could be done, in a while
		}
		if s := signature(b.r.standings()); s != b.seen {
			return nil // what is urgent may have changed
		}
	}
	return nil
}

func (b *rebuilder) catalog() *repair.Catalog {
	b.r.upkeep.mu.Lock()
	defer b.r.upkeep.mu.Unlock()
	return b.r.upkeep.catalog
}

func (b *rebuilder) due(sig string, now time.Time) bool {
	since := now.Sub(b.walked)
	b.r.upkeep.mu.Lock()
	dirty := b.r.upkeep.dirty
	b.r.upkeep.mu.Unlock()
	switch {
	case b.walked.IsZero() || sig != b.seen || since < 0:
		return true
	case dirty:
		return since >= max(walkLeast, walkShare*b.took)
	}
	return since >= max(walkEvery, walkShare*b.took)
}

// walk looks at every segment's row: what is lacking is counted and listed.
func (b *rebuilder) walk(st repair.Stores, now time.Time) error {
	u := &b.r.upkeep
	u.mu.Lock()
	u.dirty = false
	u.mu.Unlock()
	c := repair.NewCatalog(st, worked)
	err := b.r.ledger.View(func(rows ledger.Rows) error {
		return ledger.EachSegment(rows, func(seq uint64, row ledger.SegmentRow) (bool, error) {
			var p store.Placement
			if err := proto.Unmarshal(row.Placement, &p); err != nil {
				return false, fmt.Errorf("placement of segment %d: %w", seq, err)
			}
			if row.Refs > 0 { // else it is about to be freed
				c.Add(seq, p, row.Degraded)
			}
			return true, nil
		})
	})
	if err != nil {
		return err
	}
	b.better = false
	b.work, b.seen, b.walked, b.took = c.Work(), signature(st), now, b.r.now().Sub(now)
	u.mu.Lock()
	u.catalog = c
	u.mu.Unlock()
	return nil
}

// do works on one segment.
func (b *rebuilder) do(ctx context.Context, it repair.Item) {
	w := decided
	if it.Need == repair.Widen {
		w = widened
	}
	m, err := b.r.mend(ctx, it.Seq, w)
	u := &b.r.upkeep
	b.better = b.better || m.lost || err == nil
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case m.lost:
		u.repaired.lost++
	case err != nil && ctx.Err() == nil:
		u.repaired.last = err.Error()
	case err == nil:
		u.repaired.last = ""
		u.repaired.segments++
		u.repaired.bytes += it.Length
	}
}

// tell notes when there begins to be something to do, and when it is done.
func (b *rebuilder) tell(st repair.Stores) {
	u := &b.r.upkeep
	u.mu.Lock()
	if u.catalog == nil {
		u.mu.Unlock()
		return
	}
	sum, done := u.catalog.Sum(st), u.repaired
	active := sum.Waiting > 0 || len(b.work) > 0
	if active == b.active || u.dirty {
		u.mu.Unlock()
		return
	}
	b.active = active
	if active {
		u.repaired = repaired{began: b.r.now()}
	} else {
		u.repaired = repaired{}
	}
	u.mu.Unlock()
	if active {
		b.r.event("rebuild-began", fmt.Sprintf("cache: %d segments (%d bytes) are coded anew", sum.Waiting, sum.Bytes), nil)
		return
	}
	b.r.event("rebuild-done", fmt.Sprintf("cache: %d segments (%d bytes) were coded anew, %d were lost and are asked for again", done.segments, done.bytes, done.lost),
		map[string]string{"segments": fmt.Sprint(done.segments), "lost": fmt.Sprint(done.lost)})
}

// settledDrains returns the stores that are being drained and into which nothing is on its way any more.
func (r *Relay) settledDrains() (out []store.StoreID) {
	u := &r.upkeep
	for _, id := range r.stores.Roles().Draining {
		u.mu.Lock()
		mark, ok := u.draining[id]
		if !ok { // since before this start
			mark = 0
		}
		u.mu.Unlock()
		if r.ingest.SettledTo(mark) {
			out = append(out, id)
		}
	}
	return out
}

// endDrains closes the drained stores in which no segment lies any more, and forgets stores that are no longer configured and
// hold none.
func (r *Relay) endDrains(settled []store.StoreID, c *repair.Catalog) {
	changed := false
	for _, id := range settled {
		if c.On(id) > 0 {
			continue
		}
		path, ok, err := r.stores.Drained(id)
		if err != nil {
			r.deps.Log.Warn().Err(err).Str("store", path).Msg("the drained store was not closed")
		}
		if ok {
			changed = true
			r.event("store-drained", fmt.Sprintf("store %s: it is empty and closed; take it out of cache.stores", path), map[string]string{"store": path})
		}
	}
	for _, st := range r.stores.States() {
		if st.Unconfigured && st.State == store.Missing && c.On(st.ID) == 0 {
			if path, ok := r.stores.Forget(st.ID); ok {
				changed = true
				r.event("store-forgotten", fmt.Sprintf("store %s: it is no longer configured and no segment lies in it", path), map[string]string{"store": path})
			}
		}
	}
	if !changed {
		return
	}
	if err := r.rememberStores(); err != nil { // the disk may be taken away now
		r.deps.Log.Warn().Err(err).Msg("what became of stores was not recorded")
		r.notes.again()
	}
}

// summary counts the segments as the stores stand now.
func (r *Relay) summary() (sum repair.Summary, done repaired, on func(store.StoreID) int64) {
	st := r.standings()
	r.upkeep.mu.Lock()
	defer r.upkeep.mu.Unlock()
	on = func(store.StoreID) int64 { return 0 }
	if c := r.upkeep.catalog; c != nil {
		return c.Sum(st), r.upkeep.repaired, c.On
	}
	return sum, r.upkeep.repaired, on
}
