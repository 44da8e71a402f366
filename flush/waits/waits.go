// Package waits tells for how long a target has not answered. Drivers of networks have deadlines of their own; a directory on a hard mount whose
// server is away neither fails nor answers, and no system call on it can be taken back, so somebody looks from outside. It imports target and proto.
package waits

import (
	"context"
	"io"
	"sync"
	"time"

	"forebay/flush/target"
	"forebay/proto"
)

// Waits are the calls to a target that are under way.
type Waits struct {
	now func() time.Time

	mu    sync.Mutex
	under map[*call]struct{}
}

type call struct{ since time.Time }

// New returns an empty one.
func New(now func() time.Time) *Waits { return &Waits{now: now, under: map[*call]struct{}{}} }

// Since returns since when the call that waits longest does; zero: none is under way.
func (w *Waits) Since() (since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.under {
		if since.IsZero() || c.since.Before(since) {
			since = c.since
		}
	}
	return since
}

// Begin notes that the target is asked for something; the returned function, that it has answered.
func (w *Waits) Begin() (answered func()) {
	c := w.begin()
	return func() { w.end(c) }
}

func (w *Waits) begin() *call {
	c := &call{since: w.now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.under[c] = struct{}{}
	return c
}

func (w *Waits) end(c *call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.under, c)
}

// own takes the time of fn, which the target calls, for ours.
func (w *Waits) own(c *call, fn func() error) error {
	w.end(c)
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		c.since = w.now()
		w.under[c] = struct{}{}
	}()
	return fn()
}

// Watch returns the target with its calls noted.
func (w *Waits) Watch(t target.Target) target.Target { return &watched{t, w} }

type watched struct {
	target.Target
	w *Waits
}

// Probe is target.Target's, as all that follow.
func (t *watched) Probe(ctx context.Context) (target.Info, error) {
	defer t.w.end(t.w.begin())
	return t.Target.Probe(ctx)
}

func (t *watched) Records() target.Records { return &records{t.Target.Records(), t.w} }

func (t *watched) History() target.History {
	if h := t.Target.History(); h != nil {
		return &history{h, t.w}
	}
	return nil
}

func (t *watched) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	defer t.w.end(t.w.begin())
	s, err := t.Target.Stage(ctx, c)
	if err != nil {
		return nil, err
	}
	watched := &stage{s, t.w}
	if r, ok := s.(target.Reuser); ok {
		return &reuser{watched, r}, nil
	}
	return watched, nil
}

func (t *watched) Barrier(ctx context.Context, ids []target.StageID) error {
	defer t.w.end(t.w.begin())
	return t.Target.Barrier(ctx, ids)
}

func (t *watched) Reread(ctx context.Context, id target.StageID) (io.ReadCloser, error) {
	defer t.w.end(t.w.begin())
	return t.w.reader(t.Target.Reread(ctx, id))
}

func (t *watched) Commit(ctx context.Context, changes []target.Change) []error {
	defer t.w.end(t.w.begin())
	return t.Target.Commit(ctx, changes)
}

func (t *watched) Unstage(ctx context.Context, keep func(target.StageID) bool) error {
	c := t.w.begin()
	defer t.w.end(c)
	return t.Target.Unstage(ctx, func(id target.StageID) (kept bool) {
		_ = t.w.own(c, func() error { kept = keep(id); return nil })
		return kept
	})
}

func (t *watched) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	defer t.w.end(t.w.begin())
	return t.w.reader(t.Target.Open(ctx, path))
}

func (t *watched) Stat(ctx context.Context, path string) (target.Entry, error) {
	defer t.w.end(t.w.begin())
	return t.Target.Stat(ctx, path)
}

func (t *watched) List(ctx context.Context, prefix string, fn func(target.Entry) error) error {
	c := t.w.begin()
	defer t.w.end(c)
	return t.Target.List(ctx, prefix, func(e target.Entry) error { return t.w.own(c, func() error { return fn(e) }) })
}

func (t *watched) Close() error {
	defer t.w.end(t.w.begin())
	return t.Target.Close()
}

// stage is an open staged content.
type stage struct {
	target.Stage
	w *Waits
}

func (s *stage) Write(p []byte) (int, error) {
	defer s.w.end(s.w.begin())
	return s.Stage.Write(p)
}

func (s *stage) Hole(n int64) error {
	defer s.w.end(s.w.begin())
	return s.Stage.Hole(n)
}

func (s *stage) Sync() (int64, error) {
	defer s.w.end(s.w.begin())
	return s.Stage.Sync()
}

func (s *stage) Close() error {
	defer s.w.end(s.w.begin())
	return s.Stage.Close()
}

// reuser is a stage that takes bytes of the object that is there.
type reuser struct {
	*stage
	inner target.Reuser
}

func (s *reuser) Reuse(ctx context.Context, n int64, sum proto.Digest, was []proto.Digest) error {
	defer s.w.end(s.w.begin())
	return s.inner.Reuse(ctx, n, sum, was)
}

// reader is an open content.
type reader struct {
	io.ReadCloser
	w *Waits
}

func (w *Waits) reader(in io.ReadCloser, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	return &reader{in, w}, nil
}

func (r *reader) Read(p []byte) (int, error) {
	defer r.w.end(r.w.begin())
	return r.ReadCloser.Read(p)
}

// records are a target's.
type records struct {
	target.Records
	w *Waits
}

func (r *records) Put(ctx context.Context, name string, data []byte) error {
	defer r.w.end(r.w.begin())
	return r.Records.Put(ctx, name, data)
}

// Create is target.Creator's, where the target's records have it.
func (r *records) Create(ctx context.Context, name string, data []byte) error {
	defer r.w.end(r.w.begin())
	return target.Create(ctx, r.Records, name, data)
}

func (r *records) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	defer r.w.end(r.w.begin())
	return r.w.reader(r.Records.Open(ctx, name))
}

func (r *records) List(ctx context.Context, dir string) ([]string, error) {
	defer r.w.end(r.w.begin())
	return r.Records.List(ctx, dir)
}

func (r *records) Remove(ctx context.Context, name string) error {
	defer r.w.end(r.w.begin())
	return r.Records.Remove(ctx, name)
}

// history is a target's.
type history struct {
	target.History
	w *Waits
}

func (h *history) Keep(ctx context.Context, keeps []target.Keep) []error {
	defer h.w.end(h.w.begin())
	return h.History.Keep(ctx, keeps)
}

func (h *history) Open(ctx context.Context, name target.KeptName) (io.ReadCloser, error) {
	defer h.w.end(h.w.begin())
	return h.w.reader(h.History.Open(ctx, name))
}

func (h *history) List(ctx context.Context, fn func(target.Kept) error) error {
	c := h.w.begin()
	defer h.w.end(c)
	return h.History.List(ctx, func(k target.Kept) error { return h.w.own(c, func() error { return fn(k) }) })
}

func (h *history) Remove(ctx context.Context, names []target.KeptName) []error {
	defer h.w.end(h.w.begin())
	return h.History.Remove(ctx, names)
}
