package relay

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/shard/store"
)

// blob is n bytes that depend on the name alone.
func blob(name string, n int) string {
	b := make([]byte, n)
	var seed [32]byte
	copy(seed[:], name)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return string(b)
}

// fill puts objects of 40,000 bytes, a segment each.
func (p *peer) fill(first, count int) {
	for i := first; i < first+count; i++ {
		name := fmt.Sprintf("f%03d", i)
		p.put(name, blob(name, 40_000), 0)
	}
}

// soon waits for something that the relay does by itself, with its clock moving: store retries, graces and budgets pass.
func (g *rig) soon(what string, fn func() bool) {
	g.t.Helper()
	require.Eventually(g.t, func() bool {
		g.clock.advance(2 * time.Second)
		g.relay.stores.Tend()
		return fn()
	}, 60*time.Second, 20*time.Millisecond, what)
}

func (g *rig) cacheNow() proto.CacheStatus {
	g.t.Helper()
	s, err := g.relay.Status(context.Background())
	require.NoError(g.t, err)
	return s.Cache
}

// rows returns the placements by sequence of segments that are needed.
func (g *rig) rows() map[uint64]store.Placement {
	g.t.Helper()
	out := map[uint64]store.Placement{}
	require.NoError(g.t, ledger.EachSegment(g.relay.ledger, func(seq uint64, row ledger.SegmentRow) (bool, error) {
		var p store.Placement
		require.NoError(g.t, proto.Unmarshal(row.Placement, &p))
		if row.Refs > 0 {
			out[seq] = p
		}
		return true, nil
	}))
	return out
}

// whole reports whether every needed segment has all its shards, in the geometry, in stores that are in use, and the stores
// hold exactly those.
func (g *rig) whole(geometry string) bool {
	g.t.Helper()
	rows, held := g.rows(), 0
	for seq, p := range rows {
		held += len(p.Stores)
		if p.Geometry.String() != geometry {
			return false
		}
		read, err := g.relay.stores.Examine(context.Background(), proto.SegmentID{Relay: g.relay.meta.Relay, Seq: seq}, p)
		if err != nil || len(read.Bad)+len(read.Away)+len(read.Gone) > 0 {
			return false
		}
	}
	return g.shards() == held
}

// shards counts what the stores hold.
func (g *rig) shards() (n int) {
	for _, st := range g.relay.stores.States() {
		_ = g.relay.stores.Each(context.Background(), st.ID, func(store.Found) error { n++; return nil }) // one that is away has none
	}
	return n
}

// intact reads back everything that fill put.
func (g *rig) intact(first, count int) {
	g.t.Helper()
	for i := first; i < first+count; i++ {
		name := fmt.Sprintf("f%03d", i)
		got, ok := g.content(name)
		require.True(g.t, ok, "%s is not in the cache", name)
		require.True(g.t, got == blob(name, 40_000), "%s", name)
	}
}

// content reads an object from the cache, past what is kept in memory.
func (g *rig) content(path string) (string, bool) {
	g.t.Helper()
	d, err := ledger.DatasetByName(g.relay.Ledger(), proto.Dataset{Cluster: "primary", Name: "media"})
	require.NoError(g.t, err)
	v, ok, err := ledger.Version(g.relay.Ledger(), d.ID, g.object(path).Current.Version)
	require.NoError(g.t, err)
	if !ok || v.Content.Segment == 0 {
		return "", false
	}
	g.relay.cache.forget(v.Content.Segment)
	seg, err := g.relay.ReadSegment(context.Background(), v.Content.Segment)
	require.NoError(g.t, err, path)
	for i, p := range seg.Header.Pieces {
		if p.Path == path {
			require.NoError(g.t, seg.Prove(i))
			return string(bytes.Clone(seg.Bytes(i))), true
		}
	}
	return "", false
}

func (g *rig) events(kind string) (out []proto.Event) {
	g.t.Helper()
	all, err := g.relay.Events(context.Background(), 0, 10_000, 0)
	require.NoError(g.t, err)
	for _, e := range all {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

// aside moves a store's directory away, as an unmount does; the returned func brings it back.
func (g *rig) aside(n int) (back func()) {
	path, away := g.cfg.Stores[n], g.cfg.Stores[n]+".aside"
	require.NoError(g.t, os.Rename(path, away))
	require.NoError(g.t, os.Mkdir(path, 0o700))
	g.soon("the store is missed", func() bool { return g.storeNow(n).State == "missing" })
	return func() {
		require.NoError(g.t, os.RemoveAll(path))
		require.NoError(g.t, os.Rename(away, path))
	}
}

func (g *rig) storeNow(n int) proto.StoreStatus {
	for _, s := range g.cacheNow().Stores {
		if s.Path == g.cfg.Stores[n] {
			return s
		}
	}
	return proto.StoreStatus{}
}

func upkeepConfig(t *testing.T, stores int) Config {
	cfg := testConfig(t, stores)
	cfg.Upkeep = Upkeep{RebuildAfter: 10 * time.Minute} // no scrub by itself, no budget
	return cfg
}

// A store that goes away is counted at once, waited for, and then made up for on the others; nothing is written where it was.
// When it comes back, what was moved is freed on it, and everything is coded at the full width again.
func TestAStoreThatGoesAwayIsMadeUpFor(t *testing.T) {
	t.Parallel()
	g := start(t, upkeepConfig(t, 3))
	a := g.join("a")
	a.fill(0, 12)
	g.soon("looked at", func() bool { return g.storeNow(0).Segments == 12 })
	back := g.aside(1)
	c := g.cacheNow()
	require.EqualValues(t, 12, c.DegradedSegments, "each has a shard there")
	require.Zero(t, c.Rebuild.WaitingSegments, "it may come back")
	require.Len(t, g.problems("degraded"), 1)
	require.True(t, g.whole("2+1") == false)
	g.intact(0, 12)
	require.Equal(t, "2+1", g.rows()[anyKey(g.rows())].Geometry.String(), "reading alone moves nothing within the grace")

	g.clock.advance(11 * time.Minute)
	g.soon("coded anew on two", func() bool { return g.whole("1+1") })
	g.soon("counted so", func() bool { return g.cacheNow().DegradedSegments == 0 }) // the rows are counted after they are written
	left, err := os.ReadDir(g.cfg.Stores[1])
	require.NoError(t, err)
	require.Empty(t, left, "nothing is written where a store is missing")
	g.intact(0, 12)

	back()
	g.soon("coded in full again", func() bool { return g.whole("2+1") })
	g.soon("quiet", func() bool { return len(g.problems("degraded")) == 0 && g.cacheNow().Rebuild.WaitingSegments == 0 })
	g.intact(0, 12)
	require.GreaterOrEqual(t, len(g.events("rebuild-began")), 2)
	require.NotEmpty(t, g.events("orphans-freed"), "what was on the store that came back")
}

func anyKey(m map[uint64]store.Placement) uint64 {
	for k := range m {
		return k
	}
	return 0
}

// A new, empty disk is put in place of one that is gone: only when an operator says so, and then everything is whole again.
func TestReplace(t *testing.T) {
	t.Parallel()
	g := start(t, upkeepConfig(t, 3))
	a := g.join("a")
	a.fill(0, 8)
	_, err := g.relay.ReplaceStore(g.cfg.Stores[2], false)
	require.ErrorContains(t, err, "is in use: drain it instead")
	_, err = g.relay.ReplaceStore("/nowhere", false)
	require.ErrorContains(t, err, "there is no store at /nowhere")
	back := g.aside(2)
	g.soon("looked at", func() bool { return g.storeNow(2).Segments == 8 })
	before := g.storeNow(2).ID
	require.NoError(t, os.WriteFile(filepath.Join(g.cfg.Stores[2], "somebody's"), nil, 0o600))
	_, err = g.relay.ReplaceStore(g.cfg.Stores[2], false)
	require.ErrorContains(t, err, "somebody's")
	require.Equal(t, before, g.storeNow(2).ID, "a refusal gives nothing up")
	require.NoError(t, os.Remove(filepath.Join(g.cfg.Stores[2], "somebody's")))

	seen, err := g.relay.ReplaceStore(g.cfg.Stores[2], true)
	require.NoError(t, err)
	require.EqualValues(t, 8, seen.Segments)
	require.Zero(t, seen.Lost, "within the parity nothing is lost")
	require.Equal(t, before, g.storeNow(2).ID, "a dry run does nothing")

	_, err = g.relay.ReplaceStore(g.cfg.Stores[2], false)
	require.NoError(t, err)
	require.Equal(t, "ok", g.storeNow(2).State)
	require.NotEqual(t, before, g.storeNow(2).ID)
	g.soon("whole again, without waiting for the old one", func() bool { return g.whole("2+1") })
	g.intact(0, 8)

	// The old disk turns up in another place: it is refused, over restarts too.
	back2 := g.cfg.Stores[2] + ".aside"
	_, err = g.relay.AddStore(back2)
	require.ErrorContains(t, err, "was given up")
	g.down()
	g.up()
	require.Equal(t, "ok", g.storeNow(2).State)
	_, err = g.relay.AddStore(back2)
	require.ErrorContains(t, err, "was given up")
	require.True(t, g.whole("2+1"))
	_ = back
}

// More stores are gone than the parity makes up for: while they may come back nothing is given up; when an operator says that
// one is gone, what was lost is asked for again by itself, by name, and only that.
func TestBeyondParity(t *testing.T) {
	t.Parallel()
	g := start(t, upkeepConfig(t, 3))
	a := g.join("a")
	a.fill(0, 6)
	g.soon("looked at", func() bool { return g.storeNow(0).Segments == 6 })
	back := g.aside(0)
	_ = g.aside(1)
	g.clock.advance(48 * time.Hour)
	a.hello() // its session ended with the jump of the clock
	g.soon("shown", func() bool { return g.cacheNow().Rebuild.UnreadableSegments == 6 })
	require.Len(t, g.problems("unreadable-segments"), 1)
	require.Empty(t, g.events("segment-lost"), "they may come back")

	seen, err := g.relay.DrainStore(g.cfg.Stores[1], true, true)
	require.NoError(t, err)
	require.Zero(t, seen.Lost, "the other one may still come back")
	_, err = g.relay.DrainStore(g.cfg.Stores[1], true, false)
	require.NoError(t, err)
	require.Empty(t, g.events("segment-lost"))
	back()
	g.soon("made up for from the one that came back", func() bool { return g.whole("1+1") })
	g.intact(0, 6)

	a.hello()
	a.fill(6, 3) // 1+1, on the two that are left
	_ = g.aside(2)
	_ = g.aside(0)
	g.soon("looked at", func() bool { return g.cacheNow().Rebuild.UnreadableSegments == 9 })
	_, err = g.relay.ReplaceStore(g.cfg.Stores[2], false)
	require.NoError(t, err)
	require.Empty(t, g.events("segment-lost"))
	seen, err = g.relay.ReplaceStore(g.cfg.Stores[0], false)
	require.NoError(t, err)
	require.EqualValues(t, 9, seen.Lost)
	g.soon("given up", func() bool { return len(g.events("segment-lost")) == 9 })
	for i := range 9 {
		_, ok := g.content(fmt.Sprintf("f%03d", i))
		require.False(t, ok)
	}
	g.soon("counted", func() bool { return g.cacheNow().DegradedSegments == 0 })
	d, err := ledger.DatasetByName(g.relay.Ledger(), proto.Dataset{Cluster: "primary", Name: "media"})
	require.NoError(t, err)
	require.EqualValues(t, 9, d.Asked, "holders are asked")
}

// A store is drained: nothing new goes there, what is there goes elsewhere, a restart in the middle changes nothing; then it is
// closed, and the configuration may go on naming it or not.
func TestDrainAndAdd(t *testing.T) {
	t.Parallel()
	cfg := upkeepConfig(t, 3)
	cfg.Upkeep.RebuildRate = 1 // a budget with which it will not get far
	g := start(t, cfg)
	a := g.join("a")
	a.fill(0, 10)
	fourth := filepath.Join(filepath.Dir(cfg.Stores[0]), "store3")
	_, err := g.relay.DrainStore(fourth, false, false)
	require.ErrorContains(t, err, "there is no store at")
	_, err = g.relay.AddStore(filepath.Join(cfg.Stores[0], "inside"))
	require.ErrorContains(t, err, "lie in each other")
	_, err = g.relay.AddStore(filepath.Join(cfg.Data, "inside"))
	require.ErrorContains(t, err, "lies in the data directory")
	_, err = g.relay.AddStore(cfg.Stores[0])
	require.ErrorContains(t, err, "is a store of this relay already")
	foreign := start(t, upkeepConfig(t, 1))
	foreign.down()
	_, err = g.relay.AddStore(foreign.cfg.Stores[0])
	require.ErrorContains(t, err, "belongs to relay")

	added, err := g.relay.AddStore(fourth)
	require.NoError(t, err)
	require.Equal(t, "ok", added.Store.State)
	require.Contains(t, added.Configure, "store3")
	require.Len(t, g.problems("store-unconfigured"), 1)
	n := 10
	g.soon("used", func() bool {
		a.hello() // the clock moves
		a.fill(n, 1)
		n++
		return g.segmentsOn(fourth) > 0
	})

	_, err = g.relay.DrainStore(cfg.Stores[1], false, false)
	require.NoError(t, err)
	g.down()
	g.up()
	a.hello()
	require.Equal(t, "draining", g.storeNow(1).Role, "an operator's decision survives a restart")
	require.Len(t, g.problems("store-draining"), 1)
	require.Len(t, g.problems("store-unconfigured"), 1, "and so does the store that was added")
	g.soon("looked at", func() bool { return g.storeNow(1).Segments > 0 })
	a.fill(n, 5)
	n += 5
	g.relay.SetUpkeep(Upkeep{RebuildAfter: 10 * time.Minute})
	g.soon("drained", func() bool { return g.storeNow(1).State == "drained" })
	require.True(t, g.whole("2+1"))
	g.intact(0, n)
	for _, p := range g.rows() {
		for _, id := range p.Stores {
			require.NotEqual(t, g.storeNow(1).ID, id.String())
		}
	}
	require.NoError(t, os.Rename(cfg.Stores[1], cfg.Stores[1]+".taken"), "the disk can be taken away")

	// Too few would be left.
	_, err = g.relay.DrainStore(cfg.Stores[2], false, false)
	require.NoError(t, err, "2+1 becomes 1+1 on two")
	_, err = g.relay.DrainStore(cfg.Stores[0], false, false)
	require.ErrorContains(t, err, "cannot be drained: 1 other stores are in use")
	_, err = g.relay.AddStore(cfg.Stores[2])
	require.NoError(t, err, "taken back into use")

	g.down()
	g.up()
	require.Equal(t, "drained", g.storeNow(1).State, "the configuration still names it")
	require.Len(t, g.problems("store-drained"), 1)
	g.down()
	g.cfg.Stores = []string{cfg.Stores[0], cfg.Stores[2], fourth}
	g.up()
	require.Len(t, g.cacheNow().Stores, 3)
	require.Empty(t, g.problems("store-unconfigured"))
	require.Empty(t, g.problems("store-missing"))
	g.soon("whole", func() bool { return g.whole("2+1") })
	g.intact(0, n)
}

// A store is drained, taken out of the configuration as told, and taken back into use: a start opens it with what it got since.
func TestDrainedStoreIsTakenBackAfterItLeftTheConfiguration(t *testing.T) {
	t.Parallel()
	cfg := upkeepConfig(t, 4)
	g := start(t, cfg)
	a := g.join("a")
	a.fill(0, 4)
	last := cfg.Stores[3]
	_, err := g.relay.DrainStore(last, false, false)
	require.NoError(t, err)
	g.soon("drained", func() bool { return g.storeNow(3).State == "drained" })
	_, err = g.relay.AddStore(last)
	require.NoError(t, err)
	n := 4
	g.soon("used", func() bool {
		a.hello() // the clock moves
		a.fill(n, 1)
		n++
		return g.segmentsOn(last) > 0
	})
	g.down()
	g.cfg.Stores = cfg.Stores[:3]
	g.up()
	g.cfg = cfg
	require.Equal(t, "ok", g.storeNow(3).State)
	require.Len(t, g.problems("store-unconfigured"), 1)
	g.soon("whole", func() bool { return g.whole("2+1") })
	g.intact(0, n)
}

func (g *rig) segmentsOn(path string) int64 {
	for _, s := range g.cacheNow().Stores {
		if s.Path == path {
			return s.Segments
		}
	}
	return 0
}

// tables lists the table files of a store.
func tables(t *testing.T, path string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(path, "db", "*.sst"))
	require.NoError(t, err)
	return found
}

// The scrub finds what nobody reads: rotten, cut, missing and exchanged tables and shards that nothing names. It heals them, goes
// on where it was after a restart, and keeps count.
func TestScrub(t *testing.T) {
	t.Parallel()
	g := start(t, upkeepConfig(t, 3))
	a := g.join("a")
	a.fill(0, 12)
	g.down()
	list := tables(t, g.cfg.Stores[0])
	require.Len(t, list, 12)
	edit := func(name string, change func([]byte) []byte) {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(name, change(b), 0o600))
	}
	edit(list[0], func(b []byte) []byte { b[len(b)/3] ^= 4; return b })
	edit(list[1], func(b []byte) []byte { return b[:len(b)/2] })
	require.NoError(t, os.Remove(list[2]))
	bad := int64(3)
	if !underRace {
		bad = 5
		require.NoError(t, os.Rename(list[5], list[5]+".x"))
		require.NoError(t, os.Rename(list[6], list[5]))
		require.NoError(t, os.Rename(list[5]+".x", list[6]))
	}
	g.up()
	require.Equal(t, "idle", scrubState(g), "it is not due")
	g.relay.SetUpkeep(Upkeep{RebuildAfter: time.Hour, Scrub: time.Hour, ScrubRate: 1})
	require.NotEmpty(t, g.relay.Scrub().NextAt)
	require.Equal(t, "asked", g.relay.StartScrub().State)
	g.eventually("begun", func() bool { return g.relay.Scrub().State == "running" })
	g.down()
	g.up()
	require.Equal(t, "running", g.relay.Scrub().State, "a restart in the middle")
	g.eventually("done", func() bool { return g.relay.Scrub().Last != nil })
	last := g.relay.Scrub().Last
	require.EqualValues(t, 12, last.Segments)
	for _, e := range g.events("store-failed") {
		require.Fail(t, "damaged shards are no reason to give a store up", e.What)
	}
	require.EqualValues(t, []int64{bad, bad, 0, 0}, []int64{last.Found, last.Healed, last.Lost, last.Away})
	g.eventually("told", func() bool { return len(g.events("scrub-done")) > 0 }) // events are written a little later, in order
	require.Len(t, g.events("segment-healed"), int(bad), "an event for each find")
	require.Len(t, g.events("scrub-done"), 1)
	require.True(t, g.whole("2+1"))
	g.intact(0, 12)
	require.EqualValues(t, bad, g.cacheNow().Scrub.FoundTotal)

	g.relay.SetUpkeep(Upkeep{RebuildAfter: time.Hour, Scrub: time.Hour})
	g.clock.advance(2 * time.Hour)
	g.eventually("again, as the schedule says", func() bool { return len(g.events("scrub-done")) == 2 })
	require.Zero(t, g.relay.Scrub().Last.Found)
}

func scrubState(g *rig) string {
	g.relay.SetUpkeep(Upkeep{RebuildAfter: time.Hour, Scrub: time.Hour})
	return g.relay.Scrub().State
}

// What is freed while it is being moved leaves nothing behind, whichever comes first.
func TestFreedWhileMoved(t *testing.T) {
	t.Parallel()
	g := start(t, upkeepConfig(t, 4))
	g.relay.SetUpkeep(Upkeep{RebuildAfter: 0})
	a := g.join("a")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // ended below
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			for seq := range g.rows() {
				_, _ = g.relay.mend(context.Background(), seq, decided)
			}
			_, _ = g.relay.DrainStore(g.cfg.Stores[i%4], false, false)
			_, _ = g.relay.AddStore(g.cfg.Stores[i%4])
		}
	}()
	var v proto.VersionID
	for i := range 60 { // each one frees the one before
		v = a.put("x", blob(fmt.Sprint(i), 40_000), v)
	}
	close(stop)
	<-done
	for _, path := range g.cfg.Stores {
		_, _ = g.relay.AddStore(path)
	}
	g.soon("only the last one is there, whole", func() bool { return len(g.rows()) == 1 && g.whole("2+1") })
	got, ok := g.content("x")
	require.True(t, ok)
	require.True(t, got == blob("59", 40_000))
	for _, e := range g.events("segment-lost") {
		require.Fail(t, "lost", e.What)
	}
}

// What a scrub finds damaged and cannot write anew, for no disk has room, is shown until it is mended (I17).
func TestDamageThatCannotBeMendedYet(t *testing.T) {
	t.Parallel()
	g, f := faultyRig(t)
	g.up()
	t.Cleanup(func() { g.down() })
	a := g.join("a")
	a.fill(0, 6)
	g.down()
	table := tables(t, g.cfg.Stores[0])[0]
	b, err := os.ReadFile(table)
	require.NoError(t, err)
	b[len(b)/3] ^= 4
	require.NoError(t, os.WriteFile(table, b, 0o600))
	g.up()
	f.now.Store(&fault{"store", syscall.ENOSPC, writes})
	g.relay.SetUpkeep(Upkeep{RebuildAfter: time.Hour, Scrub: time.Hour})
	g.relay.StartScrub()
	g.eventually("done", func() bool { return g.relay.Scrub().Last != nil })
	last := g.relay.Scrub().Last
	require.EqualValues(t, []int64{1, 0, 0}, []int64{last.Found, last.Healed, last.Lost})
	g.eventually("shown", func() bool { return g.cacheNow().DegradedSegments == 1 && len(g.problems("degraded")) == 1 })
	f.now.Store(nil)
	g.soon("mended", func() bool { return g.cacheNow().DegradedSegments == 0 })
	require.True(t, g.whole("2+1"))
	g.intact(0, 6)
}
