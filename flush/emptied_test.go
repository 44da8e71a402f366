package flush_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
)

// emptied is a target that somebody empties while a batch is being staged. It does not look by itself, as drivers do not that only have a
// bucket: whoever does not ask writes to it.
type emptied struct {
	deaf
	journal atomic.Int64 // files of the journal that were written since it was emptied
	changes atomic.Int64 // changes since then
}

func (e *emptied) Barrier(ctx context.Context, ids []target.StageID) error {
	e.off.Store(true)
	return e.Target.Barrier(ctx, ids)
}

func (e *emptied) Commit(ctx context.Context, changes []target.Change) []error {
	if e.off.Load() {
		e.changes.Add(int64(len(changes)))
	}
	return e.Target.Commit(ctx, changes)
}

func (e *emptied) Records() target.Records { return emptiedRecords{e.Target.Records(), e} }

type emptiedRecords struct {
	target.Records
	e *emptied
}

func (r emptiedRecords) Put(ctx context.Context, name string, data []byte) error {
	if r.e.off.Load() && strings.HasPrefix(name, target.JournalDir+"/") {
		r.e.journal.Add(1)
	}
	return r.Records.Put(ctx, name, data)
}

// What is staged when a target is emptied does not begin its journal again: a journal that is there says that the target was not emptied,
// and what came to it before.
func TestTargetEmptiedWhileABatchIsStaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.link("a", "media")
	e := &emptied{deaf: deaf{off: new(atomic.Bool)}}
	w.wrap = func(_ flush.LinkConfig, tgt target.Target) target.Target {
		e.Target = tgt
		return e
	}
	w.put("media", file("f", "one"), file("g", "two"))
	w.start()
	w.eventually(func() bool { return w.state("a").State == flush.StateStalled }, "stalled")
	require.Contains(t, w.state("a").Reason, "not there")
	require.Zero(t, e.journal.Load(), "files of the journal")
	require.Zero(t, e.changes.Load(), "changes")
	require.EqualValues(t, 2, w.owed("a"))
	require.NotContains(t, tree(t, at), "f")
}
