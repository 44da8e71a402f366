package relay

import (
	"fmt"
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// admission keeps what is accepted within the cache: between high and low water it does what it did last (hysteresis), and
// what leases may still bring is reserved.
type admission struct {
	r    *Relay
	mu   sync.Mutex
	full bool
	// room is the most that a claim refused lately would need, as long as it is asked for.
	room   int64
	roomAt time.Time
	// refused is when a claim for a dataset found no room last.
	refused map[proto.DatasetID]time.Time
	// tooLarge is the room that the largest object needs that was refused for good, as long as it is asked for.
	tooLarge   int64
	tooLargeAt time.Time
	high, low  float64 // of the capacity
}

// refusedSize returns the room needed by an object that is larger than the cache, 0 when none was asked for lately.
func (a *admission) refusedSize() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.r.now().Sub(a.tooLargeAt) > 5*time.Minute {
		a.tooLarge = 0
	}
	return a.tooLarge
}

func (a *admission) init(r *Relay) {
	a.r, a.high, a.low, a.refused = r, r.cfg.High, r.cfg.Low, map[proto.DatasetID]time.Time{}
}

// expansion is raw bytes per payload byte at the present geometry, 0 when nothing can be accepted.
func (a *admission) expansion() (float64, error) {
	g, err := a.r.stores.Accepting()
	if err != nil {
		return 0, err
	}
	return float64(g.Shards()) / float64(g.Data), nil
}

// refuse says why a grant of n payload bytes for a dataset must wait, and how long; "" when it may go ahead.
func (a *admission) refuse(ds proto.DatasetID, n, reserved int64) (string, time.Duration) {
	x, err := a.expansion()
	if err != nil {
		return err.Error(), 5 * time.Second
	}
	used := a.used()
	high, low := a.marks()
	want := int64(float64(n) * x)
	a.mu.Lock()
	defer a.mu.Unlock()
	if want > high {
		a.tooLarge, a.tooLargeAt = max(a.tooLarge, want), a.r.now()
		return fmt.Sprintf("the object needs %d bytes of cache, of %d that may be used, and no link's target can take it as it comes: raise cache.capacity or high_water", want, high), time.Minute
	}
	a.fill(used, high, low)
	if used > 0 && used+want > high { // what is under way will end, what is there may not
		a.room, a.roomAt = max(a.room, want), a.r.now()
	}
	expected := used + int64(float64(reserved)*x) + want
	if a.full || expected > high && (reserved > 0 || used > 0) {
		a.refused[ds] = a.r.now()
		return "the cache is full", 2 * time.Second
	}
	return "", 0
}

// refuses reports whether a claim for a dataset found no room lately.
func (a *admission) refuses(ds proto.DatasetID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.refused[ds]
	return ok && a.r.now().Sub(at) <= roomLife
}

// used is what the stores hold, as the ledger knows it: what is freed counts as free when it is out of the ledger.
func (a *admission) used() int64 {
	m, err := ledger.ReadMeta(a.r.ledger)
	if err != nil {
		return a.r.stores.Used()
	}
	return m.StoredBytes
}

// fill notes how full the cache is. The lock is held.
func (a *admission) fill(used, high, low int64) {
	switch {
	case used < low:
		a.full = false
	case used >= high:
		a.full = true
	}
}

// isFull returns whether the cache is over its high water and has not come down to low water yet.
func (a *admission) isFull() bool {
	used := a.used()
	high, low := a.marks()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fill(used, high, low)
	return a.full
}

// roomLife is how long a refused claim counts: agents repeat theirs every few seconds.
const roomLife = 10 * time.Second

// pressure returns how much is used, and whether it should become less, to goal: because the cache is full, or because an
// object waits for more room than there is below the high water.
func (a *admission) pressure() (used, goal int64, pressed bool) {
	used = a.used()
	high, low := a.marks()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fill(used, high, low)
	if a.r.now().Sub(a.roomAt) > roomLife {
		a.room = 0
	}
	goal = min(low, high-a.room)
	return used, goal, a.full || a.room > 0 && used > goal
}

// marks returns high and low water in raw bytes.
func (a *admission) marks() (high, low int64) {
	capacity := float64(a.r.stores.Capacity())
	a.mu.Lock()
	defer a.mu.Unlock()
	return int64(capacity * a.high), int64(capacity * a.low)
}

// Tune changes what can change while the relay runs.
func (r *Relay) Tune(suspicion time.Duration, capacity int64, high, low float64) {
	r.stores.SetCapacity(capacity)
	r.book.SetSuspicion(suspicion)
	r.admission.mu.Lock()
	defer r.admission.mu.Unlock()
	r.admission.high, r.admission.low = high, low
}

// HighWater reports whether the cache is so full that flushes are forced.
func (r *Relay) HighWater() bool {
	_, _, pressed := r.admission.pressure()
	return pressed
}
