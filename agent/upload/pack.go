package upload

import (
	"context"
	"errors"
	"sync"

	"forebay/agent/settle"
	"forebay/proto"
	"forebay/proto/segment"
)

// The bounds of a pack besides its payload. Headers carry attributes, so their size is estimated.
const (
	maxPackPieces = 4096
	maxPackHeader = proto.MaxHeader / 4
	pieceOverhead = 512 // bytes of a piece's header besides path, link and attributes, with room to spare
)

// pack is a segment in the making: whole objects, one after the other.
type pack struct {
	pieces  []segment.Piece
	results []Result
	mem     *room // its payload is filled up to used; nil: there is none
	used    int
	header  int
	lost    bool // a read that was left behind may still fill mem beyond used
}

// Pack sends jobs that are not Large: whole objects, several to a segment, in the given order, which should be that of
// their paths so that neighbours stay together. It returns when each has ended.
func (u *Uploader) Pack(ctx context.Context, jobs []Job) {
	var sending sync.WaitGroup
	p, given := &pack{}, 0
	for i, j := range jobs {
		// What failed before travels alone: if the relay refuses it, its neighbours are not to blame.
		alone := j.Entry.Attempts > 0
		if alone || !p.room(j) {
			u.flush(ctx, p, &sending)
			p = &pack{}
		}
		if ctx.Err() != nil {
			u.lost(jobs[i:])
			break
		}
		if bad := u.read(ctx, p, j); bad != nil {
			if given++; given == maxGiven { // the disk will not answer for the others either: they need not be waited for one by one
				u.fail(jobs[i+1:], bad)
				break
			}
		}
		if alone || p.lost {
			u.flush(ctx, p, &sending)
			p = &pack{}
		}
	}
	u.flush(ctx, p, &sending)
	sending.Wait()
}

// maxGiven is after how many objects of a pack that another holder goes on with, for the disk hangs, the others are given to it too.
const maxGiven = 2

// fail ends jobs that were not begun.
func (u *Uploader) fail(jobs []Job, bad *Spoiled) {
	results := make([]Result, len(jobs))
	for i, j := range jobs {
		results[i] = Result{Job: j, Outcome: Failed, Sent: j.Entry, Bad: bad}
	}
	if len(results) > 0 {
		u.Events.Done(results)
	}
}

func (u *Uploader) lost(jobs []Job) {
	results := make([]Result, len(jobs))
	for i, j := range jobs {
		results[i] = Result{Job: j, Outcome: Lost, Sent: j.Entry}
	}
	if len(results) > 0 {
		u.Events.Done(results)
	}
}

func (p *pack) room(j Job) bool {
	return len(p.pieces) < maxPackPieces && p.header < maxPackHeader && p.used+payloadOf(j) <= proto.SegmentTarget
}

// payloadOf is how many bytes a job puts into the payload.
func payloadOf(j Job) int {
	if j.Meta || j.kind() != proto.KindFile {
		return 0
	}
	return int(j.Entry.Stat.Size)
}

// read puts a job's object into the pack, or ends the job when it cannot be read. It returns why, where that is a disk that hangs.
func (u *Uploader) read(ctx context.Context, p *pack, j Job) *Spoiled {
	piece := segment.Piece{Kind: segment.PieceObject, Path: j.Entry.Path, Upload: j.Upload, Epoch: j.Epoch, Parent: j.Parent, At: uint32(p.used)}
	if j.Meta {
		piece.Kind = segment.PieceMeta
	}
	sent := j.Entry
	var desc proto.Desc
	desc.Kind, desc.LinkTo = settle.SentAs(sent, j.Alone)
	over, err := true, error(nil)
	if n := payloadOf(j); desc.Kind == proto.KindFile && !j.Meta {
		if err = u.Reads.pace(ctx, u.Read, int64(n)); err == nil {
			if p.mem == nil {
				p.mem = u.Window.room()
			}
			content, d, pc := p.mem.payload()[p.used:p.used+n], desc, piece // copies: what is left behind goes on writing to its own
			if over, err = u.watched(ctx, j, func(step func()) error { return u.readFile(content, &d, &pc, j, step) }, nil); err == nil {
				desc, piece = d, pc
			}
			p.lost = p.lost || !over
		}
		sent.Digest, sent.HasDigest = desc.Digest, true
	} else {
		desc.Digest, _ = settle.Content(sent)
		if sent.Kind.HasContent() {
			desc.Size = sent.Stat.Size
		}
		var meta proto.Meta
		over, err = u.watched(ctx, j, func(func()) error {
			m, bad := Look(u.Tree, sent)
			if bad != nil {
				return bad
			}
			meta = m
			return nil
		}, nil)
		if err == nil {
			desc.Meta = meta
		}
	}
	var bad *Spoiled
	switch {
	case errors.As(err, &bad):
		u.Events.Done([]Result{{Job: j, Outcome: Failed, Sent: j.Entry, Bad: bad}})
		if slow(over, err) {
			return bad
		}
		return nil
	case err != nil:
		u.lost([]Job{j})
		return nil
	}
	piece.Desc = &desc
	p.used += int(piece.Length)
	p.header += pieceOverhead + len(piece.Path) + len(desc.LinkTo)
	for _, x := range desc.Meta.Xattrs {
		p.header += len(x.Name) + len(x.Value)
	}
	p.pieces = append(p.pieces, piece)
	p.results = append(p.results, Result{Job: j, Sent: sent, Sums: desc.Meta.Sums()})
	return nil
}

// readFile reads a whole file into content.
func (u *Uploader) readFile(content []byte, desc *proto.Desc, piece *segment.Piece, j Job, step func()) error {
	o, bad := open(u.Tree, j.Entry)
	if bad != nil {
		return bad
	}
	defer o.close()
	n := len(content)
	if bad := o.readAt(content, 0, step); bad != nil {
		return bad
	}
	meta, err := u.Tree.Meta(o.f)
	if err != nil {
		return spoiled("read metadata", err)
	}
	desc.Meta, desc.Size = meta, int64(n)
	if desc.Extents, bad = o.holes(); bad != nil {
		return bad
	}
	if bad := o.check(); bad != nil {
		return bad
	}
	piece.Length = uint32(n)
	piece.Blocks = proto.BlockDigests(nil, content)
	desc.Digest = proto.DigestOfBlocks(piece.Blocks)
	return nil
}

// flush sends a pack in the background once the window has room for it.
func (u *Uploader) flush(ctx context.Context, p *pack, sending *sync.WaitGroup) {
	raw, err := u.seal(p)
	if err == nil && raw == nil {
		u.free(p) // nothing in it
		return
	}
	if err != nil {
		u.free(p)
		u.refused(p.results, err)
		return
	}
	leave, err := u.Window.enter(ctx, int64(p.used))
	if err != nil {
		u.free(p)
		u.end(p.results, Lost)
		return
	}
	sending.Add(1)
	go func() { // ends with the relay's answer, or with ctx
		defer sending.Done()
		defer u.free(p)
		defer leave()
		reply, err := u.put(ctx, raw, len(p.pieces))
		u.answered(p, reply, err)
	}()
}

// seal encodes a pack, in its room where nobody else may be writing.
func (u *Uploader) seal(p *pack) (raw []byte, err error) {
	switch {
	case len(p.pieces) == 0:
		return nil, nil
	case p.mem == nil:
		return u.encode(p.pieces, nil)
	case p.lost:
		return u.encode(p.pieces, p.mem.payload()[:p.used])
	}
	return u.encodeIn(p.pieces, p.mem, p.used)
}

// free gives back the room of a pack that has been answered, or is not sent.
func (u *Uploader) free(p *pack) {
	if p.mem != nil && !p.lost {
		u.Window.release(p.mem)
	}
}

// answered ends the jobs of a pack.
func (u *Uploader) answered(p *pack, reply proto.SegmentReply, err error) {
	switch class := proto.ClassOf(err); {
	case class == proto.ClassPermanent || class == proto.ClassCorrupt:
		u.refused(p.results, err)
		return
	case err != nil:
		u.end(p.results, Lost)
		return
	}
	var acked int64
	for i, r := range reply.Pieces {
		res := &p.results[i]
		res.ended(r)
		if r.State == proto.PieceAccepted {
			acked += int64(p.pieces[i].Length)
		}
	}
	if acked > 0 {
		u.Events.Acked(acked)
	}
	u.Events.Done(p.results)
}

// ended takes the result of the piece that completes a version.
func (res *Result) ended(r proto.PieceResult) {
	res.Outcome, res.Version = outcome(r), r.Version
	res.Known = !res.Job.Meta && (r.State != proto.PieceAccepted || r.Version <= res.Job.Parent)
}

// outcome reads the result of a piece that completes a version.
func outcome(r proto.PieceResult) Outcome {
	switch {
	case r.State == proto.PieceLags:
		return Lags
	case r.Version == 0:
		return Again
	case r.State == proto.PieceAccepted, r.State == proto.PieceDuplicate, r.State == proto.PieceEqual:
		return Sealed
	}
	return Again
}

func (u *Uploader) end(results []Result, o Outcome) {
	for i := range results {
		results[i].Outcome = o
	}
	u.Events.Done(results)
}

// refused ends jobs whose segment the relay, or the format, will not take.
func (u *Uploader) refused(results []Result, err error) {
	for i := range results {
		results[i].Outcome = Failed
		results[i].Bad = &Spoiled{Fault: settle.FaultRefused, Reason: "refused: " + err.Error()}
	}
	u.Events.Done(results)
}

func (u *Uploader) progress(j Job, acked int64, sealed bool) {
	u.Events.Progress(proto.ProgressItem{
		Path: j.Entry.Path, Upload: j.Upload, Epoch: j.Epoch, Acked: acked, Size: j.Entry.Stat.Size, Sealed: sealed,
	})
}
