package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/fsmeta"
	"forebay/proto"
)

// A batch is committed when it has so many objects or bytes.
const (
	batchObjects = 512
	batchBytes   = 256 << 20
)

// run is one restore on its way. Only fetch runs in several goroutines; it touches done alone.
type run struct {
	o        Options
	names    *fsmeta.Names
	lock     *os.File
	work     string
	local    *dir.Dir
	surveyed bool
	leaders  map[key]leader // every file that a hard link names
	report   Report
	done     atomic.Int64 // bytes of content read
	stages   uint64
}

// all restores in three passes, so that memory does not grow with the tree: contents, links, and directories last, for
// what is put into a directory changes its times.
func (r *run) all(ctx context.Context) error {
	b := &batch{r: r}
	err := r.each(ctx, func(it item) error {
		if it.desc.Kind == proto.KindHardlink {
			return nil
		}
		return b.add(ctx, it)
	})
	if err = errors.Join(err, b.flushUnless(ctx, err)); err != nil {
		return err
	}
	err = r.each(ctx, func(it item) error {
		if it.desc.Kind != proto.KindHardlink {
			return nil
		}
		return b.addLink(ctx, it)
	})
	if err = errors.Join(err, b.flushUnless(ctx, err)); err != nil {
		return err
	}
	err = r.each(ctx, func(it item) error {
		if it.desc.Kind != proto.KindDir && it.also.Kind != proto.KindDir {
			return nil
		}
		it, there, err := r.settle(ctx, it)
		if err != nil || !there || it.desc.Kind != proto.KindDir {
			return nil // the first pass has told of it
		}
		return b.addMeta(ctx, it)
	})
	return errors.Join(err, b.flushUnless(ctx, err))
}

// batch gathers objects that are committed together.
type batch struct {
	r     *run
	items []*work
	bytes int64
}

// work is an object in a batch.
type work struct {
	item
	change target.Change
	equal  bool // To had it
	skip   bool // gone, as it may be
	silent bool // it was counted in an earlier pass
	err    error
	wrote  int64
}

func (b *batch) add(ctx context.Context, it item) error {
	b.items = append(b.items, &work{item: it})
	if it.desc.Kind.HasContent() {
		b.bytes += it.desc.Size
	}
	return b.full(ctx)
}

// addLink adds a hard link, or the content where there is nothing right to link to.
func (b *batch) addLink(ctx context.Context, it item) error {
	r := b.r
	l := r.leaders[keyOf(it.desc.LinkTo)]
	if l.path != "" && l.digest == it.desc.Digest && it.also.Kind == proto.KindNone {
		w := &work{item: it}
		w.change = target.Change{Op: target.OpLink, Path: it.path, Desc: it.desc}
		w.change.Desc.LinkTo = l.path
		b.items = append(b.items, w)
		return b.full(ctx)
	}
	// It is outside of Path, failed, or has another content by now: this one is restored from its own path, at once, so
	// that the next link can share it.
	if err := b.flush(ctx); err != nil {
		return err
	}
	w := &work{item: it}
	b.items = append(b.items, w)
	if err := b.flush(ctx); err != nil {
		return err
	}
	if w.err == nil && !w.skip && l.path == "" {
		r.leaders[keyOf(it.desc.LinkTo)] = leader{path: it.path, digest: w.desc.Digest}
	}
	return nil
}

func (b *batch) addMeta(ctx context.Context, it item) error {
	b.items = append(b.items, &work{item: it, silent: true, change: target.Change{Op: target.OpMeta, Path: it.path, Desc: it.desc}})
	return b.full(ctx)
}

func (b *batch) full(ctx context.Context) error {
	if len(b.items) < batchObjects && b.bytes < batchBytes {
		return nil
	}
	return b.flush(ctx)
}

func (b *batch) flushUnless(ctx context.Context, err error) error {
	if err != nil {
		return nil
	}
	return b.flush(ctx)
}

// flush fetches, syncs and commits what was gathered.
func (b *batch) flush(ctx context.Context) error {
	items := b.items
	b.items, b.bytes = nil, 0
	if len(items) == 0 {
		return nil
	}
	if err := b.r.prepare(ctx, items); err != nil {
		return err
	}
	var ids []target.StageID
	var changes []target.Change
	var at []*work
	for _, w := range items {
		if w.err != nil || w.skip {
			continue
		}
		if w.change.Op == target.OpPut {
			ids = append(ids, w.change.Stage)
		}
		changes = append(changes, w.change)
		at = append(at, w)
	}
	if err := b.r.local.Barrier(ctx, ids); err != nil {
		return wrap(err, "make contents durable")
	}
	for i, err := range b.r.local.Commit(ctx, changes) {
		at[i].err = err
	}
	for _, w := range items {
		if err := b.r.settleWork(ctx, w); err != nil {
			return err
		}
	}
	b.r.progress()
	return nil
}

// settleWork counts an object. What would meet every other object too ends the restore.
func (r *run) settleWork(ctx context.Context, w *work) error {
	switch {
	case w.skip:
		return nil
	case w.err != nil && fatal(ctx, w.err):
		return wrap(w.err, "%q", w.path)
	case w.err != nil:
		if !w.silent || !slices.ContainsFunc(r.report.Failed, func(f Failure) bool { return f.Path == w.path }) {
			r.fail(w.path, w.err)
		}
		return nil
	case w.silent:
		return nil
	}
	r.report.Objects++
	r.report.Bytes += w.wrote
	if w.equal {
		r.report.Equal++
	}
	if k := keyOf(w.path); w.desc.Kind == proto.KindFile {
		if _, ok := r.leaders[k]; ok {
			r.leaders[k] = leader{path: w.path, digest: w.desc.Digest}
		}
	}
	return nil
}

// prepare makes the changes of a batch; contents are staged by several workers.
func (r *run) prepare(ctx context.Context, items []*work) error {
	workers := r.o.Workers
	if workers <= 0 {
		workers = 4
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, w := range items {
		if w.change.Op != 0 {
			continue
		}
		r.stages++
		id := target.StageID(fmt.Sprintf("r-%d", r.stages))
		g.Go(func() error { // ends with its object
			w.err = r.prepareOne(gctx, w, id)
			if w.err != nil && fatal(gctx, w.err) {
				return wrap(w.err, "%q", w.path)
			}
			return nil
		})
	}
	return g.Wait()
}

func (r *run) prepareOne(ctx context.Context, w *work, id target.StageID) error {
	it, there, err := r.settle(ctx, w.item)
	w.item = it
	if err != nil || !there {
		w.skip = err == nil
		return err
	}
	w.change = target.Change{Path: it.path, Desc: it.desc}
	switch {
	case it.desc.Kind == proto.KindDir:
		w.change.Op = target.OpMkdir
		w.change.Desc.Meta.Mode |= 0o700 // its own mode comes last
	case it.desc.Kind == proto.KindSymlink:
		w.change.Op = target.OpSymlink
	case it.desc.Kind.HasContent():
		return r.content(ctx, w, id)
	default:
		return proto.Errorf(proto.ClassPermanent, "the journal has a %s there, which this release cannot restore", it.desc.Kind)
	}
	return nil
}

// content stages the content of a file, unless To has it already.
func (r *run) content(ctx context.Context, w *work, id target.StageID) error {
	w.change.Desc.Kind, w.change.Desc.LinkTo = proto.KindFile, ""
	if r.o.IntoExisting && r.equal(ctx, w) {
		w.equal = true
		w.change.Op = target.OpMeta
		r.done.Add(w.desc.Size)
		return nil
	}
	w.change.Op, w.change.Stage = target.OpPut, id
	digest, n, err := r.fetch(ctx, w, id)
	w.wrote = n
	if err != nil {
		return err
	}
	switch {
	case digest == w.desc.Digest:
	case w.also.Kind.HasContent() && digest == w.also.Digest:
		w.desc = w.also
		w.change.Desc = w.also
		w.change.Desc.Kind, w.change.Desc.LinkTo = proto.KindFile, ""
	default:
		return damaged()
	}
	return nil
}

// equal reports whether To has the content.
func (r *run) equal(ctx context.Context, w *work) bool {
	have, err := r.local.Stat(ctx, w.path)
	if err != nil || have.Desc.Kind != proto.KindFile || have.Desc.Size != w.desc.Size {
		return false
	}
	f, err := r.local.Open(ctx, w.path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // only read from
	h := proto.NewContentHasher()
	buf := make([]byte, proto.BlockSize)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			h.Add(proto.BlockDigest(buf[:n]))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return h.Sum() == w.desc.Digest
		}
		if err != nil || ctx.Err() != nil {
			return false
		}
	}
}

// fetch reads an object from the target, block by block, into a staged content and returns the digest of what it read.
func (r *run) fetch(ctx context.Context, w *work, id target.StageID) (d proto.Digest, n int64, err error) {
	if err := checkExtents(w.desc); err != nil {
		return d, 0, err
	}
	from, err := r.o.From.Open(ctx, w.path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, 0, proto.Errorf(proto.ClassCorrupt, "it is in the journal, but not at the target: %w", err)
	}
	if err != nil {
		return d, 0, err
	}
	defer func() { _ = from.Close() }() // only read from
	to, err := r.local.Stage(ctx, id, w.desc.Size)
	if err != nil {
		return d, 0, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	h := proto.NewContentHasher()
	buf := make([]byte, proto.BlockSize)
	holes := holeReader{extents: w.desc.Extents}
	for {
		if err := ctx.Err(); err != nil {
			return d, n, err
		}
		got, err := io.ReadFull(from, buf)
		if got > 0 {
			if n+int64(got) > w.desc.Size {
				return d, n, damaged()
			}
			h.Add(proto.BlockDigest(buf[:got]))
			if err := holes.write(to, buf[:got], n); err != nil {
				return d, n, err
			}
			n += int64(got)
			r.done.Add(int64(got))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return d, n, proto.Errorf(proto.ClassTransient, "read it from the target: %w", err)
		}
	}
	if n != w.desc.Size {
		return d, n, damaged()
	}
	return h.Sum(), n, nil
}

// checkExtents refuses what this release cannot restore.
func checkExtents(d proto.Desc) error {
	at := int64(0)
	for _, e := range d.Extents {
		if e.Kind != proto.ExtentData && e.Kind != proto.ExtentHole {
			return proto.Errorf(proto.ClassPermanent, "it has extents of kind %d: use a newer release", e.Kind)
		}
		if e.Offset != at || e.Length <= 0 || e.Length > d.Size-at {
			return proto.Errorf(proto.ClassCorrupt, "the extents in the journal do not fit its size")
		}
		at += e.Length
	}
	if len(d.Extents) > 0 && at != d.Size {
		return proto.Errorf(proto.ClassCorrupt, "the extents in the journal do not fit its size")
	}
	return nil
}

// holeReader goes along the extents of a file as it is written.
type holeReader struct {
	extents []proto.Extent
}

// write writes p, which lies at off, with the holes that are in it. What should be a hole and has bytes is written: the
// digest, not the extents, says what is right.
func (h *holeReader) write(to target.Stage, p []byte, off int64) error {
	for len(p) > 0 {
		for len(h.extents) > 0 && h.extents[0].Offset+h.extents[0].Length <= off {
			h.extents = h.extents[1:]
		}
		n, hole := len(p), false
		if len(h.extents) > 0 {
			n = int(min(int64(n), h.extents[0].Offset+h.extents[0].Length-off))
			hole = h.extents[0].Kind == proto.ExtentHole
		}
		if hole && zero(p[:n]) {
			if err := to.Hole(int64(n)); err != nil {
				return err
			}
		} else if _, err := to.Write(p[:n]); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

var zeros = make([]byte, 64<<10)

func zero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeros))
		if !bytes.Equal(p[:n], zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}
