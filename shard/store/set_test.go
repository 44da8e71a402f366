package store_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/shard"
	"forebay/shard/store"
)

func TestPutGetFree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		stores int
		coding string
	}{{1, "1+0"}, {2, "1+1"}, {3, "2+1"}, {5, "2+1"}, {6, "4+2"}, {3, "3+0"}} {
		t.Run(c.coding, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, vfs.NewMem(), c.stores, coding(c.coding))
			group := append(items(t, 1, 6, 300_000), item(t, 100, 0), item(t, math.MaxUint64, 5))
			placements := r.put(group...)
			for i, it := range group {
				got := r.wants(it, placements[i])
				assert.Empty(t, got.Bad)
				assert.Empty(t, got.Away)
				assert.Equal(t, c.coding, placements[i].Geometry.String())
			}
			r.reopen(r.fs)
			for i, it := range group {
				r.wants(it, placements[i])
			}
			assert.Len(t, r.ids(), len(group))

			// Free some: these are gone, their neighbours are not.
			var free []store.IDPlacement
			for _, i := range []int{1, 2, 4, 7} {
				free = append(free, store.IDPlacement{ID: group[i].ID, Placement: placements[i]})
			}
			require.NoError(t, r.Free(context.Background(), free))
			require.NoError(t, r.Free(context.Background(), free), "freeing may be repeated")
			assert.Len(t, r.ids(), 4)
			for _, i := range []int{0, 3, 5, 6} {
				r.wants(group[i], placements[i])
			}
			var lost *store.LostError
			_, err := r.Get(context.Background(), group[1].ID, placements[1])
			require.ErrorAs(t, err, &lost)
			assert.False(t, lost.Temporary())
			assert.Equal(t, proto.ClassCorrupt, proto.ClassOf(err), "a known shard that is not there is corruption")
		})
	}
}

// The shards of a segment never share a store, and each store gets its part of the load.
func TestPlacementSpreads(t *testing.T) {
	t.Parallel()
	r := newRig(t, vfs.NewMem(), 5, coding("2+1"))
	load := make(map[store.StoreID]int)
	parity := make(map[store.StoreID]int)
	for seq := range uint64(60) {
		p := r.put(item(t, seq, 1000))[0]
		distinct := make(map[store.StoreID]bool)
		for _, id := range p.Stores {
			distinct[id] = true
			load[id]++
		}
		parity[p.Stores[2]]++
		require.Len(t, distinct, 3)
	}
	for id, n := range load {
		assert.InDelta(t, 36, n, 8, "shards on %s", id)
	}
	assert.Len(t, parity, 5, "parity must not lie on the same stores always")
}

func TestPlacementSurvivesCBOR(t *testing.T) {
	t.Parallel()
	p := store.Placement{Geometry: shard.Geometry{Data: 2, Parity: 1}, Stores: []store.StoreID{{1}, {2}, {3}}, Length: 77, Tag: shard.Tag{9}}
	raw := proto.Marshal(p)
	var got store.Placement
	require.NoError(t, proto.Unmarshal(raw, &got))
	assert.Equal(t, p, got)
	assert.Less(t, len(raw), 80, "the ledger keeps one for each segment")
}

func TestEachTellsWhatIsThere(t *testing.T) {
	t.Parallel()
	r := newRig(t, vfs.NewMem(), 3)
	group := items(t, 10, 4, 2000)
	placements := r.put(group...)
	r.reopen(r.fs)
	// The ledger's rebuild: from what the stores list alone, the placements can be put together again.
	rebuilt := make(map[proto.SegmentID]store.Placement)
	for _, s := range r.States() {
		require.NoError(t, r.Each(context.Background(), s.ID, func(f store.Found) error {
			p, ok := rebuilt[f.ID]
			if !ok {
				p = store.Placement{Geometry: f.Geometry, Length: int64(f.Length), Tag: f.Tag, Stores: make([]store.StoreID, f.Geometry.Shards())}
			}
			p.Stores[f.Index] = s.ID
			rebuilt[f.ID] = p
			return nil
		}))
	}
	require.Len(t, rebuilt, len(group))
	for i, it := range group {
		assert.Equal(t, placements[i], rebuilt[it.ID])
		r.wants(it, rebuilt[it.ID])
	}
	stop := errors.New("enough")
	assert.ErrorIs(t, r.Each(context.Background(), r.States()[0].ID, func(store.Found) error { return stop }), stop)
	assert.Error(t, r.Each(context.Background(), store.StoreID{1}, func(store.Found) error { return nil }))
}

func TestPutRefusesWhatIsNoSegment(t *testing.T) {
	t.Parallel()
	r := newRig(t, vfs.NewMem(), 1)
	good := item(t, 1, 100)
	for name, group := range map[string][]store.Item{
		"wrong id":    {{ID: proto.SegmentID{Relay: relay, Seq: 2}, Raw: good.Raw}},
		"cut":         {{ID: good.ID, Raw: good.Raw[:len(good.Raw)-1]}},
		"not one":     {{ID: good.ID, Raw: make([]byte, 200)}},
		"twice":       {good, good},
		"good and no": {good, {ID: good.ID}},
	} {
		_, err := r.Put(context.Background(), group)
		require.Error(t, err, name)
		assert.NotEqual(t, proto.ClassTransient, proto.ClassOf(err), name)
	}
	assert.Empty(t, r.ids())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := r.Put(ctx, []store.Item{good})
	assert.ErrorIs(t, err, context.Canceled)
}

func TestCapacityIsAWall(t *testing.T) {
	t.Parallel()
	r := newRig(t, vfs.NewMem(), 3, func(c *store.Config) { c.Capacity = 3 << 20 })
	assert.EqualValues(t, 3<<20, r.Capacity())
	first := item(t, 1, 1<<20)
	p := r.put(first)
	_, err := r.Put(context.Background(), []store.Item{item(t, 2, 1<<20)})
	require.Error(t, err)
	assert.Equal(t, proto.ClassOverload, proto.ClassOf(err))
	require.NoError(t, r.Free(context.Background(), []store.IDPlacement{{ID: first.ID, Placement: p[0]}}))
	require.Eventually(t, func() bool { r.Tend(); return r.Used() < 1<<20 }, waitLong, waitStep, "freed space counts as free")
	r.put(item(t, 2, 1<<20))
}

func TestGenerations(t *testing.T) {
	t.Parallel()
	r := newRig(t, vfs.NewMem(), 3)
	require.NoError(t, r.SetGeneration(7))
	require.NoError(t, r.SetGeneration(6), "it never goes back")
	for id, g := range r.Generations() {
		assert.EqualValues(t, 7, g, id.String())
	}
	r.reopen(r.fs)
	assert.Len(t, r.Generations(), 3)
	for id, g := range r.Generations() {
		assert.EqualValues(t, 7, g, "%s must remember it", id)
	}
}

func TestConfigIsValidated(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]store.Config{
		"no stores":       {},
		"twice":           {Paths: []string{"/a", "/a"}},
		"too wide":        {Paths: []string{"/a", "/b"}, Coding: shard.Geometry{Data: 2, Parity: 1}},
		"no geometry":     {Paths: []string{"/a"}, Coding: shard.Geometry{Data: -1}},
		"negative amount": {Paths: []string{"/a"}, Ballast: -1},
	} {
		_, err := store.Open(cfg, store.Deps{FS: vfs.NewMem(), Now: (&clock{}).Now})
		require.Error(t, err, name)
		assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), name)
	}
}
