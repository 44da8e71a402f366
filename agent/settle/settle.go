// Package settle decides what becomes of an entry of the index: what to do with it next, and what the feed, an answer of
// the relay, an upload or a failure make of it. Its functions are pure: an entry and facts in, an entry and a step out. The
// agent gathers the facts and carries out the steps. It imports proto and agent/index (for the entry's type) only.
//
// The way of an entry: the scan finds it (pending); Next says hash, match, claim or wait; Answered, Hear and Agree settle
// it; Failed puts it back.
package settle

import (
	"time"

	"github.com/zeebo/blake3"

	"forebay/agent/index"
	"forebay/proto"
)

// Step is what to do with an entry that is due.
type Step uint8

// The steps.
const (
	StepWait  Step = iota + 1 // write the entry back as returned: its time is later
	StepHash                  // read the content for its digest, then ask Next again
	StepMatch                 // the content is that of the newest known version: compare metadata, then see Match
	StepClaim                 // ask the relay
	StepGone                  // report it gone
	StepDrop                  // forget it: the relay never knew that this holder had it
)

// View is what Next needs to know besides the entry.
type View struct {
	Now       time.Time
	Suspicion time.Duration
	Turn      func() time.Duration // for how long this holder leaves the entry's path to other members, see pick.Turn; called at most once
	Busy      bool                 // another holder was heard uploading it a moment ago
}

// Next returns what to do with an entry that is due. For StepWait the returned entry has a later Due.
func Next(e index.Entry, v View) (index.Entry, Step) {
	if e.State == index.StateGone {
		if e.Unknown() {
			return e, StepDrop
		}
		return e, StepGone
	}
	if at := SteadyAt(e, v.Now); at.After(v.Now) {
		if e.FirstSeen != 0 && v.Now.UnixNano()-e.FirstSeen > int64(patience) {
			return Failed(e, e, FaultChanged, "keeps changing: it has not been left alone for "+proto.SettleTime.String(), nil, v.Now), StepWait
		}
		return later(e, at), StepWait
	}
	_, known := Content(e)
	// What failed before is read before it is claimed again, so that a lease is not taken just to be given back.
	if !known && (e.Kind == proto.KindHardlink || e.Attempts > 0 || Candidate(e)) {
		return e, StepHash
	}
	if known && SameAsHeard(e) {
		return e, StepMatch
	}
	return Turn(e, v)
}

// Turn returns StepClaim when it is this holder's turn to claim, else StepWait: each in the pick leaves it to those before
// it once, and whoever heard of another's upload waits for its end or its silence.
func Turn(e index.Entry, v View) (index.Entry, Step) {
	if v.Busy {
		e.Waited = true
		return later(e, v.Now.Add(v.Suspicion)), StepWait
	}
	if e.Waited {
		return e, StepClaim
	}
	wait := v.Turn()
	if wait == 0 {
		return e, StepClaim
	}
	e.Waited = true
	return later(e, v.Now.Add(wait)), StepWait
}

// patience is how long an object may go on changing before each further look at it counts as a failed try, so that what
// never holds still is listed.
const patience = 15 * proto.SettleTime

// farFuture is how far a ctime may lie ahead before it is taken for a clock that was set back rather than for a change
// that is going on.
const farFuture = time.Minute

// SteadyAt is when the object will have been left alone for proto.SettleTime; before, it is neither read nor claimed.
func SteadyAt(e index.Entry, now time.Time) time.Time {
	at := time.Unix(0, e.Stat.CtimeNs)
	if at.Sub(now) > farFuture {
		return now
	}
	return at.Add(proto.SettleTime)
}

// Candidate reports whether the content may be that of the newest version known for the path: kind and size agree.
func Candidate(e index.Entry) bool {
	return (e.Heard != 0 || e.Version != 0) && e.Kind.HasContent() && e.HeardKind.HasContent() && e.Stat.Size == e.HeardSize
}

// ToBeHashed reports whether the next step is to read the content, because it may be that of the newest version, and not because
// something failed: what the hasher finds by itself.
func ToBeHashed(e index.Entry) bool {
	_, known := Content(e)
	return !known && e.Attempts == 0 && Candidate(e)
}

// Content returns the content digest of the entry and whether it is known. Directories have the zero digest, symlinks that
// of their text.
func Content(e index.Entry) (proto.Digest, bool) {
	switch e.Kind {
	case proto.KindDir:
		return proto.Digest{}, true
	case proto.KindSymlink:
		return blake3.Sum256([]byte(e.LinkTo)), true
	}
	return e.Digest, e.HasDigest
}

// SameAsHeard reports whether the content is known to be that of the newest version known for the path: Heard, or Version
// when nothing newer was heard of.
func SameAsHeard(e index.Entry) bool {
	digest, known := Content(e)
	if !known || e.Heard == 0 && e.Version == 0 {
		return false
	}
	if e.Kind.HasContent() && e.HeardKind.HasContent() {
		return e.Stat.Size == e.HeardSize && digest == e.HeardDigest
	}
	return e.Kind == e.HeardKind && digest == e.HeardDigest
}

// SameObject reports whether two states of an entry are the same object, untouched between them. What is gone in one of them
// is not: what comes of work that began before must not bring it back.
func SameObject(a, b index.Entry) bool {
	return a.Present() == b.Present() && a.Kind == b.Kind && a.Stat == b.Stat && a.LinkTo == b.LinkTo
}

// later puts an entry back.
func later(e index.Entry, due time.Time) index.Entry {
	e.Due = due.UnixNano()
	return e
}

// The back-off of what cannot be read or does not hold still.
const (
	BackoffMin = 5 * time.Second
	BackoffMax = 10 * time.Minute
)

// Backoff returns how long to wait after n failures in a row, n >= 1: doubling from BackoffMin to BackoffMax.
func Backoff(n int) time.Duration {
	d := BackoffMin
	for ; n > 1 && d < BackoffMax; n-- {
		d *= 2
	}
	return min(d, BackoffMax)
}
