package flush_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/ledger"
	"forebay/proto"
)

func TestDeletesArePropagatedOnlyWhenAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.link("a", "media"), w.link("b", "media", "delete.propagate=true")
	w.put("media", folder("d"), file("d/x", "1"), file("y", "2"))
	w.start()
	w.drained("a", "b")
	w.put("media", deleted("d"), deleted("d/x")) // the parent first: the order at the target is the flush's business
	w.drained("a", "b")
	assert.Equal(t, map[string]string{"d": "dir", "d/x": "1", "y": "2"}, tree(t, a))
	assert.Equal(t, map[string]string{"y": "2"}, tree(t, b))
	assert.EqualValues(t, 2, w.recentDeletes("b"))
	assert.Zero(t, w.recentDeletes("a"))
	w.verified("a")
	w.verified("b")
}

// Directories that never were objects, because they did not hold still or were gone too soon, are made for what is in them,
// and go with the last of it.
func TestDirectoriesThatWereNoObjectsGoWithWhatWasInThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media", "delete.propagate=true", "delete.guard.share=100%")
	w.put("media", folder("known"), file("known/x", "1"), file("x/y/z", "2"), file("x/other", "3"))
	w.start()
	w.drained("a")
	w.put("media", deleted("x/y/z"), deleted("known/x"))
	w.drained("a")
	assert.Equal(t, map[string]string{"known": "dir", "x": "dir", "x/other": "3"}, tree(t, a))
	w.verified("a")
	w.put("media", deleted("x/other"))
	w.drained("a")
	assert.Equal(t, map[string]string{"known": "dir"}, tree(t, a))
	w.verified("a")
}

func TestGuardHoldsMassDeletesUntilApproved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.BatchObjects = 7
	a := w.link("a", "media", "delete.propagate=true")
	var all, gone []obj
	for i := range 50 {
		all = append(all, file(fmt.Sprintf("f%02d", i), "1"))
		if i < 30 {
			gone = append(gone, deleted(all[i].path))
		}
	}
	w.put("media", all...)
	w.start()
	w.drained("a")
	w.put("media", gone...)
	w.put("media", file("new", "goes on"))
	w.eventually(func() bool { return w.state("a").State == flush.StateHeld }, "held")
	assert.EqualValues(t, 30, w.state("a").HeldDeletes)
	w.eventually(func() bool { return len(tree(t, a)) == 51 }, "nothing is deleted, and the rest goes on")
	assert.Equal(t, 1, w.happened(flush.DeletesHeld))
	h, err := w.engine.Deletes("a")
	require.NoError(t, err)
	assert.EqualValues(t, 30, h.Held)
	assert.Len(t, h.Paths, 30)
	assert.Contains(t, h.Reason, "delete.guard.share")
	fs, err := w.engine.Failures("a", 100)
	require.NoError(t, err)
	assert.Len(t, fs, 30)
	_, err = w.engine.ApproveDeletes("a")
	require.NoError(t, err)
	w.drained("a")
	assert.Len(t, tree(t, a), 21)
	assert.Zero(t, w.recentDeletes("a"), "approved deletes are not held against later ones")
	w.put("media", deleted("new"))
	w.drained("a")
	_, err = w.engine.ApproveDeletes("a")
	assert.Error(t, err, "nothing is held")
	w.verified("a")
}

func TestLostSegmentIsReportedAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	seq := w.put("media", file("lost", "1"), file("lost too", "2"))
	w.put("media", file("f", "3"))
	w.mu.Lock()
	s := w.segments[seq]
	delete(w.segments, seq)
	w.mu.Unlock()
	w.start()
	w.eventually(func() bool { return w.owed("a") == 2 }, "the rest goes on")
	w.eventually(func() bool { return w.happened(flush.ObjectFailed) >= 2 }, "told")
	w.mu.Lock()
	assert.Contains(t, w.lost, seq)
	w.mu.Unlock()
	w.eventually(func() bool { return w.state("a").State == flush.StateStalled }, "work waits and nothing moves")
	w.mu.Lock()
	w.segments[seq] = s // healed
	w.mu.Unlock()
	w.passing(time.Second, func() bool { return w.owed("a") == 0 }, "healed")
	assert.Len(t, tree(t, a), 3)
	seq = w.put("media", file("lost", "1 again"))
	w.kill() // so that the segment can be lost before it is read
	w.start()
	w.drained("a")
	w.mu.Lock()
	delete(w.segments, seq)
	w.mu.Unlock()
}

func TestBadPieceIsNeverWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	seq := w.put("media", file("bad", "the right content"), file("good", "2"))
	w.mu.Lock()
	s := *w.segments[seq]
	s.Payload = append([]byte(nil), s.Payload...)
	s.Payload[3] ^= 1
	w.segments[seq] = &s
	w.mu.Unlock()
	w.start()
	w.eventually(func() bool { return w.owed("a") == 1 }, "the good one goes")
	w.eventually(func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.lost) > 0 }, "the relay is told")
	w.apply(&ledger.LoseSegment{Seq: seq})
	w.wake()
	w.eventually(func() bool { return w.row("a").ReleasedObjects == 1 }, "asked for")
	w.refill("media", file("bad", "the right content"))
	w.passing(time.Second, func() bool { return w.owed("a") == 0 }, "done")
	assert.Equal(t, "the right content", tree(t, a)["bad"])
}

func TestOwnerMarkOfAnotherStallsTheLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	w.dirs["b"] = a
	w.put("media", file("f", "1"))
	w.start()
	w.drained("a")
	w.link("b", "docs")
	w.put("docs", file("f", "of another dataset"))
	w.eventually(func() bool { return w.state("b").State == flush.StateStalled }, "stalled")
	assert.Contains(t, w.state("b").Reason, "belongs to dataset primary/media")
	assert.Equal(t, map[string]string{"f": "1"}, tree(t, a))
}

func TestVerifyRepairs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	b := w.link("b", "media", "window=22:00-06:00") // keeps the cache filled
	_ = b
	w.put("media", folder("d"), file("d/x", "content"), file("y", "unharmed"))
	w.start()
	w.drained("a")
	w.verified("a")
	spoil(t, a, "d/x", "CONTENT")
	spoil(t, a, "stranger", "not of the dataset")
	var lines []proto.VerifyLine
	require.NoError(t, w.engine.Verify(t.Context(), "a", true, true, func(l proto.VerifyLine) error {
		lines = append(lines, l)
		return nil
	}))
	require.Len(t, lines, 3)
	assert.Equal(t, "d/x", lines[0].Path)
	assert.Equal(t, "owed again", lines[0].Repair)
	assert.Equal(t, "extra", lines[1].Problem)
	assert.EqualValues(t, 2, lines[2].Differences)
	w.eventually(func() bool { return w.owed("a") == 0 && tree(t, a)["d/x"] == "content" }, "repaired")
}

// A target that somebody empties while it is in use is noticed also when there is nothing to be sent (I17).
func TestATargetThatIsEmptiedInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.link("a", "media")
	w.start()
	w.put("media", file("f", "1"))
	w.drained("a")
	require.NoError(t, os.RemoveAll(filepath.Join(at, proto.ReservedName)))
	w.passing(10*time.Second, func() bool { return w.state("a").State == flush.StateStalled }, "noticed")
	assert.Contains(t, w.state("a").Reason, target.WipedHint)
}

func TestLinksComeAndGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media")
	w.link("b", "media", "size=1GiB")
	w.start()
	w.put("media", file("f", "1"))
	w.drained("a")
	w.apply(&ledger.OrphanLink{Link: w.row("b").ID})
	all := w.links
	w.links = w.links[:1]
	w.engine.SetLinks(w.links)
	w.eventually(func() bool { return w.state("b").State == flush.StateOrphaned }, "orphaned")
	assert.Contains(t, w.state("b").Reason, "owes 1 objects")
	_, err := w.engine.FlushNow("b", true)
	assert.ErrorContains(t, err, "orphaned")
	w.links = all
	w.apply(&ledger.SetLink{Name: "b", From: proto.Dataset{Cluster: "primary", Name: "media"}, Target: "dir:" + w.dirs["b"], Coalesce: true})
	w.engine.SetLinks(w.links)
	_, err = w.engine.FlushNow("b", true)
	require.NoError(t, err)
	w.drained("b")
	_, ok := w.engine.State("nobody")
	assert.False(t, ok)
}

// Deletes that come a few at a time add up: the guard counts those of the last day (I13).
func TestGuardCountsTheDeletesOfTheDay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media", "delete.propagate=true")
	var all []obj
	for i := range 100 {
		all = append(all, file(fmt.Sprintf("f%02d", i), "1"))
	}
	w.put("media", all...)
	w.start()
	w.drained("a")
	gone := func(from, to int) {
		var list []obj
		for _, o := range all[from:to] {
			list = append(list, deleted(o.path))
		}
		w.put("media", list...)
	}
	gone(0, 15)
	w.drained("a")
	assert.Len(t, tree(t, a), 85)
	gone(15, 30)
	w.eventually(func() bool { return w.state("a").State == flush.StateHeld || w.owed("a") == 0 }, "judged")
	require.EqualValues(t, 15, w.state("a").HeldDeletes, "30 of 100 in one day are too many, whatever their batches")
	assert.Len(t, tree(t, a), 85)
	w.apply(&ledger.Tick{UpNs: int64(25 * time.Hour)})
	w.passing(time.Hour, func() bool { return w.owed("a") == 0 }, "15 of 85 on the next day are not")
	assert.Len(t, tree(t, a), 70)
}
