package flush_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/policy"
	"forebay/flush/target"
	"forebay/ledger"
	"forebay/proto"
)

const mib = proto.BlockSize

// spent waits until a link has nothing left of its budget.
func (w *world) spent(name string) {
	w.t.Helper()
	w.eventually(func() bool {
		s := w.state(name)
		return s.State == flush.StateWaiting && strings.Contains(s.Reason, "budget") && s.BudgetRenews.After(w.clock.Now())
	}, "the budget of %s is spent: %+v", name, w.state(name))
}

// charged is what the ledger has of the window that is open.
func (w *world) charged(name string) int64 {
	w.t.Helper()
	for _, l := range w.links {
		if l.Name == name {
			row, err := ledger.Budget(w.led, l.ID)
			require.NoError(w.t, err)
			since, _ := l.Policy.BudgetWindow(w.clock.Now())
			return row.Spent(since.UnixNano(), w.clock.Now().UnixNano())
		}
	}
	w.t.Fatalf("no link %s", name)
	return 0
}

func TestBudgetCutsALargeObject(t *testing.T) {
	t.Parallel()
	require.LessOrEqual(t, int64(proto.MaxPayload), int64(policy.MinBudget), "what cannot be cut fits into each budget")
	w := newWorld(t) // it is Monday noon
	root := w.link("a", "media", "budget=8MiB")
	big := bytes.Repeat([]byte("0123456789abcdef"), 20*mib/16)
	w.large("media", "big", big, mib)
	w.start()
	for day := range int64(2) {
		w.spent("a")
		assert.EqualValues(t, (day+1)*8*mib, w.written("a"))
		assert.EqualValues(t, 8*mib, w.charged("a"))
		s := w.state("a")
		assert.Contains(t, s.Reason, fmt.Sprintf("the budget of 8MiB is spent, 8.00MiB since 2026-11-%d 00:00:00 UTC; the next window opens at 2026-11-%d 00:00:00 UTC", 23+day, 24+day))
		assert.EqualValues(t, 8*mib, s.BudgetSpent)
		if day == 0 { // a restart gives nothing back
			w.kill()
			w.start()
			w.spent("a")
			assert.EqualValues(t, 8*mib, w.written("a"))
		}
		w.clock.advance(24 * time.Hour)
	}
	w.drained("a")
	assert.Equal(t, string(big), tree(t, root)["big"])
	assert.EqualValues(t, 20*mib, w.written("a"), "it went on each day from what was staged")
	assert.EqualValues(t, 4*mib, w.charged("a"), "what was charged and not sent is given back")
	assert.Zero(t, w.row("a").ForcedBytes)
	w.clock.advance(24 * time.Hour)
	assert.Zero(t, w.state("a").BudgetSpent, "a new day, though nothing happened yet")
}

// Contents that cannot be cut are not begun where too little is left for them, however many workers there are.
func TestBudgetWastesNothingOnSmallObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media", "budget=8MiB")
	for i := range 3 {
		w.put("media", file(fmt.Sprint("f", i), strings.Repeat("x", 5*mib)))
	}
	w.start()
	for day := range int64(2) {
		w.spent("a")
		assert.Contains(t, w.state("a").Reason, "the 3.00MiB left are less than the 5.00MiB of the oldest")
		assert.EqualValues(t, 2-day, w.owed("a"))
		assert.EqualValues(t, (day+1)*5*mib, w.written("a"))
		w.clock.advance(24 * time.Hour)
	}
	w.drained("a")
	assert.EqualValues(t, 15*mib, w.written("a"))
}

func TestBudgetIsChangedLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media")
	w.put("media", file("before", strings.Repeat("x", 3*mib)))
	w.start()
	w.drained("a")
	w.set("a", "budget=8MiB")
	w.large("media", "big", make([]byte, 40*mib), mib)
	w.spent("a")
	assert.EqualValues(t, 8*mib, w.written("a"), "what was sent of the day before there was a budget counts")
	w.set("a", "budget=16MiB")
	w.eventually(func() bool { return w.written("a") == 16*mib }, "more of it")
	w.spent("a")
	w.set("a", "budget=10MiB")
	w.spent("a")
	assert.EqualValues(t, 16*mib, w.written("a"), "less than was sent")
	// The window's beginning is moved: it is no second budget.
	w.set("a", "budget=16MiB", "window=11:00-13:00")
	w.spent("a")
	assert.EqualValues(t, 16*mib, w.written("a"))
	w.set("a", "window=13:00-14:00")
	w.eventually(func() bool { return w.state("a").WindowOpens.Hour() == 13 }, "a window to come")
	w.clock.advance(time.Hour)
	w.eventually(func() bool { return w.written("a") == 32*mib }, "has a budget of its own")
	w.spent("a")
	// The clock is set back, into a window that is spent.
	w.clock.advance(-90 * time.Minute)
	w.set("a", "window=always")
	w.spent("a")
	assert.EqualValues(t, 32*mib, w.written("a"))
}

func TestForcedBytesCount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media", "budget=8MiB", "deadline=30m")
	w.put("media", file("f0", strings.Repeat("x", 5*mib)))
	w.start()
	w.drained("a")
	assert.Zero(t, w.row("a").ForcedBytes)
	w.put("media", file("f1", strings.Repeat("x", 5*mib)))
	w.spent("a")
	w.clock.advance(20 * time.Minute)
	w.put("media", file("f2", strings.Repeat("x", 5*mib)))
	w.clock.advance(15 * time.Minute)
	w.eventually(func() bool { return w.owed("a") == 1 }, "the deadline forces what is past it, and no more")
	w.spent("a")
	assert.EqualValues(t, 2*mib, w.row("a").ForcedBytes, "all of it but the 3 MiB that were left")
	assert.EqualValues(t, 10*mib, w.charged("a"), "it is over by what was forced")
	_, err := w.engine.FlushNow("a", false)
	require.NoError(t, err)
	w.spent("a")
	_, err = w.engine.FlushNow("a", true)
	require.NoError(t, err)
	w.drained("a")
	assert.EqualValues(t, 7*mib, w.row("a").ForcedBytes)
	assert.EqualValues(t, 15*mib, w.charged("a"), "by hand, too")
	// The high water mark forces from where the budget ends, in the middle of an object.
	w.clock.advance(24 * time.Hour)
	w.set("a", "deadline=none")
	w.mu.Lock()
	w.high = true
	w.mu.Unlock()
	w.large("media", "big", make([]byte, 20*mib), mib)
	w.drained("a")
	assert.EqualValues(t, 19*mib, w.row("a").ForcedBytes)
	assert.EqualValues(t, 20*mib, w.charged("a"))
}

func TestStreamsKeepToTheBudget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.link("a", "media", "budget=8MiB")
	w.start()
	p := w.pump("big", 20)
	for day := range int64(2) {
		w.eventually(func() bool { return p.step() || w.written("a") >= (day+1)*8*mib }, "day %d", day)
		w.eventually(func() bool {
			return strings.Contains(w.state("a").Reason, "bytes are staged; waiting: waits: the budget of 8MiB is spent")
		}, "day %d is spent", day)
		assert.EqualValues(t, (day+1)*8*mib, w.written("a"))
		assert.EqualValues(t, 8*mib, w.charged("a"))
		w.clock.advance(24 * time.Hour)
	}
	p.run()
	w.drained("a")
	p.arrived(root, 1)
	assert.Equal(t, int64(len(p.content)), w.written("a"))
}

// What is sent again after a failure counts again.
func TestResentBytesCountAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media", "budget=8MiB")
	w.put("media", file("f", strings.Repeat("x", 3*mib)))
	fails := 2
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return &failing{t, &fails} }
	w.start()
	w.passing(time.Minute, func() bool {
		return w.owed("a") == 1 && strings.Contains(w.state("a").Reason, "the 2.00MiB left are less than the 3.00MiB")
	}, "spent without success")
	assert.EqualValues(t, 6*mib, w.written("a"))
	w.clock.advance(24 * time.Hour)
	w.drained("a")
	assert.EqualValues(t, 9*mib, w.written("a"))
}

// At whichever step the process dies, the bytes at the target are within the window's budget, before and after, and not much less.
func TestBudgetHoldsThroughACrashAtEachStep(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%v", after), func(t *testing.T) {
			t.Parallel()
			n := 1
			for budgetCrash(t, n, after) {
				n++
			}
			assert.Greater(t, n, 30, "steps were met")
		})
	}
}

// budgetCrash kills the engine at step n and starts another, in the same window; it returns false when there were fewer steps.
func budgetCrash(t *testing.T, n int, after bool) bool {
	t.Helper()
	w := newWorld(t)
	w.cfg.Workers = 2
	root := w.link("a", "media", "budget=8MiB")
	big := bytes.Repeat([]byte("abcdefgh"), 9*mib/8)
	w.put("media", file("s1", strings.Repeat("1", mib)), file("s2", strings.Repeat("2", mib)))
	w.large("media", "big", big, 3*mib)
	blown := w.killedAt(n, after, func() bool { return strings.Contains(w.state("a").Reason, "budget") })
	require.LessOrEqual(t, w.written("a"), int64(8*mib), "step %d", n)
	w.start()
	w.spent("a")
	require.LessOrEqual(t, w.written("a"), int64(8*mib), "step %d: bytes over the window's budget", n)
	// A step that was charged and not sent, and, of a content that was cut and begun anew or never may be, a part.
	require.GreaterOrEqual(t, w.written("a"), int64(8*mib-1*mib-2*mib), "step %d: too much was charged", n)
	for day := range 3 {
		before := w.written("a")
		w.clock.advance(24 * time.Hour)
		w.eventually(func() bool {
			return w.owed("a") == 0 || w.written("a") > before && strings.Contains(w.state("a").Reason, "is spent")
		}, "day %d", day)
		require.LessOrEqual(t, w.written("a")-before, int64(8*mib), "step %d day %d", n, day)
		if w.owed("a") == 0 {
			break
		}
	}
	w.drained("a")
	require.True(t, tree(t, root)["big"] == string(big), "step %d", n)
	w.kill()
	return blown
}

// failing is a target whose barrier fails a few times.
type failing struct {
	target.Target
	left *int
}

func (f *failing) Barrier(ctx context.Context, ids []target.StageID) error {
	if *f.left > 0 {
		*f.left--
		return proto.Errorf(proto.ClassTransient, "the disk says no")
	}
	return f.Target.Barrier(ctx, ids)
}
