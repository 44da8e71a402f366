package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/relay/arbiter"
	"forebay/relay/ingest"
)

// An object that is larger than the room in the cache streams: its segments are let go once the links' targets have them
// durably staged. One object streams at a time, within an allowance of the cache; bytes beyond that wait, at first here, then
// at their agent.
const (
	streamHold     = 20 * time.Second // a segment waits here for room so long before its agent is asked to send it again
	streamLook     = 50 * time.Millisecond
	streamPatience = time.Minute      // after which a stream that does not move gives its agent back to other objects
	streamRest     = 5 * time.Minute  // how long then, unless the targets take some of it
	streamRetry    = 10 * time.Second // when to claim again what has to wait for its turn
	// streamSolid is how long a stream's uploader must have been kept from sending more, while its segments were tried, before
	// what it left out is taken for holes: what was lost on the way is mostly sent again sooner. What comes later all the same ends
	// the stream, which is sent anew.
	streamSolid = 15 * time.Second
)

// streaming is what the relay remembers of the object that streams.
type streaming struct {
	mu      sync.Mutex
	upload  proto.UploadID
	epoch   proto.Epoch
	pending int64 // payload bytes let in and not yet in the ledger
	highest int64 // end of the range farthest into the object that was let in: what is before it fills gaps
	freed   int64 // as last seen
	rest    rest
	blocked time.Time // since when a segment waits and nothing was let in and no room made; zero: none does
	lowest  int64     // where the first of those begins that wait since then
}

// rest is a stream that was taken from its agent because no target took any of it.
type rest struct {
	upload proto.UploadID
	freed  int64
	until  time.Time
}

// rests reports whether an upload is not to be carried on yet: since it was taken from its agent no target took any of it.
func (s *streaming) rests(id proto.UploadID, u *ledger.UploadRow, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return id != 0 && s.rest.upload == id && u.Freed == s.rest.freed && now.Before(s.rest.until)
}

// streamAllowance is how many payload bytes of the cache a stream may have: a quarter of what may be used, two windows at
// least, as far as there is room up to the low water. Of a small cache, all would be more than there ever is beside what little
// cannot be flushed: the last bytes of an upload that lost its sender, or this stream's own.
func (a *admission) streamAllowance(x float64) int64 {
	high, low := a.marks()
	return int64(float64(max(high/4, min(int64(2*proto.DefaultWindow*x), low))) / x)
}

// larger reports whether n payload bytes are more than the cache could ever hold.
func (a *admission) larger(n int64) (bool, error) {
	x, err := a.expansion()
	high, _ := a.marks()
	return err == nil && int64(float64(n)*x) > high, err
}

// streams makes l the lease of a stream when its object is to be one. A verdict other than VerdictSend says that it has to
// wait. The table is locked.
func (r *Relay) streams(l *arbiter.Lease, v arbiter.View, act *arbiter.Action) (proto.ClaimAnswer, error) {
	ok := proto.ClaimAnswer{Verdict: proto.VerdictSend}
	known := act.Upload != 0 && v.Upload.Stream
	large, err := r.admission.larger(l.Room())
	if err != nil || !known && !large {
		return ok, nil //nolint:nilerr // nothing can be accepted: admission says why
	}
	if !known && !r.canStage(l.Dataset) {
		return ok, nil // admission refuses it
	}
	x, err := r.admission.expansion()
	if err != nil {
		return ok, err
	}
	l.Allowance = r.admission.streamAllowance(x)
	if known {
		l.Here = v.Upload.Acked - v.Upload.Gone
	}
	wait := proto.ClaimAnswer{Verdict: proto.VerdictLeased, Version: v.Object.Current.Version, RetryAfter: streamRetry}
	var other *arbiter.Lease
	r.table.Each(func(o *arbiter.Lease) {
		if o.Allowance > 0 && (o.Dataset != l.Dataset || o.Path != l.Path) {
			other = o
		}
	})
	if other != nil {
		wait.Node, wait.Reason = r.holderName(other.Holder), fmt.Sprintf("it is larger than the cache and waits for %q, which is streamed through it", other.Path)
		return wait, nil
	}
	if r.streaming.rests(act.Upload, v.Upload, r.now()) {
		wait.Reason = "it is larger than the cache, and its targets take nothing of it now"
		return wait, nil
	}
	return ok, nil
}

// canStage reports whether a link of a dataset can take part in a stream now.
func (r *Relay) canStage(ds proto.DatasetID) bool {
	return r.flush != nil && slices.ContainsFunc(r.linksOf(ds), r.flush.CanStage)
}

// streamOf returns the lease and the range when a segment is one of a stream.
func (r *Relay) streamOf(j *ingest.Job) (l arbiter.Lease, p segment.Piece, ok bool) {
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	for _, p := range j.Segment.Header.Pieces {
		if p.Kind != segment.PieceRange {
			continue
		}
		if l := r.table.Check(j.Session, p.Upload, p.Epoch, p.Path); l != nil && l.Allowance > 0 {
			return *l, p, true
		}
	}
	return l, p, false
}

// admitStream waits until a segment of a stream has room in its allowance; other segments have it. done is to be called when
// the segment is in the ledger, or failed.
func (r *Relay) admitStream(ctx context.Context, j *ingest.Job) (done func(), err error) {
	l, p, ok := r.streamOf(j)
	if !ok {
		return func() {}, nil
	}
	j.Stream, j.Again = true, l.Again
	hold := streamHold
	if r.deps.Driven {
		hold = 0 // time stands still while it waits
	}
	until := r.now().Add(hold)
	for {
		u, _, err := ledger.Upload(r.ledger, l.Upload)
		if err != nil {
			return nil, err
		}
		if late, err := r.tookForHole(l.Upload, u, p); err != nil {
			return nil, err
		} else if late {
			if err := r.dropStream(l.Upload, u, fmt.Sprintf("what comes at byte %d had been taken for a hole: it is sent anew", p.Offset), true); err != nil {
				return nil, err
			}
			return func() {}, nil // the ingest says that the lease has ended
		}
		let, err := r.streaming.let(r, l, u, p)
		if let || err != nil {
			return func() { r.streaming.landed(l, int64(p.Length)) }, err
		}
		if err := r.freeStream(l.Upload, u); err != nil {
			return nil, err
		}
		if !r.now().Before(until) {
			return nil, &proto.Error{Class: proto.ClassOverload, RetryAfter: time.Second,
				Message: fmt.Sprintf("%q is larger than the cache and streams: no link's target has taken more of it yet", l.Path)}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(streamLook):
		}
		if still, _, ok := r.streamOf(j); !ok || still.Epoch != l.Epoch {
			return func() {}, nil // fenced: the ingest says so
		}
	}
}

// outgrown gives up what came of a stream where it leaves the stores no room for what is to come before it, whatever else they let go of: it came
// while fewer stores took data, when each byte took less room, or before the object was a stream. err is why the stores refuse the segment.
func (r *Relay) outgrown(j *ingest.Job, err error) error {
	l, p, ok := r.streamOf(j)
	if !ok || proto.ClassOf(err) != proto.ClassOverload {
		return err
	}
	u, known, uerr := ledger.Upload(r.ledger, l.Upload)
	if uerr != nil || !known {
		return errors.Join(err, uerr)
	}
	allowance := l.Allowance
	if x, xerr := r.admission.expansion(); xerr == nil {
		allowance = min(allowance, r.admission.streamAllowance(x))
	}
	if here := u.Acked - u.Gone; here == 0 || here+int64(p.Length) <= allowance {
		return err
	}
	return errors.Join(err, r.dropStream(l.Upload, u, fmt.Sprintf("what came of it leaves no room for what begins at byte %d: it is sent anew", p.Offset), true))
}

// tookForHole reports whether a range begins where the targets have let go of the cache's already, and was not acknowledged: they were
// told that it is a hole.
func (r *Relay) tookForHole(id proto.UploadID, u ledger.UploadRow, p segment.Piece) (late bool, err error) {
	if p.Offset >= u.Freed {
		return false, nil
	}
	late = true
	err = ledger.UploadParts(r.ledger, id, p.Offset, func(part ledger.Part) (bool, error) {
		late = part.Offset > p.Offset // else it comes again
		return false, nil
	})
	return late, err
}

// let decides whether a range may come in: within the allowance, or before what was let in already, since a gap keeps all
// that comes after it. The allowance has room for the gaps too, as far as they may be on their way: with the cache full of what lies
// behind a gap, the stores would have none for it, and for ever.
func (s *streaming) let(r *Relay, l arbiter.Lease, u ledger.UploadRow, p segment.Piece) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upload != l.Upload || s.epoch != l.Epoch {
		s.upload, s.epoch, s.pending, s.highest, s.freed, s.blocked = l.Upload, l.Epoch, 0, 0, u.Freed, time.Time{}
		err := ledger.UploadParts(r.ledger, l.Upload, u.Freed, func(p ledger.Part) (bool, error) {
			s.highest = p.Offset + int64(p.Length)
			return true, nil
		})
		if err != nil {
			s.upload = 0
			return false, err
		}
	}
	if u.Freed > s.freed {
		s.freed, s.blocked = u.Freed, time.Time{}
	}
	if end, here := p.Offset+int64(p.Length), u.Acked-u.Gone+s.pending; p.Offset >= s.highest && !fits(u, here, p.Offset, end, l.Allowance) {
		if s.blocked.IsZero() {
			s.blocked, s.lowest = r.now(), p.Offset
		}
		s.lowest = min(s.lowest, p.Offset)
		// In a small cache the hole that an object begins with may be larger than what gaps may take.
		first := here == 0 && !u.Stream && p.Offset == s.lowest && r.now().Sub(s.blocked) >= streamSolid
		if !first {
			return false, nil
		}
	}
	s.pending += int64(p.Length)
	s.highest = max(s.highest, p.Offset+int64(p.Length))
	s.blocked = time.Time{}
	return true, nil
}

// fits reports whether a range from off to end, which lies behind all that was let in of a stream, finds room beside what is here and
// what may still come before it. There is always room for what comes next while nothing is here.
func fits(u ledger.UploadRow, here, off, end, allowance int64) bool {
	gaps := min(off-u.Freed-here, off-max(u.Freed, u.Solid), proto.DefaultWindow)
	return gaps <= 0 && here == 0 || here+max(gaps, 0)+end-off <= allowance
}

// landed takes a range that was let in off what is pending.
func (s *streaming) landed(l arbiter.Lease, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upload == l.Upload && s.epoch == l.Epoch {
		s.pending -= n
	}
}

// still returns for how long a segment of a stream has waited in vain, and up to where what is missing is taken for holes then: where
// the others came to, or, when nothing of the object is here any more, where the first of those begins that wait.
func (s *streaming) still(l arbiter.Lease, u ledger.UploadRow, now time.Time) (time.Duration, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upload != l.Upload || s.epoch != l.Epoch || s.pending > 0 || s.blocked.IsZero() {
		return 0, 0
	}
	if u.Acked == u.Gone {
		return now.Sub(s.blocked), max(s.highest, s.lowest)
	}
	return now.Sub(s.blocked), s.highest
}

// tendStreams lets go of what targets have staged, and ends what cannot go on.
func (r *Relay) tendStreams() error {
	type stream struct {
		id proto.UploadID
		u  ledger.UploadRow
	}
	var all []stream
	err := ledger.EachStream(r.ledger, func(id proto.UploadID, u ledger.UploadRow) (bool, error) {
		all = append(all, stream{id, u})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, s := range all {
		if err := r.freeStream(s.id, s.u); err != nil {
			return err
		}
		if err := r.unstickStream(s.id, s.u); err != nil {
			return err
		}
	}
	return nil
}

// freeStream lets go of what the targets of a stream have staged. Links that are stalled or paused are not waited for, unless
// they hold: they owe the object as released.
func (r *Relay) freeStream(id proto.UploadID, u ledger.UploadRow) error {
	links, err := ledger.StreamLinks(r.ledger, id, u)
	if err != nil {
		return err
	}
	if u.Again && len(links) == 0 {
		return r.dropStream(id, u, "no link asks for its content any more", true)
	}
	e := &ledger.FreeStaged{Upload: id}
	upTo, able := int64(-1), false
	for _, l := range links {
		out, err := r.leftOut(l.Link)
		if err != nil {
			return err
		}
		if out {
			e.Without = append(e.Without, l.Link)
		}
		if l.Durable >= u.Freed {
			able = true
			if !out && (upTo < 0 || l.Durable < upTo) {
				upTo = l.Durable
			}
		}
	}
	if upTo <= u.Freed && (able || u.Freed == 0) {
		return nil
	}
	if due, err := r.streamDue(id, u, upTo); err != nil || able && !due {
		return err
	}
	if err := r.ledger.Update(e); err != nil {
		return err
	}
	r.deps.Fault.At(faultpoint.RelayStreamFreed)
	if !e.Lost {
		return nil
	}
	return r.dropStream(id, u, "no target has any more what the cache let go: it is sent anew", true)
}

// streamDue reports whether a range ends at upTo at most that the cache still has.
func (r *Relay) streamDue(id proto.UploadID, u ledger.UploadRow, upTo int64) (due bool, err error) {
	err = ledger.UploadParts(r.ledger, id, u.Freed, func(p ledger.Part) (bool, error) {
		due = p.Offset+int64(p.Length) <= upTo
		return false, nil
	})
	return due, err
}

// leftOut reports whether a stream goes on without a link for now.
func (r *Relay) leftOut(id ledger.LinkID) (bool, error) {
	row, err := ledger.Link(r.ledger, id)
	if err != nil {
		return false, err
	}
	cfg, ok := r.link(row.Name)
	if !ok {
		return true, nil
	}
	return !cfg.Hold && (row.Paused || r.stalled(row.Name)), nil
}

// unstickStream looks at a stream whose uploader has waited for long: what it left out is holes; and when the targets take
// nothing at all, its agent is given back to other objects until they do.
func (r *Relay) unstickStream(id proto.UploadID, u ledger.UploadRow) error {
	r.tableMu.Lock()
	var l arbiter.Lease
	if now := r.table.Get(id); now != nil {
		l = *now
	}
	r.tableMu.Unlock()
	if l.Upload == 0 {
		return nil
	}
	long, below := r.streaming.still(l, u, r.now())
	switch {
	case long < streamSolid:
		return nil
	case below > u.Solid:
		if err := r.ledger.Update(&ledger.SettleHoles{Upload: id, Below: below}); err != nil {
			return err
		}
		r.wakeLinks(u.Dataset)
		return nil
	case long < streamPatience:
		return nil
	}
	r.streaming.mu.Lock()
	r.streaming.rest = rest{id, u.Freed, r.now().Add(streamRest)}
	r.streaming.mu.Unlock()
	return r.dropStream(id, u, "its targets take nothing of it now", false)
}

// dropStream ends the lease of a stream, and what was received of it when that is of no use any more.
func (r *Relay) dropStream(id proto.UploadID, u ledger.UploadRow, why string, abandon bool) error {
	r.fence.Lock()
	r.tableMu.Lock()
	ended := r.table.End(id)
	r.tableMu.Unlock()
	var err error
	if abandon {
		err = r.ledger.Apply(&ledger.AbandonUpload{Upload: id})
	}
	r.fence.Unlock()
	if err == nil && abandon {
		err = r.ledger.Update()
	}
	if err != nil {
		return err
	}
	if ended != nil {
		r.tellEnded([]*arbiter.Lease{ended}, why)
	}
	if abandon || ended != nil {
		r.event("stream-ended", fmt.Sprintf("%q, which is larger than the cache, was streamed up to byte %d: %s", u.Path, u.Acked, why), map[string]string{"object": u.Path, "upload": fmt.Sprint(id)})
	}
	return nil
}

// wakeLinks tells the links of a dataset that there is something new.
func (r *Relay) wakeLinks(ds proto.DatasetID) {
	if r.flush == nil {
		return
	}
	for _, l := range r.linksOf(ds) {
		r.flush.Wake(l)
	}
}
