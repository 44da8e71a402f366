package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// A holder is settled up to when its oldest unsent object was found, by every clock of the relay: later deletes wait for it
// (I13).
func TestAHolderIsSettledUpToItsOldestUnsentObject(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	b := NewBook(time.Second, 1)
	s, _, err := b.Open(Session{Cluster: "c", Node: "n", Roots: []Root{{Holder: 4}}}, now)
	require.NoError(t, err)
	poll := func(st proto.RootStatus, after time.Duration) Root {
		st.Holder = 4
		at := now.Add(after)
		_, ok := b.Poll(proto.Poll{Session: s.ID, ClockNs: at.Add(time.Minute).UnixNano(), Roots: []proto.RootStatus{st}}, at) // its clock is off
		require.True(t, ok)
		got, ok := b.Get(s.ID)
		require.True(t, ok)
		return got.Roots[0]
	}
	oldest := now.Add(time.Minute - 10*time.Second).UnixNano() // found ten seconds ago, by its own clock
	r := poll(proto.RootStatus{UnsentCount: 3, OldestUnsent: oldest}, 0)
	require.True(t, r.SettledAt.Equal(now.Add(-10*time.Second)), "%s", r.SettledAt)
	r = poll(proto.RootStatus{UnsentCount: 1, OldestUnsent: oldest}, 5*time.Second)
	require.True(t, r.SettledAt.Equal(now.Add(-10*time.Second)), "it waits still: %s", r.SettledAt)
	r = poll(proto.RootStatus{}, 7*time.Second)
	require.True(t, r.SettledAt.Equal(now.Add(7*time.Second)))
}
