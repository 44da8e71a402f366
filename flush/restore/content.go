package restore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"

	"forebay/flush/target"
	"forebay/proto"
)

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
	digest, n, err := r.read(ctx, w, id)
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
		if err == nil && (d == w.desc.Digest || w.also.Kind.HasContent() && d == w.also.Digest) || err != nil && fatal(ctx, err) {
			return d, n, err
		}
		r.done.Add(-n)
		id += "k"
		w.change.Stage = id
	}
	h := r.o.From.History()
	if h == nil {
		return proto.Digest{}, 0, proto.Errorf(proto.ClassPermanent, "this way to the target does not know what it has kept")
	}
	return r.fetch(ctx, w, id, func() (io.ReadCloser, error) { return h.Open(ctx, w.kept) })
}

// fetch reads an object from the target, block by block, into a staged content and returns the digest of what it read.
func (r *run) fetch(ctx context.Context, w *work, id target.StageID, open func() (io.ReadCloser, error)) (d proto.Digest, n int64, err error) {
	if err := checkExtents(w.desc); err != nil {
		return d, 0, err
	}
	from, err := open()
	if errors.Is(err, fs.ErrNotExist) {
		return d, 0, proto.Errorf(proto.ClassCorrupt, "it is in the journal, but not at the target: %w", err)
	}
	if err != nil {
		return d, 0, err
	}
	in := newAhead(from, w.desc.Size)
	defer in.end()
	to, err := r.local.Stage(ctx, target.Content{ID: id, Size: w.desc.Size})
	if err != nil {
		return d, 0, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	h := proto.NewContentHasher()
	holes := holeReader{extents: w.desc.Extents}
	for last := false; !last; {
		if err := ctx.Err(); err != nil {
			return d, n, err
		}
		data, err := in.next()
		if last = errors.Is(err, io.EOF); err != nil && !last {
			return d, n, proto.Errorf(proto.ClassTransient, "read it from the target: %w", err)
		}
		if n+int64(len(data)) > w.desc.Size {
			return d, n, damaged()
		}
		if len(data) == 0 {
			break
		}
		h.Add(proto.BlockDigest(data))
		if err := holes.write(to, data, n); err != nil {
			return d, n, err
		}
		n += int64(len(data))
		r.done.Add(int64(len(data)))
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
