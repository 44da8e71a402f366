package ledger_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

func TestCoalesce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas, dr := w.link("nas", true), w.link("dr", false)
	v1 := w.put("f", small("1"))
	v2 := w.put("f", small("2"))
	require.Equal(t, []proto.VersionID{v2}, w.owed(nas))
	require.Equal(t, []proto.VersionID{v1, v2}, w.owed(dr))
	feed, err := ledger.Feed(w.led, w.ds, 0, 10)
	require.NoError(t, err)
	require.Len(t, feed.Items, 1, "followers learn what is current")
	require.Equal(t, v2, feed.Next)
	w.confirm(dr, v1)
	_, ok := w.version(v1)
	require.False(t, ok, "superseded and owed by nobody")
	require.Equal(t, []uint64{1}, w.freeable())
}

func TestParkAndRetry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	v1, v2 := w.put("f", small("1")), w.put("g", small("2"))
	w.do(&ledger.Park{Link: nas, Versions: []proto.VersionID{v1, v2, 99}, Reasons: []string{"name too long", "no rights", "?"}, NowNs: 5})
	l := w.row(nas)
	require.EqualValues(t, 2, l.ParkedObjects)
	require.Zero(t, l.OwedObjects)
	require.EqualValues(t, 200, l.CachedBytes, "the bytes are kept")
	require.Equal(t, "no rights", w.debt(nas, v2).Reason)
	_, ok, err := ledger.OldestOwed(w.led, l, 10, nil)
	require.NoError(t, err)
	require.False(t, ok)

	w.do(&ledger.Release{Link: nas, Versions: []proto.VersionID{v1}})
	require.Empty(t, w.asked(), "nobody is asked for what is parked")
	w.do(&ledger.LoseSegment{Seq: 2})
	require.Empty(t, w.asked())
	e := &ledger.Retry{Link: nas, Paths: []string{"f"}}
	w.do(e)
	require.EqualValues(t, 1, e.Count)
	require.Equal(t, []string{"f"}, w.asked())
	require.EqualValues(t, 1, w.row(nas).ReleasedObjects)
	e = &ledger.Retry{Link: nas}
	w.do(e)
	require.EqualValues(t, 1, e.Count)
	require.Equal(t, []string{"f", "g"}, w.asked())
	require.Error(t, w.led.Update(&ledger.Park{Link: nas, Versions: []proto.VersionID{v1}}), "no reason")
}

func TestReleaseWithTwoLinks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas, dr := w.link("nas", true), w.link("dr", true)
	v := w.put("f", small("1"))
	e := &ledger.Release{Link: nas, Versions: []proto.VersionID{v, v}}
	w.do(e)
	require.EqualValues(t, 100, e.Bytes)
	require.Empty(t, w.asked(), "the other link keeps it in the cache")
	re := &ledger.Reowe{Link: nas, Versions: []proto.VersionID{v}}
	w.do(re)
	require.EqualValues(t, 1, re.Objects)
	require.Equal(t, ledger.OwedCached, w.debt(nas, v).State)
	w.do(&ledger.Release{Link: nas, Versions: []proto.VersionID{v}})
	w.confirm(dr, v)
	require.Equal(t, []string{"f"}, w.asked())
	require.Equal(t, []uint64{1}, w.freeable())
	w.do(re)
	require.Zero(t, re.Objects, "nothing to change")
	w.confirm(nas, v)
	require.Empty(t, w.asked())
}

func TestReowe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	v := w.put("f", small("1"))
	ep := w.grant()
	d := w.send(w.a, bare("d", 0, ep, proto.Desc{Kind: proto.KindDir}))[0].Version
	w.confirm(nas, v, d)
	w.free()
	e := &ledger.Reowe{Link: nas, Versions: []proto.VersionID{v, d, 77}, NowNs: 9}
	w.do(e)
	require.EqualValues(t, 2, e.Objects)
	require.Equal(t, []string{"f"}, w.asked())
	require.Equal(t, ledger.OwedCached, w.debt(nas, d).State, "it lives by its description")
	w.send(w.b, object("f", v, w.grant(), small("1")))
	m := w.send(w.a, remeta("f", v, w.grant(), small("1"), 0o600))[0].Version
	w.confirm(nas, m)
	m = w.send(w.a, remeta("f", m, w.grant(), small("1"), 0o640))[0].Version
	require.True(t, w.debt(nas, m).MetaOnly)
	w.do(&ledger.Reowe{Link: nas, Versions: []proto.VersionID{m}})
	require.False(t, w.debt(nas, m).MetaOnly, "the target turned out not to have it")
	require.Equal(t, []string{"f"}, w.asked())
}

func TestSupersededWhileReleased(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dr := w.link("dr", false)
	v1 := w.put("f", small("1"))
	w.do(&ledger.Release{Link: dr, Versions: []proto.VersionID{v1}})
	v2 := w.put("f", small("2"))
	require.Equal(t, []proto.VersionID{v2}, w.owed(dr), "nobody could be asked for the older one (I16)")
	v3 := w.put("f", small("3"))
	e := &ledger.Release{Link: dr, Versions: []proto.VersionID{v2, v3}}
	w.do(e)
	require.EqualValues(t, 100, e.Bytes)
	require.Equal(t, ledger.OwedCached, w.debt(dr, v2).State, "what no holder has is kept (I1)")
}

// A verify during the first copy makes a version owed before the seeding comes to it: it is owed once.
func TestSeedPassesOverWhatIsOwedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	v1, v2 := w.put("f", small("1")), w.put("g", small("2"))
	dr := w.link("dr", true)
	w.do(&ledger.Reowe{Link: dr, Versions: []proto.VersionID{v2}, NowNs: w.tick()})
	w.do(&ledger.Seed{Link: dr, Limit: 100}) // do counts everything anew
	require.Equal(t, []proto.VersionID{v1, v2}, w.owed(dr))
	require.EqualValues(t, 2, w.row(dr).OwedObjects)
	w.confirm(nas, v1, v2)
	w.confirm(dr, v1, v2)
	require.Zero(t, w.row(dr).OwedObjects)
	require.Len(t, w.freeable(), 2)
}

func TestSeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	ep := w.grant()
	w.send(w.a, object("a", 0, ep, small("1")), object("b", 0, ep, small("2")), bare("d", 0, ep, proto.Desc{Kind: proto.KindDir}), object("x", 0, ep, small("3")))
	w.send(0, remove("x", 4))
	w.confirm(nas, 1)
	w.send(w.b, object("b", 2, w.grant(), small("2b"))) // 6
	dr := w.link("dr", true)
	require.Empty(t, w.owed(dr))
	l := w.row(dr)
	require.Less(t, l.SeedCursor, l.SeedHead)
	v7 := w.put("d2", small("4")) // after the link: owed by it at once
	s := &ledger.Seed{Link: dr, Limit: 2}
	for steps := 1; !s.Done; steps++ {
		require.Less(t, steps, 10)
		w.do(s)
	}
	require.Equal(t, []proto.VersionID{1, 3, 6, v7}, w.owed(dr), "all that is live, no tombstones")
	require.Equal(t, ledger.OwedReleased, w.debt(dr, 1).State, "no longer in the cache")
	require.Equal(t, ledger.OwedCached, w.debt(dr, 3).State)
	require.Equal(t, ledger.OwedCached, w.debt(dr, 6).State)
	require.Equal(t, []string{"a"}, w.asked())
	w.confirm(nas, 6)
	require.NotContains(t, w.freeable(), uint64(3), "the new link needs it now")
	l = w.row(dr)
	require.Equal(t, l.SeedCursor, l.SeedHead)
}

func TestChangedTargetIsANewLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	v := w.put("f", small("1"))
	same := &ledger.SetLink{Name: "nas", From: files, Target: "dir:/nas", Coalesce: false}
	w.do(same)
	require.Equal(t, nas, same.Link.ID)
	require.False(t, w.row(nas).Coalesce)
	moved := &ledger.SetLink{Name: "nas", From: files, Target: "dir:/other", Coalesce: true}
	w.do(moved)
	require.NotEqual(t, nas, moved.Link.ID)
	old := w.row(nas)
	require.True(t, old.Orphaned)
	require.Empty(t, old.Name)
	require.Equal(t, []proto.VersionID{v}, w.owed(nas))
	w.do(&ledger.Seed{Link: moved.Link.ID, Limit: 100})
	drop := &ledger.DropLink{Link: nas, Limit: 1}
	w.do(drop)
	require.False(t, drop.Done)
	require.EqualValues(t, 1, drop.Objects)
	w.do(drop)
	require.True(t, drop.Done)
	require.Zero(t, w.row(nas).ID)
	require.Equal(t, []proto.VersionID{v}, w.owed(moved.Link.ID))
	back := &ledger.SetLink{Name: "nas", From: files, Target: "dir:/other"}
	w.do(back)
	require.Equal(t, moved.Link.ID, back.Link.ID, "the name stays with the new one")
	err := w.led.Update(&ledger.Confirm{Link: nas})
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	w.do(&ledger.OrphanLink{Link: moved.Link.ID})
	require.True(t, w.row(moved.Link.ID).Orphaned)
	w.do(back)
	require.False(t, w.row(moved.Link.ID).Orphaned, "it is back in the configuration")
	w.do(&ledger.DropLink{Link: moved.Link.ID, Limit: 100})
	require.NotEqual(t, moved.Link.ID, w.link("nas", true), "ids are not used again")
}

// The relay may be killed between two steps of a drop, and the link be configured again.
func TestLinkThatIsHalfDroppedComesBackAsANewOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	a, b := w.put("a", small("1")), w.put("b", small("2"))
	w.do(&ledger.OrphanLink{Link: nas})
	drop := &ledger.DropLink{Link: nas, Limit: 1}
	w.do(drop)
	require.False(t, drop.Done)
	c := w.put("c", small("3"))
	require.Equal(t, []proto.VersionID{b}, w.owed(nas), "it owes nothing new")
	again := w.link("nas", true)
	require.NotEqual(t, nas, again)
	w.do(&ledger.Seed{Link: again, Limit: 100})
	require.Equal(t, []proto.VersionID{a, b, c}, w.owed(again))
	for !drop.Done {
		w.do(drop)
	}
	require.Equal(t, again, w.link("nas", true), "the name is the new one's")
	require.Equal(t, []proto.VersionID{a, b, c}, w.owed(again))
}

func TestTuneLinkAndDeleteCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	yes, hour := true, int64(time.Hour)
	w.do(&ledger.TuneLink{Link: nas, Paused: &yes, PausedUntil: 7, Set: map[string]ledger.Override{"flush.age": {Value: "5m"}, "flush.size": {Value: "1GiB"}}})
	l := w.row(nas)
	require.True(t, l.Paused)
	require.Len(t, l.Overrides, 2)
	w.do(&ledger.TuneLink{Link: nas, Reset: []string{"flush.age"}})
	require.Len(t, w.row(nas).Overrides, 1)
	w.do(&ledger.TuneLink{Link: nas, Reset: []string{"*"}, Set: map[string]ledger.Override{"flush.age": {Value: "1m"}}})
	require.Equal(t, map[string]ledger.Override{"flush.age": {Value: "1m"}}, w.row(nas).Overrides)
	require.True(t, w.row(nas).Paused, "left as it was")

	// The hours are those of the running time, whatever the clock says meanwhile.
	w.do(&ledger.Tick{UpNs: 100 * hour}, &ledger.Confirm{Link: nas, NowNs: 1 << 60, Deletes: 3},
		&ledger.Tick{UpNs: 123 * hour}, &ledger.Tick{UpNs: 7}, &ledger.Confirm{Link: nas, NowNs: 1, Deletes: 4})
	l = w.row(nas)
	require.EqualValues(t, 7, l.RecentDeletes(123*hour))
	require.EqualValues(t, 4, l.RecentDeletes(124*hour))
	w.do(&ledger.Tick{UpNs: 130 * hour}, &ledger.Confirm{Link: nas})
	require.Len(t, w.row(nas).Deletes, 1, "hours that are past are forgotten")
	w.do(&ledger.TuneLink{Link: nas, ApproveTo: 5, ApproveNs: 9})
	l = w.row(nas)
	require.Zero(t, l.RecentDeletes(130*hour))
	require.EqualValues(t, 5, l.ApprovedTo)
}

// What a verify found lacking at a target is owed before the seeding has come to it: it is counted once.
func TestSeedPassesOverWhatIsOwed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ver := w.put("x", small("1"))
	id := w.link("l1", true)
	w.do(&ledger.Reowe{Link: id, Versions: []proto.VersionID{ver}, NowNs: w.tick()})
	w.do(&ledger.Seed{Link: id, Limit: 10})
	require.EqualValues(t, 1, w.row(id).OwedObjects)
	w.confirm(id, ver)
	require.Zero(t, w.row(id).OwedObjects)
}

// A link that gets another prefix is a new link: its folder is filled from the beginning, and the old one is the relay's to drop.
func TestAnotherPrefixIsANewLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.put("f", small("1"))
	set := func(prefix string) ledger.LinkRow {
		e := &ledger.SetLink{Name: "nas", From: files, Target: "dir:/nas", Prefix: prefix, NowNs: 1}
		w.do(e)
		return e.Link
	}
	first := set("one")
	w.do(&ledger.Seed{Link: first.ID, Limit: 10})
	w.confirm(first.ID, v)
	require.Equal(t, first.ID, set("one").ID, "nothing changed")
	second := set("two")
	require.NotEqual(t, first.ID, second.ID)
	require.True(t, w.row(first.ID).Orphaned)
	w.do(&ledger.Seed{Link: second.ID, Limit: 10})
	require.Equal(t, []proto.VersionID{v}, w.owed(second.ID))
}

// A batch that was held to a rate says how fast the target is at least.
func TestSpeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	for _, c := range []struct {
		speed int64
		paced bool
		want  int64
	}{{0, false, 0}, {50, true, 50}, {40, true, 50}, {30, false, 30}, {20, true, 30}, {0, false, 30}, {90, true, 90}, {10, false, 10}} {
		w.do(&ledger.Confirm{Link: nas, Speed: c.speed, Paced: c.paced})
		require.Equal(t, c.want, w.row(nas).Speed, "%+v", c)
	}
}

// What is confirmed without a batch takes nothing back of what a link knows of the last one: a target that was put back to an older copy is
// recognised by that.
func TestLastBatchIsRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nas := w.link("nas", true)
	for _, c := range []struct{ batch, want uint64 }{{7, 7}, {0, 7}, {6, 7}, {9, 9}, {0, 9}} {
		w.do(&ledger.Confirm{Link: nas, Batch: c.batch})
		require.Equal(t, c.want, w.row(nas).Batch, "%+v", c)
	}
}
