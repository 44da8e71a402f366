package ledger_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"forebay/ledger"
)

func TestChargeKeepsToTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	charge := func(opened, now, bytes, limit int64) (charged, spent int64) {
		e := &ledger.Charge{Link: nas, OpenedNs: opened, NowNs: now, Bytes: bytes, Limit: limit}
		w.do(e)
		row, err := ledger.Budget(w.led, nas)
		require.NoError(t, err)
		require.Equal(t, e.Spent, row.Spent(opened, now))
		return e.Charged, e.Spent
	}
	both := func(c, s int64) [2]int64 { return [2]int64{c, s} }
	require.Equal(t, both(60, 60), both(charge(100, 110, 60, 100)))
	require.Equal(t, both(40, 100), both(charge(100, 120, 60, 100)), "no further than the limit")
	require.Equal(t, both(0, 100), both(charge(100, 130, 1, 100)))
	require.Equal(t, both(-30, 70), both(charge(100, 140, -30, 100)), "given back")
	require.Equal(t, both(30, 100), both(charge(100, 150, 50, 100)), "and taken again")
	require.Equal(t, both(7, 107), both(charge(100, 160, 7, 0)), "what is forced counts, too")
	require.Equal(t, both(0, 107), both(charge(100, 170, 9, 50)), "a limit that was lowered")

	require.Equal(t, both(10, 10), both(charge(200, 200, 10, 100)), "the next window")
	require.Equal(t, both(0, 107), both(charge(100, 120, 10, 100)), "the clock was set back into the one before: it is spent")
	require.Equal(t, both(90, 100), both(charge(200, 210, 100, 100)))

	require.Equal(t, both(50, 50), both(charge(9000, 9001, 50, 100)), "the clock is far ahead")
	require.Equal(t, both(100, 100), both(charge(300, 310, 100, 100)), "and right again: what was charged ahead of it is not this window's")
	require.Equal(t, both(0, 100), both(charge(305, 320, 100, 100)), "the window's beginning was moved on: what was sent since counts")
	require.Equal(t, both(0, 100), both(charge(290, 320, 100, 100)), "and back")

	for { // the row goes with the link
		d := &ledger.DropLink{Link: nas, Limit: 10}
		w.do(d)
		if d.Done {
			break
		}
	}
	row, err := ledger.Budget(w.led, nas)
	require.NoError(t, err)
	require.Empty(t, row.Windows)
}

// However often the clock is set to and fro, and windows are charged and given back, no window of those that are remembered is
// ever charged more than its limit, and what is charged is what the record says.
func TestNoHistoryOfChargesGivesAWindowMoreThanItsLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		nas := w.link("nas", true)
		const limit, length = 100, 10
		model := map[int64]int64{}
		for range rapid.IntRange(1, 60).Draw(rt, "charges") {
			now := rapid.Int64Range(0, 40*length-1).Draw(rt, "now")
			opened := now / length * length
			e := &ledger.Charge{Link: nas, OpenedNs: opened, NowNs: now, Bytes: rapid.Int64Range(-20, 70).Draw(rt, "bytes"), Limit: limit}
			e.Bytes = max(e.Bytes, -model[opened])
			w.do(e)
			if e.Bytes > 0 {
				require.LessOrEqual(rt, e.Charged, e.Bytes)
				require.Equal(rt, min(e.Bytes, limit-model[opened]), e.Charged, "what there is room for is charged")
			}
			model[opened] += e.Charged
			require.LessOrEqual(rt, model[opened], int64(limit))
			require.Equal(rt, model[opened], e.Spent)
		}
	})
}
