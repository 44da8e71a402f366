package repair

import "time"

// ScrubFormat is the version of Scrub as the ledger keeps it.
const ScrubFormat = 1

// Scrub is how far the reading of all shards is, over restarts of the relay.
type Scrub struct {
	Format  int    `cbor:"1,keyasint"`
	SinceNs int64  `cbor:"2,keyasint"`           // when the schedule was begun
	Asked   bool   `cbor:"3,keyasint"`           // an operator asked for a round
	Now     *Round `cbor:"4,keyasint,omitempty"` // the one that is on
	Last    *Round `cbor:"5,keyasint,omitempty"` // that was completed last
	// Over the ledger's life: shards that were not good, and those of them that were written anew.
	Found  int64 `cbor:"6,keyasint"`
	Healed int64 `cbor:"7,keyasint"`
}

// Round is one reading of all shards.
type Round struct {
	StartedNs int64  `cbor:"1,keyasint"`
	EndedNs   int64  `cbor:"2,keyasint,omitempty"`
	Cursor    uint64 `cbor:"3,keyasint"`  // the last segment that was read
	Until     uint64 `cbor:"13,keyasint"` // the last that there was at the start
	// What there was at the start, and what was read so far.
	TotalSegments int64 `cbor:"4,keyasint"`
	TotalBytes    int64 `cbor:"5,keyasint"` // of shards
	Segments      int64 `cbor:"6,keyasint"`
	Bytes         int64 `cbor:"7,keyasint"`
	// Shards that were damaged or absent; of them written anew; shards that nothing names, taken away.
	Found  int64 `cbor:"8,keyasint"`
	Healed int64 `cbor:"9,keyasint"`
	Stale  int64 `cbor:"10,keyasint"`
	// Segments that could not be read at all and were asked for again, and those with shards out of reach.
	Lost int64 `cbor:"11,keyasint"`
	Away int64 `cbor:"12,keyasint"`
}

// Due reports whether a round is to go on or to begin: asked for, or every has passed since the last one began. A clock that
// was set back by more than every does not put it off.
func (s *Scrub) Due(now time.Time, every time.Duration) bool {
	if s.Now != nil || s.Asked {
		return true
	}
	if every <= 0 {
		return false
	}
	passed := now.Sub(time.Unix(0, s.began()))
	return passed >= every || -passed > every
}

func (s *Scrub) began() int64 {
	if s.Last != nil {
		return s.Last.StartedNs
	}
	return s.SinceNs
}

// Next returns when the next round begins, the zero time when none is planned.
func (s *Scrub) Next(every time.Duration) time.Time {
	if every <= 0 {
		return time.Time{}
	}
	return time.Unix(0, s.began()).Add(every)
}

// Begin begins a round over so much.
func (s *Scrub) Begin(now time.Time, until uint64, segments, bytes int64) {
	s.Asked = false
	s.Now = &Round{StartedNs: now.UnixNano(), Until: until, TotalSegments: segments, TotalBytes: bytes}
}

// Read counts a segment that was read.
func (s *Scrub) Read(seq uint64, bytes int64, found, healed int) {
	s.Now.Cursor = seq
	s.Now.Segments++
	s.Now.Bytes += bytes
	s.Now.Found += int64(found)
	s.Now.Healed += int64(healed)
	s.Found += int64(found)
	s.Healed += int64(healed)
}

// End ends the round.
func (s *Scrub) End(now time.Time) {
	s.Now.EndedNs = now.UnixNano()
	s.Last, s.Now = s.Now, nil
}
