package flush_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
)

// album has files of different contents, some empty, and a symlink, below a directory.
func album(dir string, n int) (objs []obj) {
	objs = append(objs, folder(dir), folder(dir+"/in"))
	for i := range n {
		objs = append(objs, file(fmt.Sprintf("%s/in/f%02d", dir, i), fmt.Sprint("content ", i)))
	}
	return append(objs, file(dir+"/empty", ""), symlink(dir+"/link", "in/f00"))
}

// without deletes objects.
func without(objs []obj) (out []obj) {
	for _, o := range objs {
		out = append(out, deleted(o.path))
	}
	return out
}

// A directory that is renamed asks nobody, and is not held against later deletes.
func TestRenamedDirectoryIsNoMassDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media", "delete.propagate=true")
	w.put("media", album("old", 40)...)
	w.put("media", file("stays", "x"))
	w.start()
	w.drained("a")
	before := len(tree(t, a))
	w.put("media", album("new", 40)...)
	w.put("media", without(album("old", 40))...)
	w.drained("a")
	assert.Len(t, tree(t, a), before)
	assert.NotContains(t, tree(t, a), "old")
	assert.Zero(t, w.recentDeletes("a"))
	assert.Zero(t, w.happened(flush.DeletesHeld))
	w.verified("a")
}

// What only looks like a rename is held: contents of which there is a copy all along, fewer copies than deletes, other files besides,
// and names alone.
func TestWhatIsNotMovedIsHeld(t *testing.T) {
	t.Parallel()
	twins := func(dir string) (objs []obj) {
		for i := range 40 {
			objs = append(objs, file(fmt.Sprintf("%s/%02d/same", dir, i), "the same"))
		}
		return objs
	}
	for name, c := range map[string]struct{ before, then, gone []obj }{
		"a copy that was there before": {append(album("old", 40), album("copy", 40)...), nil, without(album("old", 40))},
		"one copy of many":             {twins("t"), twins("u")[:1], without(twins("t"))},
		"more than what moved":         {append(album("old", 40), album("lost", 41)[42:]...), album("new", 10), without(album("old", 40))},
		"the names alone": {album("old", 40), func() (objs []obj) {
			for i := range 40 {
				objs = append(objs, file(fmt.Sprintf("new/in/f%02d", i), fmt.Sprint("another ", i)))
			}
			return objs
		}(), without(album("old", 40))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			a := w.link("a", "media", "delete.propagate=true")
			w.put("media", c.before...)
			w.start()
			w.drained("a")
			w.clock.advance(48 * time.Hour)
			if len(c.then) > 0 {
				w.put("media", c.then...)
			}
			w.put("media", c.gone...)
			w.eventually(func() bool { return w.state("a").State == flush.StateHeld }, "held")
			h, err := w.engine.Deletes("a")
			require.NoError(t, err)
			assert.EqualValues(t, len(c.gone), h.Held, "all or nothing: %s", h.Reason)
			w.eventually(func() bool { return w.owed("a") == int64(len(c.gone)) }, "the rest goes on")
			for _, o := range c.gone {
				assert.Contains(t, tree(t, a), o.path)
			}
			_, err = w.engine.ApproveDeletes("a")
			require.NoError(t, err)
			w.drained("a")
		})
	}
}

// Deletes that come after the look that found something to flush, and before it is picked, are judged like all others.
func TestDeletesThatComeAfterTheLookAreHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var armed atomic.Bool
	w.wrap = func(_ flush.LinkConfig, tgt target.Target) target.Target {
		return probed{tgt, func() {
			if armed.Swap(false) {
				w.put("media", without(album("old", 40))...)
			}
		}}
	}
	a := w.link("a", "media", "delete.propagate=true")
	w.put("media", album("old", 40)...)
	w.start()
	w.drained("a")
	before := tree(t, a)
	w.pause("a", true)
	w.wake()
	w.eventually(func() bool { return w.state("a").State == flush.StatePaused }, "paused")
	w.put("media", file("new", "x"))
	w.reopen()
	armed.Store(true)
	w.pause("a", false)
	w.wake()
	w.eventually(func() bool { return w.state("a").State == flush.StateHeld }, "held")
	before["new"] = "x"
	assert.Equal(t, before, tree(t, a))
	assert.EqualValues(t, len(before)-1, w.owed("a"))
	assert.Equal(t, 1, w.happened(flush.DeletesHeld))
}
