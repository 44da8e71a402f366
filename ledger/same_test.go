package ledger_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// sendLarge sends a content of which the blocks in sames are named, and returns what became of the seal.
func (w *world) sendLarge(path string, c content, sames ...int64) (proto.VersionID, []ledger.Result) {
	w.t.Helper()
	up, ep, parent := w.newUpload(), w.grant(), w.follows(path)
	named := map[int64]bool{}
	for _, i := range sames {
		named[i] = true
	}
	var pieces []segment.Piece
	for i := range proto.Blocks(c.size) {
		switch {
		case c.holes[i]:
		case named[i]:
			pieces = append(pieces, same(path, up, parent, ep, c, i, i+1))
		default:
			pieces = append(pieces, run(path, up, parent, ep, c, i, i+1))
		}
	}
	res := w.send(w.a, append(pieces, seal(path, up, parent, ep, c))...)
	return res[len(res)-1].Version, res
}

// Of a content that the target has, what did not change is nowhere in the cache; and no byte of it counts as received.
func TestUnchangedBlocksOfWhatIsFlushed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	c := large("c", 6)
	one, _ := w.sendLarge("x", c)
	w.confirm(nas, one)
	w.free()
	require.Empty(t, w.store)

	next := c.changed(2, "+")
	two, res := w.sendLarge("x", next, 0, 1, 3, 4, 5)
	require.Equal(t, proto.PieceAccepted, res[len(res)-1].State, "%v", states(res))
	require.Zero(t, res[0].Bytes)
	require.EqualValues(t, block, res[0].Same)
	v, _ := w.version(two)
	require.EqualValues(t, next.size-block, v.Content.Lacks)
	q := w.debt(nas, two)
	assert.Equal(t, ledger.OwedCached, q.State)
	assert.EqualValues(t, block, w.row(nas).CachedBytes, "the rest takes no room")
	m, err := ledger.ReadMeta(w.led)
	require.NoError(t, err)
	assert.EqualValues(t, c.size+block, m.AckedBytes)

	w.confirm(nas, two)
	w.free()
	require.Empty(t, w.store)
}

// What is still in the cache is not kept twice: the new version refers to the same segments, for any link.
func TestUnchangedBlocksOfWhatIsCached(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas, dr := w.link("nas", true), w.link("dr", true)
	c := large("c", 6)
	one, _ := w.sendLarge("x", c)
	w.confirm(nas, one) // dr owes it
	two, res := w.sendLarge("x", c.changed(2, "+"), 0, 1, 3, 4, 5)
	require.Equal(t, proto.PieceAccepted, res[len(res)-1].State, "%v", states(res))
	v, _ := w.version(two)
	require.Zero(t, v.Content.Lacks)
	require.NoError(t, ledger.EachPart(w.led, v, func(p ledger.Part) (bool, error) {
		assert.NotZero(t, p.Segment)
		return true, nil
	}))
	late := w.link("late", true)
	w.do(&ledger.Seed{Link: late, Limit: 10})
	assert.Equal(t, ledger.OwedCached, w.debt(late, two).State, "it is whole")
	for _, l := range []ledger.LinkID{nas, dr, late} {
		w.confirm(l, two)
	}
	w.free()
	require.Empty(t, w.store)
}

// Unless every link can build on the version before, all is to be sent.
func TestUnchangedBlocksNeedEveryLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas, dr := w.link("nas", true), w.link("dr", true)
	c := large("c", 4)
	one, _ := w.sendLarge("x", c)
	w.confirm(nas, one)
	w.do(&ledger.Release{Link: dr, Versions: []proto.VersionID{one}}) // the cache let go of it for room
	_, res := w.sendLarge("x", c.changed(2, "+"), 0, 1, 3)
	require.Equal(t, []proto.PieceState{proto.PieceMissing, proto.PieceMissing, proto.PieceAccepted, proto.PieceMissing, proto.PieceMissing}, states(res))
}

// Blocks that the version before does not have there are refused, and so are runs that name only a part of what was sent as one.
func TestWhatIsNotUnchangedIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	c := large("c", 4)
	up, ep := w.newUpload(), w.grant()
	w.send(w.a, run("x", up, 0, ep, c, 0, 2), run("x", up, 0, ep, c, 2, 4), seal("x", up, 0, ep, c))
	parent := w.object("x").Current.Version
	up, ep = w.newUpload(), w.grant()
	next := c.changed(2, "+")
	res := w.send(w.a, same("x", up, parent, ep, next, 2, 3), same("x", up, parent, ep, next, 1, 2), same("x", up, parent-1, ep, next, 0, 2), same("x", up, parent, ep, next, 0, 2), same("x", up, parent, ep, next, 0, 2))
	require.Equal(t, []proto.PieceState{proto.PieceMissing, proto.PieceMissing, proto.PieceStale, proto.PieceAccepted, proto.PieceDuplicate}, states(res))
	rs, err := ledger.Ranges(w.led, up)
	require.NoError(t, err)
	require.Equal(t, []proto.Range{{Offset: 0, Length: 2 * block}}, rs, "whoever carries it on need not send that")
	w.confirm(nas, parent)
	_, res = w.sendLarge("y", c, 0)
	require.Equal(t, proto.PieceMissing, res[0].State, "nothing was there")
}

// A link that comes later lacks what the others have: the whole is asked for, and then any link can do with it.
func TestLinkThatCannotBuildGetsTheWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	c := large("c", 4)
	one, _ := w.sendLarge("x", c)
	w.confirm(nas, one)
	next := c.changed(2, "+")
	two, _ := w.sendLarge("x", next, 0, 1, 3)
	late := w.link("late", true)
	w.do(&ledger.Seed{Link: late, Limit: 10})
	require.Equal(t, ledger.OwedReleased, w.debt(late, two).State)
	require.Equal(t, []string{"x"}, w.asked(), "it does not wait for the other link")
	ver, res := w.sendLarge("x", next)
	require.Equal(t, two, ver)
	require.Equal(t, proto.PieceAccepted, res[len(res)-1].State)
	v, _ := w.version(two)
	require.Zero(t, v.Content.Lacks)
	for _, l := range []ledger.LinkID{nas, late} {
		q := w.debt(l, two)
		assert.Equal(t, ledger.OwedCached, q.State)
		assert.Zero(t, q.Staged)
		w.confirm(l, two)
	}
	w.free()
	require.Empty(t, w.store)
}

// A target that turns out to lack the version before has the whole asked for.
func TestTargetThatLacksTheVersionBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	c := large("c", 4)
	one, _ := w.sendLarge("x", c)
	w.confirm(nas, one)
	two, _ := w.sendLarge("x", c.changed(2, "+"), 0, 1, 3)
	w.do(&ledger.Release{Link: nas, Versions: []proto.VersionID{two}})
	require.Equal(t, []string{"x"}, w.asked())
	w.free()
	require.Empty(t, w.store)
}

// Versions built on versions that are not flushed yet go on from what the target has.
func TestChangesOnTopOfChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	c := large("c", 6)
	one, _ := w.sendLarge("x", c)
	w.confirm(nas, one)
	for i := range int64(4) {
		c = c.changed(i, "+")
		var rest []int64
		for k := range int64(6) {
			if k != i {
				rest = append(rest, k)
			}
		}
		ver, res := w.sendLarge("x", c, rest...)
		require.Equal(t, proto.PieceAccepted, res[len(res)-1].State, "%v", states(res))
		v, _ := w.version(ver)
		require.EqualValues(t, c.size-(i+1)*block, v.Content.Lacks)
		require.Equal(t, ledger.OwedCached, w.debt(nas, ver).State)
	}
	cur := w.object("x").Current.Version
	w.send(w.a, remeta("x", cur, w.grant(), c, 0o600))
	ver := w.object("x").Current.Version
	q := w.debt(nas, ver)
	require.Equal(t, ledger.OwedCached, q.State, "new metadata bring the content along")
	require.False(t, q.MetaOnly)
	w.confirm(nas, ver)
	w.free()
	require.Empty(t, w.store)
}

// A segment that is lost takes with it what refers to it, of whatever version.
func TestLostSegmentOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	c := large("c", 4)
	w.sendLarge("x", c)
	first := w.seq
	w.sendLarge("x", c.changed(2, "+"), 0, 1, 3)
	require.Equal(t, []string{"x"}, w.lose(first))
	require.Equal(t, []string{"x"}, w.asked())
}

// What a link asks for is not filled by an upload that lacks bytes as well.
func TestLackingRefillIsNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	c := large("c", 4)
	one, _ := w.sendLarge("x", c)
	w.confirm(nas, one)
	next := c.changed(2, "+")
	two, _ := w.sendLarge("x", next, 0, 1, 3)
	late := w.link("late", true)
	w.do(&ledger.Seed{Link: late, Limit: 10})
	// A holder carries on an upload of the same content that was begun before, and names blocks again.
	ver, res := w.sendLarge("x", next, 0, 1, 3)
	require.Equal(t, two, ver)
	require.Equal(t, proto.PieceEqual, res[len(res)-1].State, "%v", states(res))
	require.Equal(t, ledger.OwedReleased, w.debt(late, two).State)
	q := w.debt(nas, two)
	require.Equal(t, ledger.OwedCached, q.State)
	v, _ := w.version(two)
	require.Equal(t, v.Content.Lacks, q.Staged)
	require.Equal(t, []proto.Digest{c.digest()}, v.Bases)
	require.Equal(t, []string{"x"}, w.asked())
}
