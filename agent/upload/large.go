package upload

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"forebay/agent/settle"
	"forebay/proto"
	"forebay/proto/segment"
)

// Large sends a large object: the blocks that the relay has not are sent at once, in segments of whole blocks, while then the
// others are read and hashed, so that the seal proves the whole object whoever sent its beginning (I9). It returns when
// the job has ended, and ends it through Events.Done.
func (u *Uploader) Large(ctx context.Context, j Job) {
	l := &large{u: u, job: j, size: j.Entry.Stat.Size, result: Result{Job: j, Sent: j.Entry}}
	u.Events.Done([]Result{l.run(ctx)})
}

// errEnded stops the parts of an upload whose end is already known from an answer.
var errEnded = errors.New("upload ended")

// large is the upload of one object.
type large struct {
	u       *Uploader
	job     Job
	size    int64
	o       *opened
	extents []proto.Extent
	skip    *blocks        // not to be sent: the relay has them, or they are holes
	holes   *blocks        // not to be read either
	digests []proto.Digest // of every block; each element is written once, by whoever reads its block
	begun   chan struct{}  // closed when the first segment of an upload that is carried on is acknowledged, and of others at once

	mu     sync.Mutex
	acked  *blocks // skip, and what was acknowledged since
	prefix int64   // blocks acknowledged without a gap from the start
	result Result
}

func (l *large) run(ctx context.Context) Result {
	if err := l.open(ctx); err != nil {
		return l.conclude(ctx, err)
	}
	defer l.o.close()
	l.prepare()
	group, run := errgroup.WithContext(ctx)
	group.Go(func() error { return l.send(run) })  // ends when all is acknowledged, or with the first failure
	group.Go(func() error { return l.prove(run) }) // ends when the rest is read, or with the first failure
	err := group.Wait()
	if err == nil {
		err = l.seal(ctx)
	}
	return l.conclude(ctx, err)
}

// open opens the object and finds its holes.
func (l *large) open(ctx context.Context) (err error) {
	l.o, l.extents, err = openWatched(l.u.Tree, l.job.Entry, func(fn func(func()) error, drop func()) (bool, error) {
		return l.u.watched(ctx, l.job, fn, drop)
	})
	return err
}

// read fills p from the object at off, and with check looks whether it is still what it was. Where over is false p is lost: it may be
// written to at any time.
func (l *large) read(ctx context.Context, p []byte, off int64, check bool) (over bool, err error) {
	return l.u.watched(ctx, l.job, func(step func()) error {
		bad := l.o.readAt(p, off, step)
		if bad == nil && check {
			bad = l.o.check()
		}
		return asError(bad)
	}, nil)
}

// conclude makes the result of how the parts ended.
func (l *large) conclude(ctx context.Context, err error) Result {
	var bad *Spoiled
	switch class := proto.ClassOf(err); {
	case err == nil, errors.Is(err, errEnded):
		return l.result
	case errors.As(err, &bad):
		return l.failed(bad)
	case ctx.Err() == nil && (class == proto.ClassPermanent || class == proto.ClassCorrupt):
		return l.failed(&Spoiled{Fault: settle.FaultRefused, Reason: "refused: " + err.Error()})
	}
	return l.with(Lost)
}

func (l *large) failed(bad *Spoiled) Result {
	l.result.Outcome, l.result.Bad = Failed, bad
	return l.result
}

func (l *large) with(o Outcome) Result {
	l.result.Outcome = o
	return l.result
}

// prepare finds out what is to be sent and what only to be read.
func (l *large) prepare() {
	l.skip, l.holes, l.acked = newBlocks(l.size), newBlocks(l.size), newBlocks(l.size)
	for _, x := range l.extents {
		if x.Kind == proto.ExtentHole {
			l.holes.setWithin(x.Offset, x.Length, l.size)
			l.skip.setWithin(x.Offset, x.Length, l.size)
		}
	}
	for _, r := range l.job.Have {
		if r.Offset >= 0 && r.Length > 0 {
			l.skip.setWithin(r.Offset, r.Length, l.size)
		}
	}
	copy(l.acked.bits, l.skip.bits)
	l.digests = make([]proto.Digest, l.skip.n)
	l.advance()
	l.begun = make(chan struct{})
	if len(l.job.Have) == 0 {
		close(l.begun)
	}
}

// segmentBlocks is how many blocks a segment of a large object has.
const segmentBlocks = proto.SegmentTarget / proto.BlockSize

// begin sends the first missing block of an upload that is carried on, alone and before anything else is read: several whole
// segments side by side would take seconds to arrive on a slow path, and until one has, nobody knows that the upload goes on.
// It returns the block to go on from.
func (l *large) begin(ctx context.Context) (next int64, err error) {
	if len(l.job.Have) == 0 {
		return 0, nil
	}
	defer close(l.begun)
	from, to, ok := l.skip.next(0, 1)
	if !ok {
		return l.skip.n, nil
	}
	raw, free, err := l.segment(ctx, from, to)
	if err != nil {
		return 0, err
	}
	defer free()
	leave, err := l.u.Window.enter(ctx, l.bytes(from, to))
	if err != nil {
		return 0, err
	}
	defer leave()
	return to, l.put(ctx, raw, from, to)
}

// send reads the missing blocks in order and sends them; it returns when all are acknowledged.
func (l *large) send(ctx context.Context) error {
	next, err := l.begin(ctx)
	if err != nil {
		return err
	}
	group, run := errgroup.WithContext(ctx)
	rest := l.skip
	if base := l.base(ctx); base != nil {
		d := newDelta(l, base, group)
		if err := d.run(run, next); err != nil {
			group.Go(func() error { return err })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		next, rest = 0, d.settled
		group, run = errgroup.WithContext(ctx)
	}
	for from, to, ok := rest.next(next, segmentBlocks); ok && run.Err() == nil; from, to, ok = rest.next(to, segmentBlocks) {
		raw, free, err := l.segment(run, from, to)
		if err != nil {
			group.Go(func() error { return err })
			break
		}
		leave, err := l.u.Window.enter(run, l.bytes(from, to))
		if err != nil {
			free()
			group.Go(func() error { return err })
			break
		}
		group.Go(func() error { // ends with the relay's answer, or with the upload
			defer free()
			defer leave()
			return l.put(run, raw, from, to)
		})
	}
	return group.Wait()
}

// bytes is the length of a run of blocks.
func (l *large) bytes(from, to int64) int64 {
	return min(to*proto.BlockSize, l.size) - from*proto.BlockSize
}

// segment reads a run of blocks and encodes it. free is to be called once raw is not needed any more.
func (l *large) segment(ctx context.Context, from, to int64) (raw []byte, free func(), err error) {
	n := l.bytes(from, to)
	if err := l.u.Reads.pace(ctx, l.u.Read, n); err != nil {
		return nil, nil, err
	}
	r := l.u.Window.room()
	free = func() { l.u.Window.release(r) }
	payload := r.payload()[:n]
	over, err := l.read(ctx, payload, from*proto.BlockSize, true) // what has changed is found out early, before the bytes travel
	if err == nil {
		proto.BlockDigests(l.digests[from:from:to], payload)
		raw, err = l.u.encodeIn([]segment.Piece{l.piece(from, to)}, r, int(n))
	}
	if err != nil && over {
		free()
	}
	return raw, free, err
}

// piece describes a run of blocks whose digests are known.
func (l *large) piece(from, to int64) segment.Piece {
	return segment.Piece{
		Kind: segment.PieceRange, Path: l.job.Entry.Path, Upload: l.job.Upload, Epoch: l.job.Epoch, Parent: l.job.Parent,
		Offset: from * proto.BlockSize, Length: uint32(l.bytes(from, to)), Blocks: l.digests[from:to], ObjectSize: l.size,
	}
}

// put sends one segment with one run of blocks and notes its acknowledgement.
func (l *large) put(ctx context.Context, raw []byte, from, to int64) error {
	return l.putRuns(ctx, raw, []span{{from, to}})
}

// putRuns is put for several runs.
func (l *large) putRuns(ctx context.Context, raw []byte, runs []span) error {
	reply, err := l.u.put(ctx, raw, len(runs))
	if err != nil {
		return err
	}
	for i, s := range runs {
		switch reply.Pieces[i].State {
		case proto.PieceAccepted:
			l.u.Events.Acked(l.bytes(s.from, s.to))
		case proto.PieceDuplicate:
		default:
			return l.stale()
		}
		l.note(s.from, s.to)
	}
	return nil
}

// stale ends an upload that the relay no longer takes, or answers with a state of a newer release: the next claim asks what it wants.
func (l *large) stale() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.result.Outcome = Again
	return errEnded
}

// note records acknowledged blocks and tells how far the object is.
func (l *large) note(from, to int64) {
	l.mu.Lock()
	for i := from; i < to; i++ {
		l.acked.set(i)
	}
	l.advance()
	offset := min(l.prefix*proto.BlockSize, l.size)
	l.mu.Unlock()
	l.u.progress(l.job, offset, false)
}

func (l *large) advance() {
	for l.prefix < l.acked.n && l.acked.has(l.prefix) {
		l.prefix++
	}
}

// prove hashes the blocks that are not sent: what the relay has already, and holes, which need no reading.
func (l *large) prove(ctx context.Context) error {
	select {
	case <-l.begun:
	case <-ctx.Done():
		return ctx.Err()
	}
	buf := make([]byte, proto.BlockSize)
	for i := range l.skip.n {
		n := blockLen(i, l.size)
		switch {
		case !l.skip.has(i):
			continue
		case l.holes.has(i):
			l.digests[i] = proto.ZeroBlockDigest(n)
			continue
		}
		if err := l.u.Reads.pace(ctx, l.u.Read, n); err != nil {
			return err
		}
		if _, err := l.read(ctx, buf[:n], i*proto.BlockSize, false); err != nil {
			return err
		}
		l.digests[i] = proto.BlockDigest(buf[:n])
	}
	return nil
}

// seal completes the version, if the object is still what was read.
func (l *large) seal(ctx context.Context) error {
	var meta proto.Meta
	if _, err := l.u.watched(ctx, l.job, func(func()) (err error) {
		if meta, err = l.u.Tree.Meta(l.o.f); err != nil {
			return spoiled("read metadata", err)
		}
		return asError(l.o.check())
	}, nil); err != nil {
		return err
	}
	desc := proto.Desc{Kind: proto.KindFile, Size: l.size, Digest: proto.DigestOfBlocks(l.digests), Meta: meta, Extents: l.extents}
	l.result.Sent.Digest, l.result.Sent.HasDigest, l.result.Sums = desc.Digest, true, meta.Sums()
	raw, err := l.u.encode([]segment.Piece{{
		Kind: segment.PieceSeal, Path: l.job.Entry.Path, Upload: l.job.Upload, Epoch: l.job.Epoch, Parent: l.job.Parent, Desc: &desc,
	}}, nil)
	if err != nil {
		return err
	}
	leave, err := l.u.Window.enter(ctx, 0)
	if err != nil {
		return err
	}
	defer leave()
	reply, err := l.u.put(ctx, raw, 1)
	if err != nil {
		return err
	}
	l.result.ended(reply.Pieces[0])
	if l.result.Outcome == Sealed {
		l.u.progress(l.job, l.size, true)
	}
	return nil
}
