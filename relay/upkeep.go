package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/repair"
	"forebay/shard/store"
)

// Upkeep is how the relay looks after what the stores hold. It can be changed while the relay runs.
type Upkeep struct {
	// RebuildAfter is how long a store may be away before its segments are coded anew on the others.
	RebuildAfter time.Duration
	RebuildRate  float64       // bytes of segments a second that are coded anew; 0: no limit
	Scrub        time.Duration // from the beginning of one reading of all shards to the next; 0: never
	ScrubRate    float64       // bytes of shards a second; 0: no limit
}

// upkeep is the relay's state of looking after the stores.
type upkeep struct {
	cfg  atomic.Pointer[Upkeep]
	wake chan struct{}

	mu sync.Mutex
	// busy are the segments whose shards somebody moves, mends or frees: one at a time.
	busy map[uint64]bool
	// away is since when stores are out of use, well since when all are in use and take data.
	away map[store.StoreID]time.Time
	well time.Time
	// sweep are stores to be looked through for shards that nothing names, stale are shards that were moved: they are freed a
	// little later, for a reader may have begun with the old placement.
	sweep map[store.StoreID]bool
	stale []stale
	// draining says, for a store that is being drained, the last sequence that was given when that began.
	draining map[store.StoreID]uint64
	catalog  *repair.Catalog
	dirty    bool // something changed that the catalog does not have
	repaired repaired
	scrub    scrubbing
	remember sync.Mutex // one writing of the stores' identities at a time
	read     atomic.Int64
}

type stale struct {
	at  store.At
	due time.Time
}

// repaired counts what was done since there was last nothing to do.
type repaired struct {
	began    time.Time
	segments int64
	bytes    int64
	lost     int64
	last     string // why the last one failed
}

func (u *upkeep) init(cfg Upkeep) {
	u.cfg.Store(&cfg)
	u.wake = make(chan struct{}, 1)
	u.busy, u.away, u.sweep, u.draining = map[uint64]bool{}, map[store.StoreID]time.Time{}, map[store.StoreID]bool{}, map[store.StoreID]uint64{}
}

// SetUpkeep changes how the stores are looked after.
func (r *Relay) SetUpkeep(u Upkeep) {
	r.upkeep.cfg.Store(&u)
	r.upkeep.ring()
}

func (u *upkeep) ring() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// take makes a segment the caller's own until give. It reports false when it is somebody's already.
func (u *upkeep) take(seq uint64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy[seq] {
		return false
	}
	u.busy[seq] = true
	return true
}

func (u *upkeep) give(seqs ...uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, seq := range seqs {
		delete(u.busy, seq)
	}
}

// changed asks for a new look at the segments.
func (u *upkeep) changed() {
	u.mu.Lock()
	u.dirty = true
	u.mu.Unlock()
	u.ring()
}

// wideAfter is how long all stores must have been well before narrower segments are coded anew for width alone.
const wideAfter = time.Minute

// standings says how the shards in each store count now.
func (r *Relay) standings() repair.Stores {
	u, now := &r.upkeep, r.now()
	after := u.cfg.Load().RebuildAfter
	st := repair.Stores{Standing: map[store.StoreID]repair.Standing{}, Takers: map[store.StoreID]bool{}, Coding: r.stores.Coding()}
	states, roles := r.stores.States(), r.stores.Roles()
	u.mu.Lock()
	defer u.mu.Unlock()
	well := true
	for _, s := range states {
		if s.ID.IsZero() {
			well = well && s.Role == store.RoleGivenUp
			continue
		}
		if s.State == store.OK || s.State == store.Degraded {
			delete(u.away, s.ID)
			st.Standing[s.ID] = repair.InUse
			switch {
			case s.Role == store.RoleDraining:
				st.Standing[s.ID] = repair.Leaving
			case s.State == store.OK:
				st.Takers[s.ID] = true
			}
			well = well && s.State == store.OK
			continue
		}
		if s.Role == store.RoleDrained {
			st.Standing[s.ID] = repair.Overdue // it does not come back by itself
			continue
		}
		well = false
		if _, ok := u.away[s.ID]; !ok {
			u.away[s.ID] = now
		}
		if now.Sub(u.away[s.ID]) >= after {
			st.Standing[s.ID] = repair.Overdue
		}
	}
	for _, k := range roles.GivenUp {
		st.Standing[k.ID] = repair.Gone
	}
	if !well {
		u.well = time.Time{}
	} else if u.well.IsZero() {
		u.well = now
	}
	st.Wide = well && now.Sub(u.well) >= wideAfter
	return st
}

// signature tells whether the stores stand as before.
func signature(st repair.Stores) string {
	var parts []string
	for id, s := range st.Standing {
		parts = append(parts, fmt.Sprintf("%s %d %t", id, s, st.Takers[id]))
	}
	slices.Sort(parts)
	return fmt.Sprintf("%t %s", st.Wide, strings.Join(parts, ","))
}

// busyNow reports whether the cache has taken data in, or was read for a flush, in the last second.
func (r *Relay) busyNow(now time.Time) bool {
	return r.inflow.recent(now) > 0 || now.UnixNano()-r.upkeep.read.Load() < int64(time.Second)
}

// mending is what came of looking after a segment.
type mending struct {
	found, healed int  // shards that were not good, and were written anew
	away          bool // shards are out of reach
	moved         bool
	lost          bool
	bytes         int64
}

// Why a segment is looked after: shards that are only out of reach are made anew when the repair decides so, not because
// somebody happened to read them.
type why uint8

const (
	damaged why = iota // write anew what is damaged
	decided            // and what is out of reach or in a store that is being drained
	widened            // and use the full width
)

// errBusy says that a segment is being looked after already.
var errBusy = proto.Errorf(proto.ClassTransient, "the segment is being moved, mended or freed")

// mend looks at all shards of a segment and brings it back to its full number of them.
func (r *Relay) mend(ctx context.Context, seq uint64, w why) (mending, error) {
	if !r.upkeep.take(seq) {
		return mending{}, errBusy
	}
	defer r.upkeep.give(seq)
	var m mending
	row, ok, err := ledger.Segment(r.ledger, seq)
	if err != nil || !ok || row.Refs == 0 { // freed, or about to be
		return m, err
	}
	var p store.Placement
	if err := proto.Unmarshal(row.Placement, &p); err != nil {
		return m, fmt.Errorf("placement of segment %d: %w", seq, err)
	}
	id := proto.SegmentID{Relay: r.meta.Relay, Seq: seq}
	m.bytes = p.RawBytes()
	read, err := r.stores.Examine(ctx, id, p)
	if err != nil {
		var lost *store.LostError
		if errors.As(err, &lost) {
			m.found, m.away = len(lost.Bad), len(lost.Away) > 0
			if m.lost = !lost.Temporary(); m.lost {
				r.LoseSegment(seq, err)
			}
		}
		return m, err
	}
	m.found, m.away = len(read.Bad), len(read.Away) > 0
	if w == damaged && m.found == 0 && !row.Degraded {
		return m, nil
	}
	next, err := r.stores.Recode(ctx, id, p, read, w == widened)
	if ctx.Err() != nil {
		return m, ctx.Err()
	}
	if err != nil {
		r.deps.Log.Warn().Err(err).Str("segment", id.String()).Msg("shards are still lacking")
	} else {
		m.healed = m.found
	}
	still := err != nil && m.found > 0
	gone := store.Superseded(id, p, next)
	if m.moved = len(gone) > 0 || next.Geometry != p.Geometry; m.moved || m.healed > 0 || still != row.Degraded {
		r.deps.Fault.At(faultpoint.RelayHealed)
		if e := r.ledger.Update(&ledger.MoveSegment{Seq: seq, Placement: proto.Marshal(next), Stored: next.RawBytes(), Degraded: still}); e != nil {
			return m, e // Run ends with it
		}
		r.deps.Fault.At(faultpoint.RelayHealRecorded)
		r.upkeep.later(gone, r.now())
		r.upkeep.changed()
	}
	if m.healed > 0 {
		r.event("segment-healed", fmt.Sprintf("segment %s: %d bad shards were written anew", id, m.healed), map[string]string{"segment": id.String()})
	}
	return m, err
}

// staleAfter is for how long shards that were moved are kept: readers that began with the old placement are done by then, or
// begin anew.
const staleAfter = 5 * time.Second

func (u *upkeep) later(gone []store.At, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, at := range gone {
		u.stale = append(u.stale, stale{at, now.Add(staleAfter)})
	}
}

// freeStale frees the shards that were moved a while ago.
func (r *Relay) freeStale(ctx context.Context) error {
	u, now := &r.upkeep, r.now()
	var due []store.At
	u.mu.Lock()
	u.stale = slices.DeleteFunc(u.stale, func(s stale) bool {
		if now.Before(s.due) {
			return false
		}
		due = append(due, s.at)
		return true
	})
	u.mu.Unlock()
	_, err := r.freeUnnamed(ctx, due)
	return err
}

// freeUnnamed frees those of the shards that no placement in the ledger names: they are looked up while their segments cannot be
// moved. Shards of segments that are on their way in are left alone. It returns how many were freed.
func (r *Relay) freeUnnamed(ctx context.Context, list []store.At) (freed int, err error) {
	for len(list) > 0 && err == nil {
		n := min(len(list), freeBatch)
		var some int
		some, err = r.freeSome(ctx, list[:n])
		freed += some
		list = list[n:]
	}
	return freed, err
}

func (r *Relay) freeSome(ctx context.Context, list []store.At) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	taken := map[uint64]bool{}
	defer func() {
		for seq := range taken {
			r.upkeep.give(seq)
		}
	}()
	var unnamed []store.At
	for _, at := range list {
		seq := at.ID.Seq
		if at.ID.Relay != r.meta.Relay {
			continue
		}
		if !r.ingest.Settled(seq) || !taken[seq] && !r.upkeep.take(seq) {
			r.upkeep.later([]store.At{at}, r.now()) // on its way in, or being moved: it is looked at again
			continue
		}
		taken[seq] = true
		row, ok, err := ledger.Segment(r.ledger, seq)
		if err != nil {
			return 0, err
		}
		var p store.Placement
		if ok {
			if err := proto.Unmarshal(row.Placement, &p); err != nil {
				return 0, err
			}
		}
		kept, err := r.keptBack(seq, ok)
		if err != nil {
			return 0, err
		}
		switch {
		case kept:
		case ok && row.Degraded: // its shards are not all known to be good: this one may yet serve
		case !ok || !p.Holds(at.Store, at.Found):
			unnamed = append(unnamed, at)
		}
	}
	if len(unnamed) == 0 {
		return 0, nil
	}
	// What the look-up found need not be durable yet: an update returns when everything before it is.
	if err := r.ledger.Update(); err != nil {
		return 0, err
	}
	r.deps.Fault.At(faultpoint.RelayOrphansFound)
	return len(unnamed), r.stores.FreeShards(ctx, unnamed)
}

// keptBack reports whether shards of a segment stay although the ledger does not name them: what a rebuild could not read may be
// needed once its stores are back. What it did read and was freed since, on stores that were away then, is left over like any
// other. An old copy of the ledger knows neither what was acknowledged after it was made, nor where segments were moved since.
func (r *Relay) keptBack(seq uint64, known bool) (bool, error) {
	if seq >= r.meta.Kept || known && !r.meta.Outdated {
		return false, nil
	}
	if r.meta.Outdated {
		return true, nil
	}
	freed, err := ledger.Freed(r.ledger, seq)
	return !freed, err
}

// sweepStores looks through stores that were opened for shards that nothing names: of groups that became durable and were never
// acknowledged, of segments that were freed or moved while the store was away.
//
// A ledger that was put back from an old copy does not know what was acknowledged since: nothing that was in the stores when it
// was put back counts as left over (Meta.Kept).
func (r *Relay) sweepStores(ctx context.Context) (freed int) {
	u := &r.upkeep
	u.mu.Lock()
	todo := u.sweep
	u.sweep = map[store.StoreID]bool{}
	u.mu.Unlock()
	for _, st := range r.stores.States() {
		if !todo[st.ID] || st.State != store.OK && st.State != store.Degraded {
			continue // one that is away is looked through when it is opened
		}
		n, err := r.sweepStore(ctx, st.ID)
		if err != nil && ctx.Err() == nil {
			r.deps.Log.Warn().Err(err).Str("store", st.Path).Msg("leftover shards were not freed")
		}
		freed += n
		if n > 0 {
			r.event("orphans-freed", fmt.Sprintf("store %s: %d shards that no segment has there were freed", st.Path, n), map[string]string{"store": st.Path})
		}
	}
	return freed
}

func (r *Relay) sweepStore(ctx context.Context, id store.StoreID) (int, error) {
	var list []store.At
	err := r.stores.Each(ctx, id, func(f store.Found) error {
		row, ok, err := ledger.Segment(r.ledger, f.ID.Seq)
		if err != nil {
			return err
		}
		var p store.Placement
		if ok {
			if err := proto.Unmarshal(row.Placement, &p); err != nil {
				return err
			}
		}
		if !ok || !p.Holds(id, f) {
			list = append(list, store.At{Store: id, Found: f})
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return r.freeUnnamed(ctx, list)
}

// leftoversEvery is how often all stores are looked through for shards that nothing names. What was moved or freed while a store was
// being closed or opened again may be left in it.
const leftoversEvery = time.Hour

// sweepAll asks for a look through all stores.
func (r *Relay) sweepAll() {
	for _, st := range r.stores.States() {
		r.upkeep.sweepSoon(st.ID)
	}
}

func (u *upkeep) sweepSoon(id store.StoreID) {
	u.mu.Lock()
	u.sweep[id] = true
	u.mu.Unlock()
	u.ring()
}

// defaults for a Config that does not say.
func (u Upkeep) withDefaults() Upkeep {
	if u == (Upkeep{}) {
		return Upkeep{RebuildAfter: 10 * time.Minute, RebuildRate: 64 << 20, Scrub: 7 * 24 * time.Hour, ScrubRate: 16 << 20}
	}
	return u
}
