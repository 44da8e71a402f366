package restore

import (
	"errors"
	"io/fs"
	"time"

	"forebay/proto"
)

const (
	// firstWait and longestWait bound how long a read that failed is left alone. The time doubles with each failure in a row.
	firstWait, longestWait = 500 * time.Millisecond, 15 * time.Second
	// objectPatience is how long an object is waited for without a byte of it, while the source is there.
	objectPatience = time.Minute
	// awayLimit is how long a restore goes on with a source that is away, uselessLimit with one that is there and gives nothing at all.
	awayLimit, uselessLimit = 5 * time.Minute, time.Hour
	// sayAfter is when a restore says that it waits: what is over sooner nobody needs to know of.
	sayAfter = 3 * time.Second
)

// mayPass reports whether a read that failed with err may succeed later. What is not there, or may not be read, is an answer; what
// fails at this end is not the source's.
func mayPass(err error) bool {
	if hereFailed(err) || isAway(err) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return false
	}
	class := proto.ClassOf(err) // "" without an error
	return class == proto.ClassTransient || class == proto.ClassOverload
}

// wait returns for how long to leave a source alone that has failed n times in a row before; spread, from 0 to 1, keeps those that failed
// together from asking together. What the source asked for is kept to, within reason.
func wait(n int, err error, spread float64) time.Duration {
	d := min(firstWait<<min(n, 16), longestWait)
	d = time.Duration(float64(d) * (0.75 + spread/2))
	var e *proto.Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		d = max(d, time.Duration(float64(min(e.RetryAfter, objectPatience))*(1+spread/4)))
	}
	return d
}

// tries counts how often one thing was asked for since something came of it.
type tries struct {
	object bool          // it is one object's content
	n      int           // failures
	waited time.Duration // between them
}

// next returns when to try again after a failure, again false when not any more. There is one more try whatever the patience.
func (t *tries) next(err error, patience time.Duration, spread float64) (d time.Duration, again bool) {
	t.n++
	if t.n > 1 && t.waited >= patience {
		return 0, false
	}
	d = wait(t.n-1, err, spread)
	t.waited += d
	return d, true
}

// outage is what all workers of a restore know of a source that fails.
type outage struct {
	since time.Time // of the first failure after the last answer; zero: there was none
	gone  time.Time // of the first look that found nothing after one that did; zero: there was none
	vain  int       // things given up since the last time that trying again helped
}

func (o *outage) failed(now time.Time) {
	if o.since.IsZero() {
		o.since = now
	}
}

// probed notes what came of a look whether the source is there. One that is there and gives none of a thousand objects is not away: each
// of them is given up, and what comes after them has its turn.
func (o *outage) probed(there bool, now time.Time) {
	if there {
		o.gone = time.Time{}
	} else if o.failed(now); o.gone.IsZero() {
		o.gone = now
	}
}

// answered notes that something was read; again says that it had failed before.
func (o *outage) answered(again bool) {
	o.since, o.gone = time.Time{}, time.Time{}
	if again {
		o.vain = 0
	}
}

// idle leaves out a time in which nothing was asked of the source.
func (o *outage) idle(d time.Duration) {
	if !o.since.IsZero() {
		o.since = o.since.Add(d)
	}
	if !o.gone.IsZero() {
		o.gone = o.gone.Add(d)
	}
}

// gaveUp notes that trying again did not help. A source that asked to be asked later is not asked sooner for that.
func (o *outage) gaveUp(err error) {
	if proto.ClassOf(err) != proto.ClassOverload {
		o.vain++
	}
}

// patience is how long to wait for one object. Where waiting never helps it shrinks, so that a folder that cannot be read does not
// hold up all that comes after it.
func (o *outage) patience() time.Duration { return objectPatience >> min(o.vain, 16) }

// over returns for how long the source gave nothing when that is as long as a restore waits, else 0.
func (o *outage) over(now time.Time) time.Duration {
	switch {
	case !o.gone.IsZero() && now.Sub(o.gone) >= awayLimit:
		return awayLimit
	case !o.since.IsZero() && now.Sub(o.since) >= uselessLimit:
		return uselessLimit
	}
	return 0
}

// notable reports whether it has been away, by a moment, for long enough to say so.
func (o *outage) notable(by time.Time) bool { return !o.since.IsZero() && by.Sub(o.since) >= sayAfter }
