package relay

import (
	"context"
	"fmt"
	"time"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/relay/arbiter"
	"forebay/relay/ingest"
	"forebay/relay/session"
)

// maxLeases is how many leases one session may have: beyond it claims are put off until some are used.
const maxLeases = 8192

// unknownSession is the answer to a session that ended: the agent says hello again.
func unknownSession() error {
	return proto.Errorf(proto.ClassConflict, "unknown session: say hello again")
}

// root returns a session and the root of it that a request speaks for.
func (r *Relay) root(id proto.SessionID, h proto.HolderID) (session.Session, session.Root, error) {
	r.book.Touch(id, r.now())
	s, ok := r.book.Get(id)
	if !ok {
		return s, session.Root{}, unknownSession()
	}
	if root := s.Root(h); root != nil {
		return s, *root, nil
	}
	return s, session.Root{}, proto.Errorf(proto.ClassPermanent, "holder %d is not a root of node %s", h, s.Node)
}

// Claim answers a batch of claims. What it grants is fenced: see Relay.fence. What it tells is durable: of a version that a power
// cut takes back, with its number, a holder would believe for ever that it has it (I1, I18).
func (r *Relay) Claim(_ context.Context, b proto.ClaimBatch) (proto.ClaimReply, error) {
	r.giveUpGone(b.Session, b.Holder, b.GivenUp)
	rep, err := r.answer(b)
	if err != nil {
		return proto.ClaimReply{}, err
	}
	if err := r.ledger.Update(); err != nil { // not under the fence: it waits for the disk
		return proto.ClaimReply{}, err
	}
	r.deps.Fault.At(faultpoint.RelayClaimLearnt)
	return rep, nil
}

func (r *Relay) answer(b proto.ClaimBatch) (proto.ClaimReply, error) {
	s, root, err := r.root(b.Session, b.Holder)
	if err != nil {
		return proto.ClaimReply{}, err
	}
	if len(b.Claims) > proto.MaxClaims {
		return proto.ClaimReply{}, proto.Errorf(proto.ClassPermanent, "%d claims in one message, at most %d are allowed", len(b.Claims), proto.MaxClaims)
	}
	rep := proto.ClaimReply{Answers: make([]proto.ClaimAnswer, len(b.Claims))}
	if !r.wanted(root.Name) {
		for i := range rep.Answers {
			rep.Answers[i] = proto.ClaimAnswer{Verdict: proto.VerdictUnwanted, RetryAfter: time.Minute}
		}
		return rep, nil
	}
	if b.Told > root.Told { // before anything of it counts: else an older copy of the index would not be known as one
		e := &ledger.ReportHoldings{Holder: b.Holder, IndexGen: root.IndexGen, UpNs: r.up(), Told: b.Told}
		if err := r.ledger.Apply(e); err != nil {
			return proto.ClaimReply{}, err
		}
		if e.Stale {
			return proto.ClaimReply{}, unknownSession()
		}
		r.book.Told(b.Session, b.Holder, b.Told)
	}
	var unused []*arbiter.Lease
	defer func() { r.tellEnded(unused, "its grant did not reach the agent") }() // once the fence is open
	r.fence.Lock()
	defer r.fence.Unlock()
	if !r.book.Touch(b.Session, r.now()) { // ended while this waited: its leases must not outlive it
		return proto.ClaimReply{}, unknownSession()
	}
	if r.isPast(b.Session, b.Holder, b.HaveSeq) {
		return proto.ClaimReply{}, tooLate()
	}
	alive := r.alive(root.Dataset)
	known, err := r.knownHolders(root.Dataset)
	if err != nil {
		return proto.ClaimReply{}, err
	}
	var learnt []ledger.HoldingByPath
	for i, c := range b.Claims {
		a, h, l, err := r.claim(s, root, c, alive, known)
		if err != nil {
			return proto.ClaimReply{}, fmt.Errorf("claim %q: %w", c.Path, err)
		}
		if l != nil {
			unused = append(unused, l)
		}
		rep.Answers[i] = a
		if h != nil {
			learnt = append(learnt, ledger.HoldingByPath{Path: c.Path, Holding: *h})
		}
	}
	if len(learnt) == 0 {
		return rep, nil
	}
	return rep, r.ledger.Apply(&ledger.ReportHoldings{Holder: b.Holder, IndexGen: root.IndexGen, UpNs: r.up(), Claims: learnt})
}

// claim answers one claim. unused is a lease of the claiming holder on the path that it ended: who claims does not use one. The fence
// is held.
func (r *Relay) claim(s session.Session, root session.Root, c proto.Claim, alive, known []proto.HolderID) (_ proto.ClaimAnswer, _ *ledger.Holding, unused *arbiter.Lease, _ error) {
	if err := checkClaim(c); err != nil {
		return proto.ClaimAnswer{Verdict: proto.VerdictInvalid, Reason: err.Error()}, nil, nil, nil
	}
	v, err := r.view(root.Dataset, c, alive, known)
	if err != nil {
		return proto.ClaimAnswer{}, nil, nil, err
	}
	if v.Lease != nil && v.Lease.Holder == root.Holder { // neither others nor what it asks for now have to wait for the room of that
		r.tableMu.Lock()
		unused = r.table.End(v.Lease.Upload)
		r.tableMu.Unlock()
		v.Lease = nil
	}
	act := arbiter.Decide(v, root.Holder, c)
	if act.Answer.Verdict == proto.VerdictLeased {
		act.Answer.Node = r.holderName(v.Lease.Holder)
		act.Answer.RetryAfter = arbiter.RetryLeased(r.book.Suspicion())
	}
	if act.Grant {
		if err := r.grant(s, root, c, v, &act); err != nil {
			return proto.ClaimAnswer{}, nil, nil, err
		}
		if u := v.Object.Upload; u != 0 && act.Answer.Verdict == proto.VerdictRefused {
			r.waits.claimed(u, root.Holder, pathClaim{act.Upload == u, r.up()})
		}
	}
	if act.Answer.Epoch != (proto.Epoch{}) { // another one took its place: nobody else may go on
		unused = nil
	}
	return act.Answer, act.Holding, unused, nil
}

func checkClaim(c proto.Claim) error {
	if err := proto.CheckPath(c.Path); err != nil {
		return err
	}
	return segment.CheckDesc(proto.Desc{Kind: c.Kind, Size: c.Size, LinkTo: c.LinkTo})
}

// knownHolders returns the holders of a dataset that are not forgotten.
func (r *Relay) knownHolders(ds proto.DatasetID) (out []proto.HolderID, err error) {
	hs, err := r.roster.of(r.ledger, ds)
	for _, h := range hs {
		out = append(out, h.ID)
	}
	return out, err
}

// view gathers what the decision looks at.
func (r *Relay) view(ds proto.DatasetID, c proto.Claim, alive, known []proto.HolderID) (v arbiter.View, err error) {
	v.Alive, v.Known = alive, known
	if v.Object, _, err = ledger.Object(r.ledger, ds, c.Path); err != nil {
		return v, err
	}
	if v.Object.Current.Version == 0 {
		d, err := ledger.Dataset(r.ledger, ds)
		if err != nil {
			return v, err
		}
		v.Head = d.Head
	}
	if id := v.Object.Upload; id != 0 {
		u, ok, err := ledger.Upload(r.ledger, id)
		if err != nil {
			return v, err
		}
		if ok {
			v.Upload = &u
		}
	}
	if ver := v.Object.Current.Version; ver != 0 {
		if v.Asked, err = r.isAsked(ds, ver); err != nil {
			return v, err
		}
		if v.Loose, err = ledger.Loose(r.ledger, ds, v.Object.Current); err != nil {
			return v, err
		}
		if c.Meta != nil || c.MetaSum != 0 {
			row, _, err := ledger.Version(r.ledger, ds, ver)
			if err != nil {
				return v, err
			}
			v.Meta, v.Author = row.Desc.Meta, row.Holder
		}
	}
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	if l := r.table.At(ds, c.Path); l != nil {
		copied := *l
		v.Lease = &copied
	}
	return v, nil
}

// grant makes the lease, if there is room for what it will bring.
func (r *Relay) grant(s session.Session, root session.Root, c proto.Claim, v arbiter.View, act *arbiter.Action) error {
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	l := arbiter.Lease{Upload: act.Upload, Session: s.ID, Holder: root.Holder, Dataset: root.Dataset, Path: c.Path, Again: act.Again, Since: r.now(), Active: r.up()}
	if act.Answer.Verdict == proto.VerdictSend && c.Kind == proto.KindFile {
		l.Size = c.Size
	}
	if act.Upload != 0 {
		l.Acked = v.Upload.Acked
		if v.Upload.Holder != root.Holder && v.Upload.Acked > 0 {
			l.TakenFrom, l.Cause = v.Upload.Holder, r.waits.cause(act.Upload)
		}
		have, err := ledger.Ranges(r.ledger, act.Upload)
		if err != nil {
			return err
		}
		act.Answer.Have = have
	}
	if r.table.Count(s.ID) >= maxLeases {
		act.Answer = proto.ClaimAnswer{Verdict: proto.VerdictRefused, Reason: "too many uploads of this agent are open", RetryAfter: time.Second}
		return nil
	}
	if wait, err := r.streams(&l, v, act); err != nil {
		return err
	} else if wait.Verdict != proto.VerdictSend {
		act.Answer, act.Holding = wait, nil
		return nil
	}
	if reason, wait := r.admission.refuse(l.Dataset, l.Room(), r.table.Reserved()); reason != "" {
		act.Answer = proto.ClaimAnswer{Verdict: proto.VerdictRefused, Reason: reason, RetryAfter: wait, Alone: wait >= time.Minute}
		act.Holding = nil
		return nil
	}
	granted := r.table.Grant(l)
	act.Answer.Upload, act.Answer.Epoch, act.Answer.Sums = granted.Upload, granted.Epoch, r.sums(*granted, c, v, act)
	r.waits.forget(granted.Upload)
	r.returned.granted(objectKey{root.Dataset, c.Path}, root.Holder)
	r.deps.Fault.At(faultpoint.RelayGranted)
	if granted.TakenFrom != 0 {
		r.tellTakeover(s, root, *granted)
	}
	return nil
}

func (r *Relay) tellTakeover(s session.Session, root session.Root, l arbiter.Lease) {
	from := r.holderName(l.TakenFrom)
	r.event("takeover", fmt.Sprintf("%s carries on the upload of %s/%q from byte %d, after %s: %s", s.Node, root.Name, l.Path, l.Acked, from, l.Cause), map[string]string{
		"object": root.Name.String() + "/" + l.Path, "from": from, "to": s.Node, "offset": fmt.Sprint(l.Acked), "size": fmt.Sprint(l.Size), "cause": l.Cause, "epoch": l.Epoch.String(),
	})
	r.notes.entry(&ledger.UpdateNode{Cluster: s.Cluster, Node: s.Node, Takeovers: 1})
}

// Segment takes a segment in: proved, stored, recorded. The reply comes when all of it is durable.
func (r *Relay) Segment(ctx context.Context, id proto.SessionID, raw []byte) (proto.SegmentReply, error) {
	seg, err := segment.Decode(raw)
	if err != nil {
		return proto.SegmentReply{}, err
	}
	s, ok := r.book.Get(id)
	if !ok || !r.book.Touch(id, r.now()) {
		r.waste(int64(len(seg.Payload)))
		return proto.SegmentReply{}, unknownSession()
	}
	job := &ingest.Job{Segment: seg, Session: id}
	for _, root := range s.Roots {
		if root.Name == seg.Header.Dataset {
			job.Dataset = root.Dataset
		}
	}
	if job.Dataset == 0 {
		return proto.SegmentReply{}, proto.Errorf(proto.ClassPermanent, "node %s has announced no root of dataset %s", s.Node, seg.Header.Dataset)
	}
	for _, p := range seg.Header.Pieces {
		if p.Kind == segment.PieceDelete {
			return proto.SegmentReply{}, proto.Errorf(proto.ClassPermanent, "%q: agents do not send deletes, they report what is gone", p.Path)
		}
	}
	if job.Holder = r.sender(job); job.Holder == 0 { // nothing of it counts: no need to store it
		r.waste(int64(len(seg.Payload)))
		rep := proto.SegmentReply{Pieces: make([]proto.PieceResult, len(seg.Header.Pieces))}
		for i := range rep.Pieces {
			rep.Pieces[i].State = proto.PieceStale
		}
		return rep, nil
	}
	done, err := r.admitStream(ctx, job)
	if err != nil {
		return proto.SegmentReply{}, err
	}
	defer done()
	rep, err := r.submit(ctx, job)
	if err != nil {
		return rep, r.outgrown(job, err)
	}
	return rep, nil
}

// submit hands a segment to the ingest.
func (r *Relay) submit(ctx context.Context, j *ingest.Job) (proto.SegmentReply, error) {
	if r.deps.Driven {
		return r.ingest.Once(j)
	}
	return r.ingest.Submit(ctx, j)
}

// sender returns the holder whose leases cover the segment's pieces, 0 when none of them is in force.
func (r *Relay) sender(j *ingest.Job) proto.HolderID {
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	for _, p := range j.Segment.Header.Pieces {
		if l := r.table.Check(j.Session, p.Upload, p.Epoch, p.Path); l != nil {
			return l.Holder
		}
	}
	return 0
}

func (r *Relay) waste(n int64) {
	if n > 0 {
		r.notes.entry(&ledger.Waste{Bytes: n})
	}
}

// guard is the relay as the ingest sees it.
type guard struct{ r *Relay }

func (g guard) Enter() { g.r.fence.RLock() }

// Leave ends it. What a rebuild of the ledger would have to be told of refused pieces is in the stores before the answer (I18).
func (g guard) Leave() {
	g.r.fence.RUnlock()
	if g.r.memo.due.Swap(false) {
		g.r.keepMemo()
	}
}

// Admit keeps the pieces whose lease is in force and whose holder is the segment's. What has no session are deletes: the relay's
// own, without a lease.
func (g guard) Admit(j *ingest.Job) (pieces []segment.Piece, indexes []int, alive []proto.HolderID) {
	r := g.r
	alive = r.alive(j.Dataset)
	if j.Session == 0 {
		var err error
		if alive, err = r.holdUp(j.Segment.Header.Dataset, j.Dataset); err != nil {
			return nil, nil, nil // the ledger failed: Run ends with it
		}
	}
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	for i, p := range j.Segment.Header.Pieces {
		l := r.table.Check(j.Session, p.Upload, p.Epoch, p.Path)
		if j.Session == 0 || l != nil && l.Holder == j.Holder && l.Dataset == j.Dataset {
			pieces, indexes = append(pieces, p), append(indexes, i)
		}
	}
	return pieces, indexes, alive
}

// Applied counts what was accepted under each lease and ends those that are done with.
func (g guard) Applied(j *ingest.Job, e *ledger.StoreSegment) {
	r := g.r
	now := r.now()
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	if e.Noted {
		r.memo.due.Store(true)
	}
	for i, res := range e.Results {
		p := e.Pieces[i]
		if l := r.table.Check(j.Session, p.Upload, p.Epoch, p.Path); l != nil {
			first := l.FirstAck.IsZero()
			r.table.Ack(l, res.Bytes+res.Same, now)
			l.Active = r.up()
			if first && !l.FirstAck.IsZero() && l.TakenFrom != 0 {
				r.begun[j] = append(r.begun[j], l)
			}
		}
		if p.Kind != segment.PieceRange && p.Kind != segment.PieceSame || res.State == proto.PieceStale {
			r.table.End(p.Upload)
		}
		if res.Version != 0 && res.State == proto.PieceAccepted {
			r.returned.sealed(objectKey{j.Dataset, p.Path})
			r.slowed.sealed(objectKey{j.Dataset, p.Path})
		}
	}
}

// Durable counts what came, and has those look who wait for it.
func (g guard) Durable(j *ingest.Job, e *ledger.StoreSegment) {
	r := g.r
	now := r.now()
	r.tableMu.Lock()
	takeovers := r.begun[j]
	delete(r.begun, j)
	r.tableMu.Unlock()
	for _, l := range takeovers {
		object, after := j.Segment.Header.Dataset.String()+"/"+l.Path, now.Sub(l.Since)
		r.event("takeover-first-ack", fmt.Sprintf("%q: first bytes acknowledged %s after the takeover", object, after.Round(time.Millisecond)),
			map[string]string{"object": object, "epoch": l.Epoch.String(), "upload": fmt.Sprint(l.Upload), "after_seconds": fmt.Sprintf("%.3f", after.Seconds())})
	}
	sealed, bytes, objects := false, int64(0), int64(0)
	for _, res := range e.Results {
		bytes += res.Bytes
		if res.Version != 0 && res.State == proto.PieceAccepted {
			sealed = true
			objects++
		}
	}
	r.inflow.add(bytes, now)
	r.growth.add(e.Stored, now)
	r.recorder.add(j.Dataset, bytes, objects)
	r.coming.move(j.Dataset)
	switch {
	case sealed:
		r.sealed(j.Dataset)
	case j.Stream:
		r.wakeLinks(j.Dataset)
	}
}

// Abandon ends leases that an agent gives back.
func (r *Relay) Abandon(_ context.Context, a proto.Abandon) error {
	s, root, err := r.root(a.Session, a.Holder)
	if err != nil {
		return err
	}
	cause := "given back"
	if a.Changed {
		cause = "it changed while it was read"
	} else if a.ReadError != "" {
		cause = "read error: " + a.ReadError
	}
	r.fence.Lock()
	var ended []*arbiter.Lease
	r.tableMu.Lock()
	for _, id := range a.Uploads {
		if l := r.table.Get(id); l != nil && l.Session == s.ID {
			ended = append(ended, r.table.End(id))
		}
	}
	r.tableMu.Unlock()
	for _, l := range ended {
		if !a.Changed { // what changed is another object, which its holder claims once it holds still
			r.returned.add(objectKey{l.Dataset, l.Path}, l.Holder)
		}
	}
	dropped := false
	if a.Changed {
		dropped, err = r.dropUploads(ended)
	}
	r.fence.Unlock()
	if a.ReadError != "" {
		for _, l := range ended {
			r.event("read-error", fmt.Sprintf("%s cannot read %s/%q: %s", s.Node, root.Name, l.Path, a.ReadError), map[string]string{"node": s.Node, "object": root.Name.String() + "/" + l.Path})
		}
	}
	r.tellEnded(ended, cause)
	if err == nil && dropped {
		err = r.ledger.Update()
		r.deps.Fault.At(faultpoint.RelayUploadDropped)
	}
	return err
}

// dropUploads forgets what was acknowledged of uploads whose content is no more.
func (r *Relay) dropUploads(ls []*arbiter.Lease) (dropped bool, err error) {
	var entries []ledger.Entry
	for _, l := range ls {
		if !l.FirstAck.IsZero() { // else all of it is another holder's, whose content may well be the one that stays
			entries = append(entries, &ledger.AbandonUpload{Upload: l.Upload})
		}
	}
	return len(entries) > 0, r.ledger.Apply(entries...)
}
