package main

import (
	"context"
	"io"
	"os"

	"forebay/flush/target"
	"forebay/proto"
)

// Stage opens a content's file. What is in it is not proved: the relay reads it back.
func (m *mirror) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := target.CheckStageID(c.ID); err != nil || c.Size < 0 {
		return nil, proto.Errorf(proto.ClassPermanent, "stage %q of %d bytes: %v", c.ID, c.Size, err)
	}
	if !m.begin(c.ID) {
		return nil, proto.Errorf(proto.ClassConflict, "stage %s: it is being written already", c.ID)
	}
	s, err := m.openStage(c)
	if err != nil {
		m.end(c.ID)
		return nil, failed(err, "stage %s", c.ID)
	}
	return s, nil
}

func (m *mirror) openStage(c target.Content) (*stage, error) {
	if err := m.makeDirs(m.stageDir()); err != nil {
		return nil, err
	}
	f, err := m.root.OpenFile(m.staged(c.ID), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	off := int64(0)
	if err == nil {
		off = st.Size()
	}
	if err == nil && off > c.Size { // another content's
		off, err = 0, f.Truncate(0)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return &stage{m: m, id: c.ID, f: f, size: c.Size, off: off}, nil
}

func (m *mirror) begin(id target.StageID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.writing[id] {
		return false
	}
	m.writing[id] = true
	return true
}

func (m *mirror) end(id target.StageID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.writing, id)
}

func (m *mirror) isWriting(id target.StageID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writing[id]
}

// stage is a content being written.
type stage struct {
	m    *mirror
	id   target.StageID
	f    *os.File
	size int64
	off  int64
}

func (s *stage) Offset() int64 { return s.off }
func (s *stage) Proved() bool  { return false }
func (s *stage) Unit() int64   { return 1 }

func (s *stage) room(n int64) error {
	if n < 0 || s.off+n > s.size {
		return proto.Errorf(proto.ClassPermanent, "stage %s: more bytes than were announced (%d)", s.id, s.size)
	}
	return nil
}

func (s *stage) Write(p []byte) (int, error) {
	if err := s.room(int64(len(p))); err != nil {
		return 0, err
	}
	n, err := s.f.WriteAt(p, s.off)
	s.off += int64(n)
	return n, failed(err, "stage %s", s.id)
}

func (s *stage) Hole(n int64) error {
	if err := s.room(n); err != nil {
		return err
	}
	if err := s.f.Truncate(s.off + n); err != nil {
		return failed(err, "stage %s", s.id)
	}
	s.off += n
	return nil
}

func (s *stage) Sync() (int64, error) {
	err := s.f.Sync()
	if err == nil {
		err = s.m.syncDir(s.m.stageDir())
	}
	if err != nil {
		return 0, failed(err, "sync stage %s", s.id)
	}
	return s.off, nil
}

func (s *stage) Close() error {
	defer s.m.end(s.id)
	return failed(s.f.Close(), "stage %s", s.id)
}

// Barrier makes contents durable.
func (m *mirror) Barrier(ctx context.Context, ids []target.StageID) error {
	for _, id := range ids {
		if err := target.CheckStageID(id); err != nil {
			return proto.Errorf(proto.ClassPermanent, "barrier: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := m.root.OpenFile(m.staged(id), os.O_RDWR, 0)
		if err != nil {
			return failed(err, "barrier: staged content %s", id)
		}
		err = f.Sync()
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return failed(err, "barrier: staged content %s", id)
		}
	}
	if len(ids) == 0 {
		return ctx.Err()
	}
	return failed(m.syncDir(m.stageDir()), "barrier")
}

// Reread opens a staged content. It may come from the cache, so that no class rests on it.
func (m *mirror) Reread(ctx context.Context, id target.StageID) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := target.CheckStageID(id); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "reread: %w", err)
	}
	f, err := m.root.Open(m.staged(id))
	if err != nil {
		return nil, failed(err, "reread %s", id)
	}
	return f, nil
}

// Unstage removes contents that nobody wants or writes.
func (m *mirror) Unstage(ctx context.Context, keep func(target.StageID) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := m.root.Open(m.stageDir())
	if gone(err) {
		return nil
	}
	if err != nil {
		return failed(err, "list staged contents")
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	for _, name := range names {
		id := target.StageID(name)
		if target.CheckStageID(id) != nil || m.isWriting(id) || keep(id) {
			continue
		}
		if rerr := m.root.Remove(m.staged(id)); rerr != nil && !gone(rerr) {
			return failed(rerr, "remove staged content %s", id)
		}
	}
	return failed(err, "list staged contents")
}
