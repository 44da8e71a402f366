package flush_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/journal"
	"forebay/flush/restore"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/ledger"
	"forebay/proto"
)

var errCrash = errors.New("the process was killed")

// bomb ends the engine at the n-th step of any kind, before or after the step took effect, and lets nothing through after
// that.
type bomb struct {
	mu    sync.Mutex
	left  int
	after bool
	gone  bool
	blown chan struct{} // closed when it goes off
}

// step carries out a step unless the process is dead, and kills it when its number has come.
func (b *bomb) step(do func() error) error {
	b.mu.Lock()
	b.left--
	now := b.left == 0
	dead := b.gone
	if now {
		b.gone = true
	}
	b.mu.Unlock()
	switch {
	case dead:
		return errCrash
	case now && b.after:
		_ = do()
		fallthrough
	case now:
		close(b.blown)
		return errCrash
	}
	return do()
}

type fused struct {
	target.Target
	b *bomb
}

func (f fused) Probe(ctx context.Context) (i target.Info, err error) {
	err = f.b.step(func() error { i, err = f.Target.Probe(ctx); return err })
	return i, err
}

func (f fused) Stage(ctx context.Context, c target.Content) (s target.Stage, err error) {
	err = f.b.step(func() error { s, err = f.Target.Stage(ctx, c); return err })
	if err != nil {
		if s != nil {
			_ = s.Close()
		}
		return nil, err
	}
	return fusedStage{s, f.b}, nil
}

func (f fused) Barrier(ctx context.Context, ids []target.StageID) error {
	return f.b.step(func() error { return f.Target.Barrier(ctx, ids) })
}

func (f fused) Commit(ctx context.Context, changes []target.Change) []error {
	return stepEach(f.b, changes, func(changes []target.Change) []error { return f.Target.Commit(ctx, changes) })
}

func (f fused) Unstage(ctx context.Context, keep func(target.StageID) bool) error {
	return f.b.step(func() error { return f.Target.Unstage(ctx, keep) })
}

func (f fused) Reread(ctx context.Context, id target.StageID) (r io.ReadCloser, err error) {
	err = f.b.step(func() error { r, err = f.Target.Reread(ctx, id); return err })
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (f fused) History() target.History { return fusedHistory{f.Target.History(), f.b} }

type fusedHistory struct {
	target.History
	b *bomb
}

func (h fusedHistory) Keep(ctx context.Context, keeps []target.Keep) []error {
	return stepEach(h.b, keeps, func(keeps []target.Keep) []error { return h.History.Keep(ctx, keeps) })
}

func (h fusedHistory) Remove(ctx context.Context, names []target.KeptName) []error {
	return stepEach(h.b, names, func(names []target.KeptName) []error { return h.History.Remove(ctx, names) })
}

// stepEach is a step that has an error for each of several.
func stepEach[T any](b *bomb, of []T, do func([]T) []error) []error {
	errs := make([]error, len(of))
	err := b.step(func() error { errs = do(of); return nil })
	for i := range errs {
		if err != nil {
			errs[i] = err
		}
	}
	return errs
}

func (f fused) Records() target.Records { return fusedRecords{f.Target.Records(), f.b} }

type fusedStage struct {
	target.Stage
	b *bomb
}

func (s fusedStage) Write(p []byte) (n int, err error) {
	err = s.b.step(func() error { n, err = s.Stage.Write(p); return err })
	return n, err
}

type fusedRecords struct {
	target.Records
	b *bomb
}

func (r fusedRecords) Put(ctx context.Context, name string, data []byte) error {
	return r.b.step(func() error { return r.Records.Put(ctx, name, data) })
}

func (r fusedRecords) Remove(ctx context.Context, name string) error {
	return r.b.step(func() error { return r.Records.Remove(ctx, name) })
}

type fusedLedger struct {
	flush.Ledger
	b *bomb
}

func (l fusedLedger) Update(es ...ledger.Entry) error {
	return l.b.step(func() error { return l.Ledger.Update(es...) })
}

// history is what the crash tests flush: a first batch that is complete, then changes of every kind.
func history(w *world) {
	w.put("media", folder("d"), file("d/x", "one"), file("d/y", "two"), file("gone", "soon"), file("e", "a file"))
}

func changes(w *world) map[string]string {
	big := bytes.Repeat([]byte("abcdefgh"), 9*proto.BlockSize/8)
	w.put("media", file("d/x", "one again"), deleted("gone"), symlink("s", "d"), folder("e"), file("e/in", "now a folder"), hardlink("l", "d/x", "one again"))
	w.meta("media", obj{path: "d/y", kind: proto.KindFile, content: []byte("two"), mode: 0o600})
	w.large("media", "big", big, 3*proto.BlockSize)
	return map[string]string{"d": "dir", "d/x": "one again", "d/y": "two", "s": "-> d", "e": "dir", "e/in": "now a folder", "l": "one again", "big": string(big)}
}

func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, keep := range []string{"none", "30d"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("keep=%s,after=%v", keep, after), func(t *testing.T) {
				t.Parallel()
				n := 1
				for crashAt(t, n, after, keep) {
					n++
				}
				assert.Greater(t, n, 20, "steps were met")
			})
		}
	}
}

// crashAt kills the engine at step n and starts another; it returns false when there were fewer steps. With a history, the tree that
// was there before has to come back whole wherever it was killed, and the changed one too.
func crashAt(t *testing.T, n int, after bool, keep string) bool {
	t.Helper()
	w := newWorld(t)
	w.cfg.Workers = 2
	root := w.link("a", "media", "delete.propagate=true", "delete.guard.objects=off", "delete.guard.share=100%", "confirm=reread", "history.keep="+keep)
	history(w)
	w.start()
	w.drained("a")
	w.kill()
	first, then := tree(t, root), w.moment()
	want := changes(w)
	blown := w.killedAt(n, after, func() bool { return w.owed("a") == 0 && w.state("a").State == flush.StateIdle })
	w.start()
	w.drained("a")
	got := tree(t, root)
	require.Equal(t, len(want), len(got), "step %d after %v", n, after)
	for p, c := range want {
		require.True(t, got[p] == c, "step %d after %v: %s", n, after, p)
	}
	w.verified("a")
	w.eventually(func() bool { return len(stagedFiles(t, root)) == 0 }, "step %d after %v: %v stays staged", n, after, stagedFiles(t, root))
	w.kill()
	if keep != "none" {
		require.Equal(t, first, w.restoredAt(root, then), "step %d after %v: as it was before", n, after)
		require.Equal(t, want, w.restoredAt(root, w.moment()), "step %d after %v: as it is", n, after)
	}
	return blown
}

// killedAt starts the engine and kills it at step n, or when it is done before; it reports whether there was such a step.
func (w *world) killedAt(n int, after bool, done func() bool) (blown bool) {
	w.t.Helper()
	b := &bomb{left: n, after: after, blown: make(chan struct{})}
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return fused{t, b} }
	w.door = func(l flush.Ledger) flush.Ledger { return fusedLedger{l, b} }
	w.start()
	w.eventually(func() bool {
		select {
		case <-b.blown:
			blown = true
		default:
		}
		return blown || done()
	}, "step %d is reached, or there is none", n)
	w.kill()
	w.wrap, w.door = nil, nil
	return blown
}

// moment returns the time, and lets some pass, so that what comes is later.
func (w *world) moment() time.Time {
	at := w.clock.Now()
	w.clock.advance(time.Second)
	return at
}

// restoredAt restores a target as it was at a moment, and returns the tree.
func (w *world) restoredAt(root string, at time.Time) map[string]string {
	w.t.Helper()
	var to string
	var report restore.Report
	w.eventually(func() (done bool) { // an engine that runs may merge the journal meanwhile: then it is to be tried again
		var err error
		to, report, err = w.restoreAt(root, at)
		if err != nil {
			require.Equal(w.t, proto.ClassTransient, proto.ClassOf(err), "%v", err)
		}
		return err == nil
	}, "restored as of %s", at)
	require.True(w.t, report.Complete(), "%+v", report)
	return tree(w.t, to)
}

func (w *world) restoreAt(root string, at time.Time) (string, restore.Report, error) {
	w.t.Helper()
	d, err := dir.Open(dir.Config{Path: root}, dir.Deps{})
	require.NoError(w.t, err)
	j, err := journal.Open(w.t.Context(), d.Records(), "root")
	require.NoError(w.t, err)
	to := w.t.TempDir()
	report, err := restore.Restore(w.t.Context(), restore.Options{From: d, Journal: j, To: to, At: at}, restore.Deps{Now: w.clock.Now})
	require.NoError(w.t, d.Close())
	return to, report, err
}

// verified compares the target with its journal, content too.
func (w *world) verified(link string) {
	w.t.Helper()
	var last proto.VerifyLine
	require.NoError(w.t, w.engine.Verify(w.t.Context(), link, true, false, func(l proto.VerifyLine) error {
		if l.Problem != "" {
			w.t.Errorf("verify: %+v", l)
		}
		last = l
		return nil
	}))
	assert.True(w.t, last.Done)
	assert.Zero(w.t, last.Differences)
}
