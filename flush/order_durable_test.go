package flush_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
)

// watched notes which staged contents a barrier has made durable since they were written, and complains when one gets its
// name, or a link confirms it, without.
type watched struct {
	target.Target
	t       *testing.T
	mu      sync.Mutex
	durable map[target.StageID]bool
	put     int
}

func (w *watched) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	w.mu.Lock()
	delete(w.durable, c.ID)
	w.mu.Unlock()
	return w.Target.Stage(ctx, c)
}

func (w *watched) Barrier(ctx context.Context, ids []target.StageID) error {
	err := w.Target.Barrier(ctx, ids)
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, id := range ids {
			w.durable[id] = true
		}
	}
	return err
}

func (w *watched) Commit(ctx context.Context, changes []target.Change) []error {
	w.mu.Lock()
	for _, c := range changes {
		if c.Op == target.OpPut {
			w.put++
			assert.True(w.t, w.durable[c.Stage], "%q gets its name before a barrier made %s durable", c.Path, c.Stage)
		}
	}
	w.mu.Unlock()
	return w.Target.Commit(ctx, changes)
}

// What a target was not asked to make durable must not get its name: after a power cut, a file of the right size with
// nothing in it would be what the journal says (I10).
func TestNothingIsNamedBeforeItIsDurable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen := &watched{t: t, durable: map[target.StageID]bool{}}
	w.wrap = func(_ flush.LinkConfig, tgt target.Target) target.Target {
		seen.Target = tgt
		return seen
	}
	w.link("a", "media")
	var objs []obj
	for i := range 20 {
		objs = append(objs, file(fmt.Sprintf("d/f%02d", i), fmt.Sprint(i)))
	}
	w.put("media", append(objs, folder("d"))...)
	w.start()
	w.drained("a")
	w.put("media", file("d/f00", "again"))
	w.drained("a")
	seen.mu.Lock()
	defer seen.mu.Unlock()
	assert.Equal(t, 21, seen.put)
}

// A version that can be read in the ledger and is not durable there is no version yet: after a power cut the target would have
// what the relay does not know, and its number would be given to another content (I18).
func TestNothingIsNamedBeforeTheLedgerIsDurable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.link("a", "media")
	w.put("media", file("first", "1"))
	w.start()
	w.drained("a")
	w.kill()
	w.forgets.Store(true)
	w.put("media", file("second", "2"))
	require.Equal(t, int64(1), w.owed("a"), "it is there to be read and not durable")
	w.start()
	w.eventually(func() bool { return w.happened(flush.LedgerFailed) > 0 }, "the link goes on without its ledger")
	w.kill()
	require.Equal(t, map[string]string{"first": "1"}, tree(t, at))
}
