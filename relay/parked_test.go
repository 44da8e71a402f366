package relay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// What is mended at a target is backed up though nobody says so to the relay.
func TestWhatIsParkedIsTriedAgainAfterADay(t *testing.T) {
	t.Parallel()
	g := driven(t)
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	park := func(path string) {
		t.Helper()
		require.NoError(t, g.relay.Ledger().Update(&ledger.Park{Link: l.ID, Versions: []proto.VersionID{g.agent("a").put(path)}, Reasons: []string{"no right"}, NowNs: g.c.now().UnixNano()}))
	}
	parked := func() int64 {
		t.Helper()
		row, err := g.relay.linkRow("l1")
		require.NoError(t, err)
		return row.ParkedObjects
	}
	hours := func(n int) {
		t.Helper()
		for range n {
			g.c.pass(time.Hour)
			g.round()
		}
	}
	g.round()
	park("first")
	hours(12)
	park("second")
	hours(11)
	require.EqualValues(t, 2, parked(), "not yet")
	hours(2)
	require.EqualValues(t, 1, parked(), "the first has waited for a day")
	hours(11)
	require.EqualValues(t, 1, parked())
	hours(2)
	require.Zero(t, parked())
}
