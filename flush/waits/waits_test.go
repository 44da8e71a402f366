package waits_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
	"forebay/flush/target/dir"
	"forebay/flush/waits"
)

// A target whose calls are noted is the same target.
func TestConformance(t *testing.T) {
	t.Parallel()
	w := waits.New(time.Now)
	paths := map[target.Target]string{}
	var mu sync.Mutex
	open := func(t *testing.T, path string) target.Target {
		t.Helper()
		d, err := dir.Open(dir.Config{Path: path}, dir.Deps{})
		require.NoError(t, err)
		watched := w.Watch(d)
		mu.Lock()
		defer mu.Unlock()
		paths[watched] = path
		return watched
	}
	t.Run("all", func(t *testing.T) {
		conformance.Run(t, func(t *testing.T) target.Target { t.Helper(); return open(t, t.TempDir()) }, conformance.Caps{
			Creates: true,
			Reopen: func(t *testing.T, old target.Target) target.Target {
				t.Helper()
				mu.Lock()
				path := paths[old]
				mu.Unlock()
				return open(t, path)
			},
		})
	})
	assert.Zero(t, w.Since(), "nothing is under way any more")
}

// mute answers when it is let.
type mute struct {
	target.Target
	answer chan struct{}
	asked  chan struct{}
}

func (m *mute) wait() error {
	m.asked <- struct{}{}
	<-m.answer
	return errors.ErrUnsupported
}

func (m *mute) Probe(context.Context) (target.Info, error)                    { return target.Info{}, m.wait() }
func (m *mute) Barrier(context.Context, []target.StageID) error               { return m.wait() }
func (m *mute) Reread(context.Context, target.StageID) (io.ReadCloser, error) { return nil, m.wait() }
func (m *mute) Open(context.Context, string) (io.ReadCloser, error)           { return nil, m.wait() }
func (m *mute) Stat(context.Context, string) (target.Entry, error)            { return target.Entry{}, m.wait() }
func (m *mute) Close() error                                                  { return m.wait() }
func (m *mute) Commit(context.Context, []target.Change) []error               { return []error{m.wait()} }
func (m *mute) Stage(context.Context, target.Content) (target.Stage, error)   { return nil, m.wait() }
func (m *mute) Unstage(context.Context, func(target.StageID) bool) error      { return m.wait() }
func (m *mute) List(_ context.Context, _ string, fn func(target.Entry) error) error {
	return errors.Join(fn(target.Entry{}), m.wait())
}

// Every call that the target has not answered counts, and no time that its caller takes.
func TestEveryCallCounts(t *testing.T) {
	t.Parallel()
	var passed atomic.Int64
	now := func() time.Time { return time.Unix(1e9, passed.Load()) }
	pass := func(d time.Duration) { passed.Add(int64(d)) }
	w := waits.New(now)
	m := &mute{answer: make(chan struct{}), asked: make(chan struct{})}
	tgt := w.Watch(m)
	ctx := t.Context()
	for name, ask := range map[string]func(){
		"probe":   func() { _, _ = tgt.Probe(ctx) },
		"barrier": func() { _ = tgt.Barrier(ctx, nil) },
		"reread":  func() { _, _ = tgt.Reread(ctx, "") },
		"open":    func() { _, _ = tgt.Open(ctx, "") },
		"stat":    func() { _, _ = tgt.Stat(ctx, "") },
		"close":   func() { _ = tgt.Close() },
		"commit":  func() { _ = tgt.Commit(ctx, nil) },
		"stage":   func() { _, _ = tgt.Stage(ctx, target.Content{}) },
		"unstage": func() { _ = tgt.Unstage(ctx, nil) },
		"list": func() {
			_ = tgt.List(ctx, "", func(target.Entry) error {
				assert.Zero(t, w.Since(), "the caller's own time")
				pass(time.Hour)
				return nil
			})
		},
	} {
		done := make(chan struct{})
		go func() { defer close(done); ask() }() // ends with the answer
		<-m.asked
		since := w.Since()
		assert.Equal(t, now(), since, name)
		pass(time.Minute)
		assert.Equal(t, since, w.Since(), name)
		m.answer <- struct{}{}
		<-done
		assert.Zero(t, w.Since(), name)
	}
}

// A call that hangs is told for as long as it does, however many come and go beside it.
func TestSinceIsThatOfTheOldest(t *testing.T) {
	t.Parallel()
	passed := int64(0)
	now := func() time.Time { return time.Unix(passed, 0) }
	w := waits.New(now)
	hung := w.Begin()
	var later []func()
	for range 10 { // in whatever order they are looked at
		passed++
		later = append(later, w.Begin())
		require.Equal(t, time.Unix(0, 0), w.Since())
	}
	later[0]()
	require.Equal(t, time.Unix(0, 0), w.Since(), "one of the others was answered")
	hung()
	require.Equal(t, time.Unix(2, 0), w.Since(), "the oldest of those that are left")
}
