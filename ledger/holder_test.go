package ledger_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

func TestHoldersAndIndexes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := func(index string) ledger.HolderRow {
		e := &ledger.RegisterHolder{Dataset: files, Node: "node-a", Root: "/srv", Index: index, Instance: "x", NowNs: w.tick()}
		w.do(e)
		return e.Holder
	}
	h := reg("i1")
	require.Equal(t, w.a, h.ID, "the same root keeps its number")
	require.EqualValues(t, 1, h.IndexGen)
	w.do(&ledger.ReportHoldings{Holder: w.a, UpNs: 40, ScanDone: true}) // nobody knows when that scan began
	require.Zero(t, reg("i1").ScannedGen)
	w.do(&ledger.ReportHoldings{Holder: w.a, UpNs: 60, ScanDone: true, ScanUp: 50})
	w.do(&ledger.UpdateNode{Cluster: "primary", Node: "node-a", SeenNs: 99, SeenUp: 1, Takeovers: 2, Cursors: map[proto.HolderID]ledger.Followed{w.a: {IndexGen: 1, Cursor: 7}, 55: {IndexGen: 1, Cursor: 1}}})
	h = reg("i1")
	require.EqualValues(t, 1, h.ScannedGen)
	require.EqualValues(t, 50, h.ScannedNs)
	require.EqualValues(t, 7, h.Cursor)
	h = reg("i2")
	require.EqualValues(t, 2, h.IndexGen, "a wiped index: its holdings are hearsay")
	require.Zero(t, h.Cursor)
	require.EqualValues(t, 1, h.ScannedGen)

	told := func(n uint64) *ledger.RegisterHolder {
		e := &ledger.RegisterHolder{Dataset: files, Node: "node-a", Root: "/srv", Index: "i2", NowNs: w.tick(), Told: n}
		w.do(e)
		return e
	}
	require.False(t, told(4).PutBack)
	w.do(&ledger.ReportHoldings{Holder: w.a, UpNs: 70, Told: 6}, &ledger.UpdateNode{Cluster: "primary", Node: "node-a", Cursors: map[proto.HolderID]ledger.Followed{w.a: {IndexGen: 2, Cursor: 7}}})
	e := told(5)
	require.True(t, e.PutBack, "an older copy of the same index")
	require.EqualValues(t, 3, e.Holder.IndexGen, "which is one more that was made anew")
	require.Zero(t, e.Holder.Cursor, "and has followed nothing yet")
	w.do(&ledger.UpdateNode{Cluster: "primary", Node: "node-a", Cursors: map[proto.HolderID]ledger.Followed{w.a: {IndexGen: 2, Cursor: 9}}})
	require.Zero(t, told(e.Holder.Told).Holder.Cursor, "how far the one before it had followed was noted late")
	e = told(0)
	require.True(t, e.PutBack, "a copy from before it had told of anything")
	require.EqualValues(t, 4, e.Holder.IndexGen)
	e = told(7)
	require.True(t, e.PutBack, "it has told more, and not settled anew: the answer did not reach it")
	require.False(t, told(e.Holder.Told+1).PutBack)

	other := func(n uint64) *ledger.RegisterHolder {
		e := &ledger.RegisterHolder{Dataset: files, Node: "node-a", Root: "/srv", Index: "i1", NowNs: w.tick(), Told: n}
		w.do(e)
		return e
	}
	require.True(t, other(2).PutBack, "the index before it is there again")
	again := other(20)
	require.True(t, again.PutBack, "and has not gone on above yet")
	require.False(t, other(again.Holder.Told+1).PutBack)

	yes := true
	w.do(&ledger.UpdateNode{Cluster: "primary", Node: "node-a", SeenNs: 3, Cordoned: &yes}, &ledger.UpdateNode{Cluster: "primary", Node: "nobody"})
	ns, err := ledger.Nodes(w.led)
	require.NoError(t, err)
	require.Len(t, ns, 2)
	require.True(t, ns[0].Cordoned)
	require.EqualValues(t, 99, ns[0].SeenNs, "time does not go back")
	require.EqualValues(t, 1, ns[0].SeenUp)
	require.EqualValues(t, 2, ns[0].Takeovers)

	w.do(&ledger.ForgetNode{Cluster: "primary", Node: "node-a"})
	hs, err := ledger.Holders(w.led)
	require.NoError(t, err)
	require.Len(t, hs, 1)
	require.NotEqual(t, w.a, reg("i3").ID, "numbers are not used again")
	w.do(&ledger.ReportHoldings{Holder: w.a, UpNs: 50, ScanDone: true}) // of one that was forgotten
}

// The word of an index that was made anew since counts for nothing: it would stand for what the new one has looked at.
func TestWordOfAnOlderIndexIsStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.put("f", small("x"))
	reg := &ledger.RegisterHolder{Dataset: files, Node: "node-a", Root: "/srv", Index: "another", Instance: "x", NowNs: w.tick()}
	w.do(reg)
	require.Equal(t, w.a, reg.Holder.ID)
	was := w.holding("f", w.a)
	for _, gen := range []uint32{reg.Holder.IndexGen - 1, reg.Holder.IndexGen + 1} {
		e := &ledger.ReportHoldings{Holder: w.a, IndexGen: gen, UpNs: w.tick(), ScanDone: true, ScanUp: 1, Told: 7,
			Have: []proto.HaveEntry{{Version: v}}, Gone: []proto.GoneEntry{{Path: "f", Version: v}}}
		w.do(e)
		require.True(t, e.Stale)
		require.Equal(t, was, w.holding("f", w.a))
		again := *reg
		w.do(&again)
		require.Zero(t, again.Holder.ScannedGen)
		require.Zero(t, again.Holder.Told)
	}
	e := &ledger.ReportHoldings{Holder: w.a, IndexGen: reg.Holder.IndexGen, UpNs: w.tick(), Have: []proto.HaveEntry{{Version: v}}}
	w.do(e)
	require.False(t, e.Stale)
	require.Equal(t, ledger.HoldingHas, w.holding("f", w.a).State)
}

// Replicas that differ in metadata for good make no versions of it; what nobody that is there has any more is not kept up.
func TestMetaWanted(t *testing.T) {
	t.Parallel()
	const a, b, c = 1, 2, 3
	was, is := proto.Meta{Mode: 0o644, MtimeNs: 100}, proto.Meta{Mode: 0o600, MtimeNs: 100}
	has := func(h proto.HolderID, odd bool) ledger.Holding {
		return ledger.Holding{Holder: h, State: ledger.HoldingHas, Version: 7, Odd: odd}
	}
	for name, x := range map[string]struct {
		kind        proto.Kind
		holders     []ledger.Holding
		alive       []proto.HolderID
		by          proto.HolderID // a is the author
		mine        proto.Meta
		odd, wanted bool
	}{
		"equal":                                 {proto.KindFile, nil, []proto.HolderID{b}, b, was, false, false},
		"who published it is there":             {proto.KindFile, []ledger.Holding{has(a, false)}, []proto.HolderID{a, b}, b, is, true, false},
		"who published it is away":              {proto.KindFile, []ledger.Holding{has(a, false)}, []proto.HolderID{b}, b, is, true, true},
		"another has what is published":         {proto.KindFile, []ledger.Holding{has(a, false), has(c, false)}, []proto.HolderID{b, c}, b, is, true, false},
		"others that are there differ as well":  {proto.KindFile, []ledger.Holding{has(a, false), has(c, true)}, []proto.HolderID{b, c}, b, is, true, true},
		"another has an older version":          {proto.KindFile, []ledger.Holding{{Holder: c, State: ledger.HoldingHas, Version: 6}}, []proto.HolderID{b, c}, b, is, true, true},
		"another has lost it":                   {proto.KindFile, []ledger.Holding{{Holder: c, State: ledger.HoldingGone, Version: 7}}, []proto.HolderID{b, c}, b, is, true, true},
		"who published it has changed it":       {proto.KindFile, []ledger.Holding{has(b, false)}, []proto.HolderID{a, b}, a, is, true, true},
		"who published it has touched it":       {proto.KindFile, []ledger.Holding{has(b, false)}, []proto.HolderID{a, b}, a, proto.Meta{Mode: 0o644, MtimeNs: 101}, true, true},
		"another has an mtime of its own":       {proto.KindFile, nil, []proto.HolderID{b}, b, proto.Meta{Mode: 0o644, MtimeNs: 101}, false, false},
		"a directory's mtime is nobody's":       {proto.KindDir, nil, []proto.HolderID{a}, a, proto.Meta{Mode: 0o644, MtimeNs: 101}, false, false},
		"a directory":                           {proto.KindDir, nil, []proto.HolderID{b}, b, is, true, true},
		"a hard link":                           {proto.KindHardlink, nil, []proto.HolderID{b}, b, is, false, false},
		"who says so does not take part itself": {proto.KindFile, nil, []proto.HolderID{a}, b, is, true, false},
	} {
		o := &ledger.ObjectRow{Current: ledger.Known{Version: 7, Kind: x.kind}, Holders: x.holders}
		odd, wanted := ledger.MetaWanted(o, x.by, a, was, proto.HaveEntry{Version: 7, MtimeNs: x.mine.MtimeNs, MetaSum: proto.MetaSum(x.mine.Sums())}, x.alive)
		require.Equal(t, [2]bool{x.odd, x.wanted}, [2]bool{odd, wanted}, name)
	}
	o := &ledger.ObjectRow{Current: ledger.Known{Version: 7, Kind: proto.KindFile}}
	_, wanted := ledger.MetaWanted(o, b, a, was, proto.HaveEntry{Version: 7}, []proto.HolderID{b})
	require.False(t, wanted, "it does not tell")
	for name, x := range map[string]struct {
		holders []ledger.Holding
		by      proto.HolderID
		wanted  bool
	}{
		"the author, who is away, made a change":       {[]ledger.Holding{has(a, false)}, b, false},
		"another, who is away, has the change":         {[]ledger.Holding{has(a, true), has(c, false)}, b, false},
		"nobody has the change any more":               {[]ledger.Holding{has(a, true), has(c, true)}, b, true},
		"the author undid its change before it heard":  {[]ledger.Holding{has(a, false), has(b, true)}, a, true},
		"the author was put back and others have more": {[]ledger.Holding{has(a, false), has(b, false)}, a, false},
	} {
		o.Holders = x.holders
		odd, wanted := ledger.MetaWanted(o, x.by, a, was, proto.HaveEntry{Version: 7, MetaSum: 9, Kept: true}, []proto.HolderID{x.by})
		require.Equal(t, [2]bool{true, x.wanted}, [2]bool{odd, wanted}, name)
	}
}

// Since when the scans of an index found nothing is known as long as it has told of nothing.
func TestBareSince(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	scan := func(up int64, bare bool, told uint64) int64 {
		w.do(&ledger.ReportHoldings{Holder: w.a, UpNs: up, ScanDone: true, ScanUp: up, Bare: bare, Told: told})
		hs, err := ledger.Holders(w.led)
		require.NoError(t, err)
		return hs[0].BareNs
	}
	require.EqualValues(t, 10, scan(10, true, 0))
	require.EqualValues(t, 10, scan(20, true, 0))
	require.Zero(t, scan(30, false, 0))
	require.EqualValues(t, 40, scan(40, true, 0))
	require.EqualValues(t, 40, scan(50, true, 3), "a look found something, and nothing that any scan has seen")
	require.Zero(t, scan(60, false, 4))
	require.Zero(t, scan(70, true, 4), "it is emptied, which it tells")
	w.do(&ledger.RegisterHolder{Dataset: files, Node: "node-a", Root: "/srv", Index: "i2", NowNs: w.tick()})
	require.EqualValues(t, 80, scan(80, true, 0), "another index")
}

func TestReportHoldings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	v1 := w.put("f", small("1"))
	have := func(ver proto.VersionID, mtime int64) {
		w.do(&ledger.ReportHoldings{Holder: w.b, UpNs: w.tick(), Have: []proto.HaveEntry{{Version: ver, MtimeNs: mtime}, {Version: 1000}}})
	}
	have(v1, 5000)
	v, _ := w.version(v1)
	require.EqualValues(t, 5000, v.Desc.Meta.MtimeNs, "the newest mtime is published")
	have(v1, 4000)
	v, _ = w.version(v1)
	require.EqualValues(t, 5000, v.Desc.Meta.MtimeNs)
	w.confirm(nas, v1)
	have(v1, 9000)
	v, _ = w.version(v1)
	require.EqualValues(t, 5000, v.Desc.Meta.MtimeNs, "the target has it already")

	dr := w.link("dr", false)
	w.do(&ledger.Seed{Link: dr, Limit: 10})
	w.send(w.b, object("f", v1, w.grant(), small("1")))
	v2 := w.send(w.a, remeta("f", v1, w.grant(), small("1"), 0o600))[0].Version
	require.Equal(t, v2, w.holding("f", w.b).Version, "who had the content has it still")
	have(v1, 1)
	require.Equal(t, ledger.HoldingHas, w.holding("f", w.b).State)
	require.Equal(t, v2, w.holding("f", w.b).Version)
	w.put("f", small("2"))
	have(v2, 1)
	require.Equal(t, ledger.HoldingLags, w.holding("f", w.b).State)

	w.do(&ledger.ReportHoldings{Holder: w.b, UpNs: 77, Gone: []proto.GoneEntry{{Path: "f", Version: v2}, {Path: "none", Version: 1}}})
	w.do(&ledger.ReportHoldings{Holder: w.a, UpNs: 88, Gone: []proto.GoneEntry{{Path: "f", Version: v2}}})
	w.do(&ledger.ReportHoldings{Holder: w.b, UpNs: 99, Gone: []proto.GoneEntry{{Path: "f", Version: v2}}}) // once more
	gone, err := ledger.GoneList(w.led, w.ds, "", 10)
	require.NoError(t, err)
	require.Len(t, gone, 1)
	require.EqualValues(t, 77, gone[0].SinceNs, "when the first one said so")
	require.EqualValues(t, 88, gone[0].LastNs, "and the last one")
	require.Equal(t, ledger.HoldingGone, w.holding("f", w.b).State)
	d, err := ledger.Dataset(w.led, w.ds)
	require.NoError(t, err)
	require.EqualValues(t, 1, d.Gone)
}

// A new version takes its path off the list of those that are gone: nobody has reported that one gone. New metadata of the old
// content does not.
func TestNewVersionIsNotGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	listed := func() (since []int64) {
		list, err := ledger.GoneList(w.led, w.ds, "", 10)
		require.NoError(t, err)
		d, err := ledger.Dataset(w.led, w.ds)
		require.NoError(t, err)
		require.EqualValues(t, len(list), d.Gone, "the count of the list")
		for _, g := range list {
			since = append(since, g.SinceNs)
		}
		return since
	}
	gone := func(ver proto.VersionID, up int64) {
		w.do(&ledger.ReportHoldings{Holder: w.b, UpNs: up, Gone: []proto.GoneEntry{{Path: "f", Version: ver}}})
	}
	v1 := w.put("f", small("1"))
	w.do(&ledger.ReportHoldings{Holder: w.b, UpNs: 50, Have: []proto.HaveEntry{{Version: v1}}})
	gone(v1, 77)
	require.Equal(t, []int64{77}, listed())
	v2 := w.send(w.a, remeta("f", v1, w.grant(), small("1"), 0o600))[0].Version
	require.Equal(t, []int64{77}, listed(), "the same content with another mode")
	v3 := w.send(w.a, object("f", v2, w.grant(), small("2")))[0].Version
	require.Empty(t, listed())
	w.do(&ledger.ReportHoldings{Holder: w.b, UpNs: 80, Have: []proto.HaveEntry{{Version: v3}}})
	gone(v3, 99)
	require.Equal(t, []int64{99}, listed(), "since it was reported of this version")
}

func TestForkThatWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	v1 := w.put("f", small("1"))
	fork := small("fork")
	w.do(&ledger.ReportHoldings{Holder: w.b, UpNs: w.tick(), Claims: []ledger.HoldingByPath{
		{Path: "f", Holding: ledger.Holding{State: ledger.HoldingDivergent, Version: 0, Digest: fork.digest(), Size: fork.size, MtimeNs: 3}},
		{Path: "none", Holding: ledger.Holding{State: ledger.HoldingHas}},
	}})
	require.Equal(t, ledger.HoldingDivergent, w.holding("f", w.b).State)
	v2 := w.send(w.a, object("f", v1, w.grant(), fork))[0].Version
	require.Equal(t, ledger.HoldingHas, w.holding("f", w.b).State)
	require.Equal(t, v2, w.holding("f", w.b).Version)
}

func TestRecentContentsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	names := "abcdefghijklmnopqrstuvwxyz"
	for i := range names {
		w.put("f", small(names[i:i+1]))
	}
	o := w.object("f")
	require.Len(t, o.Recent, ledger.MaxRecent)
	require.NotNil(t, o.Older(*small("y").desc()))
	require.Nil(t, o.Older(*small("z").desc()), "that is current")
	require.Nil(t, o.Older(*small("a").desc()), "forgotten")
}

func TestPagesOfTheFeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("nas", true)
	for _, p := range []string{"a", "b", "c", "d", "e"} {
		w.put(p, small(p))
	}
	w.put("b", small("b2"))
	var paths []string
	for at, head := proto.VersionID(0), proto.VersionID(6); at != head; {
		rep, err := ledger.Feed(w.led, w.ds, at, 0) // a limit that makes no sense still makes progress
		require.NoError(t, err)
		require.Len(t, rep.Items, 1)
		require.Greater(t, rep.Next, at)
		paths, at = append(paths, rep.Items[0].Path), rep.Next
	}
	require.Equal(t, []string{"a", "c", "d", "e", "b"}, paths)
}

// No row has a later stamp of the running time than the ledger's own: after a crash it goes on from there.
func TestStampsRaiseTheRunningTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("x", small("one"))
	at := int64(1e18)
	for _, e := range []func(up int64) ledger.Entry{
		func(up int64) ledger.Entry { return &ledger.Tick{UpNs: up} },
		func(up int64) ledger.Entry {
			return &ledger.RegisterHolder{Dataset: proto.Dataset{Cluster: "c", Name: "d"}, Node: "n", Root: "/r", Index: "i", UpNs: up}
		},
		func(up int64) ledger.Entry { return &ledger.UpdateNode{Cluster: "c", Node: "n", SeenUp: up} },
		func(up int64) ledger.Entry { return &ledger.ReportHoldings{Holder: w.a, UpNs: up, ScanDone: true} },
		func(up int64) ledger.Entry {
			return &ledger.ReportHoldings{Holder: w.a, UpNs: up, Gone: []proto.GoneEntry{{Path: "x", Version: 1}}}
		},
	} {
		at++
		w.do(e(at), &ledger.Tick{UpNs: at - 5})
		m, err := ledger.ReadMeta(w.led)
		require.NoError(t, err)
		require.Equal(t, at, m.UpNs, "%T", e(at))
	}
}

// A delete that was judged before the path came back is refused. Who is away past the grace is not asked, nor what was told of
// an index that is no more.
func TestDeleteOfWhatCameBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.put("x", small("one"))
	y := w.put("y", small("two"))
	try := func(path string, v proto.VersionID, alive ...proto.HolderID) proto.PieceState {
		e := w.segment(0, remove(path, v))
		e.Alive = alive
		w.do(e)
		return e.Results[0].State
	}
	del := func(alive ...proto.HolderID) proto.PieceState { return try("x", v, alive...) }
	require.Equal(t, proto.PieceStale, del(w.a, w.b))
	w.do(&ledger.ReportHoldings{Holder: w.a, UpNs: 1, Gone: []proto.GoneEntry{{Path: "x", Version: v}}})
	w.do(&ledger.ReportHoldings{Holder: w.b, UpNs: 2, Have: []proto.HaveEntry{{Version: v}}})
	require.Equal(t, proto.PieceStale, del(w.a, w.b))
	require.Equal(t, proto.PieceAccepted, del(w.a), "b is away past the grace")
	require.Equal(t, proto.PieceStale, try("y", y, w.a))
	w.do(&ledger.RegisterHolder{Dataset: files, Node: "node-a", Root: "/srv", Index: "i2", NowNs: w.tick()})
	require.Equal(t, proto.PieceAccepted, try("y", y, w.a), "an index that is no more told it")
}
