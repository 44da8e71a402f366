package ledger_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

const (
	accepted  = proto.PieceAccepted
	stale     = proto.PieceStale
	duplicate = proto.PieceDuplicate
	mismatch  = proto.PieceMismatch
	equal     = proto.PieceEqual
	lags      = proto.PieceLags
	missing   = proto.PieceMissing
)

func TestSmallObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas, dr := w.link("nas", true), w.link("dr", false)
	ep := w.grant()
	rs := w.send(w.a, object("a", 0, ep, small("1")), bare("d", 0, ep, proto.Desc{Kind: proto.KindDir}), object("b", 0, ep, small("2")))
	require.Equal(t, []proto.PieceState{accepted, accepted, accepted}, states(rs))
	require.Equal(t, []proto.VersionID{1, 2, 3}, []proto.VersionID{rs[0].Version, rs[1].Version, rs[2].Version})
	for _, l := range []ledger.LinkID{nas, dr} {
		require.Equal(t, []proto.VersionID{1, 2, 3}, w.owed(l))
		require.EqualValues(t, 200, w.row(l).OwedBytes)
		require.EqualValues(t, 200, w.row(l).CachedBytes)
	}
	d, err := ledger.Dataset(w.led, w.ds)
	require.NoError(t, err)
	require.EqualValues(t, 3, d.Objects)
	require.EqualValues(t, 200, d.Bytes)
	seg, _, err := ledger.Segment(w.led, 1)
	require.NoError(t, err)
	require.EqualValues(t, 5, seg.Refs, "three descriptions and two contents")

	e := w.confirm(nas, 1, 2, 3)
	require.EqualValues(t, 3, e.Objects)
	require.EqualValues(t, 200, e.Bytes)
	require.Empty(t, w.freeable(), "the other link still needs it")
	w.confirm(dr, 1, 2, 3)
	require.Equal(t, []uint64{1}, w.freeable())
	w.free()
	m, err := ledger.ReadMeta(w.led)
	require.NoError(t, err)
	require.Zero(t, m.Segments)
	require.Zero(t, m.StoredBytes)
	require.EqualValues(t, 200, m.AckedBytes)
	n, err := ledger.Nodes(w.led)
	require.NoError(t, err)
	require.EqualValues(t, 200, n[0].Uploaded)
	e = w.confirm(nas, 1, 2, 3)
	require.Zero(t, e.Objects, "confirmed twice counts once")
}

func TestUnwantedContentIsNotKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", small("1")) // no link yet
	require.Equal(t, []uint64{1}, w.freeable())
	nas := w.link("nas", true)
	rs := w.send(w.a, remeta("a", 1, w.grant(), small("1"), 0o600))
	require.Equal(t, accepted, rs[0].State)
	q := w.debt(nas, 2)
	require.Equal(t, ledger.OwedReleased, q.State, "the content was never retained: it has to be asked for")
	require.False(t, q.MetaOnly, "the seeding has not reached it")
	require.Equal(t, []string{"a"}, w.asked())
	w.free()
	require.Equal(t, []proto.PieceState{accepted}, states(w.send(w.b, object("a", 2, w.grant(), small("1")))))
	require.Equal(t, ledger.OwedCached, w.debt(nas, 2).State)
	require.Empty(t, w.asked())
}

// A takeover: holder A sends some ranges, holder B the rest under a higher epoch, and seals after proving the prefix.
func TestTakeover(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	c, up := large("big", 5), w.newUpload()
	one := w.grant()
	require.Equal(t, accepted, w.send(w.a, run("f", up, 0, one, c, 0, 2))[0].State)
	two := w.grant()
	require.Equal(t, accepted, w.send(w.b, run("f", up, 0, two, c, 3, 5))[0].State)
	before := w.led.Hash()
	late := w.segment(w.a, run("f", up, 0, one, c, 2, 3), seal("f", up, 0, one, c), object("f", 0, one, small("x")), remeta("f", 0, one, c, 0o600))
	w.do(late)
	require.Equal(t, []proto.PieceState{stale, stale, stale, stale}, states(late.Results), "I7")
	u, ok, err := ledger.Upload(w.led, up)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, two, u.Epoch)
	require.Equal(t, w.b, u.Holder)
	w.free()
	require.NotEqual(t, before, w.led.Hash(), "its waste is counted")

	rs := w.send(w.b, seal("f", up, 0, two, c))
	require.Equal(t, missing, rs[0].State)
	have, err := ledger.Ranges(w.led, up)
	require.NoError(t, err)
	require.Equal(t, []proto.Range{{Offset: 0, Length: 2 * block}, {Offset: 3 * block, Length: 2*block - 10}}, have)
	rs = w.send(w.b, run("f", up, 0, two, c, 2, 3), seal("f", up, 0, two, c))
	require.Equal(t, []proto.PieceState{accepted, accepted}, states(rs))
	v, ok := w.version(1)
	require.True(t, ok)
	require.Equal(t, c.digest(), v.Desc.Digest)
	require.Zero(t, w.object("f").Upload)
	w.confirm(nas, 1)
	w.free()
	_, ok, err = ledger.Upload(w.led, up)
	require.NoError(t, err)
	require.False(t, ok, "its ranges went with the last link that needed them")
	require.Empty(t, w.store)
}

func TestUploadOfAnotherContentIsAbandoned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	up, one, two := w.newUpload(), w.grant(), w.grant()
	w.send(w.a, run("f", up, 0, one, large("old", 4), 0, 2))
	rs := w.send(w.b, run("f", up, 0, two, large("new", 4), 2, 4), seal("f", up, 0, two, large("new", 4)))
	require.Equal(t, []proto.PieceState{accepted, mismatch}, states(rs), "I8: never a mix")
	require.True(t, rs[1].Abandoned)
	_, ok, err := ledger.Object(w.led, w.ds, "f")
	require.NoError(t, err)
	require.False(t, ok, "nothing was ever sealed there")
	w.free()
	require.Empty(t, w.store)
	m, err := ledger.ReadMeta(w.led)
	require.NoError(t, err)
	require.EqualValues(t, 4*block-10, m.WastedBytes)
}

func TestRanges(t *testing.T) {
	t.Parallel()
	c := large("big", 8)
	for name, tc := range map[string]struct {
		piece func(w *world, up proto.UploadID, ep proto.Epoch) segment.Piece
		want  proto.PieceState
	}{
		"the same again": {func(_ *world, up proto.UploadID, ep proto.Epoch) segment.Piece { return run("f", up, 0, ep, c, 2, 4) }, duplicate},
		"a part of it":   {func(_ *world, up proto.UploadID, ep proto.Epoch) segment.Piece { return run("f", up, 0, ep, c, 3, 4) }, duplicate},
		"covered by two": {func(_ *world, up proto.UploadID, ep proto.Epoch) segment.Piece { return run("f", up, 0, ep, c, 3, 5) }, duplicate},
		"overlapping from before": {func(_ *world, up proto.UploadID, ep proto.Epoch) segment.Piece {
			return run("f", up, 0, ep, c, 1, 3)
		}, stale},
		"overlapping to behind": {func(_ *world, up proto.UploadID, ep proto.Epoch) segment.Piece {
			return run("f", up, 0, ep, c, 5, 7)
		}, stale},
		"touching": {func(_ *world, up proto.UploadID, ep proto.Epoch) segment.Piece { return run("f", up, 0, ep, c, 6, 8) }, accepted},
		"another size": {func(_ *world, up proto.UploadID, ep proto.Epoch) segment.Piece {
			return run("f", up, 0, ep, large("big", 9), 6, 8)
		}, stale},
		"another path": {func(_ *world, up proto.UploadID, ep proto.Epoch) segment.Piece {
			return run("g", up, 0, ep, c, 6, 8)
		}, stale},
		"a newer upload": {func(w *world, _ proto.UploadID, _ proto.Epoch) segment.Piece {
			return run("f", w.newUpload(), 0, w.grant(), c, 0, 2)
		}, accepted},
		"a newer upload of a past parent": {func(w *world, _ proto.UploadID, _ proto.Epoch) segment.Piece {
			return run("f", w.newUpload(), 9, w.grant(), c, 0, 2)
		}, stale},
		"an older upload": {func(w *world, up proto.UploadID, _ proto.Epoch) segment.Piece {
			return run("f", up+100, 0, proto.Epoch{Generation: 1}, c, 0, 2)
		}, stale},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.link("nas", true)
			up, ep := w.newUpload(), w.grant()
			w.send(w.a, run("f", up, 0, ep, c, 2, 4), run("f", up, 0, ep, c, 4, 6))
			require.Equal(t, tc.want, w.send(w.a, tc.piece(w, up, ep))[0].State)
		})
	}
}

func TestReplacedUploadIsWaste(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	c, old, up := large("big", 4), w.newUpload(), w.newUpload()
	w.send(w.a, run("f", old, 0, w.grant(), c, 0, 2))
	w.send(w.b, run("f", up, 0, w.grant(), c, 0, 1))
	_, ok, err := ledger.Upload(w.led, old)
	require.NoError(t, err)
	require.False(t, ok)
	m, err := ledger.ReadMeta(w.led)
	require.NoError(t, err)
	require.EqualValues(t, 2*block, m.WastedBytes)
	// a small object of the path ends the upload too
	w.send(w.b, object("f", 0, w.grant(), small("1")))
	_, ok, err = ledger.Upload(w.led, up)
	require.NoError(t, err)
	require.False(t, ok)
	require.Equal(t, stale, w.send(w.b, run("f", up, 0, w.grant(), c, 1, 2))[0].State, "it is not brought back")
}

func TestHoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	for name, tc := range map[string]struct {
		c    content
		sent [][2]int64
		want proto.PieceState
	}{
		"hole at the start":        {large("s", 4, 0, 1), [][2]int64{{2, 4}}, accepted},
		"hole at the end":          {large("e", 4, 2, 3), [][2]int64{{0, 2}}, accepted},
		"holes between":            {large("m", 5, 1, 3), [][2]int64{{0, 1}, {2, 3}, {4, 5}}, accepted},
		"a hole that was sent":     {large("h", 4, 1, 2), [][2]int64{{0, 4}}, accepted},
		"one hole":                 {large("o", 3, 0, 1, 2), nil, accepted},
		"data missing":             {large("d", 4, 1), [][2]int64{{0, 1}, {3, 4}}, missing},
		"data missing at the end":  {large("x", 4, 1), [][2]int64{{0, 1}, {2, 3}}, missing},
		"nothing sent but no hole": {large("n", 2), nil, missing},
	} {
		up, ep := w.newUpload(), w.grant()
		for _, s := range tc.sent {
			require.Equal(t, accepted, w.send(w.a, run(name, up, 0, ep, tc.c, s[0], s[1]))[0].State, name)
		}
		r := w.send(w.a, seal(name, up, 0, ep, tc.c))[0]
		require.Equal(t, tc.want, r.State, name)
		if tc.want == accepted {
			assert.EqualValues(t, tc.c.size, w.debt(nas, r.Version).Bytes, name)
		}
	}
}

func TestOneHoleReplacesAnUnfinishedUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	old, up := w.newUpload(), w.newUpload()
	w.send(w.a, run("f", old, 0, w.grant(), large("big", 4), 0, 2))
	c := large("hole", 2, 0, 1)
	require.Equal(t, accepted, w.send(w.b, seal("f", up, 0, w.grant(), c))[0].State)
	_, ok, err := ledger.Upload(w.led, old)
	require.NoError(t, err)
	require.False(t, ok)
}

func TestSealAfterThePathMovedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	v1 := w.put("f", small("1"))
	c, up, ep := large("big", 3), w.newUpload(), w.grant()
	w.send(w.a, run("f", up, v1, ep, c, 0, 3))
	rs := w.send(w.b, remeta("f", v1, w.grant(), small("1"), 0o600))
	require.Equal(t, accepted, rs[0].State)
	ep = w.grant()
	require.Equal(t, stale, w.send(w.a, seal("f", up, v1, ep, c))[0].State)
	require.Equal(t, accepted, w.send(w.a, seal("f", up, rs[0].Version, ep, c))[0].State, "what was received is used by the next grant")
}

func TestStaleEpochs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	early := w.grant()
	c, up := large("big", 3), w.newUpload()
	w.send(w.b, run("f", up, 0, w.grant(), c, 0, 1))
	w.do(&ledger.AbandonUpload{Upload: up})
	v := w.put("f", small("1"))
	require.Equal(t, stale, w.send(w.a, object("f", v, early, small("2")))[0].State, "the parent is right, the epoch is not")
	require.Equal(t, stale, w.send(w.a, run("f", up, v, early, c, 0, 1))[0].State)
	old := w.grant()
	w.do(&ledger.Start{Name: "relay-1"})
	require.Equal(t, stale, w.send(w.a, object("new", 0, old, small("3")))[0].State, "granted before the restart")
	w.epoch = proto.Epoch{Generation: 2}
	require.Equal(t, accepted, w.send(w.a, object("new", 0, w.grant(), small("3")))[0].State)
}

func TestOlderContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	v1 := w.put("f", small("1"))
	w.do(&ledger.ReportHoldings{Holder: w.b, UpNs: w.tick(), Have: []proto.HaveEntry{{Version: v1}}})
	v2 := w.put("f", small("2")) // by a
	rs := w.send(w.b, object("f", v2, w.grant(), small("1")))
	require.Equal(t, lags, rs[0].State, "a live holder has what is current")
	require.Equal(t, v1, rs[0].Version)
	o := w.object("f")
	require.Equal(t, v2, o.Current.Version, "I18")
	require.Equal(t, ledger.HoldingLags, w.holding("f", w.b).State)

	w.alive = []proto.HolderID{w.b}
	rs = w.send(w.b, object("f", v2, w.grant(), small("1")))
	require.Equal(t, accepted, rs[0].State, "nobody alive has the newer one: it was put back")
	require.Greater(t, rs[0].Version, v2)
	require.Equal(t, ledger.HoldingHas, w.holding("f", w.b).State)
}

func TestDeletes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	require.Equal(t, stale, w.send(0, remove("f", 0))[0].State, "never seen")
	v1 := w.put("f", small("1"))
	require.Equal(t, stale, w.send(0, remove("f", v1+1))[0].State, "not the current version")
	w.do(&ledger.ReportHoldings{Holder: w.a, UpNs: w.tick(), Gone: []proto.GoneEntry{{Path: "f", Version: v1}}})
	rs := w.send(0, remove("f", v1))
	require.Equal(t, accepted, rs[0].State)
	v2 := rs[0].Version
	require.Equal(t, []proto.VersionID{v2}, w.owed(nas))
	require.EqualValues(t, 1, w.row(nas).OwedDeletes)
	require.Equal(t, stale, w.send(0, remove("f", v2))[0].State, "gone already")
	require.Equal(t, lags, w.send(w.b, object("f", v2, w.grant(), small("1")))[0].State, "a node back after a month resurrects nothing")
	w.do(&ledger.Release{Link: nas, Versions: []proto.VersionID{v2}})
	require.Equal(t, ledger.OwedCached, w.debt(nas, v2).State, "nobody could be asked for a tombstone")
	w.do(&ledger.DropTombstones{Dataset: w.ds, Paths: []string{"f"}})
	require.Equal(t, v2, w.object("f").Current.Version, "a link still owes it")
	w.confirm(nas, v2)
	w.do(&ledger.UnmarkGone{Dataset: w.ds, Paths: []string{"f", "f", "g"}})
	w.do(&ledger.DropTombstones{Dataset: w.ds, Paths: []string{"f", "g"}})
	require.Zero(t, w.object("f").Current.Version)
	require.Equal(t, stale, w.send(w.b, object("f", v1, w.grant(), small("1")))[0].State, "granted before it was deleted")
	require.Equal(t, stale, w.send(w.b, object("f", 0, w.grant(), small("1")))[0].State, "granted before it was there")
	require.Greater(t, w.put("f", small("1")), v2, "versions never go back")
	d, err := ledger.Dataset(w.led, w.ds)
	require.NoError(t, err)
	require.Zero(t, d.Gone)
}

func TestMetadataOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas, dr := w.link("nas", true), w.link("dr", false)
	v1 := w.put("f", small("1"))
	w.confirm(nas, v1)
	rs := w.send(w.a, remeta("f", v1, w.grant(), small("1"), 0o600))
	v2 := rs[0].Version
	require.Equal(t, accepted, rs[0].State)
	require.True(t, w.debt(nas, v2).MetaOnly, "the target has the content")
	require.Zero(t, w.debt(nas, v2).Bytes)
	require.False(t, w.debt(dr, v2).MetaOnly, "nothing is confirmed there")
	require.Equal(t, []proto.VersionID{v1, v2}, w.owed(dr), "it does not coalesce")
	w.confirm(dr, v1)
	w.do(&ledger.Release{Link: dr, Versions: []proto.VersionID{v2}})
	require.Equal(t, []string{"f"}, w.asked())
	w.do(&ledger.Release{Link: nas, Versions: []proto.VersionID{v2}})
	require.Equal(t, ledger.OwedCached, w.debt(nas, v2).State, "it needs no content")

	// The content comes back for the one link while the other needs the description only.
	require.Equal(t, accepted, w.send(w.b, object("f", v2, w.grant(), small("1")))[0].State)
	require.Equal(t, ledger.OwedCached, w.debt(dr, v2).State)
	require.Empty(t, w.asked())
	w.confirm(dr, v2)
	v, _ := w.version(v2)
	require.False(t, v.Cached)
	rs = w.send(w.a, remeta("f", v2, w.grant(), small("1"), 0o600))
	require.Equal(t, equal, rs[0].State)
	w.confirm(nas, v2)
	w.free()
	require.Empty(t, w.store)
}

func TestMetadataOfLinksAndDirectories(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	hard := *small("1").desc()
	hard.Kind, hard.LinkTo = proto.KindHardlink, "f"
	v := w.put("f", small("1"))
	ep := w.grant()
	rs := w.send(w.a, bare("h", 0, ep, hard), bare("d", 0, ep, proto.Desc{Kind: proto.KindDir}), bare("s", 0, ep, proto.Desc{Kind: proto.KindSymlink, LinkTo: "f"}))
	w.confirm(nas, v)
	require.Zero(t, w.debt(nas, rs[0].Version).Bytes, "a hard link has no bytes of its own")
	e := &ledger.Release{Link: nas, Versions: w.owed(nas)}
	w.do(e)
	require.Zero(t, e.Bytes)
	require.Empty(t, w.asked(), "what has no bytes stays ready")
	require.Equal(t, []uint64{1, 2}, w.freeable(), "but it keeps no segment from being freed")
	w.free()
	meta := segment.Piece{Kind: segment.PieceMeta, Path: "h", Parent: rs[0].Version, Epoch: w.grant(), Desc: remeta("h", 0, ep, small("1"), 0o600).Desc}
	r := w.send(w.b, meta)[0]
	require.Equal(t, accepted, r.State)
	got, _ := w.version(r.Version)
	require.Equal(t, proto.KindHardlink, got.Desc.Kind, "it stays what it is")
	require.Equal(t, "f", got.Desc.LinkTo)
	require.EqualValues(t, 0o600, got.Desc.Meta.Mode)
}

func TestEqualContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	v := w.put("f", small("1"))
	rs := w.send(w.b, object("f", v, w.grant(), small("1")))
	require.Equal(t, equal, rs[0].State)
	require.Equal(t, v, rs[0].Version)
	require.Zero(t, rs[0].Bytes, "it is waste")
	require.Equal(t, ledger.HoldingHas, w.holding("f", w.b).State)
	w.do(&ledger.Release{Link: nas, Versions: []proto.VersionID{v}})
	hard := *small("1").desc()
	hard.Kind, hard.LinkTo = proto.KindHardlink, "g"
	require.Equal(t, equal, w.send(w.b, bare("f", v, w.grant(), hard))[0].State, "the same content, but it brings no bytes")
	require.Equal(t, ledger.OwedReleased, w.debt(nas, v).State)
	rs = w.send(w.b, object("f", v, w.grant(), small("1")))
	require.Equal(t, accepted, rs[0].State)
	require.EqualValues(t, 100, rs[0].Bytes)
	require.Equal(t, ledger.OwedCached, w.debt(nas, v).State)
}

// A hard link whose path becomes a file of its own has the same content and must come with its bytes all the same: the
// leader that stood for them may be about to change.
func TestHardLinkThatBecomesAFileBringsItsBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.link("l1", true)
	c := small("content")
	leader := w.put("leader", c)
	d := proto.Desc{Kind: proto.KindHardlink, LinkTo: "leader", Size: c.size, Digest: c.digest()}
	rs := w.send(w.a, bare("other", 0, w.grant(), d))
	other := rs[0].Version
	loose, err := ledger.Loose(w.led, w.ds, w.object("other").Current)
	require.NoError(t, err)
	require.False(t, loose)
	w.confirm(link, leader, other)

	rs = w.send(w.a, object("leader", leader, w.grant(), small("changed")))
	require.Equal(t, proto.PieceAccepted, rs[0].State)
	loose, err = ledger.Loose(w.led, w.ds, w.object("other").Current)
	require.NoError(t, err)
	require.True(t, loose)
	rs = w.send(w.a, object("other", other, w.grant(), c))
	require.Equal(t, proto.PieceAccepted, rs[0].State)
	require.Equal(t, proto.KindFile, w.object("other").Current.Kind)
	require.Equal(t, c.size, w.debt(link, rs[0].Version).Bytes)
}
