package settle

import (
	"time"

	"forebay/agent/index"
	"forebay/proto"
)

// Hear returns the entry after the feed told of a version of its path. changed is false when that was no news; drop is set
// when the entry is to be removed: it is gone here, and the relay has published that.
func Hear(e index.Entry, item proto.FeedItem, now time.Time) (_ index.Entry, changed, drop bool) {
	if item.Version <= e.Version || item.Version <= e.Heard || e.State == index.StateSkipped {
		return e, false, false
	}
	if !e.Present() && item.Kind == proto.KindTombstone {
		return e, true, true
	}
	waits := ToBeHashed(e)
	e.Heard, e.HeardKind, e.HeardSize, e.HeardDigest = item.Version, item.Kind, item.Size, item.Digest
	switch e.State {
	case index.StateSettled, index.StateLagging, index.StateDivergent:
		return caughtUp(e, now), true, false
	case index.StatePending:
		// It needs no claim, nor its turn; or it waited for the hasher, which leaves alone by now what cannot be that version.
		if SameAsHeard(e) || waits && !ToBeHashed(e) {
			e.Due = min(e.Due, now.UnixNano())
		}
	}
	return e, true, false
}

// caughtUp queues an entry whose content turns out to be that of a newer version, so that the relay is told; an entry with
// other content lags behind it. Nothing is settled before the relay knows (its delete rules count holders).
func caughtUp(e index.Entry, now time.Time) index.Entry {
	switch {
	case SameAsHeard(e):
		e.State, e.Due, e.FirstSeen = index.StatePending, now.UnixNano(), now.UnixNano()
	case e.State == index.StateSettled:
		e.State, e.Due = index.StateLagging, 0
	}
	return e
}

// Do is what an answer to a claim calls for, besides writing the entry.
type Do uint8

// What to do.
const (
	DoNothing  Do = iota
	DoSend        // upload the content under the answer's grant
	DoSendMeta    // send a metadata piece under the answer's grant
	DoReturn      // give the grant back: the object has changed since it was claimed
)

// Answered returns cur, the entry as it is now, after the relay answered the claim made for it as claimed with the
// metadata sums of that time.
func Answered(cur, claimed index.Entry, sums [4]uint64, a proto.ClaimAnswer, now time.Time, suspicion time.Duration) (index.Entry, Do) {
	same := SameObject(cur, claimed)
	switch a.Verdict {
	case proto.VerdictSend, proto.VerdictSendMeta:
		if !same {
			return cur, DoReturn
		}
		if a.Verdict == proto.VerdictSendMeta {
			return cur, DoSendMeta
		}
		return cur, DoSend
	case proto.VerdictHave:
		if a.WantMeta {
			return AgreeBut(cur, claimed, a.Version, now, now.Add(suspicion)), DoNothing
		}
		return Agree(cur, claimed, a.Version, sums, now), DoNothing
	}
	if !same {
		return cur, DoNothing // the answer is about something that is no more
	}
	pause := a.RetryAfter
	if pause <= 0 {
		pause = suspicion
	}
	switch a.Verdict {
	case proto.VerdictHash:
		return toHash(cur, a, now, pause), DoNothing
	case proto.VerdictLeased:
		cur.Waited = true
		return later(cur, now.Add(pause)), DoNothing
	case proto.VerdictLags:
		return rest(cur, index.StateLagging, a.Reason), DoNothing
	case proto.VerdictDivergent:
		return rest(cur, index.StateDivergent, a.Reason), DoNothing
	case proto.VerdictUnwanted:
		return rest(cur, index.StateUnwanted, a.Reason), DoNothing
	case proto.VerdictInvalid:
		return rest(cur, index.StateSkipped, "refused by the relay: "+a.Reason), DoNothing
	}
	cur.Reason = a.Reason // refused, or a verdict of a newer relay
	return later(cur, now.Add(pause)), DoNothing
}

// toHash queues an entry for reading, so that it is claimed with its digest or settled without a claim.
func toHash(e index.Entry, a proto.ClaimAnswer, now time.Time, pause time.Duration) index.Entry {
	if _, known := Content(e); known {
		return later(e, now.Add(pause)) // the digest is what was asked for; a relay that asks on must not be asked in a loop
	}
	if a.Version > e.Heard {
		e.Heard, e.HeardKind, e.HeardSize, e.HeardDigest = a.Version, e.Kind, a.Size, a.Digest
	}
	if !Candidate(e) {
		e.Attempts = max(e.Attempts, 1) // Next reads what it otherwise would not
	}
	return later(e, now)
}

// rest takes an entry out of the queue until it or the world changes.
func rest(e index.Entry, s index.State, reason string) index.Entry {
	e.State, e.Reason, e.Due, e.Waited, e.Attempts, e.Renewed = s, reason, 0, false, 0, false
	return e
}

// Agree returns cur after the relay and this holder agreed that what it had as sent is version v, with the metadata sums of
// that time. When the object has changed since, it stays in the queue with v as the parent of its next claim.
func Agree(cur, sent index.Entry, v proto.VersionID, sums [4]uint64, now time.Time) index.Entry {
	if v < cur.Version {
		return cur // an answer that was overtaken by a later one
	}
	same, newer := SameObject(cur, sent), cur.Heard > v
	cur.Version, cur.MetaSum, cur.Renewed = v, sums, false
	if !newer {
		cur.Heard = 0
		cur = newest(cur, sent)
	}
	if !same {
		return cur
	}
	cur.Digest, cur.HasDigest = Content(sent)
	cur = rest(cur, index.StateSettled, "")
	cur.FirstSeen = 0
	if newer {
		cur = caughtUp(cur, now)
	}
	return cur
}

// newest returns the entry with the content of sent as that of the newest version that it knows of.
func newest(e, sent index.Entry) index.Entry {
	e.HeardKind, e.HeardSize = sent.Kind, 0
	if sent.Kind.HasContent() {
		e.HeardSize = sent.Stat.Size
	}
	e.HeardDigest, _ = Content(sent)
	return e
}

// AgreeBut is Agree where the relay wants this holder's metadata too: the entry is claimed once more, from due on, as if all of it had
// changed since version v.
func AgreeBut(cur, sent index.Entry, v proto.VersionID, now, due time.Time) index.Entry {
	cur = Agree(cur, sent, v, [4]uint64{}, now)
	if cur.State == index.StateSettled {
		cur.State, cur.FirstSeen = index.StatePending, now.UnixNano()
		cur = later(cur, due)
	}
	return cur
}

// Brought returns cur after its content was sent to a relay that had it as version v: asked for again, or by two at once. Its metadata
// was not taken with it; the entry is compared with v next, as if the feed had told of that.
func Brought(cur, sent index.Entry, v proto.VersionID, now time.Time) index.Entry {
	if v < cur.Version || v < cur.Heard || !SameObject(cur, sent) {
		return Agree(cur, sent, v, cur.MetaSum, now) // it goes on from v all the same
	}
	cur = newest(cur, sent)
	cur.Digest, cur.HasDigest = Content(sent)
	if cur.Heard = v; v == cur.Version {
		cur.Heard = 0
	}
	if !cur.State.Queued() {
		cur.FirstSeen = now.UnixNano() // it was sent at the relay's wish
	}
	cur.State, cur.Reason, cur.Waited, cur.Attempts, cur.Renewed = index.StatePending, "", false, 0, false
	return later(cur, now)
}

// Ended returns the entry after the lease of another holder on its path ended: it is this holder's turn after
// wait. ok is false when the entry has no use for that: what could not be read is first to be read whole again.
func Ended(e index.Entry, size int64, wait time.Duration, now time.Time) (_ index.Entry, ok bool) {
	well := (e.State == index.StateUnreadable || e.State == index.StateUnsettled) && e.HasDigest
	if e.State != index.StatePending && !well || e.Kind.HasContent() && e.Stat.Size != size {
		return e, false
	}
	e.Waited = true
	return later(e, now.Add(wait)), true
}

// Hashed returns cur after its content was read whole and unchanged as it was in sent: Next then knows how to go on.
func Hashed(cur, sent index.Entry, digest proto.Digest, now time.Time) index.Entry {
	if !SameObject(cur, sent) {
		return cur
	}
	cur.Digest, cur.HasDigest = digest, true
	return later(cur, now)
}

// Forget returns the entry without what it knows of versions above one, queued again where it was settled by them.
func Forget(e index.Entry, above proto.VersionID, now time.Time) (_ index.Entry, changed bool) {
	if e.Version <= above && e.Heard <= above {
		return e, false
	}
	if e.Version > above {
		e.Version, e.MetaSum = 0, [4]uint64{}
	}
	e.Heard, e.HeardKind, e.HeardSize, e.HeardDigest, e.Renewed = 0, proto.KindNone, 0, proto.Digest{}, false
	switch e.State {
	case index.StateSettled, index.StateLagging, index.StateDivergent:
		if e.Present() {
			e.State, e.Due, e.FirstSeen = index.StatePending, now.UnixNano(), now.UnixNano()
		}
	}
	return e, true
}

// Renew queues an entry that is settled, lags or diverges for another claim, with all that it knows: the relay's ledger was
// rebuilt. What it was told of versions before is no news any more; what the feed tells from now on has higher numbers.
func Renew(e index.Entry, now time.Time) (_ index.Entry, changed bool) {
	if !e.Present() {
		return e, false
	}
	if s := e.State; s != index.StateSettled && s != index.StateLagging && s != index.StateDivergent && s != index.StatePending {
		return e, false
	}
	e.Heard, e.HeardKind, e.HeardSize, e.HeardDigest = 0, proto.KindNone, 0, proto.Digest{}
	if _, known := Content(e); !known && e.State == index.StateSettled {
		e.Attempts = max(e.Attempts, 1) // Next reads it first: with its digest, nothing that the relay has is sent again
	}
	if e.State == index.StatePending {
		return e, true
	}
	e.State, e.Due, e.FirstSeen, e.Waited = index.StatePending, now.UnixNano(), now.UnixNano(), false
	return e, true
}

// PutBack is Renew for an index that was put back to an older copy. What is untouched since it was agreed on is told from what
// changed: if the relay does not know it any more, it was deleted since the copy was made.
func PutBack(e index.Entry, now time.Time) (index.Entry, bool) {
	agreed := e.Present() && e.State == index.StateSettled && e.Version != 0
	next, changed := Renew(e, now)
	next.Renewed = agreed || e.Renewed // it may be done again from the beginning
	return next, changed
}

// Wanted queues an entry that was left alone because no link named its dataset. ok is false for any other.
func Wanted(e index.Entry, now time.Time) (_ index.Entry, ok bool) {
	if e.State != index.StateUnwanted {
		return e, false
	}
	e.State, e.Reason, e.Due, e.FirstSeen = index.StatePending, "", now.UnixNano(), now.UnixNano()
	return e, true
}

// Requeue returns cur with another time at which the queue offers it; one that is not in the queue stays as it is.
func Requeue(cur index.Entry, due time.Time) index.Entry {
	if !cur.State.Queued() {
		return cur
	}
	return later(cur, due)
}

// Vanished returns cur after its file was not there when it was to be read. What the relay never heard of is forgotten; what it
// knows stays in the queue until a scan has said whether it is gone, for only a completed scan says that.
func Vanished(cur index.Entry, now time.Time) index.Entry {
	if !cur.State.Queued() || cur.State == index.StateGone {
		return cur
	}
	if cur.Unknown() {
		cur.State = index.StateGone
		return later(cur, now)
	}
	return later(cur, now.Add(BackoffMin))
}

// Lagged returns cur after the relay recognised what was sent as an older version.
func Lagged(cur, sent index.Entry) index.Entry {
	if !SameObject(cur, sent) {
		return cur
	}
	cur.Digest, cur.HasDigest = Content(sent)
	return rest(cur, index.StateLagging, "")
}

// Fault says why an object could not be read or sent.
type Fault uint8

// The faults.
const (
	FaultRead    Fault = iota + 1 // the file system refused or failed
	FaultChanged                  // it changed while it was read, or since the scan
	FaultRefused                  // the relay refused what was sent, for good
)

// unsettledAfter is how many readings in a row an object may spoil by changing before it is listed as unsettled.
const unsettledAfter = 3

// Failed returns cur after a reading or sending of it as it was in sent failed. fresh is its present fingerprint when that
// was seen; the object is then taken as found again.
func Failed(cur, sent index.Entry, fault Fault, reason string, fresh *index.Stat, now time.Time) index.Entry {
	if !cur.State.Queued() || cur.State == index.StateGone {
		if cur.State != index.StateSettled || !SameObject(cur, sent) {
			return cur // settled some other way meanwhile
		}
		cur.FirstSeen = now.UnixNano() // it was being sent again at the relay's wish
	}
	cur.Attempts++
	cur.Reason = reason
	pause := Backoff(cur.Attempts)
	switch fault {
	case FaultRead, FaultRefused:
		cur.State = index.StateUnreadable
		if fault == FaultRead {
			cur.HasDigest = false // it is read before it is claimed again, see Next
		}
	case FaultChanged:
		cur.State = index.StatePending
		if cur.Attempts >= unsettledAfter {
			cur.State, pause = index.StateUnsettled, Backoff(cur.Attempts-unsettledAfter+1)
		} else {
			pause = proto.SettleTime
		}
		if fresh != nil && SameObject(cur, sent) {
			cur.Stat, cur.HasDigest, cur.Renewed = *fresh, false, false
		}
	}
	return later(cur, now.Add(pause))
}
