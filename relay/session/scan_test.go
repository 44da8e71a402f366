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
	b.Report(proto.Report{Session: s.ID, Holder: 1, First: true, ScanDone: true, ScanNs: at(92).UnixNano(), ScanUp: 100})
	poll(103, 93, proto.RootStatus{LastScanNs: at(92).UnixNano(), UnsentCount: 1, OldestUnsent: at(100).UnixNano()})
	got, _ := b.Get(s.ID)
	require.True(t, got.Roots[0].Doubted)
	require.Zero(t, got.Roots[0].SettledUp, "x was found by that scan and is not settled")
}

// An agent that scans again and again settles each scan with any status that was written after it, and a scan does not undo what the
// one before has proved.
func TestScansInARowAreSettled(t *testing.T) {
	t.Parallel()
	b := NewBook(3*time.Second, 0)
	s, _, err := b.Open(Session{Cluster: "c", Node: "n", Roots: []Root{{Holder: 1, Dataset: 1}}}, time.Unix(1, 0))
	require.NoError(t, err)
	settled := func(st proto.RootStatus) int64 {
		st.Holder = 1
		_, ok := b.Poll(proto.Poll{Session: s.ID, Roots: []proto.RootStatus{st}}, time.Unix(2, 0))
		require.True(t, ok)
		got, _ := b.Get(s.ID)
		return got.Roots[0].SettledUp
	}
	scan := func(seq uint64, up int64) {
		b.Report(proto.Report{Session: s.ID, Holder: 1, First: true, ScanDone: true, ScanNs: 9, Scans: seq, ScanUp: up})
	}
	scan(3, 30)
	require.Zero(t, settled(proto.RootStatus{Scans: 2, LastScanNs: 9}), "a status from before it, by a clock that stands still")
	require.Zero(t, settled(proto.RootStatus{Scans: 4, UnsentCount: 1}))
	require.EqualValues(t, 30, settled(proto.RootStatus{Scans: 4, LastScanNs: 10}), "a later one, with nothing unsent, is of it too")
	scan(4, 40)
	require.EqualValues(t, 30, settled(proto.RootStatus{Scans: 3}))
	require.EqualValues(t, 30, settled(proto.RootStatus{Scans: 4, Unreadable: 1}))
	require.EqualValues(t, 40, settled(proto.RootStatus{Scans: 4}))
	scan(5, 0)
	require.EqualValues(t, 40, settled(proto.RootStatus{Scans: 5}), "a scan that nobody knows the beginning of proves nothing")
}
