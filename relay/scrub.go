package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/repair"
)

// scrubNote is the name under which the ledger keeps how far the scrub is.
const scrubNote = "scrub"

const (
	scrubBatch = 64
	scrubSave  = 10 * time.Second // between two notes of how far it is
)

// scrubbing is what others may ask of the scrub. Guarded by upkeep.mu.
type scrubbing struct {
	state   repair.Scrub
	asked   bool
	began   time.Time // of this run's part of the round, with what was read before
	before  int64
	pending []scrubItem
}

type scrubItem struct {
	seq   uint64
	bytes int64 // of its shards
}

// scrub reads all shards of all segments, again and again, as the schedule and the budget say, and has written anew what is not
// good. It ends when ctx does; where it is is kept over restarts.
func (r *Relay) scrub(ctx context.Context) error {
	tick := time.NewTicker(upkeepTick)
	defer tick.Stop()
	for {
		r.scrubRound(ctx)
		select {
		case <-ctx.Done():
			return r.scrubber.save(true)
		case <-tick.C:
		}
	}
}

// scrubRound does what is due.
func (r *Relay) scrubRound(ctx context.Context) {
	if err := r.scrubber.round(ctx); err != nil && ctx.Err() == nil {
		r.deps.Log.Warn().Err(err).Msg("the scrub is held up")
	}
}

// scrubber is the loop's own state; what others see is in upkeep.scrub.
type scrubber struct {
	r     *Relay
	pace  *repair.Pace
	saved time.Time
	dirty bool
}

func (s *scrubber) load() error {
	b, err := ledger.Note(s.r.ledger, scrubNote)
	if err != nil {
		return err
	}
	st := repair.Scrub{Format: repair.ScrubFormat, SinceNs: s.r.now().UnixNano()}
	if b != nil {
		var old repair.Scrub
		if err := proto.Unmarshal(b, &old); err == nil && old.Format == repair.ScrubFormat {
			st = old
		} // else it is begun anew: nothing else depends on it
	}
	u := &s.r.upkeep
	u.mu.Lock()
	defer u.mu.Unlock()
	u.scrub.state = st
	if st.Now != nil {
		u.scrub.began, u.scrub.before = s.r.now(), st.Now.Bytes
	}
	s.dirty = b == nil
	return nil
}

// save notes how far it is, when that is due.
func (s *scrubber) save(now bool) error {
	if !s.dirty || !now && s.r.now().Sub(s.saved) < scrubSave {
		return nil
	}
	u := &s.r.upkeep
	u.mu.Lock()
	b := proto.Marshal(u.scrub.state)
	u.mu.Unlock()
	if err := s.r.ledger.Update(&ledger.SetNote{Name: scrubNote, Value: b}); err != nil {
		return err
	}
	s.dirty, s.saved = false, s.r.now()
	return nil
}

// round reads as far as the budget goes.
func (s *scrubber) round(ctx context.Context) error {
	for ctx.Err() == nil {
		running, err := s.begin(ctx)
		if err != nil || !running {
			return err
		}
		it, ok, err := s.next()
		if err != nil {
			return err
		}
		if !ok {
			return s.end()
		}
		now := s.r.now()
		if !s.pace.Take(now, it.bytes, s.r.upkeep.cfg.Load().ScrubRate, s.r.busyNow(now), false) {
			break
		}
		s.read(ctx, it)
	}
	return s.save(false)
}

// begin begins a round when one is due, and reports whether one is on.
func (s *scrubber) begin(ctx context.Context) (bool, error) {
	r, u := s.r, &s.r.upkeep
	every := u.cfg.Load().Scrub
	u.mu.Lock()
	sc := &u.scrub
	sc.state.Asked = sc.state.Asked || sc.asked
	sc.asked = false
	on, due := sc.state.Now != nil, sc.state.Due(r.now(), every)
	u.mu.Unlock()
	if on || !due {
		return on, nil
	}
	m, err := ledger.ReadMeta(r.ledger)
	if err != nil {
		return false, err
	}
	r.sweepAll() // what nothing names is no segment's, and would not be met
	freed := r.sweepStores(ctx)
	u.mu.Lock()
	sc.state.Begin(r.now(), r.ingest.Last(), m.Segments, m.StoredBytes)
	sc.state.Now.Stale = int64(freed)
	sc.began, sc.before, sc.pending = r.now(), 0, nil
	u.mu.Unlock()
	s.dirty = true
	r.event("scrub-began", fmt.Sprintf("cache: all shards of %d segments (%d bytes) are read and proved", m.Segments, m.StoredBytes), nil)
	return true, s.save(true)
}

// next returns the segment to be read next.
func (s *scrubber) next() (it scrubItem, ok bool, err error) {
	u := &s.r.upkeep
	u.mu.Lock()
	defer u.mu.Unlock()
	sc := &u.scrub
	if len(sc.pending) == 0 {
		err = ledger.EachSegmentFrom(s.r.ledger, sc.state.Now.Cursor, func(seq uint64, row ledger.SegmentRow) (bool, error) {
			if seq > sc.state.Now.Until {
				return false, nil
			}
			sc.pending = append(sc.pending, scrubItem{seq, row.Stored})
			return len(sc.pending) < scrubBatch, nil
		})
	}
	if err != nil || len(sc.pending) == 0 {
		return it, false, err
	}
	return sc.pending[0], true, nil
}

// read has one segment looked after. One that is being moved, mended or freed is proved by whoever does that.
func (s *scrubber) read(ctx context.Context, it scrubItem) {
	m, err := s.r.mend(ctx, it.seq, damaged)
	if ctx.Err() != nil {
		return
	}
	u := &s.r.upkeep
	u.mu.Lock()
	defer u.mu.Unlock()
	sc := &u.scrub
	sc.pending = sc.pending[1:]
	sc.state.Read(it.seq, it.bytes, m.found, m.healed)
	if m.lost {
		sc.state.Now.Lost++
	}
	if m.away || err != nil && m.found == 0 && !m.lost && !errors.Is(err, errBusy) {
		sc.state.Now.Away++
	}
	s.dirty = true
}

func (s *scrubber) end() error {
	u := &s.r.upkeep
	u.mu.Lock()
	u.scrub.state.End(s.r.now())
	last := *u.scrub.state.Last
	u.mu.Unlock()
	s.dirty = true
	s.r.event("scrub-done", fmt.Sprintf("cache: %d segments (%d bytes) were read: %d bad shards, %d of them written anew, %d segments lost and asked for again, %d leftover shards freed",
		last.Segments, last.Bytes, last.Found, last.Healed, last.Lost, last.Stale), map[string]string{"found": fmt.Sprint(last.Found), "healed": fmt.Sprint(last.Healed), "lost": fmt.Sprint(last.Lost)})
	return s.save(true)
}

// StartScrub asks for a round now; one that is on already goes on.
func (r *Relay) StartScrub() proto.ScrubStatus {
	u := &r.upkeep
	u.mu.Lock()
	u.scrub.asked = u.scrub.asked || u.scrub.state.Now == nil
	u.mu.Unlock()
	return r.Scrub()
}

// Scrub says how far the reading of all shards is.
func (r *Relay) Scrub() proto.ScrubStatus {
	u, now := &r.upkeep, r.now()
	every := u.cfg.Load().Scrub
	u.mu.Lock()
	defer u.mu.Unlock()
	sc := &u.scrub
	out := proto.ScrubStatus{State: "idle", FoundTotal: sc.state.Found, HealedTotal: sc.state.Healed, NextAt: stamp(sc.state.Next(every))}
	if every <= 0 {
		out.State, out.NextAt = "off", ""
	}
	if sc.state.Last != nil {
		out.Last = roundStatus(*sc.state.Last)
	}
	if sc.asked || sc.state.Asked {
		out.State = "asked"
	}
	if sc.state.Now == nil {
		return out
	}
	out.State, out.NextAt = "running", ""
	out.Now = roundStatus(*sc.state.Now)
	if took := now.Sub(sc.began).Seconds(); took > 0 {
		out.RateBytesPerSecond = float64(sc.state.Now.Bytes-sc.before) / took
	}
	if left := sc.state.Now.TotalBytes - sc.state.Now.Bytes; left > 0 && out.RateBytesPerSecond > 0 {
		out.ETASeconds = float64(left) / out.RateBytesPerSecond
	}
	return out
}

func roundStatus(n repair.Round) *proto.ScrubRound {
	return &proto.ScrubRound{StartedAt: stampNs(n.StartedNs), EndedAt: stampNs(n.EndedNs), TotalSegments: n.TotalSegments, TotalBytes: n.TotalBytes,
		Segments: n.Segments, Bytes: n.Bytes, Found: n.Found, Healed: n.Healed, Stale: n.Stale, Lost: n.Lost, Away: n.Away}
}
