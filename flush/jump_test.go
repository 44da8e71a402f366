package flush_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
)

// What was acknowledged before the clock was set back by a year waits for its deadline at most once more, and goes at once when
// an operator asks for it: it does not wait for the clock to come back to where it was (I16).
func TestClockThatIsSetBackStallsNoDebt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media", "flush.size=1GiB", "flush.deadline=24h")
	b := w.link("b", "media", "flush.size=1GiB", "flush.deadline=24h")
	w.put("media", file("x", "1"))
	w.clock.advance(-365 * 24 * time.Hour)
	w.start()
	w.eventually(func() bool { return w.state("a").Reason != "" && w.state("b").Reason != "" }, "looked at")
	assert.EqualValues(t, 1, w.owed("a"))
	_, err := w.engine.FlushNow("b", false)
	require.NoError(t, err)
	w.drained("b")
	assert.Len(t, tree(t, b), 1)
	w.clock.advance(23 * time.Hour)
	assert.Empty(t, tree(t, a), "the deadline is not reached")
	w.passing(30*time.Minute, func() bool { return w.owed("a") == 0 }, "forced by the deadline")
	assert.Len(t, tree(t, a), 1)
}

// A pause for an hour ends after an hour in which the relay ran, wherever the clock is.
func TestPauseEndsByTheRunningTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media")
	on, hour := true, int64(time.Hour)
	w.apply(&ledger.Tick{UpNs: 100 * hour},
		&ledger.TuneLink{Link: w.links[0].ID, Paused: &on, PausedUntil: w.clock.Now().Add(time.Hour).UnixNano(), PausedUp: 101 * hour})
	w.clock.advance(-365 * 24 * time.Hour)
	w.put("media", file("x", "1"))
	w.start()
	w.eventually(func() bool { return w.state("a").State == "paused" }, "paused")
	assert.EqualValues(t, 1, w.owed("a"))
	w.apply(&ledger.Tick{UpNs: 101 * hour})
	w.passing(time.Minute, func() bool { return w.owed("a") == 0 }, "the pause is over")
}
