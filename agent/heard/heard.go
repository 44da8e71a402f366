// Package heard remembers, in bounded memory, which objects other holders said they were uploading. What it remembers is
// a hint (I4): it delays a claim, and forgetting costs one question to the relay. It imports proto only.
package heard

import (
	"container/list"
	"sync"
	"time"

	"forebay/proto"
)

// Log is the memory of one root. It is safe for concurrent use.
type Log struct {
	mu    sync.Mutex
	max   int
	byKey map[string]*list.Element
	order *list.List // of *note, the most recently heard first
}

type note struct {
	path   string
	upload proto.UploadID
	epoch  proto.Epoch // of the upload heard of
	at     time.Time   // zero: it has ended
	ended  proto.Epoch // of the last lease on the path that is known to have ended
}

// New returns a Log that remembers at most limit paths, dropping those heard longest ago.
func New(limit int) *Log {
	return &Log{max: max(limit, 1), byKey: make(map[string]*list.Element), order: list.New()}
}

// Note records that path was said to be in progress, or sealed, at the given time. What a lost sender had still to say when
// its lease ended comes late and counts for nothing.
func (l *Log) Note(path string, upload proto.UploadID, epoch proto.Epoch, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(path)
	if !n.ended.IsZero() && !n.ended.Less(epoch) {
		return
	}
	n.upload, n.epoch, n.at = upload, epoch, at
}

// of returns the note of a path, made if there is none, as the one heard of most recently.
func (l *Log) of(path string) *note {
	if el, ok := l.byKey[path]; ok {
		l.order.MoveToFront(el)
		return el.Value.(*note)
	}
	n := &note{path: path}
	l.byKey[path] = l.order.PushFront(n)
	if l.order.Len() > l.max {
		last := l.order.Back()
		l.order.Remove(last)
		delete(l.byKey, last.Value.(*note).path)
	}
	return n
}

// Since reports whether path was heard of at or after the given time.
func (l *Log) Since(path string, t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	el, ok := l.byKey[path]
	return ok && !el.Value.(*note).at.IsZero() && !el.Value.(*note).at.Before(t)
}

// Forget drops what was heard of path under a lease that has ended, or an earlier one. A relay that does not tell the epoch
// of the lease tells the upload alone.
func (l *Log) Forget(path string, upload proto.UploadID, epoch proto.Epoch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch.IsZero() {
		if el, ok := l.byKey[path]; ok && el.Value.(*note).upload <= upload {
			l.order.Remove(el)
			delete(l.byKey, path)
		}
		return
	}
	n := l.of(path)
	if n.ended.Less(epoch) {
		n.ended = epoch
	}
	if !n.ended.Less(n.epoch) {
		n.at = time.Time{}
	}
}

// Reset forgets all: another relay is in charge, whose epochs have nothing to do with those of before.
func (l *Log) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.byKey)
	l.order.Init()
}

// Len returns how many paths are remembered.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.order.Len()
}
