package restore

import (
	"sync"

	"forebay/proto"
)

// Progress is how far a restore has come. Nothing in it ever goes down.
type Progress struct {
	Objects, TotalObjects int64
	Bytes, TotalBytes     int64 // of contents; Bytes counts what was read once, however often that took, or was there
}

// progressStep is how many bytes lie between two calls of Options.Progress.
const progressStep = proto.BlockSize

// meter tells how far it is. Its methods may be called concurrently; its zero value tells nobody.
type meter struct {
	tell func(Progress)

	mu   sync.Mutex
	at   Progress
	said int64 // bytes
}

// bytes counts n bytes more.
func (m *meter) bytes(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at.Bytes += n
	if m.tell != nil && m.at.Bytes-m.said >= progressStep {
		m.said = m.at.Bytes
		m.tell(m.at)
	}
}

// objects says how many objects a report has, and tells it in any case.
func (m *meter) objects(r Report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at.Objects, m.at.TotalObjects, m.at.TotalBytes = r.Objects+r.FailedN, r.TotalObjects, r.TotalBytes
	if m.tell != nil {
		m.said = m.at.Bytes
		m.tell(m.at)
	}
}

// arrived counts the first n bytes of an object's content, unless they are counted: what is read once more is not progress.
func (r *run) arrived(w *work, n int64) {
	if n > w.counted {
		r.meter.bytes(n - w.counted)
		w.counted = n
	}
}
