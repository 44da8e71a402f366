package ledger_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

func TestRepackMovesWhatIsStillNeeded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.holder("a")
	link := w.link("l1", true)
	var pieces = []string{"a", "b", "c", "d"}
	ep := w.grant()
	seg := w.segment(h, object("a", 0, ep, small("a")), object("b", 0, ep, small("b")), object("c", 0, ep, small("c")), object("d", 0, ep, small("d")))
	w.do(seg)
	vers := map[string]proto.VersionID{}
	for i, p := range pieces {
		vers[p] = seg.Results[i].Version
	}
	w.confirm(link, vers["a"], vers["b"], vers["c"])
	require.Empty(t, w.freeable(), "d keeps the segment")

	rs, err := ledger.Residents(w.led, seg.Seq)
	require.NoError(t, err)
	require.Len(t, rs, 1)
	require.Equal(t, "d", rs[0].Path)
	c := rs[0].Row.Content
	to := seg.Seq + 1000
	w.store[to] = map[uint32][]proto.Digest{0: w.store[seg.Seq][c.At]}
	gone := ledger.Move{From: seg.Seq, Version: vers["a"], Home: true, Was: 0, At: 100, Length: 100}
	e := &ledger.Repack{Seq: to, Dataset: seg.Dataset, Length: 200, Stored: 200, NowNs: w.tick(),
		Moves: []ledger.Move{{From: seg.Seq, Version: vers["d"], Home: true, Was: c.At, Length: c.Length}, gone}}
	w.do(e)
	require.EqualValues(t, 1, e.Moved, "what was confirmed meanwhile is passed over")
	v, ok := w.version(vers["d"])
	require.True(t, ok)
	require.Equal(t, to, v.Home)
	require.Equal(t, to, v.Content.Segment)
	require.Equal(t, []uint64{seg.Seq}, w.freeable())
	w.confirm(link, vers["d"])
	require.Equal(t, []uint64{seg.Seq, to}, w.freeable())
}
