package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// The agent's clock is set back by 10 s while a scan runs: what the scan found first carries its start, which is after its end.
func TestClockSetBackDuringAScan(t *testing.T) {
	t.Parallel()
	b := NewBook(3*time.Second, 0)
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	s, _, err := b.Open(Session{Cluster: "c", Node: "n", Roots: []Root{{Holder: 1, Dataset: 1}}}, at(99))
	require.NoError(t, err)
	poll := func(relay, agent int64, st proto.RootStatus) {
		st.Holder = 1
		_, ok := b.Poll(proto.Poll{Session: s.ID, ClockNs: at(agent).UnixNano(), Roots: []proto.RootStatus{st}}, at(relay))
		require.True(t, ok)
	}
	poll(99, 99, proto.RootStatus{})
	// 100: a scan starts and finds x; the clock is set back by 10 s; the scan ends at 102, the agent's 92.
	b.Report(proto.Report{Session: s.ID, Holder: 1, First: true, ScanDone: true, ScanNs: at(92).UnixNano()})
	poll(103, 93, proto.RootStatus{LastScanNs: at(92).UnixNano(), UnsentCount: 1, OldestUnsent: at(100).UnixNano()})
	got, _ := b.Get(s.ID)
	require.True(t, got.Roots[0].Doubted)
	require.False(t, got.Roots[0].ScanSettled, "x was found by that scan and is not settled")
}
