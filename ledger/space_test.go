package ledger_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

func TestLoseSmallObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas, dr := w.link("nas", true), w.link("dr", false)
	ep := w.grant()
	w.send(w.a, object("a", 0, ep, small("1")), bare("d", 0, ep, proto.Desc{Kind: proto.KindDir}), object("b", 0, ep, small("2")))
	w.confirm(nas, 1)
	v4 := w.put("b", small("3")) // supersedes version 3, which dr owes still
	require.Equal(t, []proto.VersionID{1, 2, 3, v4}, w.owed(dr))
	require.Equal(t, []string{"a", "b"}, w.lose(1))
	require.Equal(t, []string{"a"}, w.asked(), "only for the link that has not confirmed it")
	require.Equal(t, []proto.VersionID{1, 2, v4}, w.owed(dr), "the older b is in nobody's hands: the newer one takes its place")
	require.Equal(t, []proto.VersionID{2, v4}, w.owed(nas))
	require.Equal(t, ledger.OwedCached, w.debt(nas, 2).State, "a directory is described by the ledger")
	require.Equal(t, []uint64{1}, w.freeable())
	w.free()
	require.Empty(t, w.lose(1), "unknown by now")
	require.Empty(t, w.freeable())
	require.Equal(t, accepted, w.send(w.b, object("a", 1, w.grant(), small("1")))[0].State)
	require.Empty(t, w.asked())
	w.confirm(dr, 1, 2, v4)
	w.confirm(nas, 2, v4)
	w.free()
	require.Empty(t, w.store)
}

func TestLoseSealedUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas, dr := w.link("nas", true), w.link("dr", true)
	c, up, ep := large("big", 6), w.newUpload(), w.grant()
	w.send(w.a, run("f", up, 0, ep, c, 0, 1), run("f", up, 0, ep, c, 1, 2)) // 1
	w.send(w.a, run("f", up, 0, ep, c, 2, 6))                               // 2
	v1 := w.send(w.a, seal("f", up, 0, ep, c))[0].Version                   // 3
	w.confirm(nas, v1)
	v2 := w.send(w.a, remeta("f", v1, w.grant(), c, 0o600))[0].Version // 4
	require.True(t, w.debt(nas, v2).MetaOnly)
	require.False(t, w.debt(dr, v2).MetaOnly)
	w.free()
	require.Len(t, w.store, 3, "the seal of the first version is not needed, its ranges are")

	require.Empty(t, w.lose(4), "a description: the ledger has it")
	require.Equal(t, ledger.OwedCached, w.debt(dr, v2).State)
	require.Equal(t, []string{"f"}, w.lose(1))
	require.Equal(t, []string{"f"}, w.asked())
	require.Equal(t, ledger.OwedCached, w.debt(nas, v2).State, "metadata alone needs no content")
	w.free()
	require.Empty(t, w.store, "what is left of it is of no use")

	up, ep = w.newUpload(), w.grant()
	rs := w.send(w.b, run("f", up, v2, ep, c, 0, 4), run("f", up, v2, ep, c, 4, 6), seal("f", up, v2, ep, c))
	require.Equal(t, accepted, rs[2].State)
	require.Equal(t, v2, rs[2].Version, "the same version, in the cache again")
	require.Equal(t, ledger.OwedCached, w.debt(dr, v2).State)
	require.Empty(t, w.asked())
}

func TestLoseReceivingUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	c, up, ep := large("big", 6), w.newUpload(), w.grant()
	w.send(w.a, run("f", up, 0, ep, c, 0, 2), run("g", up+1, 0, ep, c, 0, 2))
	w.send(w.a, run("f", up, 0, ep, c, 2, 6))
	require.Equal(t, []string{"f", "g"}, w.lose(1))
	have, err := ledger.Ranges(w.led, up)
	require.NoError(t, err)
	require.Equal(t, []proto.Range{{Offset: 2 * block, Length: 4*block - 10}}, have)
	require.Equal(t, missing, w.send(w.a, seal("f", up, 0, ep, c))[0].State)
	ep = w.grant()
	rs := w.send(w.b, run("f", up, 0, ep, c, 0, 2), seal("f", up, 0, ep, c))
	require.Equal(t, []proto.PieceState{accepted, accepted}, states(rs))
}

func TestSegmentsAreFreedWithCare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	w.put("f", small("1"))
	before := w.led.Hash()
	require.Error(t, w.led.Update(&ledger.FreeSegments{Seqs: []uint64{1}}), "it is needed (I2)")
	require.Error(t, w.led.Update(&ledger.StoreSegment{Seq: 1, Dataset: w.ds}), "its references would be forgotten")
	require.Error(t, w.led.Update(&ledger.StoreSegment{Seq: 9, Dataset: 99}), "unknown dataset")
	require.Equal(t, before, w.led.Hash(), "what fails changes nothing")
	w.do(&ledger.MoveSegment{Seq: 1, Placement: []byte("p2"), Stored: 777, Degraded: true}, &ledger.MoveSegment{Seq: 55, Stored: 5}, &ledger.FreeSegments{Seqs: []uint64{55}})
	s, _, err := ledger.Segment(w.led, 1)
	require.NoError(t, err)
	require.True(t, s.Degraded)
	require.EqualValues(t, 777, s.Stored)
	require.EqualValues(t, 2, s.Refs)
}

func TestEventRing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 10 {
		e := &ledger.AddEvent{Event: proto.Event{What: fmt.Sprint(i)}, Keep: 4}
		w.do(e)
		require.EqualValues(t, i+1, e.Seq)
	}
	got, err := ledger.Events(w.led, 0, 100)
	require.NoError(t, err)
	require.Len(t, got, 4)
	require.EqualValues(t, 7, got[0].Seq)
	require.Equal(t, "9", got[3].What)
	got, err = ledger.Events(w.led, 8, 1)
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.EqualValues(t, 9, got[0].Seq)
}

func TestSmallEntries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	scan := &ledger.BumpScan{}
	w.do(&ledger.Waste{Bytes: 5}, &ledger.SetStores{Stores: []byte("s")}, scan, scan)
	require.EqualValues(t, 2, scan.Token)
	start := &ledger.Start{Relay: 99, Name: "renamed", AtLeast: 40}
	w.do(start)
	require.EqualValues(t, 41, start.Meta.Generation, "above what the stores have seen (I7)")
	require.EqualValues(t, 7, start.Meta.Relay, "an id is for ever")
	require.EqualValues(t, 5, start.Meta.WastedBytes)
	require.Equal(t, "renamed", start.Meta.Name)
	require.Equal(t, []byte("s"), start.Meta.Stores)
	require.True(t, start.Meta.Outdated, "the stores have seen a later ledger")
	require.EqualValues(t, uint64(41)<<40, start.Meta.Kept)
	next := &ledger.Start{Name: "renamed", AtLeast: 41}
	w.do(next)
	require.True(t, next.Meta.Outdated, "the next start finds it as new as the stores")
	require.EqualValues(t, uint64(41)<<40, next.Meta.Kept, "what is stored from then on is known")
}

func TestALedgerOfTheSameGenerationMayBeOutdated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := &ledger.Start{Name: "relay-1", AtLeast: 1}
	w.do(e)
	require.False(t, e.Meta.Outdated)
	require.Zero(t, e.Meta.Kept)
	e = &ledger.Start{Name: "relay-1", AtLeast: 2, Outdated: true}
	w.do(e)
	require.True(t, e.Meta.Outdated)
	require.EqualValues(t, uint64(e.Meta.Generation)<<40, e.Meta.Kept)
}
