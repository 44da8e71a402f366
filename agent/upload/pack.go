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
	buffer  *[]byte // payload, filled up to used
	used    int
	header  int
}

// Pack sends jobs that are not Large: whole objects, several to a segment, in the given order, which should be that of
// their paths so that neighbours stay together. It returns when each has ended.
func (u *Uploader) Pack(ctx context.Context, jobs []Job) {
	var sending sync.WaitGroup
	p := &pack{}
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
		u.read(ctx, p, j)
		if alone {
			u.flush(ctx, p, &sending)
			p = &pack{}
		}
	}
	u.flush(ctx, p, &sending)
	sending.Wait()
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

// read puts a job's object into the pack, or ends the job when it cannot be read.
func (u *Uploader) read(ctx context.Context, p *pack, j Job) {
	piece := segment.Piece{Kind: segment.PieceObject, Path: j.Entry.Path, Upload: j.Upload, Epoch: j.Epoch, Parent: j.Parent, At: uint32(p.used)}
	if j.Meta {
		piece.Kind = segment.PieceMeta
	}
	sent := j.Entry
	var desc proto.Desc
	desc.Kind, desc.LinkTo = settle.SentAs(sent, j.Alone)
	var err error
	if n := payloadOf(j); desc.Kind == proto.KindFile && !j.Meta {
		if err = paceRead(ctx, u.Read, int64(n)); err == nil {
			err = u.readFile(p, &desc, &piece, j)
		}
		sent.Digest, sent.HasDigest = desc.Digest, true
	} else {
		desc.Digest, _ = settle.Content(sent)
		if sent.Kind.HasContent() {
			desc.Size = sent.Stat.Size
		}
		var bad *Spoiled
		if desc.Meta, bad = Look(u.Tree, sent); bad != nil {
			err = bad
		}
	}
	var bad *Spoiled
	switch {
	case errors.As(err, &bad):
		u.Events.Done([]Result{{Job: j, Outcome: Failed, Sent: j.Entry, Bad: bad}})
		return
	case err != nil:
		u.lost([]Job{j})
		return
	}
	piece.Desc = &desc
	p.used += int(piece.Length)
	p.header += pieceOverhead + len(piece.Path) + len(desc.LinkTo)
	for _, x := range desc.Meta.Xattrs {
		p.header += len(x.Name) + len(x.Value)
	}
	p.pieces = append(p.pieces, piece)
	p.results = append(p.results, Result{Job: j, Sent: sent, Sums: desc.Meta.Sums()})
}

// readFile reads a whole file into the pack's buffer.
func (u *Uploader) readFile(p *pack, desc *proto.Desc, piece *segment.Piece, j Job) error {
	o, bad := open(u.Tree, j.Entry)
	if bad != nil {
		return bad
	}
	defer o.close()
	n := payloadOf(j)
	if p.buffer == nil {
		p.buffer = u.Window.buffer()
	}
	content := (*p.buffer)[p.used : p.used+n]
	if bad := o.readAt(content, 0); bad != nil {
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
		return // nothing in it
	}
	if err != nil {
		u.refused(p.results, err)
		return
	}
	leave, err := u.Window.enter(ctx, int64(p.used))
	if err != nil {
		u.end(p.results, Lost)
		return
	}
	sending.Add(1)
	go func() { // ends with the relay's answer, or with ctx
		defer sending.Done()
		defer leave()
		reply, err := u.put(ctx, raw, len(p.pieces))
		u.answered(p, reply, err)
	}()
}

// seal encodes a pack and gives its buffer back.
func (u *Uploader) seal(p *pack) (raw []byte, err error) {
	var payload []byte
	if p.buffer != nil {
		payload = (*p.buffer)[:p.used]
		defer u.Window.release(p.buffer)
	}
	if len(p.pieces) == 0 {
		return nil, nil
	}
	return u.encode(p.pieces, payload)
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
		if res.Outcome == Sealed {
			u.progress(res.Job, res.Sent.Stat.Size, true)
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
