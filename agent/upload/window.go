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

	rooms sync.Pool // of *room, that are not in use

	mu    sync.Mutex
	under int64
}

// NewWindow returns a window of size payload bytes; 0 is proto.DefaultWindow.
func NewWindow(size int64) *Window {
	if size <= 0 {
		size = proto.DefaultWindow
	}
	w := &Window{bytes: semaphore.NewWeighted(size), puts: semaphore.NewWeighted(maxPuts), size: size}
	w.rooms.New = func() any { return &room{make([]byte, headRoom+proto.MaxPayload)} }
	return w
}

// headRoom is how much of a room is for what comes before the payload: enough for the longest path and the pieces of most packs.
const headRoom = 256 << 10

// room is memory for a segment. It is made there, around its payload, and travels from there.
type room struct{ bytes []byte }

// payload returns where the payload goes.
func (r *room) payload() []byte { return r.bytes[headRoom:] }

// upTo returns the room up to so many bytes of the payload, for encodeIn.
func (r *room) upTo(n int) []byte { return r.bytes[:headRoom+n] }

// room returns room for a segment; release takes it back.
func (w *Window) room() *room     { return w.rooms.Get().(*room) }
func (w *Window) release(r *room) { w.rooms.Put(r) }

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
