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

// Who holds other datasets comes and goes without a new member list for all: with a thousand agents, each restart of one would otherwise
// have all of them fetch theirs.
func TestMemberListsAreNumberedByDataset(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	b := NewBook(time.Second, 100)
	open := func(node string, roots ...Root) Session {
		s, _, err := b.Open(Session{Cluster: "c", Node: node, Instance: node, Roots: roots}, now)
		require.NoError(t, err)
		return *s
	}
	x := open("x", Root{Holder: 1, Dataset: 1}, Root{Holder: 2, Dataset: 2})
	first := b.MembersOf(x)
	require.Greater(t, first, uint64(100), "a list of another run of the relay is never taken for this one")
	y := open("y", Root{Holder: 3, Dataset: 3})
	require.Equal(t, first, b.MembersOf(x))
	z := open("z", Root{Holder: 4, Dataset: 2}, Root{Holder: 5, Dataset: 3})
	second := b.MembersOf(x)
	require.Greater(t, second, first)
	require.Equal(t, []proto.HolderID{2, 4}, b.Live(2))
	b.End(z.ID)
	require.Greater(t, b.MembersOf(x), second)
	require.Equal(t, []proto.HolderID{2}, b.Live(2))
	second = b.MembersOf(y)
	b.Renumber()
	require.Greater(t, b.MembersOf(y), second)
	require.Equal(t, b.MembersOf(x), b.MembersOf(y))
	open("x", Root{Holder: 1, Dataset: 1}) // the same agent anew, with one root less
	require.Equal(t, []proto.HolderID{1}, b.Live(1))
	require.Empty(t, b.Live(2))
}

// Nodes of two clusters may have one name: each is an agent of its own, whatever becomes of the other.
func TestNodesOfTwoClustersMayHaveOneName(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	b := NewBook(time.Second, 1)
	open := func(cluster, instance string, at time.Time) []*Session {
		_, replaced, err := b.Open(Session{Cluster: cluster, Node: "n", Instance: instance}, at)
		require.NoError(t, err)
		return replaced
	}
	require.Empty(t, open("one", "i1", now))
	require.Empty(t, open("two", "i2", now))
	replaced := open("two", "i3", now.Add(time.Minute)) // both were silent
	require.Len(t, replaced, 1)
	require.Equal(t, "two", replaced[0].Cluster)
	require.Len(t, b.All(), 2)
}
