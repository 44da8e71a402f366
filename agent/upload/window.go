package upload

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"

	"forebay/proto"
)

// maxPuts is how many segments travel at once; tiny ones would otherwise be without bound within the window.
const maxPuts = 8

// Window bounds what an agent has sent and has no acknowledgement for. It outlives sessions.
type Window struct {
	bytes *semaphore.Weighted
	puts  *semaphore.Weighted
	size  int64

	buffers sync.Pool // of *[]byte, payloads of proto.MaxPayload bytes that are not in use

	mu    sync.Mutex
	under int64
}

// NewWindow returns a window of size payload bytes; 0 is proto.DefaultWindow.
func NewWindow(size int64) *Window {
	if size <= 0 {
		size = proto.DefaultWindow
	}
	w := &Window{bytes: semaphore.NewWeighted(size), puts: semaphore.NewWeighted(maxPuts), size: size}
	w.buffers.New = func() any { b := make([]byte, proto.MaxPayload); return &b }
	return w
}

// buffer returns a payload to fill; release takes it back.
func (w *Window) buffer() *[]byte   { return w.buffers.Get().(*[]byte) }
func (w *Window) release(b *[]byte) { w.buffers.Put(b) }

// Under returns the bytes under way.
func (w *Window) Under() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.under
}

// enter waits for room for n bytes and returns what gives it back.
func (w *Window) enter(ctx context.Context, n int64) (leave func(), err error) {
	n = min(max(n, 1), w.size)
	if err := w.bytes.Acquire(ctx, n); err != nil {
		return nil, err
	}
	if err := w.puts.Acquire(ctx, 1); err != nil {
		w.bytes.Release(n)
		return nil, err
	}
	w.count(n)
	return func() {
		w.count(-n)
		w.puts.Release(1)
		w.bytes.Release(n)
	}, nil
}

func (w *Window) count(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.under += n
}
