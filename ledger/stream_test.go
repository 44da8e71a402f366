package ledger_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// streamed is a world in which an object streams to two links, with its ranges of one block each acknowledged up to sent.
type streamed struct {
	*world
	fast, slow ledger.LinkID
	up         proto.UploadID
	c          content
	ep         proto.Epoch
	again      bool // it is sent because it was asked for
}

func newStreamed(t *testing.T, sent int64) *streamed {
	w := &streamed{world: newWorld(t), c: large("x", 6)}
	w.fast, w.slow = w.link("fast", true), w.link("slow", true)
	w.up, w.ep = w.newUpload(), w.grant()
	w.sendTo(0, sent)
	return w
}

// newAsked is a world in which an object has arrived at the fast link, and is asked for again for the slow one.
func newAsked(t *testing.T) *streamed {
	t.Helper()
	w := newStreamed(t, 0)
	old := w.put("x", large("old", 6))
	w.confirm(w.fast, old)
	w.do(&ledger.Release{Link: w.slow, Versions: []proto.VersionID{old}})
	require.Equal(t, []string{"x"}, w.asked())
	return w
}

func (w *streamed) sendTo(from, to int64) {
	w.t.Helper()
	for i := from; i < to; i++ {
		e := w.segment(w.a, run("x", w.up, w.object("x").Current.Version, w.ep, w.c, i, i+1))
		e.Stream, e.Again = true, w.again
		w.do(e)
		require.Equal(w.t, proto.PieceAccepted, e.Results[0].State)
	}
}

func (w *streamed) staged(l ledger.LinkID, blocks int64) {
	w.t.Helper()
	w.do(&ledger.StageUpload{Link: l, Upload: w.up, Durable: blocks * block})
}

func (w *streamed) freed(without ...ledger.LinkID) int64 {
	w.t.Helper()
	e := &ledger.FreeStaged{Upload: w.up, Without: without}
	w.do(e)
	require.False(w.t, e.Lost)
	w.free()
	return e.Bytes
}

func (w *streamed) seal() proto.VersionID {
	w.t.Helper()
	r := w.send(w.a, seal("x", w.up, w.object("x").Current.Version, w.ep, w.c))
	require.Equal(w.t, proto.PieceAccepted, r[0].State)
	return r[0].Version
}

func TestStreamIsLetGoOnceAllHaveIt(t *testing.T) {
	t.Parallel()
	w := newStreamed(t, 4)
	w.staged(w.fast, 3)
	require.Zero(t, w.freed(), "the slow link has nothing yet (I2)")
	w.staged(w.slow, 2)
	require.EqualValues(t, 2*block, w.freed())
	require.Len(t, w.store, 2, "the segments of two blocks are left")
	have, err := ledger.Ranges(w.led, w.up)
	require.NoError(t, err)
	require.Equal(t, []proto.Range{{Length: 4 * block}}, have, "what was let go is acknowledged still (I9)")
	w.sendTo(4, 6)
	w.staged(w.slow, 5)
	w.staged(w.fast, 5)
	require.EqualValues(t, 3*block, w.freed())
	ver := w.seal()
	for _, l := range []ledger.LinkID{w.fast, w.slow} {
		q := w.debt(l, ver)
		require.Equal(t, ledger.OwedCached, q.State)
		require.Equal(t, w.c.size-5*block, w.row(l).CachedBytes)
		w.confirm(l, ver)
	}
	w.free()
	require.Empty(t, w.store)
}

func TestStreamGoesOnWithoutAStalledLink(t *testing.T) {
	t.Parallel()
	w := newStreamed(t, 6)
	w.staged(w.slow, 1)
	w.staged(w.fast, 5)
	require.EqualValues(t, 5*block, w.freed(w.slow), "it holds up no other link (I15)")
	w.staged(w.slow, 2)
	require.Zero(t, w.freed())
	ver := w.seal()
	require.Equal(t, ledger.OwedCached, w.debt(w.fast, ver).State)
	require.Equal(t, ledger.OwedReleased, w.debt(w.slow, ver).State)
	w.do(&ledger.Reowe{Link: w.slow, Versions: []proto.VersionID{ver}})
	require.Equal(t, ledger.OwedReleased, w.debt(w.slow, ver).State, "what is left in the cache is of no use to it")
	require.Empty(t, w.asked(), "not while it would take the place of what the fast link finishes")
	w.confirm(w.fast, ver)
	require.Equal(t, []string{"x"}, w.asked())

	w.up, w.ep, w.again = w.newUpload(), w.grant(), true // it comes again, for the slow link alone
	w.sendTo(0, 6)
	u, _, err := ledger.Upload(w.led, w.up)
	require.NoError(t, err)
	links, err := ledger.StreamLinks(w.led, w.up, u)
	require.NoError(t, err)
	require.Equal(t, []ledger.StreamLink{{Link: w.slow}}, links)
	w.staged(w.slow, 6)
	require.EqualValues(t, w.c.size-5*block+5*block, w.freed()+0, "all of it")
	require.Equal(t, ver, w.seal())
	require.Equal(t, ledger.OwedCached, w.debt(w.slow, ver).State)
	w.confirm(w.slow, ver)
	w.free()
	require.Empty(t, w.store)
}

func TestStreamThatNoTargetHasIsLost(t *testing.T) {
	t.Parallel()
	w := newStreamed(t, 4)
	w.staged(w.fast, 3)
	w.staged(w.slow, 3)
	w.freed()
	w.staged(w.fast, 0)
	require.Zero(t, w.freed())
	w.staged(w.slow, 1)
	e := &ledger.FreeStaged{Upload: w.up}
	w.do(e)
	require.True(t, e.Lost)
	w.do(&ledger.AbandonUpload{Upload: w.up})
	w.free()
	require.Empty(t, w.store)
	require.EqualValues(t, 0, w.object("x").Upload)
}

func TestStreamWhoseSealDoesNotProve(t *testing.T) {
	t.Parallel()
	w := newStreamed(t, 6)
	w.staged(w.fast, 4)
	w.staged(w.slow, 4)
	w.freed()
	r := w.send(w.a, seal("x", w.up, 0, w.ep, large("other", 6)))
	require.Equal(t, proto.PieceMismatch, r[0].State, "what was let go proves by its digests")
	w.free()
	require.Empty(t, w.store)
}

func TestStreamedVersionIsReleasedAndReplaced(t *testing.T) {
	t.Parallel()
	w := newStreamed(t, 6)
	w.staged(w.fast, 4)
	w.staged(w.slow, 4)
	w.freed()
	ver := w.seal()
	w.do(&ledger.Release{Link: w.fast, Versions: []proto.VersionID{ver}}) // its target lost the stage
	require.Equal(t, ledger.OwedReleased, w.debt(w.fast, ver).State)
	next := w.send(w.a, remeta("x", ver, w.grant(), w.c, 0o600))[0].Version
	require.Equal(t, ledger.OwedCached, w.debt(w.slow, next).State, "new metadata brings the staged content with it")
	w.put("x", small("new"))
	w.free()
	require.Len(t, w.store, 1, "the newer version alone is kept")
}

// A target may have a part of a range only; the cache keeps all of that range (I2).
func TestRangeThatIsStagedInPartIsKept(t *testing.T) {
	t.Parallel()
	w := newStreamed(t, 0)
	e := w.segment(w.a, run("x", w.up, 0, w.ep, w.c, 0, 2), run("x", w.up, 0, w.ep, w.c, 2, 4))
	e.Stream = true
	w.do(e)
	w.staged(w.fast, 3)
	w.staged(w.slow, 3)
	require.EqualValues(t, 2*block, w.freed())
	parts := map[int64]bool{} // by offset: it is in the cache
	require.NoError(t, ledger.UploadParts(w.led, w.up, 0, func(p ledger.Part) (bool, error) {
		parts[p.Offset] = p.Segment != 0
		return true, nil
	}))
	require.Equal(t, map[int64]bool{0: false, 2 * block: true}, parts)
	w.staged(w.fast, 4)
	w.staged(w.slow, 4)
	require.EqualValues(t, 2*block, w.freed())
}

// A new content of an object whose current one is asked for again is for all links, not for those alone that lack the current one.
func TestStreamOfANewContentIsForAllLinks(t *testing.T) {
	t.Parallel()
	w := newAsked(t)
	w.up, w.ep = w.newUpload(), w.grant()
	w.sendTo(0, 6)
	w.staged(w.slow, 6)
	require.Zero(t, w.freed(), "the fast link has nothing of it yet")
	w.staged(w.fast, 6)
	require.EqualValues(t, w.c.size, w.freed())
	ver := w.seal()
	require.Equal(t, ledger.OwedCached, w.debt(w.fast, ver).State)
	require.Equal(t, ledger.OwedCached, w.debt(w.slow, ver).State)
}

// An upload of what is asked for can be carried on by a holder whose object has changed since: then it is for all links.
func TestAskedForStreamBecomesANewContent(t *testing.T) {
	t.Parallel()
	w := newAsked(t)
	w.up, w.ep, w.again = w.newUpload(), w.grant(), true
	w.sendTo(0, 2)
	links := func() []ledger.StreamLink {
		u, _, err := ledger.Upload(w.led, w.up)
		require.NoError(t, err)
		out, err := ledger.StreamLinks(w.led, w.up, u)
		require.NoError(t, err)
		return out
	}
	require.Len(t, links(), 1)
	w.ep, w.again = w.grant(), false
	w.sendTo(2, 3)
	require.Len(t, links(), 2)
}
