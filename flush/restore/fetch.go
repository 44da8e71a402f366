package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"forebay/flush/target"
	"forebay/proto"
)

// fetching is a content on its way from the source to a stage. What failed to read goes on where it stands: at a block, for a block
// that did not come whole is neither written nor part of the digest.
type fetching struct {
	r    *run
	w    *work
	id   target.StageID
	open func() (io.ReadCloser, error)

	to    target.Stage // nil until there is something to read
	sum   *proto.ContentHasher
	holes holeReader
	n     int64  // bytes of whole blocks that are written
	from  int64  // of n, what an earlier restore had left
	tail  []byte // what it had left behind them
}

// fetch reads an object from the target, block by block, into a staged content and returns the digest of what it read, and how many bytes
// it wrote.
func (r *run) fetch(ctx context.Context, w *work, id target.StageID, open func() (io.ReadCloser, error)) (d proto.Digest, n int64, err error) {
	if err := checkExtents(w.desc); err != nil {
		return d, 0, err
	}
	if !r.left[id] {
		return r.fetchFrom(ctx, w, id, open, false)
	}
	if d, n, err = r.fetchFrom(ctx, w, id, open, true); !afresh(ctx, w, d, err) {
		return d, n, err
	}
	if err := r.local.Unstage(ctx, func(other target.StageID) bool { return other != id }); err != nil {
		return d, n, here(err)
	}
	return r.fetchFrom(ctx, w, id, open, false)
}

func (r *run) fetchFrom(ctx context.Context, w *work, id target.StageID, open func() (io.ReadCloser, error), left bool) (d proto.Digest, n int64, err error) {
	f := &fetching{r: r, w: w, id: id, open: open, sum: proto.NewContentHasher(), holes: holeReader{extents: w.desc.Extents}}
	defer func() {
		if f.to != nil {
			err = errors.Join(err, here(f.to.Close()))
		}
	}()
	if left {
		if err := f.take(ctx); err != nil {
			return d, 0, err
		}
		if f.n == w.desc.Size {
			return f.sum.Sum(), 0, nil
		}
	}
	if err := r.src.askFor(ctx, func(t *tries) error { return f.read(ctx, t) }); err != nil {
		return d, f.n - f.from, err
	}
	if f.n != w.desc.Size {
		return d, f.n - f.from, damaged()
	}
	return f.sum.Sum(), f.n - f.from, nil
}

// read reads what is missing, as far as it comes.
func (f *fetching) read(ctx context.Context, t *tries) error {
	from, err := f.open()
	if errors.Is(err, fs.ErrNotExist) {
		return proto.Errorf(proto.ClassCorrupt, "it is in the journal, but not at the target: %w", err)
	}
	if err != nil {
		return err
	}
	if err := f.skip(ctx, from); err != nil {
		_ = from.Close() // only read from
		return err
	}
	in := newAhead(struct {
		io.Reader
		io.Closer
	}{target.Body(from), from}, f.w.desc.Size-f.n)
	defer in.end()
	if f.to == nil {
		if f.to, err = f.r.local.Stage(ctx, target.Content{ID: f.id, Size: f.w.desc.Size}); err != nil {
			return here(err)
		}
	}
	for last := false; !last; {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := in.next()
		if last = errors.Is(err, io.EOF); err != nil && !last {
			return unreadable(err)
		}
		if f.n+int64(len(data)) > f.w.desc.Size {
			return damaged()
		}
		if len(data) == 0 {
			break
		}
		rest, off, err := f.rest(data)
		if err != nil {
			return err
		}
		f.sum.Add(proto.BlockDigest(data))
		if err := f.holes.write(f.to, rest, off); err != nil {
			return here(err)
		}
		f.n += int64(len(data))
		f.r.src.answered(t)
		f.r.arrived(f.w, f.n)
	}
	return nil
}

// skip leads to where the reading goes on. A source that cannot begin there is read from its beginning.
func (f *fetching) skip(ctx context.Context, from io.Reader) error {
	if f.n == 0 {
		return nil
	}
	if s, ok := from.(io.Seeker); ok {
		_, err := s.Seek(f.n, io.SeekStart)
		return unreadable(err)
	}
	body := target.Body(from)
	for left := f.n; left > 0; left -= proto.BlockSize { // n is a number of whole blocks
		if err := ctx.Err(); err != nil {
			return err
		}
		_, err := io.CopyN(io.Discard, body, proto.BlockSize)
		if errors.Is(err, io.EOF) {
			return damaged() // it was longer
		}
		if err != nil {
			return unreadable(err)
		}
		f.r.src.answered(nil)
	}
	return nil
}

func unreadable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("read it from the target: %w", err)
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
