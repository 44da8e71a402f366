package ledger_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

func TestInflowIsKeptForFiveWeeks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	note := func(slot uint64, bytes int64) {
		w.do(&ledger.NoteInflow{Slot: slot, Sums: map[proto.DatasetID]ledger.InflowRow{1: {Bytes: bytes, Objects: 1}, 2: {Bytes: 1}}})
	}
	slots := func(ds proto.DatasetID) (out []uint64) {
		all, err := ledger.Inflow(w.led, ds, 0, 1<<40)
		require.NoError(t, err)
		for _, s := range all {
			out = append(out, s.Slot)
		}
		return out
	}
	const first = 5_000_000
	note(first, 10)
	note(first, 5)
	got, err := ledger.Inflow(w.led, 1, first, first)
	require.NoError(t, err)
	require.Equal(t, []ledger.InflowSlot{{Slot: first, InflowRow: ledger.InflowRow{Bytes: 15, Objects: 2}}}, got)
	for i := range uint64(ledger.InflowKept - 1) {
		note(first+1+i, 1)
	}
	require.Len(t, slots(1), ledger.InflowKept)
	note(first+ledger.InflowKept, 1)
	require.Len(t, slots(1), ledger.InflowKept)
	require.Equal(t, uint64(first+1), slots(1)[0], "the oldest went")
	note(first+10*ledger.InflowKept, 1) // the clock is years ahead for a moment
	require.Len(t, slots(1), ledger.InflowKept-1)
	require.Len(t, slots(2), ledger.InflowKept-1)
}
