package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

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

// run is one restore on its way. fetch runs in several goroutines, and touches src, meter and its own work alone; commit runs beside
// them, on the works of the batch before.
type run struct {
	o        Options
	names    *fsmeta.Names
	lock     *os.File
	work     string
	fresh    bool // it was made by this restore, and has nothing in it yet
	local    *dir.Dir
	horizon  int64 // of the history: what ended up to then is given up
	surveyed bool
	made     bool           // To was not there
	undo     bool           // nothing was restored: what was made is to go
	leaders  map[key]leader // every file that a hard link names
	report   Report
	src      *source
	meter    meter
	stages   uint64
	left     leftovers
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
	if err = b.end(ctx, err); err != nil {
		return err
	}
	err = r.each(ctx, func(it item) error {
		if it.desc.Kind != proto.KindHardlink {
			return nil
		}
		return b.addLink(ctx, it)
	})
	if err = b.end(ctx, err); err != nil {
		return err
	}
	err = r.each(ctx, func(it item) error {
		if it.desc.Kind != proto.KindDir && it.also.Kind != proto.KindDir {
			return nil
		}
		it, there, err := r.settle(ctx, it)
		if err != nil && fatal(ctx, err) {
			return wrap(err, "%q", it.path)
		}
		if err != nil || !there || it.desc.Kind != proto.KindDir {
			return nil // the first pass has told of it
		}
		return b.addMeta(ctx, it)
	})
	return b.end(ctx, err)
}

// batch gathers objects that are committed together. While they are, those of the next batch are fetched.
type batch struct {
	r       *run
	items   []*work
	bytes   int64
	landing *landing // what is being committed
}

// landing is a batch that is being synced and committed.
type landing struct {
	items []*work
	done  chan error
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
	// counted is how many bytes of its content progress has; its worker's.
	counted int64
}

// ends is the error of an object that ends the restore. That the source is away is no matter of the object that met it.
func (w *work) ends() error {
	if isAway(w.err) {
		return fmt.Errorf("restore: %w", w.err)
	}
	return wrap(w.err, "%q", w.path)
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
	if err := b.end(ctx, nil); err != nil {
		return err
	}
	w := &work{item: it}
	b.items = append(b.items, w)
	if err := b.end(ctx, nil); err != nil {
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
	if len(b.items) < cmp.Or(b.r.o.batch, batchObjects) && b.bytes < batchBytes {
		return nil
	}
	return b.flush(ctx)
}

// flush fetches what was gathered, and begins to commit it.
func (b *batch) flush(ctx context.Context) error {
	items := b.items
	b.items, b.bytes = nil, 0
	if len(items) == 0 {
		return nil
	}
	if err := errors.Join(b.r.prepare(ctx, items), b.land(ctx)); err != nil {
		return err
	}
	l := &landing{items, make(chan error, 1)}
	b.landing = l
	go func() { l.done <- b.r.commit(ctx, items) }() // ends when the directory driver returns; land waits for it
	return nil
}

// land waits for what is being committed, and counts it.
func (b *batch) land(ctx context.Context) error {
	l := b.landing
	if l == nil {
		return nil
	}
	b.landing = nil
	if err := <-l.done; err != nil {
		return err
	}
	for _, w := range l.items {
		if err := b.r.settleWork(ctx, w); err != nil {
			return err
		}
	}
	b.r.meter.objects(b.r.report)
	return nil
}

// end flushes what is left, unless err is set, and waits until everything is committed.
func (b *batch) end(ctx context.Context, err error) error {
	if err == nil {
		err = b.flush(ctx)
	}
	return errors.Join(err, b.land(ctx))
}

// commit syncs and commits what was fetched. What became of each is in its work.
func (r *run) commit(ctx context.Context, items []*work) error {
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
	if err := r.local.Barrier(ctx, ids); err != nil {
		return wrap(here(err), "make contents durable")
	}
	for i, err := range r.local.Commit(ctx, changes) {
		at[i].err = here(err)
	}
	return nil
}

// settleWork counts an object. What would meet every other object too ends the restore.
func (r *run) settleWork(ctx context.Context, w *work) error {
	switch {
	case w.skip:
		return nil
	case w.err != nil && fatal(ctx, w.err):
		return w.ends()
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
		workers = 16 // what is far away answers late
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
			if w.err = gctx.Err(); w.err != nil {
				return w.err // another ended all of it: nothing is asked any more
			}
			w.err = r.prepareOne(gctx, w, id)
			if w.err != nil && fatal(gctx, w.err) {
				return w.ends()
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
		return r.content(ctx, w, r.stageOf(it.path, it.desc, id))
	default:
		return proto.Errorf(proto.ClassPermanent, "the journal has a %s there, which this release cannot restore", it.desc.Kind)
	}
	return nil
}
