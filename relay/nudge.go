package relay

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/bus"
	"forebay/relay/session"
)

// nudger gathers what is to be said on the bus, so that a burst of segments makes one message a dataset.
type nudger struct {
	mu     sync.Mutex
	heads  map[proto.DatasetID]bool
	scan   map[proto.DatasetID]uint64
	ended  map[proto.DatasetID][]proto.LeaseEnded
	member map[proto.DatasetID]bool
	said   map[proto.DatasetID]time.Duration // when a dataset was nudged last, in running time
	wake   chan struct{}
}

func (n *nudger) add(fn func()) {
	n.mu.Lock()
	if n.heads == nil {
		n.heads, n.scan = map[proto.DatasetID]bool{}, map[proto.DatasetID]uint64{}
		n.ended, n.member = map[proto.DatasetID][]proto.LeaseEnded{}, map[proto.DatasetID]bool{}
		n.said = map[proto.DatasetID]time.Duration{}
	}
	if n.wake == nil {
		n.wake = make(chan struct{}, 1)
	}
	fn()
	wake := n.wake
	n.mu.Unlock()
	select {
	case wake <- struct{}{}:
	default:
	}
}

// nudge says at once what is urgent: leases that ended.
func (r *Relay) nudge(ds proto.DatasetID, m proto.Nudge) {
	r.nudges.add(func() { r.nudges.ended[ds] = append(r.nudges.ended[ds], m.Ended...) })
}

func (r *Relay) nudgeScan(ds proto.DatasetID, token uint64) {
	r.nudges.add(func() { r.nudges.scan[ds] = token })
}

func (r *Relay) nudgeMembers(roots []session.Root) {
	r.nudges.add(func() {
		for _, root := range roots {
			r.nudges.member[root.Dataset] = true
		}
	})
}

// sealed is told that a dataset has new versions: followers and links want to know.
func (r *Relay) sealed(ds proto.DatasetID) {
	r.nudges.add(func() { r.nudges.heads[ds] = true })
	r.wakeLinks(ds)
}

// take empties the nudger into one message a dataset. A dataset of which nothing but a new head is to be told is left out for lull after it
// was nudged last: the first of many versions is told of at once, of those that follow the polls tell as often. It returns how long it is
// until there is more to take, 0 when that is not known.
func (n *nudger) take(members uint64, now, lull time.Duration) (out map[proto.DatasetID]proto.Nudge, next time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out = map[proto.DatasetID]proto.Nudge{}
	for ds, e := range n.ended {
		m := out[ds]
		m.Ended = e
		out[ds] = m
	}
	for ds, t := range n.scan {
		m := out[ds]
		m.ScanToken = t
		out[ds] = m
	}
	for ds := range n.member {
		m := out[ds]
		m.Members = members
		out[ds] = m
	}
	clear(n.scan)
	clear(n.ended)
	clear(n.member)
	for ds := range n.heads {
		if _, told := out[ds]; told {
			continue
		}
		if at, ok := n.said[ds]; ok && at+lull > now {
			if rest := at + lull - now; next == 0 || rest < next {
				next = rest
			}
			continue
		}
		out[ds] = proto.Nudge{}
	}
	for ds := range out { // each tells the head
		n.said[ds] = now
		delete(n.heads, ds)
	}
	return out, next
}

// runBus connects to the bus, hears beats and sends nudges. A bus that is not there costs time, never data (I4): it is tried
// again for ever.
func (r *Relay) runBus(ctx context.Context) error {
	r.nudges.add(func() {})
	if r.deps.Bus == nil {
		<-ctx.Done()
		return nil
	}
	b := r.dialBus(ctx)
	if b == nil {
		return nil
	}
	defer b.Close()
	cancel, err := r.hearBeats(b)
	if err != nil {
		r.deps.Log.Warn().Err(err).Msg("no heartbeats from the bus")
	} else {
		defer cancel()
	}
	more := time.NewTimer(0)
	defer more.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.nudges.wake:
		case <-more.C:
		}
		if next := r.sendNudges(b); next > 0 {
			more.Reset(next)
		}
		select { // lets a burst gather: a nudge saves at most the time to the next poll
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (r *Relay) hearBeats(b bus.Bus) (cancel func(), err error) {
	return b.Subscribe(bus.SubjectBeat(r.meta.Relay), func(data []byte) {
		var beat proto.Beat
		if proto.Unmarshal(data, &beat) == nil {
			r.Beat(beat)
		}
	})
}

func (r *Relay) dialBus(ctx context.Context) bus.Bus {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		b, err := r.deps.Bus()
		if err == nil {
			return b
		}
		r.deps.Log.Warn().Err(err).Msg("the bus is not reachable: agents are told of changes at their polls")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// sendNudges sends what there is to say, and returns how long what is held back for others to gather waits, 0 when nothing does.
func (r *Relay) sendNudges(b bus.Bus) (next time.Duration) {
	nudges, next := r.nudges.take(r.book.Members(), time.Duration(r.up()), proto.Lull(r.book.Suspicion()))
	for _, ds := range slices.Sorted(maps.Keys(nudges)) {
		m := nudges[ds]
		d, err := ledger.Dataset(r.ledger, ds)
		if err != nil || d.ID == 0 {
			continue
		}
		m.Head = d.Head
		_ = b.Publish(bus.SubjectNudge(r.meta.Relay, d.Name), proto.Marshal(m)) // a lost hint: the next poll tells
	}
	return next
}
