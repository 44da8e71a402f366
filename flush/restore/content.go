package restore

import (
	"context"
	"io"

	"forebay/flush/target"
	"forebay/proto"
)

// content stages the content of a file, unless To has it already.
func (r *run) content(ctx context.Context, w *work, id target.StageID) error {
	w.change.Desc.Kind, w.change.Desc.LinkTo = proto.KindFile, ""
	if r.o.IntoExisting && r.equal(ctx, w) {
		w.equal = true
		w.change.Op = target.OpMeta
		r.arrived(w, w.desc.Size)
		return nil
	}
	w.change.Op, w.change.Stage = target.OpPut, id
	digest, n, err := r.read(ctx, w, id)
	w.wrote = n
	if err != nil {
		return err
	}
	switch {
	case digest == w.desc.Digest:
	case w.is(digest):
		w.desc = w.also
		w.change.Desc = w.also
		w.change.Desc.Kind, w.change.Desc.LinkTo = proto.KindFile, ""
	default:
		return damaged()
	}
	return nil
}

// is reports whether a digest is that of what is to be restored.
func (w *work) is(d proto.Digest) bool {
	return d == w.desc.Digest || w.also.Kind.HasContent() && d == w.also.Digest
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
	sum, _, err := proto.ReadDigest(ctx, f)
	return err == nil && sum == w.desc.Digest
}

// read fetches a content from the mirror, and where that does not have it from what was kept.
func (r *run) read(ctx context.Context, w *work, id target.StageID) (proto.Digest, int64, error) {
	mirror := func() (io.ReadCloser, error) { return r.o.From.Open(ctx, w.path) }
	if w.kept == "" {
		return r.fetch(ctx, w, id, mirror)
	}
	if !w.past {
		d, n, err := r.fetch(ctx, w, id, mirror)
		if err == nil && w.is(d) || err != nil && fatal(ctx, err) {
			return d, n, err
		}
		id += keptSuffix
		w.change.Stage = id
	}
	h := r.o.From.History()
	if h == nil {
		return proto.Digest{}, 0, proto.Errorf(proto.ClassPermanent, "this way to the target does not know what it has kept")
	}
	return r.fetch(ctx, w, id, func() (io.ReadCloser, error) { return h.Open(ctx, w.kept) })
}
