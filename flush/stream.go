package flush

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/flush/policy"
	"forebay/flush/target"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// An upload that is larger than the room in the cache streams: its acknowledged beginning is staged at the target, durably,
// while the rest still comes, so that the relay can let go of it. The version that it becomes is staged under the same name:
// what is there is read back, proved against the version's digest, completed and committed like any other.

// streamStep bounds what is staged of a stream before it is made durable and batches have their turn.
const streamStep = 64 << 20

// errLetGo: a part is no longer in the cache, and the target has lost it.
var errLetGo = errors.New("the cache let go of what the target had staged")

// errUnstable: a target takes bytes and does not say that they are durable before the whole is committed.
var errUnstable = errors.New("the target does not make staged contents durable")

// streams is what a link's loop remembers of streams.
type streams struct {
	stages  map[proto.UploadID]target.StageID // opened since the target was prepared
	wait    map[proto.UploadID]time.Time      // tried again then
	reasons []string                          // what each is doing, for status
}

// flow is a stream that the link takes part in.
type flow struct {
	id      proto.UploadID
	row     ledger.UploadRow
	durable int64 // as recorded
}

// streamName names the staged content of a streamed upload.
func streamName(link ledger.LinkID, id proto.UploadID) target.StageID {
	return target.StageID(fmt.Sprintf("l%d-u%d", link, id))
}

// parseStream finds out whose a stream's staged content is.
func parseStream(id target.StageID) (link ledger.LinkID, up proto.UploadID, ok bool) {
	n, err := fmt.Sscanf(string(id), "l%d-u%d", &link, &up)
	return link, up, n == 2 && err == nil && id == streamName(link, up)
}

// stageOf names the staged content of a version.
func (l *link) stageOf(ver proto.VersionID, row ledger.VersionRow, d proto.Desc) target.StageID {
	if row.Content.Stream {
		l.streaming.note(row.Content.Upload, streamName(l.id, row.Content.Upload))
		return streamName(l.id, row.Content.Upload)
	}
	return stageName(l.id, ver, d.Digest)
}

// flows returns the streams that the link takes part in and can go on with.
func (l *link) flows(k *look) (out []flow, err error) {
	err = l.e.deps.Ledger.View(func(r ledger.Rows) error {
		return ledger.EachStream(r, func(id proto.UploadID, u ledger.UploadRow) (bool, error) {
			if u.Dataset != k.row.Dataset {
				return true, nil
			}
			links, err := ledger.StreamLinks(r, id, u)
			for _, s := range links {
				if s.Link == l.id && s.Durable >= u.Freed {
					out = append(out, flow{id, u, s.Durable})
				}
			}
			return true, err
		})
	})
	return out, err
}

// stream goes a step on with each stream, as far as the policy lets it. more is true when there may be more to do at once.
func (l *link) stream(ctx context.Context, k *look) (next time.Time, more bool) {
	l.streaming.reasons = nil
	flows, err := l.flows(k)
	if err != nil {
		return l.ledgerTrouble(err), false
	}
	l.dropStages(ctx, flows)
	for _, f := range flows {
		kk := k.forStream(f, l.e.deps.HighWater())
		l.decide(kk)
		at := fmt.Sprintf("streaming %q through the cache, %d of %d bytes are staged", f.row.Path, f.durable, f.row.Size)
		if wait := l.streaming.wait[f.id]; l.now().Before(wait) {
			next = earliest(next, wait)
			l.streaming.reasons = append(l.streaming.reasons, at+"; tried again soon")
			continue
		}
		if kk.plan.Action != policy.Flush {
			next = earliest(next, kk.plan.NextLook)
			l.streaming.reasons = append(l.streaming.reasons, at+"; waiting: "+kk.plan.Reason)
			continue
		}
		l.streaming.reasons = append(l.streaming.reasons, at)
		if !l.prepare(ctx, kk) {
			return l.nextTry, false
		}
		n, err := l.streamOne(ctx, kk, f)
		if err != nil && !ended(ctx, err) && !errors.Is(err, errHalted) {
			l.streamFailed(f, err)
		}
		more = more || err == nil && n > 0
	}
	return next, more && !l.troubled()
}

// forStream is the look for one stream: the policy of the link but for its conditions, which an object that cannot gather in
// the cache cannot wait for.
func (k *look) forStream(f flow, high bool) *look {
	kk := *k
	kk.stream = true
	kk.policy = unconditional(k.policy)
	v := &kk.view
	v.HighWater = high
	v.Objects, v.Bytes, v.Oldest, v.Whole = 1, f.row.Acked-f.row.Gone, k.acked(f.row.BeganNs), 0
	return &kk
}

func unconditional(p policy.Policy) policy.Policy {
	p.Size, p.Age, p.Objects, p.BatchMin = 0, 0, 0, 0
	return p
}

// streamFailed tells what one stream met, at the cache or the target.
func (l *link) streamFailed(f flow, err error) {
	var c *cacheError
	if errors.As(err, &c) || errors.Is(err, errUnstable) || errors.Is(err, errUnit) {
		if l.streaming.wait == nil {
			l.streaming.wait = map[proto.UploadID]time.Time{}
		}
		l.streaming.wait[f.id] = l.now().Add(l.e.cfg.ProbeEvery)
		l.note(fmt.Errorf("%q: %w", f.row.Path, err))
		return
	}
	l.stall(fmt.Errorf("%q: %w", f.row.Path, err))
}

// cacheError is a failure of the cache, not of the target.
type cacheError struct{ err error }

func (e *cacheError) Error() string { return e.err.Error() }
func (e *cacheError) Unwrap() error { return e.err }

// streamOne stages what is acknowledged without a gap, up to streamStep, makes it durable and records it. It returns how many
// bytes it staged.
func (l *link) streamOne(ctx context.Context, k *look, f flow) (int64, error) {
	parts, err := l.streamParts(f, f.durable, streamStep)
	if err != nil {
		return 0, err
	}
	first := l.streaming.stages[f.id] == ""
	if len(parts) == 0 && !first {
		return 0, nil
	}
	if err := l.checkClass(k); err != nil {
		return 0, err
	}
	b := &batch{look: k}
	it := &item{desc: proto.Desc{Kind: proto.KindFile, Size: f.row.Size}, owed: ledger.OwedRow{AckedNs: f.row.BeganNs}, stage: streamName(l.id, f.id)}
	it.row.Path = f.row.Path
	w := &writer{s: &staging{l: l, b: b}, it: it}
	if w.out, err = l.sess.tgt.Stage(ctx, target.Content{ID: it.stage, Size: f.row.Size, Path: f.row.Path}); err != nil {
		return 0, fmt.Errorf("stage: %w", err)
	}
	l.streaming.note(f.id, it.stage)
	began := w.out.Offset()
	// The target lost some of it, and what the cache has is staged again, or it makes only more than a step durable at a time.
	if began < f.durable || w.out.Unit() > streamStep {
		if parts, err = l.streamParts(f, began, max(streamStep, w.out.Unit())); err != nil {
			_ = w.out.Close() // nothing was written
			return 0, err
		}
	}
	if err := w.s.checkUnit(it, w.out.Unit()); err != nil {
		_ = w.out.Close() // nothing was written
		return 0, err
	}
	for _, p := range parts {
		b.left.Add(int64(p.Length))
	}
	l.pacer.set(k.plan.Rate)
	err = l.streamWrite(ctx, w, parts)
	wrote := w.out.Offset()
	// Also when nothing was written: what a try before had written need not be durable.
	durable, serr := w.out.Sync()
	if serr != nil {
		serr = fmt.Errorf("make what is staged durable: %w", serr)
	}
	if cerr := w.out.Close(); serr == nil && cerr != nil {
		serr = fmt.Errorf("stage: %w", cerr)
	}
	l.publish(func(s *shared) { s.StagedBytes, s.reusedBytes = 0, 0 })
	if serr != nil {
		return 0, serr
	}
	l.at(faultpoint.FlushStreamStaged)
	if rerr := l.recordStage(k, f, b, durable); rerr != nil {
		return 0, &cacheError{rerr}
	}
	if err == nil && durable == 0 && wrote >= w.out.Unit() {
		err = errUnstable
		l.publish(func(s *shared) { s.unstable = true })
	}
	return durable - min(began, f.durable), err
}

func (s *streams) note(id proto.UploadID, stage target.StageID) {
	if s.stages == nil {
		s.stages = map[proto.UploadID]target.StageID{}
	}
	s.stages[id] = stage
}

// recordStage writes down how far the target is, and what was sent outside the window.
func (l *link) recordStage(k *look, f flow, b *batch, durable int64) error {
	var entries []ledger.Entry
	if durable != f.durable {
		entries = append(entries, &ledger.StageUpload{Link: l.id, Upload: f.id, Durable: durable})
	}
	entries = append(entries, l.settleUp()...)
	if forced := b.verdict.forcedBytes(); forced > 0 {
		entries = append(entries, &ledger.Confirm{Link: l.id, NowNs: l.now().UnixNano(), Forced: forced})
		if l.once("forced") {
			l.tell(Event{Kind: LinkForced, Reason: k.plan.Reason})
		}
	}
	if len(entries) == 0 {
		return nil
	}
	if err := l.e.deps.Ledger.Update(entries...); err != nil {
		return err
	}
	l.at(faultpoint.FlushStreamRecorded)
	return nil
}

// streamParts returns the next parts of a stream that end after from, up to a gap that may be filled yet, about step bytes.
func (l *link) streamParts(f flow, from, step int64) (parts []ledger.Part, err error) {
	next, bytes := from, int64(0)
	err = l.e.deps.Ledger.View(func(r ledger.Rows) error {
		return ledger.UploadParts(r, f.id, from, func(p ledger.Part) (bool, error) {
			if p.Offset > next && p.Offset > f.row.Solid || bytes >= step {
				return false, nil
			}
			next, bytes = p.Offset+int64(p.Length), bytes+int64(p.Length)
			parts = append(parts, p)
			return true, nil
		})
	})
	if err != nil {
		err = &cacheError{err}
	}
	return parts, err
}

// streamWrite appends parts to what is staged; what lies between them is zeros.
func (l *link) streamWrite(ctx context.Context, w *writer, parts []ledger.Part) error {
	r := &segReader{l: l, view: policy.LinkView{Link: l.config().Name, Priority: w.s.b.look.policy.Priority, Oldest: w.s.b.look.view.Oldest}}
	for _, p := range parts {
		off := w.out.Offset()
		if off >= p.Offset+int64(p.Length) {
			continue
		}
		if off < p.Offset {
			if err := w.hole(p.Offset - off); err != nil {
				return err
			}
			off = p.Offset
		}
		if p.Segment == 0 {
			return &cacheError{errLetGo}
		}
		_, data, err := r.piece(ctx, p, w.it.row.Path)
		if err != nil {
			return l.streamUnreadable(ctx, w, p, err)
		}
		if err := w.data(ctx, data[off-p.Offset:]); err != nil {
			return err
		}
	}
	return nil
}

// streamUnreadable tells the relay of a segment that is not what it should be. One that another link's progress let go of in
// the meantime is not lost: the next look knows.
func (l *link) streamUnreadable(ctx context.Context, w *writer, p ledger.Part, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s, ok, lerr := ledger.Segment(l.e.deps.Ledger, p.Segment); lerr == nil && ok && s.Refs > 0 {
		if c := proto.ClassOf(err); c == proto.ClassCorrupt || c == proto.ClassPermanent {
			l.tell(Event{Kind: SegmentLost, Segment: p.Segment, Path: w.it.row.Path, Err: err})
			l.e.deps.LostSegment(p.Segment, err)
		}
	}
	return &cacheError{err}
}

// dropStages removes what was staged of streams that are gone, and of those that the link fell out of.
func (l *link) dropStages(ctx context.Context, flows []flow) {
	if l.sess == nil || !l.sess.prepared || len(l.streaming.stages) == 0 {
		return
	}
	live := map[proto.UploadID]bool{}
	for _, f := range flows {
		live[f.id] = true
	}
	var ids []target.StageID
	for id, stage := range l.streaming.stages {
		if live[id] {
			continue
		}
		if keep, err := l.keepStream(id); err != nil || keep {
			continue
		}
		ids = append(ids, stage)
		delete(l.streaming.stages, id)
		delete(l.streaming.wait, id)
	}
	if err := l.unstage(ctx, ids); err != nil && !ended(ctx, err) {
		l.note(fmt.Errorf("remove what was staged of streams that ended: %w", err))
	}
}

// keepStream reports whether what is staged of a stream may still be of use: it is being received, and the link has not fallen
// out, or the link owes the version that it became. That it is not is durable when keepStream returns: the cache has let go of
// what is staged, and an upload that a power cut brings back would miss it.
func (l *link) keepStream(id proto.UploadID) (keep bool, err error) {
	err = l.e.deps.Ledger.View(func(r ledger.Rows) error {
		u, ok, err := ledger.Upload(r, id)
		if err != nil || !ok || !u.Stream {
			return err
		}
		durable, err := ledger.Staged(r, id, l.id)
		keep = durable >= u.Freed
		return err
	})
	if err == nil && !keep {
		err = l.e.deps.Ledger.Update()
	}
	return keep, err
}

// arrived reports whether the target has the content of a streamed version under its name already: it was committed before
// the process ended, and nothing was confirmed. Then only the metadata is written again.
func (l *link) arrived(ctx context.Context, it *item) bool {
	e, err := l.sess.tgt.Stat(ctx, it.row.Path)
	if err != nil || e.Desc.Kind != proto.KindFile || e.Desc.Size != it.desc.Size {
		return false
	}
	in, err := l.sess.tgt.Open(ctx, it.row.Path)
	if err != nil {
		return false
	}
	sum, size, err := proto.ReadDigest(ctx, in)
	_ = in.Close() // only read from
	return err == nil && size == it.desc.Size && sum == it.desc.Digest && l.unstage(ctx, []target.StageID{it.stage}) == nil
}

// CanStage reports whether a link's target is there and keeps what is staged durably before the whole is committed, so that
// objects larger than the cache can be streamed to it.
func (e *Engine) CanStage(name string) bool {
	l := e.find(name)
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shared.Target.Driver != "" && !l.shared.unstable && l.shared.State.State != StateStalled
}
