package relay

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// Tombstones go however few objects a round looks at, and the look goes on where it was: of datasets with many objects, none is looked
// at whole at once.
func TestTombstonesGoALittleAtATime(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	var owed []proto.VersionID
	for i := range 12 {
		owed = append(owed, a.put(fmt.Sprintf("x%02d", i), "one", 0))
	}
	for i := 0; i < 12; i += 2 {
		a.gone(fmt.Sprintf("x%02d", i), owed[i])
	}
	dead := func() (n int) {
		for i := range 12 {
			o := g.object(fmt.Sprintf("x%02d", i))
			if o.Current.Kind == proto.KindTombstone {
				n++
				owed = append(owed, o.Current.Version)
			}
		}
		return n
	}
	g.eventually("deleted", func() bool { return dead() == 6 })
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	require.NoError(t, g.relay.ledger.Update(&ledger.Confirm{Link: l.ID, Versions: owed, NowNs: 1}))
	require.NoError(t, g.relay.ledger.Update(&ledger.UpdateNode{Cluster: "primary", Node: a.node, SeenNs: g.clock.now().UnixNano(),
		Cursors: g.followed(a.holder, owed[len(owed)-1])}))

	require.False(t, g.relay.dropTombstones(5))
	require.Equal(t, 3, dead(), "of the first five")
	require.False(t, g.relay.dropTombstones(5))
	require.Equal(t, 1, dead())
	require.True(t, g.relay.dropTombstones(5))
	require.Zero(t, dead())
	require.False(t, g.relay.dropTombstones(5), "and from the beginning again, of what is left")
	require.True(t, g.relay.dropTombstones(5))
	for i := 1; i < 12; i += 2 {
		require.Equal(t, proto.KindFile, g.object(fmt.Sprintf("x%02d", i)).Current.Kind)
	}
}

// A node that is new, cordoned, or forgotten is known as such at once by all that goes by the roster.
func TestTheRosterFollowsTheNodes(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	alive := func() []proto.HolderID { return g.relay.alive(1) }
	require.Equal(t, []proto.HolderID{a.holder}, alive())
	require.Equal(t, "a", g.relay.holderName(a.holder))
	b := g.join("b")
	require.Equal(t, []proto.HolderID{a.holder, b.holder}, alive())
	require.NoError(t, g.relay.Node("a", "cordon"))
	require.Equal(t, []proto.HolderID{b.holder}, alive())
	require.NoError(t, g.relay.Node("a", "uncordon"))
	require.Equal(t, []proto.HolderID{a.holder, b.holder}, alive())
	g.relay.EndSession(b.s, "silent")
	require.Equal(t, []proto.HolderID{a.holder}, alive())
	known, err := g.relay.knownHolders(1)
	require.NoError(t, err)
	require.Equal(t, []proto.HolderID{a.holder, b.holder}, known)
	require.NoError(t, g.relay.Node("b", "forget"))
	known, err = g.relay.knownHolders(1)
	require.NoError(t, err)
	require.Equal(t, []proto.HolderID{a.holder}, known)
	require.Equal(t, fmt.Sprintf("holder %d", b.holder), g.relay.holderName(b.holder))
}
