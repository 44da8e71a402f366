package relay

import (
	"context"
	"fmt"
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// eventsKept is how many events the log keeps.
const eventsKept = 10_000

// eventQueue takes entries that may be written a little later from places that must not wait for a disk. It is bounded:
// events beyond it are counted and told as lost.
type eventQueue struct {
	mu      sync.Mutex
	entries []ledger.Entry
	lost    int
	stores  bool
	wake    chan struct{}
}

const maxQueued = 10_000

func (q *eventQueue) init() { q.wake = make(chan struct{}, 1) }

// entry queues an entry.
func (q *eventQueue) entry(e ledger.Entry) {
	q.mu.Lock()
	if len(q.entries) < maxQueued {
		q.entries = append(q.entries, e)
	} else {
		q.lost++
	}
	q.mu.Unlock()
	q.ring()
}

// again asks for the stores' identities to be written down.
func (q *eventQueue) again() {
	q.mu.Lock()
	q.stores = true
	q.mu.Unlock()
	q.ring()
}

func (q *eventQueue) ring() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) take() (entries []ledger.Entry, stores bool, lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	entries, stores, lost = q.entries, q.stores, q.lost
	q.entries, q.stores, q.lost = nil, false, 0
	return entries, stores, lost
}

// event notes something for operators. It does not wait.
func (r *Relay) event(kind, what string, fields map[string]string) {
	r.deps.Log.Info().Str("event", kind).Fields(anyMap(fields)).Msg(what)
	r.notes.entry(&ledger.AddEvent{Event: proto.Event{At: r.now().UTC(), Kind: kind, What: what, Fields: fields}, Keep: eventsKept})
}

// Event notes something that the flush has to tell.
func (r *Relay) Event(kind, what string, fields map[string]string) { r.event(kind, what, fields) }

func anyMap(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// writeEvents writes what was queued. It ends, after a last round, when ctx does.
func (r *Relay) writeEvents(ctx context.Context) error {
	for {
		stop := false
		select {
		case <-ctx.Done():
			stop = true
		case <-r.notes.wake:
		}
		r.eventRound(stop)
		if stop {
			return nil
		}
	}
}

// eventRound writes what is queued now. Failures of the last round are not worth a word: the ledger may be closed.
func (r *Relay) eventRound(last bool) {
	entries, stores, lost := r.notes.take()
	if lost > 0 {
		entries = append(entries, &ledger.AddEvent{Event: proto.Event{At: r.now().UTC(), Kind: "events-lost", What: fmt.Sprintf("%d notes came faster than they could be written", lost)}, Keep: eventsKept})
	}
	if len(entries) > 0 {
		if err := r.ledger.Update(entries...); err != nil && !last {
			r.deps.Log.Warn().Err(err).Msg("events were not written")
		}
		r.ringEvents()
	}
	if stores && r.stores != nil {
		if err := r.rememberStores(); err != nil && !last {
			r.deps.Log.Warn().Err(err).Msg("the stores' identities were not written")
		}
	}
}

// ringEvents wakes those who follow the event log.
func (r *Relay) ringEvents() {
	next := make(chan struct{})
	if old := r.eventsUp.Swap(&next); old != nil {
		close(*old)
	}
}

// Events returns up to limit events after seq; with wait it holds on until there is one, for that long at most.
func (r *Relay) Events(ctx context.Context, seq uint64, limit int, wait time.Duration) ([]proto.Event, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		if r.eventsUp.Load() == nil {
			first := make(chan struct{})
			r.eventsUp.CompareAndSwap(nil, &first)
		}
		up := *r.eventsUp.Load()
		out, err := ledger.Events(r.ledger, seq, limit)
		if err != nil || len(out) > 0 || wait <= 0 {
			return out, err
		}
		select {
		case <-up:
		case <-deadline.C:
			return out, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// stamp writes a time as status does: RFC 3339 in UTC, empty for none.
func stamp(t time.Time) string {
	if t.IsZero() || t.UnixNano() == 0 {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func stampNs(ns int64) string {
	if ns == 0 {
		return ""
	}
	return stamp(time.Unix(0, ns))
}
