package flush

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"forebay/flush/policy"
	"forebay/flush/target"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// maxStreak is how many contents may fail at the target in a row before the rest of the batch is left for later.
const maxStreak = 5

// jobSize bounds how many small objects of one segment a worker takes at a time.
const jobSize = 64

// stageAll stages the contents of a batch, several at a time. What became of each is in its item.
func (l *link) stageAll(ctx context.Context, b *batch) {
	jobs := make(chan []*item)
	var wg sync.WaitGroup
	s := &staging{l: l, b: b}
	view := policy.LinkView{Link: l.config().Name, Priority: b.look.policy.Priority, Oldest: b.look.view.Oldest}
	for range l.e.cfg.Workers {
		wg.Add(1)
		go func() { // ends when jobs is closed; each job when ctx ends or the driver returns
			defer wg.Done()
			r := &segReader{l: l, view: view}
			for job := range jobs {
				for _, it := range job {
					s.one(ctx, r, it)
				}
			}
		}()
	}
	for _, job := range cutJobs(b.items) {
		jobs <- job
	}
	close(jobs)
	wg.Wait()
}

// cutJobs groups neighbours whose content is in one segment, so that it is read once.
func cutJobs(items []*item) (jobs [][]*item) {
	var job []*item
	flush := func() {
		if len(job) > 0 {
			jobs = append(jobs, job)
			job = nil
		}
	}
	for _, it := range items {
		if it.op != target.OpPut {
			continue
		}
		if n := len(job); n > 0 {
			seg := it.row.Content.Segment
			if n == jobSize || seg == 0 || seg != job[n-1].row.Content.Segment {
				flush()
			}
		}
		job = append(job, it)
	}
	flush()
	return jobs
}

// staging is the staging of one batch.
type staging struct {
	l *link
	b *batch

	mu     sync.Mutex
	streak int
	full   bool // the target has no room, or asked to slow down
}

func (s *staging) one(ctx context.Context, r *segReader, it *item) {
	if ctx.Err() != nil || it.state != itemPicked {
		return
	}
	if ok, err := s.begin(it); err != nil || !ok {
		if err == nil {
			err = errHalted
		}
		s.settle(ctx, it, err)
		return
	}
	defer func() { s.l.unpromise(it.promised) }()
	err := s.stage(ctx, r, it, true)
	if errors.Is(err, errSpoiled) { // what an earlier run had staged is not what it should be
		err = s.stage(ctx, r, it, false)
	}
	if errors.Is(err, errLetGo) && s.l.arrived(ctx, it) {
		it.op, it.cache = target.OpMeta, false // picked still: it is committed without a stage
		return
	}
	s.settle(ctx, it, err)
}

// begin reports whether an item may begin: the policy lets it, and the budget has enough left for all of it where it could not go
// on in the next window.
func (s *staging) begin(it *item) (ok bool, err error) {
	if s.stopped() {
		return false, nil
	}
	t, ok := s.terms(it)
	if !ok || it.desc.Size >= resumeFrom || it.row.Content.Stream {
		return ok, nil
	}
	if it.promised, ok, err = s.l.promise(t, it.desc.Size); err != nil {
		it.cache = true
	} else if !ok { // what is over may be forced
		plan, t := s.l.judge(s.b, it.desc.Size)
		ok = plan.Action == policy.Flush && t.over
	}
	return ok, err
}

func (s *staging) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full || s.streak >= maxStreak
}

func (s *staging) settle(ctx context.Context, it *item, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		it.state, s.streak = itemStaged, 0
	case ctx.Err() != nil, errors.Is(err, errHalted):
		it.state = itemHalted
	case errors.Is(err, errMoot):
		it.state = itemMoot
	default:
		it.state, it.err = itemFailed, err
		it.cache = it.cache || errors.Is(err, target.ErrNotReusable)
		if !it.cache {
			s.streak++
			s.full = s.full || proto.ClassOf(err) == proto.ClassOverload
		}
	}
}

// content is what the target is told of an item's content.
func (it *item) content() target.Content {
	return target.Content{ID: it.stage, Size: it.desc.Size, Path: it.row.Path, Desc: it.desc, Reuses: it.row.Content.Lacks > 0}
}

var (
	errHalted  = errors.New("the policy does not let it go on")
	errMoot    = errors.New("no longer owed")
	errSpoiled = errors.New("what was staged before is not the content")
	// errWrongContent: each segment is what it should be, and together they are not the version.
	errWrongContent = errors.New("the cache has another content")
)

// stage writes one content to the target's stage, from where an earlier run stopped if what it left proves right.
func (s *staging) stage(ctx context.Context, r *segReader, it *item, resume bool) error {
	parts, err := s.l.parts(s.b, it)
	if err != nil {
		return err
	}
	w := &writer{s: s, it: it, src: source{r: r, it: it, parts: parts, all: parts}, extents: it.desc.Extents}
	defer w.before.close()
	if w.out, err = s.l.sess.tgt.Stage(ctx, it.content()); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	if it.promised == 0 {
		if err := s.checkUnit(it, w.out.Unit()); err != nil {
			_ = w.out.Close() // nothing was written
			return err
		}
	}
	if w.out.Offset() > 0 {
		if err := w.resume(ctx, resume); err != nil {
			return err
		}
	}
	err = w.write(ctx)
	if cerr := w.out.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("stage: %w", cerr)
	}
	if err == nil {
		s.l.at(faultpoint.FlushContentStaged)
	}
	if errors.Is(err, target.ErrNotReusable) { // the whole is asked for, and staged anew
		err = errors.Join(err, s.l.unstage(ctx, []target.StageID{it.stage}))
	}
	return err
}

// parts returns where the content of an item is, or errMoot.
func (l *link) parts(b *batch, it *item) (parts []ledger.Part, err error) {
	err = l.e.deps.Ledger.View(func(r ledger.Rows) error {
		_, owed, err := ledger.OwedAt(r, l.id, it.ver)
		if err != nil {
			return err
		}
		row, known, err := ledger.Version(r, b.look.row.Dataset, it.ver)
		if err != nil {
			return err
		}
		if !owed || !known || row.Content != it.row.Content {
			return errMoot
		}
		return ledger.EachPart(r, row, func(p ledger.Part) (bool, error) {
			parts = append(parts, p)
			return true, nil
		})
	})
	if err != nil && !errors.Is(err, errMoot) {
		it.cache = true
	}
	return parts, err
}

// writer writes one content.
type writer struct {
	s    *staging
	it   *item
	src  source
	out  target.Stage
	kept []proto.Digest // of the whole blocks that are staged already
	tail []byte         // what is staged of the block after them
	from int64          // what is staged in all
	// extents are those that are not wholly written.
	extents []proto.Extent
	before  before
}

// resume proves what an earlier run left, or does away with it.
func (w *writer) resume(ctx context.Context, allowed bool) error {
	tgt, id, off, size := w.s.l.sess.tgt, w.it.stage, w.out.Offset(), w.it.desc.Size
	worth := size >= resumeFrom || w.it.row.Content.Stream // of a stream the cache has let go
	proved := w.out.Proved()
	if proved && allowed && worth {
		if ok, err := w.trust(off); ok {
			return nil
		} else if err != nil {
			_ = w.out.Close() // nothing was written
			return err
		}
	}
	_ = w.out.Close() // nothing was written
	kept := false
	if allowed && off <= size && worth {
		switch err := w.reread(ctx, off); {
		case err == nil:
			kept = true
		case !proved || proto.ClassOf(err) != proto.ClassPermanent: // else the target cannot read what is not committed
			return err
		}
	}
	if !kept {
		w.kept, w.tail, w.from = nil, nil, 0
		if err := w.s.l.unstage(ctx, []target.StageID{id}); err != nil {
			return fmt.Errorf("remove a staged content: %w", err)
		}
	}
	out, err := tgt.Stage(ctx, w.it.content())
	if err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	w.out = out
	if out.Offset() != w.from {
		_ = out.Close() // nothing was written
		return proto.Errorf(proto.ClassTransient, "staged content %s has %d bytes, expected %d", id, out.Offset(), w.from)
	}
	return nil
}

// trust takes the digests of what is staged from the ledger: the target has checked that it is what was written. ok is false where
// the ledger does not have them.
func (w *writer) trust(off int64) (ok bool, err error) {
	size := w.it.desc.Size
	if off > size || off < size && off%proto.BlockSize != 0 {
		return false, nil
	}
	block := func(i int64) int64 { return min(size-i*proto.BlockSize, proto.BlockSize) }
	var kept []proto.Digest
	zeros := func(to int64) {
		for i := int64(len(kept)); i < to; i++ {
			kept = append(kept, proto.ZeroBlockDigest(block(i)))
		}
	}
	blocks := proto.Blocks(off)
	ok, err = ledger.EachDigest(w.s.l.e.deps.Ledger, w.it.row, func(at int64, digests []proto.Digest) bool {
		zeros(min(at/proto.BlockSize, blocks))
		kept = append(kept, digests[:max(0, min(int64(len(digests)), blocks-int64(len(kept))))]...)
		return int64(len(kept)) < blocks
	})
	if !ok || err != nil {
		w.it.cache = w.it.cache || err != nil
		return false, err
	}
	zeros(blocks)
	w.kept, w.from = kept, off
	return true, nil
}

func (w *writer) reread(ctx context.Context, off int64) error {
	in, err := w.s.l.sess.tgt.Reread(ctx, w.it.stage)
	if err != nil {
		return fmt.Errorf("reread what is staged: %w", err)
	}
	defer func() { _ = in.Close() }() // only read from
	buf := make([]byte, min(off-w.from, proto.BlockSize))
	for w.from < off {
		n := min(off-w.from, proto.BlockSize)
		if _, err := io.ReadFull(in, buf[:n]); err != nil {
			return fmt.Errorf("reread what is staged: %w", err)
		}
		w.from += n
		if n == proto.BlockSize || w.from == w.it.desc.Size {
			w.kept = append(w.kept, proto.BlockDigest(buf[:n]))
		} else {
			w.tail = bytes.Clone(buf[:n])
		}
	}
	return nil
}

// write appends what is missing, block by block, and checks that the whole is the content that was described.
func (w *writer) write(ctx context.Context) error {
	sum, size := proto.NewContentHasher(), w.it.desc.Size
	for i := int64(0); i*proto.BlockSize < size; i++ {
		n := min(size-i*proto.BlockSize, proto.BlockSize)
		if i < int64(len(w.kept)) {
			sum.Add(w.kept[i])
			continue
		}
		b, err := w.src.block(ctx, i, n)
		if err != nil {
			return err
		}
		sum.Add(b.sum)
		if b.old {
			err = w.reuse(ctx, i*proto.BlockSize, n, b.sum)
		} else {
			err = w.block(ctx, i*proto.BlockSize, n, b.data)
		}
		if err != nil {
			return err
		}
	}
	if got := sum.Sum(); got != w.it.desc.Digest {
		if len(w.kept) > 0 {
			return errSpoiled
		}
		w.it.cache = true
		return proto.Errorf(proto.ClassCorrupt, "%w: digest %s, %s was sealed", errWrongContent, got.Short(), w.it.desc.Digest.Short())
	}
	if got := w.out.Offset(); got != size {
		return proto.Errorf(proto.ClassTransient, "the target has %d bytes staged of %d", got, size)
	}
	return nil
}

// block writes what is missing of one block; data nil stands for zeros.
func (w *writer) block(ctx context.Context, off, n int64, data []byte) error {
	if t := int64(len(w.tail)); t > 0 {
		same := data != nil && bytes.Equal(w.tail, data[:t]) || data == nil && zeros(w.tail)
		if !same {
			return errSpoiled
		}
		w.tail = nil
		off, n = off+t, n-t
		if data != nil {
			data = data[t:]
		}
	}
	if data == nil {
		return w.hole(n)
	}
	for len(data) > 0 {
		run, hole := w.run(off, data)
		var err error
		if hole {
			err = w.hole(int64(run))
		} else {
			err = w.data(ctx, data[:run])
		}
		if err != nil {
			return err
		}
		data, off = data[run:], off+int64(run)
	}
	return nil
}

// run is the length of what comes next that is all data, or all hole by the description and zeros in fact.
func (w *writer) run(off int64, data []byte) (n int, hole bool) {
	for len(w.extents) > 0 && w.extents[0].Offset+w.extents[0].Length <= off {
		w.extents = w.extents[1:]
	}
	if len(w.extents) == 0 {
		return len(data), false
	}
	e := w.extents[0]
	n = int(min(int64(len(data)), e.Offset+e.Length-off))
	return n, e.Kind == proto.ExtentHole && zeros(data[:n])
}

func zeros(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeroBlock))
		if !bytes.Equal(p[:n], zeroBlock[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

var zeroBlock [64 << 10]byte // never written

func (w *writer) hole(n int64) error {
	if err := w.out.Hole(n); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	w.s.l.stagedHole(n)
	return nil
}

// data writes bytes under the rates of the link and of the relay, as long as the policy and its budget let it.
func (w *writer) data(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		paid, err := w.passes(ctx, int64(len(p)))
		if err != nil {
			return err
		}
		if _, err := w.out.Write(p[:paid]); err != nil {
			return fmt.Errorf("stage: %w", err)
		}
		w.s.l.staged(paid)
		p = p[paid:]
	}
	return ctx.Err()
}

// passes waits until some of n bytes may be sent, and returns how many: they are paid for.
func (w *writer) passes(ctx context.Context, n int64) (int64, error) {
	l := w.s.l
	t, ok := w.s.terms(w.it)
	if !ok {
		return 0, errHalted
	}
	chunk := int(min(n, int64(l.pacer.chunk()), int64(l.e.pool.chunk())))
	if d := l.pacer.delay(chunk); d > 0 {
		if err := sleep(ctx, l.e.deps.Clock, d); err != nil {
			return 0, err
		}
	}
	if err := l.e.pool.take(ctx, l.id, t.weight, chunk); err != nil {
		return 0, err
	}
	paid, err := w.pay(ctx, int64(chunk))
	if err == nil && paid == 0 {
		err = errHalted
	}
	return paid, err
}
