package flush

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"forebay/flush/journal"
	"forebay/ledger"
	"forebay/proto"
)

// trouble is what a link's loop remembers of failures: of the target as a whole, and of single objects.
type trouble struct {
	reason  string    // why the link is stalled
	nextTry time.Time // when the target is tried again; past or zero: at once
	since   time.Time // when the stall began; zero when there is none
	fails   int       // batches that failed in a row

	lastErr   error
	lastErrAt time.Time

	deferred map[proto.VersionID]failure
	rand     *rand.Rand // jitter only
}

// failure is what a version met.
type failure struct {
	path      string
	err       error
	tries     int
	notBefore time.Time
}

func (f *failure) String() string {
	return fmt.Sprintf("%q failed %d times, is tried again at %s: %v", f.path, f.tries, f.notBefore.UTC().Format(time.RFC3339), f.err)
}

// maxDeferred bounds the memory of failures. What is not remembered is tried again with the next batch.
const maxDeferred = 100_000

func (l *link) troubled() bool { return l.now().Before(l.nextTry) }

// backoff grows from BackoffMin to BackoffMax with the tries, and is spread over its upper half so that links that failed
// together do not come back together.
func (l *link) backoff(tries int, err error) time.Duration {
	d := l.e.cfg.BackoffMax
	if shift := min(tries-1, 30); shift < 30 {
		d = min(d, l.e.cfg.BackoffMin<<max(shift, 0))
	}
	d = d/2 + time.Duration(l.rand.Int64N(int64(d/2)+1))
	var e *proto.Error
	if errors.As(err, &e) && e.RetryAfter > d {
		d = min(e.RetryAfter, l.e.cfg.BackoffMax)
	}
	return d
}

// stall stops the link until a later try. The session is given up: the next one finds out afresh what the target is.
func (l *link) stall(err error) {
	l.fails++
	l.stallUntil(err, l.backoff(l.fails, err))
}

// away is stall for a target that is not there: looking for it is cheap, and it is to go on soon after it is back.
func (l *link) away(err error) { l.stallUntil(err, l.e.cfg.ProbeEvery) }

func (l *link) stallUntil(err error, d time.Duration) {
	l.closeSession()
	now := l.now()
	if l.since.IsZero() {
		l.since = now
	}
	l.reason, l.nextTry = err.Error(), now.Add(d)
	l.note(err)
	if l.once("stalled") {
		l.tell(Event{Kind: LinkStalled, Err: err, Reason: l.reason, Until: l.nextTry})
	}
}

func (l *link) note(err error) {
	l.lastErr, l.lastErrAt = err, l.now()
	l.doubt(err)
}

// doubt has the journal mended where an error says that it is damaged.
func (l *link) doubt(err error) {
	var c *journal.CorruptError
	if errors.As(err, &c) {
		l.damaged.Store(true)
	}
}

// recovered ends a stall.
func (l *link) recovered() {
	l.fails, l.nextTry, l.reason = 0, time.Time{}, ""
	if l.since.IsZero() {
		return
	}
	took := l.now().Sub(l.since)
	l.since = time.Time{}
	l.over("stalled")
	l.tell(Event{Kind: LinkRecovered, Took: took})
}

// postpone sets a version aside for a while, so that the others go on.
func (l *link) postpone(it *item, err error) {
	l.note(fmt.Errorf("%q: %w", it.row.Path, err))
	f := l.deferred[it.ver]
	f.path, f.err, f.tries = it.row.Path, err, f.tries+1
	f.notBefore = l.now().Add(l.backoff(f.tries, err))
	if len(l.deferred) < maxDeferred || f.tries > 1 {
		l.deferred[it.ver] = f
	}
	l.tell(Event{Kind: ObjectFailed, Path: it.row.Path, Version: it.ver, Err: err, Until: f.notBefore})
}

// tries is how often a version has failed so far.
func (l *link) tries(v proto.VersionID) int { return l.deferred[v].tries }

// waits reports whether a version is set aside at now.
func (l *link) waits(v proto.VersionID, now time.Time) bool {
	f, ok := l.deferred[v]
	return ok && now.Before(f.notBefore)
}

// firstFailure is the one that is tried again first, nil when there is none.
func (l *link) firstFailure() *failure {
	var first *failure
	for _, f := range l.deferred {
		if first == nil || f.notBefore.Before(first.notBefore) {
			first = &f
		}
	}
	return first
}

// firstDeferred is when, after a moment, the first version that is set aside is tried again; zero when none is.
func (l *link) firstDeferred(after time.Time) (first time.Time) {
	for _, f := range l.deferred {
		if f.notBefore.After(after) {
			first = earliest(first, f.notBefore)
		}
	}
	return first
}

// forgive forgets the failures of versions that the link does not owe any more, as superseded ones.
func (l *link) forgive(r ledger.Rows, now time.Time) error {
	for v := range l.deferred {
		if l.waits(v, now) {
			continue
		}
		if _, owed, err := ledger.OwedAt(r, l.id, v); err != nil {
			return err
		} else if !owed {
			delete(l.deferred, v)
		}
	}
	return nil
}

// hurry forgets all waiting: an operator wants it tried now.
func (l *link) hurry() {
	l.nextTry = time.Time{}
	for v, f := range l.deferred {
		f.notBefore = time.Time{}
		l.deferred[v] = f
	}
}

// ended reports whether an error only says that the loop is to end.
func ended(ctx context.Context, err error) bool { return err != nil && ctx.Err() != nil }
