package relay

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/shard/store"
)

// sweep has all stores looked through for leftovers, now and to the end.
func (g *rig) sweep() {
	g.t.Helper()
	u := &g.relay.upkeep
	g.eventually("nothing is to be looked through", func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		return len(u.sweep) == 0
	})
	g.relay.sweepAll()
	g.relay.sweepStores(context.Background())
}

func (g *rig) restart() {
	g.t.Helper()
	g.down()
	g.up()
}

// What the stores have beyond a ledger that was put back is kept until it is rebuilt, whatever happens before that (I1).
func TestALedgerThatWasPutBackFreesNothingUntilItIsRebuilt(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	g.down()
	old := filepath.Join(t.TempDir(), "old")
	require.NoError(t, os.CopyFS(old, os.DirFS(g.cfg.Data)))
	g.up()
	require.False(t, g.relay.meta.Outdated, "an ordinary start")
	g.join("a").put("x", "acknowledged and owed", 0)
	require.Equal(t, 1, g.shards())
	g.down()
	require.NoError(t, os.RemoveAll(g.cfg.Data))
	require.NoError(t, os.CopyFS(g.cfg.Data, os.DirFS(old)))
	g.up()
	for range 3 { // the first start makes it look as new as the stores
		require.True(t, g.relay.meta.Outdated)
		require.Len(t, g.problems("ledger-outdated"), 1)
		g.sweep()
		require.Equal(t, 1, g.shards(), "acknowledged bytes were freed")
		g.restart()
	}
	g.lose()
	rep, err := g.recover(nothingThere)
	require.NoError(t, err)
	require.EqualValues(t, 1, rep.Objects)
	g.up()
	g.restart()
	require.False(t, g.relay.meta.Outdated, "a rebuilt ledger is as new as its stores")
	got, ok := g.content("x")
	require.True(t, ok)
	require.Equal(t, "acknowledged and owed", got)
}

// Segments that were moved since the copy was made lie where it does not say: what the stores have of them is not left over (I2).
func TestALedgerThatWasPutBackFreesNothingThatWasMovedSince(t *testing.T) {
	t.Parallel()
	g := start(t, upkeepConfig(t, 3))
	g.join("a").fill(0, 4)
	g.down()
	old := filepath.Join(t.TempDir(), "old")
	require.NoError(t, os.CopyFS(old, os.DirFS(g.cfg.Data)))
	g.up()
	_, err := g.relay.DrainStore(g.cfg.Stores[2], false, false)
	require.NoError(t, err)
	g.soon("coded anew on two", func() bool { return g.whole("1+1") })
	g.down()
	require.NoError(t, os.RemoveAll(g.cfg.Data))
	require.NoError(t, os.CopyFS(g.cfg.Data, os.DirFS(old)))
	g.driven = true
	g.up()
	require.True(t, g.relay.meta.Outdated)
	g.sweep()
	g.lose()
	rep, err := g.recover(nothingThere)
	require.NoError(t, err)
	require.EqualValues(t, 4, rep.Objects, "%+v", rep)
	g.up()
	g.intact(0, 4)
}

// onMemory is a rig whose disks can be cut off from power. Its relay is not up yet.
func onMemory(t *testing.T) *rig {
	t.Helper()
	cfg := testConfig(t, 1)
	cfg.Stores, cfg.Ballast = []string{"/store"}, 1
	mem := vfs.NewCrashableMem()
	for _, dir := range []string{"/store", filepath.Join(cfg.Data, "ledger")} { // there before the relay, as on a real disk
		require.NoError(t, mem.MkdirAll(dir, 0o700))
		for ; dir != "/"; dir = filepath.Dir(dir) {
			d, err := mem.OpenDir(filepath.Dir(dir))
			require.NoError(t, err)
			require.NoError(t, errors.Join(d.Sync(), d.Close()))
		}
	}
	g := &rig{t: t, cfg: cfg, clock: &clock{}, fs: mem}
	t.Cleanup(func() { g.down() })
	return g
}

// The copy was made while the relay ran that wrote the rest: its generation is that of the stores, only the memo tells.
func TestACopyOfTheSameGenerationIsOutdated(t *testing.T) {
	t.Parallel()
	g := onMemory(t)
	mem, place := g.fs.(*vfs.MemFS), filepath.Join(g.cfg.Data, "ledger")
	g.up()
	a := g.join("a")
	a.put("w", "before the copy", 0)
	g.relay.keepMemo()
	old := mem.CrashClone(vfs.CrashCloneCfg{})
	v := a.put("x", "acknowledged since", 0)
	require.NotZero(t, v)
	require.Equal(t, 2, g.shards())
	g.restart()
	require.False(t, g.relay.meta.Outdated, "an ordinary start")
	g.down()

	g.fs = old // a power cut: ledger and stores are of the same moment, and the memo is not ahead
	g.up()
	require.False(t, g.relay.meta.Outdated, "after a power cut")
	g.down()

	// The same once more, with nothing but the ledger of before.
	g.fs = old.CrashClone(vfs.CrashCloneCfg{})
	g.up()
	a = g.join("a")
	copied := g.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
	generation := g.relay.meta.Generation
	a.put("y", "acknowledged since", 0)
	n := g.shards()
	require.Equal(t, 2, n)
	g.down()
	require.NoError(t, g.fs.RemoveAll(place))
	ok, err := vfs.Clone(copied, g.fs, place, place, vfs.CloneSync)
	require.NoError(t, err)
	require.True(t, ok)
	g.up()
	require.Equal(t, generation+1, g.relay.meta.Generation, "the copy is of the same generation")
	for range 2 {
		require.True(t, g.relay.meta.Outdated)
		g.sweep()
		require.Equal(t, n, g.shards(), "acknowledged bytes were freed")
		g.restart()
	}
}

// The log lost its end in a crash, within the seconds that the stores' memo is behind.
func TestALedgerThatLostItsEndIsOutdated(t *testing.T) {
	t.Parallel()
	g := onMemory(t)
	g.up()
	a := g.join("a")
	a.put("w", "before", 0)
	g.relay.keepMemo()
	place := filepath.Join(g.cfg.Data, "ledger")
	log := func() (name string, b []byte) {
		names, err := g.fs.List(place)
		require.NoError(t, err)
		names = slices.DeleteFunc(names, func(n string) bool { return filepath.Ext(n) != ".log" })
		name = filepath.Join(place, slices.Max(names)) // an older one may not be removed yet
		f, err := g.fs.Open(name)
		require.NoError(t, err)
		b, err = io.ReadAll(f)
		require.NoError(t, errors.Join(err, f.Close()))
		return name, b
	}
	_, was := log()
	a.put("x", "acknowledged and owed", 0)
	require.Equal(t, 2, g.shards())
	killed := g.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	g.down()

	g.fs = killed
	name, whole := log()
	require.Greater(t, len(whole), len(was))
	f, err := g.fs.Create(name, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.Write(whole[:len(was)])
	require.NoError(t, errors.Join(err, f.Sync(), f.Close()))
	for range 2 {
		g.up()
		require.True(t, g.relay.meta.Outdated)
		require.Len(t, g.problems("ledger-outdated"), 1)
		_, ok := g.content("x")
		require.False(t, ok, "the log was cut before it")
		g.sweep()
		require.Equal(t, 2, g.shards(), "acknowledged bytes were freed")
		g.down()
	}
	require.NoError(t, g.fs.RemoveAll(place))
	_, err = g.recover(nothingThere)
	require.NoError(t, err)
	g.up()
	require.False(t, g.relay.meta.Outdated)
	got, ok := g.content("x")
	require.True(t, ok)
	require.Equal(t, "acknowledged and owed", got)
}

// A store that was away when an operator paused a link learns it once it is back.
func TestAStoreThatComesBackGetsTheMemo(t *testing.T) {
	t.Parallel()
	g := start(t, upkeepConfig(t, 3))
	memoOf := func(n int) memo {
		var m memo
		p := store.Peek(nil, g.cfg.Stores)[n]
		require.NoError(t, p.Err)
		if p.Memo != nil {
			require.NoError(t, proto.Unmarshal(p.Memo, &m))
		}
		return m
	}
	paused := func(n int) bool {
		m := memoOf(n)
		return len(m.Links) == 1 && m.Links[0].Paused
	}
	back := g.aside(1)
	require.NoError(t, g.relay.Pause("l1", true, 0))
	require.True(t, paused(0))
	back()
	g.soon("the store is back, and has it", func() bool { return g.storeNow(1).State == "ok" && paused(1) })
}

// A memo that has not changed is not written again, but for a store that was opened: it may have an older one.
func TestAnUnchangedMemoIsWrittenIntoAStoreThatWasOpened(t *testing.T) {
	t.Parallel()
	g := startDriven(t, testConfig(t, 2))
	r := g.relay
	r.keepMemo()
	file := filepath.Join(g.cfg.Stores[1], "memo")
	require.NoError(t, os.Remove(file))
	r.keepMemo()
	require.NoFileExists(t, file, "nothing changed")
	r.storeEvent(store.Event{Kind: store.StoreOpened, Path: g.cfg.Stores[1], Store: r.stores.States()[1].ID})
	r.keepMemo()
	require.FileExists(t, file)
}

// No clock says which of several memos is the newest.
func TestTheNewestMemoIsTheOneWrittenLast(t *testing.T) {
	t.Parallel()
	var found []store.Peeked
	for _, m := range []memo{{Generation: 3, Count: 9, WrittenNs: 50}, {Generation: 4, Count: 2, WrittenNs: 10}, {Generation: 4, Count: 1, WrittenNs: 90}, {WrittenNs: 100}} {
		m.Format = memoFormat
		found = append(found, store.Peeked{Memo: proto.Marshal(m)})
	}
	m, wrong := newestMemo(found)
	require.Empty(t, wrong)
	require.Equal(t, uint64(2), m.Count)
	require.Equal(t, uint32(4), m.Generation)
	m, _ = newestMemo([]store.Peeked{{Memo: proto.Marshal(memo{Format: 1, WrittenNs: 1})}, {Memo: proto.Marshal(memo{Format: 1, WrittenNs: 2})}})
	require.EqualValues(t, 2, m.WrittenNs, "of releases that did not count them")
}

// A group that was placed before a drain began may still go into the store: while the store is being turned away from, nothing
// may say that all such groups are settled.
func TestADrainIsMarkedBeforeItBegins(t *testing.T) {
	t.Parallel()
	g := start(t, upkeepConfig(t, 3))
	st, ok := g.relay.storeAt(g.cfg.Stores[2])
	require.True(t, ok)
	mark := func() (uint64, bool) {
		g.relay.upkeep.mu.Lock()
		defer g.relay.upkeep.mu.Unlock()
		seq, ok := g.relay.upkeep.draining[st.ID]
		return seq, ok
	}
	require.ErrorIs(t, g.relay.markDrain(st.Path, func() error { return context.Canceled }), context.Canceled)
	_, ok = mark()
	require.False(t, ok, "it is not being drained")
	require.NoError(t, g.relay.markDrain(st.Path, func() error {
		seq, ok := mark()
		require.True(t, ok)
		require.EqualValues(t, uint64(math.MaxUint64), seq)
		return nil
	}))
	seq, ok := mark()
	require.True(t, ok)
	require.Equal(t, g.relay.ingest.Last(), seq)
}
