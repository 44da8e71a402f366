package main

import (
	"context"
	"errors"
	"io"

	"github.com/rclone/rclone/fs"

	"forebay/flush/target"
	"forebay/flush/target/held"
	"forebay/proto"
)

// Stage opens a content for writing: in memory when it is small and there is room for it, else as an object in the stage.
func (r *remote) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := r.held.Begin(c); err != nil {
		return nil, err
	}
	if s := r.held.Stage(c); s != nil {
		return s, nil
	}
	s, err := r.openStage(ctx, c)
	if err != nil {
		r.held.End(c.ID)
		return nil, r.failed(err, "stage %s", c.ID)
	}
	return s, nil
}

// openStage begins to put an object, unless it is there already. What was left of one that was cut short is of no use.
func (r *remote) openStage(ctx context.Context, c target.Content) (target.Stage, error) {
	r.mu.Lock()
	r.sizes[c.ID] = c.Size
	r.mu.Unlock()
	old, err := r.f.NewObject(ctx, r.staged(c.ID))
	switch {
	case err == nil && old.Size() == c.Size:
		return &stage{r: r, id: c.ID, size: c.Size, off: c.Size}, nil
	case err == nil:
		err = old.Remove(ctx)
	}
	if err != nil && !absent(err) {
		return nil, err
	}
	in, out := io.Pipe()
	s := &stage{r: r, id: c.ID, size: c.Size, out: out, ended: make(chan error, 1)}
	go func() { // ends when the pipe is closed, or ctx ends
		_, err := r.put(ctx, r.staged(c.ID), in, c.Size, mtime(c.Desc))
		if err == nil {
			err = errDone
		} else {
			r.discard(ctx, r.staged(c.ID))
		}
		_ = in.CloseWithError(err) // whoever writes hears of it
		s.ended <- err
	}()
	return s, nil
}

// discard removes what a failed put may have left: some servers keep what came of it.
func (r *remote) discard(ctx context.Context, name string) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), patience*patienceStep)
	defer stop()
	if o, err := r.f.NewObject(ctx, name); err == nil {
		_ = o.Remove(ctx) // the next stage of this content looks again
	}
}

var (
	errDone  = errors.New("the object is whole")
	errShort = errors.New("the content was not written to its end")
)

// stage is a content that is being put. One that is there already has no pipe.
type stage struct {
	r     *remote
	id    target.StageID
	size  int64
	off   int64
	out   *io.PipeWriter
	ended chan error
}

func (s *stage) Offset() int64 { return s.off }

// Proved is false: of an object that is there only its size is known.
func (s *stage) Proved() bool { return false }

// Unit says that nothing is durable before the whole is.
func (s *stage) Unit() int64          { return s.size + 1 }
func (s *stage) Sync() (int64, error) { return 0, nil }

func (s *stage) Write(p []byte) (int, error) {
	if s.off+int64(len(p)) > s.size {
		return 0, proto.Errorf(proto.ClassPermanent, "stage %s: %w (%d)", s.id, held.ErrTooMuch, s.size)
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := s.out.Write(p)
	s.off += int64(n)
	return n, s.r.failed(err, "stage %s", s.id)
}

// Hole writes zeros.
func (s *stage) Hole(n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		part := min(n, int64(len(zeros)))
		if _, err := s.Write(zeros[:part]); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

// Close waits until the remote has the object, or gives up one that is not whole.
func (s *stage) Close() error {
	defer s.r.held.End(s.id)
	if s.out == nil {
		return nil
	}
	if s.off < s.size {
		_ = s.out.CloseWithError(errShort) // the remote is not to take it for whole
		if err := <-s.ended; errors.Is(err, errDone) {
			return proto.Errorf(proto.ClassCorrupt, "stage %s: the remote took %d bytes of %d for the whole", s.id, s.off, s.size)
		}
		return nil
	}
	_ = s.out.Close() // the remote tells
	if err := <-s.ended; !errors.Is(err, errDone) {
		return s.r.failed(err, "stage %s", s.id)
	}
	return nil
}

// Barrier sees that the contents are there; those in memory become durable when they are committed.
func (r *remote) Barrier(ctx context.Context, ids []target.StageID) error {
	for _, id := range ids {
		if err := target.CheckStageID(id); err != nil {
			return proto.Errorf(proto.ClassPermanent, "barrier: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, ok := r.held.Data(id); ok {
			continue
		}
		o, err := r.f.NewObject(ctx, r.staged(id))
		if err != nil {
			return r.failed(err, "barrier: staged content %s", id)
		}
		r.mu.Lock()
		size, known := r.sizes[id]
		r.mu.Unlock()
		if known && o.Size() != size {
			return proto.Errorf(proto.ClassTransient, "barrier: staged content %s has %d bytes of %d: stage it again", id, o.Size(), size)
		}
	}
	return ctx.Err()
}

// Reread opens a staged content.
func (r *remote) Reread(ctx context.Context, id target.StageID) (io.ReadCloser, error) {
	if err := target.CheckStageID(id); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "reread: %w", err)
	}
	if in := r.held.Reread(id); in != nil {
		return in, nil
	}
	o, err := r.f.NewObject(ctx, r.staged(id))
	if err != nil {
		return nil, r.failed(err, "reread %s", id)
	}
	in, err := openObject(ctx, o)
	return in, r.failed(err, "reread %s", id)
}

// Unstage removes contents that nobody wants or writes, and what a commit that was cut short left.
func (r *remote) Unstage(ctx context.Context, keep func(target.StageID) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.held.DropUnless(keep)
	r.commits.Lock() // its temporary objects are not to be taken from it
	defer r.commits.Unlock()
	entries, err := r.f.List(ctx, r.stageDir())
	if err != nil && !absent(err) {
		return r.failed(err, "list staged contents")
	}
	for _, e := range entries {
		o, ok := e.(fs.Object)
		if !ok {
			continue
		}
		name := base(o)
		id := target.StageID(name)
		if target.CheckStageID(id) == nil && (r.held.Writing(id) || keep(id)) {
			continue
		}
		if err := o.Remove(ctx); err != nil && !absent(err) {
			return r.failed(err, "remove staged content %s", name)
		}
		r.forget(id)
	}
	return nil
}

// forget forgets the size of a content that is no longer in the stage.
func (r *remote) forget(id target.StageID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sizes, id)
}
