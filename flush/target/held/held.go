// Package held keeps small contents in memory between Stage and Commit, for drivers whose target takes a small object in one go:
// staging it there first would cost it twice. It imports target and proto.
package held

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"forebay/flush/target"
	"forebay/proto"
)

// Contents are the contents in memory, and who writes a content, in memory or not.
type Contents struct {
	each, room int64

	mu      sync.Mutex
	all     map[target.StageID]*content
	used    int64 // bytes announced
	writing map[target.StageID]bool
}

type content struct {
	data []byte
	size int64 // announced, and counted in used
}

// New makes room for contents of up to each bytes, and room bytes in all.
func New(each, room int64) *Contents {
	return &Contents{each: each, room: room, all: map[target.StageID]*content{}, writing: map[target.StageID]bool{}}
}

// Begin makes the caller the one writer of a content, in memory or elsewhere, until End. It checks what every Stage has to check.
func (c *Contents) Begin(k target.Content) error {
	if err := target.CheckStageID(k.ID); err != nil {
		return proto.Errorf(proto.ClassPermanent, "stage: %w", err)
	}
	if k.Size < 0 {
		return proto.Errorf(proto.ClassPermanent, "stage %s: size %d is negative", k.ID, k.Size)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing[k.ID] {
		return proto.Errorf(proto.ClassConflict, "stage %s: it is being written already", k.ID)
	}
	c.writing[k.ID] = true
	return nil
}

// End ends what Begin began.
func (c *Contents) End(id target.StageID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.writing, id)
}

// Writing reports whether somebody writes a content.
func (c *Contents) Writing(id target.StageID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writing[id]
}

// Stage opens a content in memory, after Begin; its Close is the End. It returns nil when the content is too large, or there is no room.
func (c *Contents) Stage(k target.Content) target.Stage {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.all[k.ID]
	if h != nil && h.size != k.Size {
		c.drop(k.ID)
		h = nil
	}
	if h == nil {
		if k.Size > c.each || k.Size > 0 && c.used+k.Size > c.room {
			return nil
		}
		h = &content{size: k.Size}
		c.all[k.ID] = h
		c.used += k.Size
	}
	return &stage{c: c, id: k.ID, h: h}
}

// Data returns the bytes of a content; ok is false when it is not in memory. The caller only reads them.
func (c *Contents) Data(id target.StageID) (data []byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.all[id]
	if h == nil {
		return nil, false
	}
	return h.data, true
}

// Reread reads a content; nil when it is not in memory.
func (c *Contents) Reread(id target.StageID) io.ReadCloser {
	data, ok := c.Data(id)
	if !ok {
		return nil
	}
	return io.NopCloser(bytes.NewReader(data))
}

// Drop forgets a content.
func (c *Contents) Drop(id target.StageID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(id)
}

// DropUnless forgets the contents that keep does not want and nobody writes.
func (c *Contents) DropUnless(keep func(target.StageID) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.all {
		if !c.writing[id] && !keep(id) {
			c.drop(id)
		}
	}
}

func (c *Contents) drop(id target.StageID) {
	if h := c.all[id]; h != nil {
		c.used -= h.size
		delete(c.all, id)
	}
}

// ErrTooMuch says that more was written than was announced.
var ErrTooMuch = errors.New("more bytes than were announced")

// stage writes a content into memory.
type stage struct {
	c  *Contents
	id target.StageID
	h  *content
}

func (s *stage) room(n int64) error {
	if int64(len(s.h.data))+n > s.h.size {
		return proto.Errorf(proto.ClassPermanent, "stage %s: %w (%d)", s.id, ErrTooMuch, s.h.size)
	}
	if s.h.data == nil {
		s.h.data = make([]byte, 0, s.h.size)
	}
	return nil
}

// Write implements target.Stage.
func (s *stage) Write(p []byte) (int, error) {
	if err := s.room(int64(len(p))); err != nil {
		return 0, err
	}
	s.h.data = append(s.h.data, p...)
	return len(p), nil
}

// Hole implements target.Stage.
func (s *stage) Hole(n int64) error {
	if err := s.room(n); err != nil {
		return err
	}
	s.h.data = append(s.h.data, make([]byte, n)...)
	return nil
}

// Offset implements target.Stage.
func (s *stage) Offset() int64 { return int64(len(s.h.data)) }

// Proved implements target.Stage.
func (s *stage) Proved() bool { return true }

// Unit implements target.Stage: it never becomes durable before it is committed.
func (s *stage) Unit() int64 { return s.h.size + 1 }

// Sync implements target.Stage.
func (s *stage) Sync() (int64, error) { return 0, nil }

// Close implements target.Stage.
func (s *stage) Close() error {
	s.c.End(s.id)
	return nil
}
