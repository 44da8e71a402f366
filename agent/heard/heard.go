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
	at     time.Time
}

// New returns a Log that remembers at most limit paths, dropping those heard longest ago.
func New(limit int) *Log {
	return &Log{max: max(limit, 1), byKey: make(map[string]*list.Element), order: list.New()}
}

// Note records that path was said to be in progress, or sealed, at the given time.
func (l *Log) Note(path string, upload proto.UploadID, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if el, ok := l.byKey[path]; ok {
		n := el.Value.(*note)
		n.upload, n.at = upload, at
		l.order.MoveToFront(el)
		return
	}
	l.byKey[path] = l.order.PushFront(&note{path: path, upload: upload, at: at})
	if l.order.Len() > l.max {
		last := l.order.Back()
		l.order.Remove(last)
		delete(l.byKey, last.Value.(*note).path)
	}
}

// Since reports whether path was heard of at or after the given time.
func (l *Log) Since(path string, t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	el, ok := l.byKey[path]
	return ok && !el.Value.(*note).at.Before(t)
}

// Forget drops what was heard of path under upload or an earlier one: that upload's lease has ended.
func (l *Log) Forget(path string, upload proto.UploadID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if el, ok := l.byKey[path]; ok && el.Value.(*note).upload <= upload {
		l.order.Remove(el)
		delete(l.byKey, path)
	}
}

// Len returns how many paths are remembered.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.order.Len()
}
