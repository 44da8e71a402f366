package flush

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"forebay/flush/target"
	"forebay/proto"
)

// A version may lack bytes that did not change: they were not sent, and are taken from the object that the target has. A target that
// can do that by itself does (target.Reuser); else they are read from it, proved, and written back.

// before reads the object that a target has, forwards. The zero value is not open.
type before struct {
	in io.ReadCloser
	at int64
}

func (b *before) close() {
	if b.in != nil {
		_ = b.in.Close() // only read from
		b.in = nil
	}
}

// read fills p from off on.
func (b *before) read(ctx context.Context, tgt target.Target, path string, off int64, p []byte) error {
	if b.in == nil || off < b.at {
		b.close()
		in, err := tgt.Open(ctx, path)
		if err != nil {
			if e, serr := tgt.Stat(ctx, path); serr == nil && e.Desc.Kind != proto.KindFile {
				return fmt.Errorf("%w: %w", target.ErrNotReusable, err)
			}
			return err
		}
		b.in, b.at = in, 0
	}
	if off > b.at {
		if err := skip(b.in, off-b.at); err != nil {
			return err
		}
	}
	n, err := io.ReadFull(b.in, p)
	b.at = off + int64(n)
	return err
}

func skip(in io.Reader, n int64) error {
	if s, ok := in.(io.Seeker); ok {
		_, err := s.Seek(n, io.SeekCurrent)
		return err
	}
	_, err := io.CopyN(io.Discard, in, n)
	return err
}

// travels pays for a block that is sent although it did not change: a target that keeps parts copies those alone of which nothing did.
func (w *writer) travels(ctx context.Context, off, n int64) error {
	unit := w.out.Unit()
	if unit <= 1 {
		return nil
	}
	if from := off / unit * unit; w.src.unchanged(from, min(from+unit, w.it.desc.Size)) {
		return nil
	}
	for n > 0 {
		paid, err := w.passes(ctx, n)
		if err != nil {
			return err
		}
		n -= paid
	}
	return nil
}

// reuse appends what is missing of a block as the target's object has it.
func (w *writer) reuse(ctx context.Context, off, n int64, sum proto.Digest) error {
	if _, ok := w.s.terms(w.it); !ok {
		return errHalted
	}
	if u, ok := w.out.(target.Reuser); ok && len(w.tail) == 0 {
		if err := w.travels(ctx, off, n); err != nil {
			return err
		}
		if err := u.Reuse(ctx, n, sum, w.it.was); err != nil {
			return fmt.Errorf("stage: %w", err)
		}
		w.s.l.stagedAgain(n)
		return nil
	}
	buf := make([]byte, n)
	switch err := w.before.read(ctx, w.s.l.sess.tgt, w.it.row.Path, off, buf); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("it ends before byte %d, is gone, or shut: %w", off+n, target.ErrNotReusable)
	case err != nil:
		return fmt.Errorf("read what the target has: %w", err)
	}
	if proto.BlockDigest(buf) != sum {
		return fmt.Errorf("it has other bytes at %d: %w", off, target.ErrNotReusable)
	}
	return w.block(ctx, off, n, buf)
}
