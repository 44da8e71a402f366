package relay

import (
	"fmt"
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// running is the relay's running time: how long relays with this ledger have run, by the monotonic clock. How long a node is
// away, and what a scan came before or after, is told by it, so that neither a jump of the wall clock nor a stop of the
// relay makes a node look away for longer than it was (I13).
type running struct {
	mu    sync.Mutex
	mono  func() time.Duration
	began time.Duration // mono when the ledger was opened
	base  int64         // the running time then
	high  int64         // the highest that was told

	looked   bool          // wall and at are of an earlier look
	wall     int64         // the wall clock at the last look
	at       time.Duration // mono at the last look
	jumped   time.Duration // the last jump that was seen
	jumpedUp int64         // when, in running time
}

// startRunning goes on from the running time of the runs before. What they did not write down, about a minute at most, is
// not counted: absence is then told shorter than it was, never longer. It never goes back behind a stamp that was written: every
// entry with a stamp writes the time too.
func (r *Relay) startRunning() error {
	u := &r.running
	u.mono = r.deps.Mono
	if u.mono == nil {
		first := r.now()
		u.mono = func() time.Duration { return r.now().Sub(first) }
	}
	m, err := ledger.ReadMeta(r.ledger)
	if err != nil {
		return err
	}
	nodes, err := ledger.Nodes(r.ledger)
	if err != nil {
		return err
	}
	u.began, u.base = u.mono(), m.UpNs
	if m.UpNs == 0 {
		u.base = r.now().UnixNano()
	}
	newest := int64(0)
	for _, n := range nodes {
		u.base, newest = max(u.base, n.SeenUp), max(newest, n.SeenNs)
	}
	u.base++ // no stamp of this run equals one of the runs before: a scan from before is none since (I13)
	u.high = u.base
	if behind := time.Duration(newest - r.now().UnixNano()); newest > 0 && behind > jumpShown {
		u.noteJump(r, -behind, "since the relay ran last")
	}
	return r.ledger.Update(&ledger.Tick{UpNs: u.base})
}

// up is the running time now.
func (r *Relay) up() int64 {
	u := &r.running
	u.mu.Lock()
	defer u.mu.Unlock()
	u.high = max(u.high, u.base+int64(u.mono()-u.began))
	return u.high
}

// wallOf is the wall clock's time of a moment of the running time, if the relay has run since.
func (r *Relay) wallOf(up int64) time.Time { return r.now().Add(-time.Duration(r.up() - up)) }

// away is for how long a node that is not there has been missed. Time in which no relay ran does not count: after a long
// stop of the relay, a node that has not come back yet is not one that was away for so long (I13).
func (r *Relay) away(n ledger.NodeRow) time.Duration {
	seen := n.SeenUp
	if seen == 0 {
		seen = r.running.base // written before there was a running time
	}
	return time.Duration(max(r.up()-seen, 0))
}

// jumpShown is from when on a jump of the relay's clock is told, and jumpStands for how long it stays a problem.
const (
	jumpShown  = 5 * time.Second
	jumpStands = time.Hour
)

// watchClock compares the wall clock with the monotonic one.
func (r *Relay) watchClock() {
	u := &r.running
	u.mu.Lock()
	wall, at := r.now().UnixNano(), u.mono()
	jump := time.Duration(wall-u.wall) - (at - u.at)
	if !u.looked || jump.Abs() >= time.Second { // slower drift is a clock that is being slewed
		seen := u.looked
		u.looked, u.wall, u.at = true, wall, at
		u.mu.Unlock()
		if seen && jump.Abs() >= jumpShown {
			u.noteJump(r, jump, "while the relay ran")
		}
		return
	}
	u.wall, u.at = wall, at
	u.mu.Unlock()
}

func (u *running) noteJump(r *Relay, jump time.Duration, when string) {
	up := r.up()
	u.mu.Lock()
	u.jumped, u.jumpedUp = jump, up
	u.mu.Unlock()
	r.event("clock-jumped", fmt.Sprintf("the relay's clock was set %s %s", jumpText(jump), when), map[string]string{"seconds": fmt.Sprintf("%.0f", jump.Seconds())})
}

func jumpText(d time.Duration) string {
	if d < 0 {
		return "back by " + (-d).Round(time.Second).String()
	}
	return "forward by " + d.Round(time.Second).String()
}

func (r *Relay) clockProblem(f *finder) {
	u, up := &r.running, r.up()
	u.mu.Lock()
	jump, since := u.jumped, up-u.jumpedUp
	u.mu.Unlock()
	if jump != 0 && since < int64(jumpStands) {
		f.add("clock-jumped", proto.Yellow, "see why it was wrong (NTP, the machine's own clock); times in the log and ages of what waits are off by as much", "the relay's clock: it was set %s", jumpText(jump))
	}
}
