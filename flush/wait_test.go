package flush_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/policy"
	"forebay/flush/target"
	"forebay/flush/target/faulty"
	"forebay/ledger"
	"forebay/proto"
)

func TestDeadTargetDoesNotDisturbOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Grace = time.Nanosecond
	w.link("dead", "media")
	b := w.link("b", "media")
	g := &gate{open: make(chan struct{})}
	w.wrap = func(l flush.LinkConfig, t target.Target) target.Target {
		if l.Name == "dead" {
			g.Target = t
			return g
		}
		return t
	}
	w.put("media", file("f", "1"))
	w.start()
	w.eventually(func() bool { return g.in.Load() > 0 }, "the dead target hangs")
	w.drained("b")
	for i := range 20 {
		w.put("media", file(fmt.Sprintf("f%d", i), "1"))
	}
	w.drained("b")
	assert.Len(t, tree(t, b), 21)
	assert.EqualValues(t, 21, w.owed("dead"))
	close(g.open) // else the clean-up of the test would have to wait for it
	w.drained("dead")
}

func TestTargetThatVanishesAndReturns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	w.put("media", file("f", "1"))
	w.start()
	w.drained("a")
	require.NoError(t, os.Rename(a, a+".away"))
	w.put("media", file("g", "2"))
	w.eventually(func() bool { return w.state("a").State == flush.StateStalled }, "stalled")
	s := w.state("a")
	assert.Contains(t, s.Reason, "not there")
	assert.True(t, s.NextTry.After(w.clock.Now()))
	for range 20 { // an hour later it is still looked for every few seconds
		w.clock.advance(3 * time.Minute)
		w.eventually(func() bool {
			n := w.state("a").NextTry
			return n.After(w.clock.Now()) && n.Sub(w.clock.Now()) <= time.Minute
		}, "polled")
	}
	require.NoError(t, os.Rename(a+".away", a))
	w.passing(time.Second, func() bool { return w.owed("a") == 0 }, "it goes on by itself")
	assert.Equal(t, map[string]string{"f": "1", "g": "2"}, tree(t, a))
	w.eventually(func() bool { return w.happened(flush.LinkRecovered) == 1 }, "told")
	assert.Equal(t, 1, w.happened(flush.LinkStalled))
}

func TestWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t) // it is Monday noon
	a := w.link("a", "media", "window=22:00-06:00")
	b := w.link("b", "media", "window=22:00-06:00", "deadline=1h")
	w.put("media", file("f", "1234"))
	w.start()
	w.eventually(func() bool {
		return w.state("a").State == flush.StateWaiting && w.state("b").State == flush.StateWaiting
	}, "both wait")
	assert.Equal(t, 22, w.state("a").WindowOpens.Hour())
	w.clock.advance(30 * time.Minute)
	w.put("media", file("g", "12345678"))
	w.clock.advance(31 * time.Minute)
	w.eventually(func() bool { return w.owed("b") == 1 }, "the deadline forces what is past it, and no more")
	assert.Equal(t, map[string]string{"f": "1234"}, tree(t, b))
	assert.EqualValues(t, 4, w.row("b").ForcedBytes)
	assert.Equal(t, 1, w.happened(flush.LinkForced))
	assert.Empty(t, tree(t, a))
	w.clock.advance(9 * time.Hour)
	w.drained("a", "b")
	assert.Zero(t, w.row("a").ForcedBytes)
	assert.EqualValues(t, 4, w.row("b").ForcedBytes, "the window is open: nothing has to be forced")
	w.clock.advance(9 * time.Hour) // 07:00 and shut again
	w.put("media", file("h", "123"))
	w.mu.Lock()
	w.high = true
	w.mu.Unlock()
	w.wake()
	w.drained("a")
	assert.EqualValues(t, 3, w.row("a").ForcedBytes, "the high water mark forces")
}

func TestWindowThatClosesStopsABatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Workers = 1
	a := w.link("a", "media", "window=11:00-12:01", "bandwidth=64KiB/s", "confirm=ack")
	big := bytes.Repeat([]byte("x"), 9*proto.BlockSize)
	w.put("media", file("small", "first"))
	w.large("media", "big", big, proto.BlockSize)
	w.start()
	w.passing(50*time.Millisecond, func() bool { return w.state("a").State == flush.StateWaiting }, "the window closes in the middle")
	w.eventually(func() bool { return w.owed("a") == 1 }, "what was staged is committed")
	assert.Equal(t, map[string]string{"small": "first"}, tree(t, a))
	require.Len(t, stagedFiles(t, a), 1, "what was sent is kept")
	kept := stagedSize(t, a)
	assert.LessOrEqual(t, kept, int64(61*64<<10), "the rate held")
	assert.Positive(t, kept)
	before := w.written("a")
	w.clock.advance(23 * time.Hour)
	w.set("a", "bandwidth=off")
	w.drained("a")
	assert.Equal(t, string(big), tree(t, a)["big"])
	assert.EqualValues(t, 0, w.row("a").ForcedBytes)
	assert.Equal(t, int64(len(big))-kept, w.written("a")-before, "only what was missing is sent")
}

// A ledger that was put back from an old copy takes for the newest what its targets have a newer version of (I18).
func TestAnOutdatedLedgerSendsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	w.put("media", file("f", "older"))
	w.apply(&ledger.Start{Relay: 7, Name: "relay-1", Outdated: true})
	w.start()
	w.eventually(func() bool { return w.state("a").State == flush.StateWaiting }, "waits")
	assert.Contains(t, w.state("a").Reason, "ledger-outdated")
	_, err := w.engine.FlushNow("a", true)
	require.ErrorContains(t, err, "rebuilt")
	w.clock.advance(48 * time.Hour)
	w.wake()
	p, err := w.engine.Plan("a")
	require.NoError(t, err)
	assert.Equal(t, "wait", p.Action)
	assert.Empty(t, tree(t, a))
	assert.EqualValues(t, 1, w.owed("a"))
}

func TestPauseAndFlushByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media", "size=1GiB")
	w.start()
	w.put("media", file("f", "1"))
	w.eventually(func() bool { return w.state("a").State == flush.StateWaiting }, "waits for size")
	w.pause("a", true)
	w.wake()
	w.eventually(func() bool { return w.state("a").State == flush.StatePaused }, "paused")
	_, err := w.engine.FlushNow("a", true)
	require.ErrorContains(t, err, "resume")
	on := true
	w.apply(&ledger.TuneLink{Link: w.row("a").ID, Paused: &on, PausedUntil: w.clock.Now().Add(time.Hour).UnixNano()})
	w.wake()
	w.clock.advance(2 * time.Hour)
	w.eventually(func() bool { return w.state("a").State == flush.StateWaiting }, "the pause is over")
	w.pause("a", false)
	p, err := w.engine.Plan("a")
	require.NoError(t, err)
	assert.Equal(t, "wait", p.Action)
	assert.EqualValues(t, 1, p.Objects)
	r, err := w.engine.FlushNow("a", false)
	require.NoError(t, err)
	assert.EqualValues(t, 1, r.Objects)
	w.drained("a")
	assert.Equal(t, map[string]string{"f": "1"}, tree(t, a))
	w.eventually(func() bool { return w.state("a").State == flush.StateIdle }, "the order by hand is carried out")
	w.put("media", file("g", "2"))
	w.eventually(func() bool { return w.state("a").State == flush.StateWaiting }, "the order by hand is carried out, and over")
	w.apply(&ledger.TuneLink{Link: w.row("a").ID, Set: map[string]ledger.Override{"flush.size": {Value: "1B"}}})
	w.wake()
	w.drained("a")
}

func TestConditionsLetAllThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.BatchObjects = 4
	w.link("a", "media", "objects=10")
	w.start()
	for i := range 9 {
		w.put("media", file(fmt.Sprintf("f%d", i), "1"))
	}
	w.eventually(func() bool { return w.state("a").State == flush.StateWaiting }, "waits for ten")
	w.put("media", file("f9", "1"))
	w.drained("a") // in three batches, though seven objects would not have been enough
}

func TestRateHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media", "bandwidth=1MiB/s")
	w.large("media", "big", bytes.Repeat([]byte("y"), 8*proto.BlockSize), proto.BlockSize)
	begun := w.clock.Now()
	w.start()
	w.passing(100*time.Millisecond, func() bool { return w.owed("a") == 0 }, "done")
	assert.GreaterOrEqual(t, w.clock.Now().Sub(begun), 7500*time.Millisecond)
	assert.Len(t, tree(t, a)["big"], 8*proto.BlockSize)
}

// The relay's bandwidth is one budget of all links, by weights that can be changed while they send.
func TestLinksShareTheRelaysBandwidth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media", "weight=3")
	w.link("b", "docs")
	w.large("media", "big", make([]byte, 24*proto.BlockSize), proto.BlockSize)
	w.large("docs", "big", make([]byte, 24*proto.BlockSize), proto.BlockSize)
	table, err := policy.ParseTimetable("1MiB/s")
	require.NoError(t, err)
	w.start()
	w.engine.SetBandwidth(flush.Bandwidth{Table: table})
	w.passing(20*time.Millisecond, func() bool { return min(w.written("a"), w.written("b")) > 0 }, "both send")
	for _, part := range []float64{0.75, 0.5} {
		begun := w.written("a") + w.written("b")
		a, from := w.written("a"), w.clock.Now()
		w.passing(20*time.Millisecond, func() bool { return w.written("a")+w.written("b") >= begun+8*proto.BlockSize }, "eight seconds' bytes")
		assert.InDelta(t, part, float64(w.written("a")-a)/float64(8*proto.BlockSize), 0.05)
		assert.GreaterOrEqual(t, w.clock.Now().Sub(from), 7500*time.Millisecond)
		w.set("a", "weight=1")
	}
	w.engine.SetBandwidth(flush.Bandwidth{})
	w.drained("a", "b")
}

func TestSeedingASecondLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media", "window=22:00-06:00") // holds the cache until the night
	want := map[string]string{}
	for s := range 25 {
		var objs []obj
		for i := range 100 {
			objs = append(objs, file(fmt.Sprintf("f-%d-%d", s, i), fmt.Sprint(s, i)))
			want[objs[i].path] = string(objs[i].content)
		}
		w.put("media", objs...)
	}
	w.put("media", file("f-0-0", "newer"), deleted("f-0-1"))
	want["f-0-0"] = "newer"
	delete(want, "f-0-1")
	w.start()
	b := w.link("b", "media")
	w.drained("b")
	assert.Equal(t, want, tree(t, b))
	assert.Empty(t, tree(t, a))
	w.eventually(func() bool { return w.state("b").State == flush.StateIdle }, "seeded")
	// A third comes when the second has everything and the first lets go: what the cache no longer has is asked for.
	_, err := w.engine.FlushNow("a", true)
	require.NoError(t, err)
	w.drained("a")
	w.link("c", "media")
	w.eventually(func() bool { return w.row("c").ReleasedObjects == int64(len(want)) }, "asked for")
	assert.Equal(t, flush.StateSeeding, w.state("c").State)
	w.refill("media", file("f-0-0", "newer"))
	w.eventually(func() bool {
		return w.row("c").ReleasedObjects == int64(len(want))-1 && w.owed("c") == int64(len(want))-1
	}, "comes in and goes out")
}

func TestReleasedDebtThatAnotherLinkKeepsInTheCacheIsFlushed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	w.link("b", "media", "window=22:00-06:00")
	require.NoError(t, os.Rename(a, a+".away"))
	w.put("media", file("f", "1"))
	w.start()
	w.eventually(func() bool { return w.state("a").State == flush.StateStalled }, "stalled")
	w.apply(&ledger.Release{Link: w.row("a").ID, Versions: []proto.VersionID{1}})
	assert.EqualValues(t, 1, w.row("a").ReleasedObjects)
	require.NoError(t, os.Rename(a+".away", a))
	w.passing(time.Second, func() bool { return w.owed("a") == 0 }, "flushed from the cache")
}

func TestFaultsNeverStarveAnOldObject(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		w := newWorld(t)
		w.cfg.BatchObjects = 16
		a := w.link("a", "media")
		var f *faulty.Target
		w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target {
			f = faulty.Wrap(t, faulty.Config{Seed: seed, Rules: []faulty.Rule{
				{Call: faulty.CallStage, Fault: faulty.Fail, Share: 0.1},
				{Call: faulty.CallWrite, Fault: faulty.Short, Share: 0.1},
				{Call: faulty.CallBarrier, Fault: faulty.Unknown, Share: 0.1},
				{Call: faulty.CallCommit, Fault: faulty.Unknown, Share: 0.1},
				{Call: faulty.CallCommit, Fault: faulty.Fail, Share: 0.1},
				{Call: faulty.CallRecord, Fault: faulty.Unknown, Share: 0.05},
				{Call: faulty.CallProbe, Fault: faulty.Fail, Share: 0.1},
				{Call: faulty.CallUnstage, Fault: faulty.Fail, Share: 0.1},
			}})
			return f
		}
		want := map[string]string{"oldest": "0"}
		w.put("media", file("oldest", "0"))
		w.start()
		for i := range 40 {
			o := file(fmt.Sprintf("f%02d", i%20), fmt.Sprint("content ", i))
			want[o.path] = string(o.content)
			w.put("media", o)
			w.clock.advance(time.Second)
		}
		w.passing(2*time.Second, func() bool { return w.owed("a") == 0 }, fmt.Sprintf("drained under faults, seed %d", seed))
		assert.Zero(t, w.row("a").ParkedObjects, "seed %d", seed)
		assert.Equal(t, want, tree(t, a), "seed %d", seed)
		assert.Positive(t, f.Hits(), "seed %d", seed)
		w.kill()
	}
}

// stagedSize is how many bytes are staged.
func stagedSize(t *testing.T, root string) (n int64) {
	t.Helper()
	for _, name := range stagedFiles(t, root) {
		found, err := filepath.Glob(filepath.Join(root, proto.ReservedName, target.StageDir, "*", name))
		require.NoError(t, err)
		for _, f := range found {
			st, err := os.Stat(f)
			require.NoError(t, err)
			n += st.Size()
		}
	}
	return n
}

// slow is a target at which each write takes its time, and the clock goes on meanwhile.
type slow struct {
	target.Target
	clock *fakeClock
	takes time.Duration
}

func (s slow) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	st, err := s.Target.Stage(ctx, c)
	return slowStage{st, s}, err
}

type slowStage struct {
	target.Stage
	of slow
}

func (s slowStage) Write(p []byte) (int, error) {
	s.of.clock.advance(s.of.takes)
	return s.Stage.Write(p)
}

// slowWrites is a link with a window to a target each of whose writes takes so long by the world's clock, and an object of some blocks for it.
func slowWrites(t *testing.T, window string, takes time.Duration, blocks int) *world {
	w := newWorld(t)
	w.cfg.Workers = 1
	w.link("a", "media", "window="+window, "confirm=ack")
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return slow{t, w.clock, takes} }
	w.large("media", "big", bytes.Repeat([]byte("x"), blocks*proto.BlockSize), proto.BlockSize)
	return w
}

// stops starts the flush and requires that it writes so many blocks of that object, and waits for the window then.
func (w *world) stops(blocks int, when string) {
	w.t.Helper()
	w.start()
	w.eventually(func() bool { return w.state("a").State == flush.StateWaiting || w.owed("a") == 0 }, "it waits for the window, or is done")
	assert.EqualValues(w.t, blocks*proto.BlockSize, w.written("a"), when)
	assert.EqualValues(w.t, 1, w.owed("a"))
}

// Nothing is written in the second in which a window closes, also when the policy had said yes a moment before (I14).
func TestNothingIsWrittenAfterTheWindow(t *testing.T) {
	t.Parallel()
	w := slowWrites(t, "11:00-12:01", 40*time.Millisecond, 9)
	w.clock.advance(time.Minute - 100*time.Millisecond)
	w.stops(3, "at 12:00:59.9, .94 and .98")
}

// A clock that is set back to before a window stops a batch in its middle: the policy had said yes by another clock (I14).
func TestClockThatIsSetBackStopsABatch(t *testing.T) {
	t.Parallel()
	w := slowWrites(t, "11:00-13:00", -2*time.Hour, 3)
	w.stops(1, "at 12:00, before the clock was set to 10:00")
}

// A link of low priority gets its turns beside one of high priority that always has something, and its oldest object goes first.
func TestNoPriorityStarvesALink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Reads, w.cfg.Workers, w.cfg.BatchObjects = 1, 4, 8
	w.link("high", "media", "priority=100")
	low := w.link("low", "docs", "priority=-100")
	n := 0
	more := func() {
		for range 8 { // each in a segment of its own: a turn each
			w.put("media", file(fmt.Sprintf("f%05d", n), strings.Repeat("x", 1000)))
			n++
		}
	}
	more()
	for i := range 20 {
		w.put("docs", file(fmt.Sprintf("d%02d", i), "1"))
	}
	w.start()
	order := map[string]bool{}
	w.eventually(func() bool {
		if w.owed("high") < 8 {
			more()
		}
		w.clock.advance(policy.AgingStep)
		for p := range tree(t, low) {
			order[p] = true
		}
		for p := range order { // batches of eight: none of a later one is there before those of an earlier one
			var i int
			_, err := fmt.Sscanf(p, "d%02d", &i)
			require.NoError(t, err)
			for k := range i / 8 * 8 {
				require.True(t, order[fmt.Sprintf("d%02d", k)], "d%02d before d%02d", i, k)
			}
		}
		return w.owed("low") == 0
	}, "low gets its turns")
	require.Len(t, tree(t, low), 20)
}

// batch_min waits for age, batch_max cuts, and one object that is larger than it goes alone.
func TestBatchesAreCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media", "size=2KiB", "batch_min=2KiB", "age=1h", "batch_max=4KiB")
	w.start()
	w.put("media", file("f0", strings.Repeat("x", 1000)))
	w.eventually(func() bool {
		return strings.Contains(w.state("a").Reason, "of batch_min 2KiB, or age 1h")
	}, "waits for a batch that is worth it")
	w.clock.advance(time.Hour)
	w.drained("a")
	require.Equal(t, []int64{3500, 9000, 4000}, w.batches("a", 2000, 1500, 9000, 1000, 1000, 1000, 1000), "within 4096, or one alone")
}

// holding is a target that keeps contents of up to 1000 bytes in memory until they are committed, 2500 bytes of them.
type holding struct{ target.Target }

func (h holding) Probe(ctx context.Context) (target.Info, error) {
	i, err := h.Target.Probe(ctx)
	i.Holds, i.HoldsUpTo = 2500, 1000
	return i, err
}

// What the target would keep in memory bounds a batch; what it would not does not.
func TestBatchesAreCutByWhatTheTargetHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return holding{t} }
	w.link("a", "media", "age=1s")
	w.start()
	require.Equal(t, []int64{6800, 8000}, w.batches("a", 900, 5000, 900, 1000, 7000), "2500 held, and what is not")
}

// batches puts objects of these sizes while a link is paused, and returns the sizes of the batches that they go in.
func (w *world) batches(link string, sizes ...int) (out []int64) {
	w.t.Helper()
	w.pause(link, true)
	w.wake()
	w.eventually(func() bool { return w.state(link).State == flush.StatePaused }, "paused")
	for i, size := range sizes {
		w.put("media", file(fmt.Sprintf("g%d", i), strings.Repeat("x", size)))
	}
	w.mu.Lock()
	w.events = nil
	w.mu.Unlock()
	w.clock.advance(time.Hour)
	w.pause(link, false)
	w.wake()
	w.drained(link)
	sent := func() (n int64) {
		w.mu.Lock()
		defer w.mu.Unlock()
		out = nil
		for _, e := range w.events {
			if e.Kind == flush.BatchDone {
				out, n = append(out, e.Bytes), n+e.Bytes
			}
		}
		return n
	}
	var all int64
	for _, size := range sizes {
		all += int64(size)
	}
	w.eventually(func() bool { return sent() == all }, "all batches are told of")
	return out
}

// How fast a target took what it was sent is known to whoever plans, long after the batch.
func TestSpeedIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media")
	w.put("media", file("small", "x"))
	w.start()
	w.drained("a")
	require.Zero(t, w.row("a").Speed, "one byte tells nothing")
	w.kill()
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return slow{t, w.clock, time.Second} }
	for _, path := range []string{"first", "second"} {
		w.put("media", file(path, strings.Repeat("forebay ", 5<<20/8)))
	}
	w.start()
	w.drained("a")
	require.InDelta(t, 1<<20, w.row("a").Speed, 1<<18, "a second for each of ten blocks")
}
