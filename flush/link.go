package flush

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"forebay/flush/policy"
	"forebay/flush/waits"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// link is one link's loop. What is below "the loop's own" is touched by its goroutine alone.
type link struct {
	e      *Engine
	id     ledger.LinkID
	wake   chan struct{} // of size 1
	cancel context.CancelFunc
	meter  meter
	pacer  pacer
	purse  purse
	under  *waits.Waits // what the target is asked for and has not answered
	// change counts what makes a verdict about the batch under way stale: settings, pause, a flush by hand.
	change atomic.Uint64
	// damaged is set when a file of the target's journal was found to be: it is mended when the target is made ready.
	damaged atomic.Bool
	hasty   atomic.Bool // an operator wants what waits for its next try to be tried now

	mu      sync.Mutex
	cfg     LinkConfig
	demand  policy.Demand
	shared  shared
	drain   drain
	ahead   time.Time // see look.acked; zero: the oldest debt is not ahead of the clock
	mirror  mirror    // set while the session is prepared
	touched touched
	past    kept

	// keeping is held while versions are on their way into the history, or out of it.
	keeping sync.Mutex
	doubted map[string]bool // paths of which a change failed since the start: it may have been made. Guarded by keeping
	recount atomic.Bool     // an operator has changed what is to be kept

	// The loop's own.
	dueAt time.Time // Step's: when to look next unless it is poked; zero with quiet set: never
	quiet bool
	sess  *session
	trouble
	pruning     pruning
	streaming   streams
	unread      unread
	floor       floor
	guardCache  guardVerdict
	fruitless   int
	reclaimAt   time.Time // when released debt is looked through again
	looseAt     time.Time // when parked hard links are told of again; zero when none are parked
	reclaimFrom proto.VersionID
	told        map[string]bool // problems reported once
}

// drain is set when conditions were met: what was acknowledged up to then goes, however many batches it takes.
type drain struct {
	to     time.Time
	reason string
}

func newLink(e *Engine, c LinkConfig) *link {
	l := &link{e: e, id: c.ID, wake: make(chan struct{}, 1), under: waits.New(e.deps.Clock.Now), cancel: func() {}, cfg: c, told: map[string]bool{}, doubted: map[string]bool{}}
	l.pacer.clock = e.deps.Clock
	l.trouble = trouble{deferred: map[proto.VersionID]failure{}, rand: rand.New(rand.NewPCG(uint64(c.ID), uint64(e.deps.Clock.Now().UnixNano())))}
	l.shared.State = State{Link: c.Name, State: StateIdle}
	return l
}

func (l *link) config() LinkConfig {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cfg
}

func (l *link) configure(c LinkConfig) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg = c
	l.shared.Link = c.Name
}

// poke makes the loop look again.
func (l *link) poke() {
	l.change.Add(1)
	signal(l.wake)
}

// at tells that a boundary between durable steps is passed.
func (l *link) at(p faultpoint.Point) { l.e.deps.Fault.At(p) }

func (l *link) now() time.Time { return l.e.deps.Clock.Now() }

// tell sends an event.
func (l *link) tell(ev Event) {
	ev.Link, ev.At = l.config().Name, l.now()
	l.e.deps.Events(ev)
}

// once reports whether a problem is new; forgotten by over.
func (l *link) once(problem string) bool {
	if l.told[problem] {
		return false
	}
	if len(l.told) > 1000 { // bounded: telling twice is better than growing
		clear(l.told)
	}
	l.told[problem] = true
	return true
}

func (l *link) over(problem string) { delete(l.told, problem) }

// run looks, acts, and waits, until ctx ends.
func (l *link) run(ctx context.Context) {
	defer l.closeTarget()
	defer l.account(0)
	for ctx.Err() == nil {
		next, again := l.step(ctx)
		if again {
			continue
		}
		l.await(ctx, next)
	}
}

// lookAgain bounds how long a loop that waits for a moment sleeps, so that a clock that is set forward opens a window, and does
// not leave the loop asleep for as long as it had been before that.
const lookAgain = time.Minute

// await returns at next, zero for never, or when somebody pokes.
func (l *link) await(ctx context.Context, next time.Time) {
	var fired <-chan time.Time
	if !next.IsZero() {
		d := min(next.Sub(l.now()), lookAgain)
		if d <= 0 {
			return
		}
		c, stop := l.e.deps.Clock.Timer(d)
		defer stop()
		fired = c
	}
	select {
	case <-ctx.Done():
	case <-l.wake:
	case <-fired:
	}
}

// step does one thing at most: a batch, some seeding, a look at the target. It returns when to look next, or that there is
// more to do at once.
func (l *link) step(ctx context.Context) (next time.Time, again bool) {
	if l.hasty.Swap(false) {
		l.hurry()
	}
	look, err := l.look()
	if err != nil {
		return l.ledgerTrouble(err), false
	}
	l.over("ledger")
	if look.row.ID == 0 || look.row.Orphaned {
		l.publish(func(s *shared) { s.State.State, s.Reason = StateOrphaned, orphanReason(look.row) })
		return time.Time{}, false
	}
	if look.view.Barred != "" {
		l.announce(look)
		return time.Time{}, false
	}
	if look.seeding() {
		done, err := l.seed()
		if err != nil {
			return l.ledgerTrouble(err), false
		}
		if !done {
			l.announce(look)
			return time.Time{}, true
		}
		return time.Time{}, true
	}
	if look.paused() {
		l.announce(look)
		return look.plan.NextLook, false
	}
	if l.ready(ctx, look) {
		if more, err := l.reclaim(look); err != nil {
			return l.ledgerTrouble(err), false
		} else if more {
			return time.Time{}, true
		}
		if err := l.tellLoose(look); err != nil {
			return l.ledgerTrouble(err), false
		}
		if l.damaged.Load() && !look.outside() && !l.prepare(ctx, look) {
			l.announce(look)
			return l.nextTry, false
		}
	}
	var soon time.Time
	flowing := false
	if !l.troubled() && l.sess != nil && l.sess.there {
		soon, flowing = l.stream(ctx, look)
	}
	if !look.outside() {
		soon = earliest(soon, l.noteUnread(ctx, look))
	}
	pruneAt, pruning := l.keepHistory(ctx, look)
	soon, flowing = earliest(soon, pruneAt), flowing || pruning
	if l.troubled() || look.plan.Action != policy.Flush {
		l.announce(look)
		return earliest(l.nextTry, look.plan.NextLook, l.reclaimAt, l.looseAt, l.probeAt(look), soon), flowing
	}
	next, again = l.flush(ctx, look)
	return earliest(next, soon), again || flowing
}

// flush picks a batch and executes it.
func (l *link) flush(ctx context.Context, look *look) (next time.Time, again bool) {
	if !l.prepare(ctx, look) || !l.settleHistory(ctx, look) {
		l.announce(look)
		return l.nextTry, false
	}
	b, err := l.pick(look)
	if err != nil {
		return l.ledgerTrouble(err), false
	}
	if b.empty() {
		l.announce(look)
		return earliest(l.firstDeferred(look.now), look.plan.NextLook, l.now().Add(l.e.cfg.BackoffMax)), false
	}
	b.left.Store(b.bytes)
	l.begin(b)
	l.execute(ctx, b)
	l.end(b)
	if b.progress || b.cut() {
		l.fruitless = 0
	} else if l.fruitless++; l.fruitless >= maxFruitless { // whatever it is, it is not to be a busy loop
		return l.now().Add(l.e.cfg.BackoffMin), false
	}
	return time.Time{}, true
}

// maxFruitless batches in a row may end with nothing confirmed before the loop rests.
const maxFruitless = 3

// begin shows the batch.
func (l *link) begin(b *batch) {
	forced := b.look.plan.Forced
	if forced && l.once("forced") {
		l.tell(Event{Kind: LinkForced, Reason: b.look.plan.Reason})
	} else if !forced {
		l.over("forced")
	}
	l.pacer.set(b.look.plan.Rate)
	l.announce(b.look)
	l.publish(func(s *shared) {
		if s.State.State != StateSeeding {
			s.State.State = StateFlushing
		}
		s.Reason, s.NextTry, s.Forced = b.look.plan.Reason, time.Time{}, forced
		s.InFlightObjects, s.InFlightBytes, s.StagedBytes, s.reusedBytes = int64(len(b.items)), b.bytes, 0, 0
	})
}

func (l *link) end(b *batch) {
	l.publish(func(s *shared) {
		s.InFlightObjects, s.InFlightBytes, s.StagedBytes, s.reusedBytes, s.Forced = 0, 0, 0, 0, false
	})
	if b.counted {
		return
	}
	l.account(b.verdict.forcedBytes()) // sent, though nothing came of it
}

// account writes down what was sent of a batch that came to nothing.
func (l *link) account(forced int64) {
	entries := l.settleUp()
	if forced > 0 {
		entries = append(entries, &ledger.Confirm{Link: l.id, NowNs: l.now().UnixNano(), Forced: forced})
	}
	if len(entries) == 0 {
		return
	}
	if err := l.e.deps.Ledger.Update(entries...); err != nil {
		l.ledgerTrouble(err)
	}
}

// ledgerTrouble reports that the ledger cannot be read or written. The relay ends for that; until then the loop rests.
func (l *link) ledgerTrouble(err error) time.Time {
	if l.once("ledger") {
		l.tell(Event{Kind: LedgerFailed, Err: err})
	}
	l.publish(func(s *shared) {
		s.State.State, s.Reason = StateStalled, fmt.Sprintf("the ledger failed: %v", err)
		s.LastError, s.LastErrorAt = err.Error(), l.now()
	})
	return l.now().Add(l.e.cfg.ProbeEvery)
}
