package store_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"forebay/internal/figures"
	"forebay/proto"
	"forebay/shard"
	"forebay/shard/store"
)

var (
	campaignRounds = flag.Int("campaign", 8, "rounds of damage and repair in TestCampaign")
	campaignSeed   = flag.Uint64("campaign-seed", 0, "seed of TestCampaign; 0 draws one")
	campaignReport = flag.String("report", "", "directory for the report of TestCampaign; none when empty")
)

// kept is a segment as a ledger would know it, with the bytes that it must give back.
type kept struct {
	it store.Item
	p  store.Placement
}

// campaign damages stores at random, repairs them, and holds all of it against what was put.
type campaign struct {
	t    *testing.T
	rng  *rand.Rand
	r    *rig
	segs map[uint64]*kept
	seq  uint64
	// old tables' bytes, of segments that are there no more or were moved: to be put over new ones.
	old [][]byte
	// hurt are the shards that were damaged in this round, by segment.
	hurt map[uint64]map[int]string

	count struct {
		shards, found, healed, within, beyond, named, read, wide, crashes, away int
		bytes                                                                   int64
		kinds                                                                   map[string]int
	}
}

// TestCampaign: whatever happens to shards, up to the parity every segment gives back its bytes, by reading and by scrubbing,
// and is whole again after one repair (I1, I3); with more it is named, and wrong bytes never come back; what was freed stays
// away and nothing else goes (I2).
func TestCampaign(t *testing.T) {
	t.Parallel()
	seed := *campaignSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	defer func() {
		if t.Failed() {
			t.Logf("again with: go test ./shard/store -run TestCampaign -campaign %d -campaign-seed %d", *campaignRounds, seed)
		}
	}()
	began := time.Now()
	c := &campaign{t: t, rng: rand.New(rand.NewPCG(seed, 1))}
	c.count.kinds = map[string]int{}
	for round := 0; round < *campaignRounds; {
		c.begin([]struct {
			stores int
			coding string
		}{{4, "2+1"}, {3, "2+1"}, {2, "1+1"}, {7, "4+2"}, {5, "3+2"}}[c.rng.IntN(5)])
		for range 10 {
			if round < *campaignRounds {
				c.round()
				round++
			}
		}
		require.NoError(t, c.r.Close())
		c.r.Set = nil
	}
	n := c.count
	t.Logf("%d rounds: %+v", *campaignRounds, n)
	require.Equal(t, n.shards, n.found, "bad shards found")
	require.NotZero(t, n.within)
	if *campaignReport == "" {
		return
	}
	kinds := ""
	for _, k := range slices.Sorted(maps.Keys(n.kinds)) {
		kinds += fmt.Sprintf("%s %d, ", k, n.kinds[k])
	}
	require.NoError(t, figures.Report{
		Layer: "stores", Measured: time.Now().UTC().Format(time.DateOnly),
		Command: fmt.Sprintf("make stores ROUNDS=%d SEED=%d", *campaignRounds, seed),
		Figures: []figures.Figure{
			{Name: "damaged shards found", Value: fmt.Sprintf("%d of %d", n.found, n.shards), Note: kinds + "each on disk, behind the back of the relay"},
			{Name: "bit rot and other damage healed, up to the parity", Value: fmt.Sprintf("%d of %d shards, in %d segments", n.healed, n.healed, n.within), Note: "every one of them: the segment is read right before and whole after one repair"},
			{Name: "segments damaged beyond the parity that were named", Value: fmt.Sprintf("%d of %d", n.named, n.beyond)},
			{Name: "segments that gave back wrong bytes", Value: fmt.Sprintf("0 of %d readings", n.read)},
			{Name: "rounds with a store away, coded anew without it and back with its stale shards", Value: fmt.Sprint(n.away)},
			{Name: "power cuts between a recoded segment and its row", Value: fmt.Sprint(n.crashes), Note: "with half of what was not synced lost: the old placement is as good as before"},
			{Name: "time", Value: time.Since(began).Round(time.Second).String(), Note: fmt.Sprintf("%d rounds", *campaignRounds)},
		},
		Invariants: map[string]string{
			"I1": "every segment that was put and not freed is read back and compared, after each round of damage and of repair",
			"I2": "what the stores list is compared with what was put and not freed, after each round",
			"I3": "up to parity shards of each segment are flipped, cut, emptied, removed, exchanged or replaced by old ones; more are damaged too, and must be named",
		},
		NotCovered: []string{"damage under data that the operating system holds in memory: a scrub reads what the file system gives it"},
	}.Save(*campaignReport))
}

func (c *campaign) begin(with struct {
	stores int
	coding string
}) {
	c.r = newRig(c.t, vfs.NewCrashableMem(), with.stores, coding(with.coding))
	c.segs, c.old = map[uint64]*kept{}, nil
}

// round: new segments, damage, reading, repair, freeing.
func (c *campaign) round() {
	c.put(2 + c.rng.IntN(4))
	c.damage()
	c.readAll()
	c.repairAll()
	c.hurt = nil
	c.readAll()
	switch c.rng.IntN(4) {
	case 0:
		c.loseStore()
	case 1:
		c.powerCut()
	}
	c.free(c.rng.IntN(3))
	c.listed()
}

func (c *campaign) put(n int) {
	var its []store.Item
	for range n {
		c.seq++
		its = append(its, item(c.t, c.seq, 20_000+c.rng.IntN(80_000)))
	}
	for i, p := range c.r.put(its...) {
		c.segs[its[i].ID.Seq] = &kept{its[i], p}
	}
}

func (c *campaign) sorted() []uint64 { return slices.Sorted(maps.Keys(c.segs)) }

// damage closes the stores and damages some tables.
func (c *campaign) damage() {
	c.hurt = map[uint64]map[int]string{}
	c.r.cfg.Known, c.r.cfg.Roles = c.r.Identities(), c.r.Roles()
	require.NoError(c.t, c.r.Close())
	type table struct {
		path  string
		store store.StoreID
		seq   uint64
		index int
	}
	var all []table
	for _, k := range c.r.cfg.Known {
		for _, path := range tables(c.t, c.r.fs, k.Path) {
			if seq, index, ok := c.owner(k.ID, content(c.t, c.r.fs, path)); ok {
				all = append(all, table{path, k.ID, seq, index})
			}
		}
	}
	for range c.rng.IntN(2 * len(c.r.cfg.Paths)) {
		at := all[c.rng.IntN(len(all))]
		if c.hurt[at.seq][at.index] != "" {
			continue
		}
		was := content(c.t, c.r.fs, at.path)
		kinds := []string{"flipped", "cut", "emptied", "removed", "exchanged", "stale"}
		if underRace {
			kinds = kinds[:4]
		}
		kind := kinds[c.rng.IntN(len(kinds))]
		switch kind {
		case "flipped":
			b := bytes.Clone(was)
			b[c.rng.IntN(len(b)*3/4)] ^= 1 << c.rng.IntN(8) // in the data, not in what pebble has beside it
			overwrite(c.t, c.r.fs, at.path, string(b))
		case "cut":
			overwrite(c.t, c.r.fs, at.path, string(was[:len(was)/2]))
		case "emptied":
			overwrite(c.t, c.r.fs, at.path, "")
		case "removed":
			require.NoError(c.t, c.r.fs.Remove(at.path))
		case "stale":
			if len(c.old) == 0 {
				continue
			}
			overwrite(c.t, c.r.fs, at.path, string(c.old[c.rng.IntN(len(c.old))]))
		case "exchanged":
			i := slices.IndexFunc(all, func(o table) bool { return o.store == at.store && o.path != at.path && c.hurt[o.seq][o.index] == "" })
			if i < 0 {
				continue
			}
			other := content(c.t, c.r.fs, all[i].path)
			overwrite(c.t, c.r.fs, at.path, string(other))
			overwrite(c.t, c.r.fs, all[i].path, string(was))
			c.note(kind, all[i].path, all[i].seq, all[i].index)
		}
		c.note(kind, at.path, at.seq, at.index)
	}
	c.r.open()
	require.Equal(c.t, len(c.r.cfg.Paths), c.r.Healthy(), "damaged tables keep no store shut: %+v", c.r.States())
}

func (c *campaign) note(kind, path string, seq uint64, index int) {
	if c.hurt[seq] == nil {
		c.hurt[seq] = map[int]string{}
	}
	c.hurt[seq][index] = kind + " " + path
	c.count.kinds[kind]++
	c.count.shards++
}

// owner finds whose shard a table's bytes are: its first key is there in full.
func (c *campaign) owner(at store.StoreID, b []byte) (seq uint64, index int, ok bool) {
	for seq, k := range c.segs {
		i := bytes.Index(b, k.it.ID.Bytes())
		if i < 0 || i+20 > len(b) {
			continue
		}
		f := store.Found{Code: k.p.Code(k.it.ID), Index: int(b[i+19])}
		same := shard.Geometry{Data: int(b[i+17]), Parity: int(b[i+18])} == k.p.Geometry
		return seq, f.Index, same && k.p.Holds(at, f)
	}
	return 0, 0, false
}

func content(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return b
}

// readAll reads every segment as a flush does.
func (c *campaign) readAll() {
	for _, seq := range c.sorted() {
		k := c.segs[seq]
		got, err := c.r.Get(context.Background(), k.it.ID, k.p)
		c.count.read++
		if len(c.hurt[seq]) > k.p.Geometry.Parity {
			c.lost(k, err)
			continue
		}
		require.NoError(c.t, err, "segment %d, damaged: %v of %s", seq, c.hurt[seq], k.p.Geometry)
		require.True(c.t, bytes.Equal(k.it.Raw, got.Segment.Raw), "segment %d gives back wrong bytes", seq)
		c.count.bytes += int64(len(k.it.Raw))
	}
}

func (c *campaign) lost(k *kept, err error) {
	var lost *store.LostError
	require.ErrorAs(c.t, err, &lost, "segment %s", k.it.ID)
	require.Equal(c.t, k.it.ID, lost.ID)
	require.False(c.t, lost.Temporary())
	require.Equal(c.t, proto.ClassCorrupt, proto.ClassOf(err))
}

// repairAll is a scrub: every shard is looked at, and what is bad is written anew. What cannot be is freed, as the relay does.
func (c *campaign) repairAll() {
	for _, seq := range c.sorted() {
		k := c.segs[seq]
		read, err := c.r.Examine(context.Background(), k.it.ID, k.p)
		hurt := slices.Sorted(maps.Keys(c.hurt[seq]))
		if len(hurt) > k.p.Geometry.Parity {
			c.lost(k, err)
			var lost *store.LostError
			require.True(c.t, errors.As(err, &lost))
			require.Equal(c.t, hurt, slices.Sorted(slices.Values(lost.Bad)), "what is bad is named")
			c.count.found += len(lost.Bad)
			c.count.beyond++
			c.count.named++
			c.forget(seq)
			continue
		}
		require.NoError(c.t, err, "segment %d", seq)
		bad := slices.Sorted(slices.Values(read.Bad))
		require.Equal(c.t, hurt, bad, "segment %d at %s: %v", seq, k.p.Geometry, c.hurt[seq])
		c.count.found += len(bad)
		c.recode(k, read)
		if len(hurt) > 0 {
			c.count.within++
			c.count.healed += len(hurt)
		}
	}
}

// recode is what the relay does with a segment: code it anew, record the new placement, free what that no longer names.
func (c *campaign) recode(k *kept, read store.Read) {
	next, err := c.r.Recode(context.Background(), k.it.ID, k.p, read, true)
	require.NoError(c.t, err, "segment %s", k.it.ID)
	gone := store.Superseded(k.it.ID, k.p, next)
	if next.Geometry != k.p.Geometry {
		c.count.wide++
	}
	k.p = next
	require.NoError(c.t, c.r.FreeShards(context.Background(), gone))
	again, err := c.r.Examine(context.Background(), k.it.ID, k.p)
	require.NoError(c.t, err)
	require.Empty(c.t, slices.Concat(again.Bad, again.Away, again.Gone), "segment %s is whole", k.it.ID)
	require.True(c.t, bytes.Equal(k.it.Raw, again.Segment.Raw))
}

func (c *campaign) forget(seq uint64) {
	k := c.segs[seq]
	require.NoError(c.t, c.r.Free(context.Background(), []store.IDPlacement{{ID: k.it.ID, Placement: k.p}}))
	delete(c.segs, seq)
}

// free frees some segments, whose tables are kept to be put over others later.
func (c *campaign) free(n int) {
	for range n {
		if len(c.segs) < 4 {
			return
		}
		if list := tables(c.t, c.r.fs, c.r.cfg.Paths[0]); len(list) > 0 && len(c.old) < 20 {
			c.old = append(c.old, content(c.t, c.r.fs, list[c.rng.IntN(len(list))]))
		}
		all := c.sorted()
		c.forget(all[c.rng.IntN(len(all))])
	}
	if len(c.old) > 0 { // what is still there is not old
		c.old = slices.DeleteFunc(c.old, func(b []byte) bool {
			for _, k := range c.segs {
				if bytes.Contains(b, k.it.ID.Bytes()) {
					return true
				}
			}
			return false
		})
	}
}

// listed compares what the stores hold with what the placements name.
func (c *campaign) listed() {
	held := 0
	for _, st := range c.r.States() {
		require.NoError(c.t, c.r.Each(context.Background(), st.ID, func(f store.Found) error {
			held++
			k := c.segs[f.ID.Seq]
			if k == nil || !k.p.Holds(st.ID, f) {
				return fmt.Errorf("store %s holds shard %d of segment %s (%s), which nothing names", st.Path, f.Index, f.ID, f.Geometry)
			}
			return nil
		}))
	}
	want := 0
	for _, k := range c.segs {
		want += len(k.p.Stores)
	}
	require.Equal(c.t, want, held)
}

// loseStore takes a store away for as long as it takes to make up for it, and brings it back with what was on it.
func (c *campaign) loseStore() {
	gone := c.r.cfg.Paths[c.rng.IntN(len(c.r.cfg.Paths))]
	if _, ok := shard.Narrow(c.r.Coding(), len(c.r.cfg.Paths)-1); !ok {
		return
	}
	c.count.away++
	c.r.cfg.Known, c.r.cfg.Roles = c.r.Identities(), c.r.Roles()
	require.NoError(c.t, c.r.Close())
	require.NoError(c.t, c.r.fs.Rename(gone, "/aside"))
	c.r.open()
	for _, seq := range c.sorted() {
		k := c.segs[seq]
		read, err := c.r.Examine(context.Background(), k.it.ID, k.p)
		require.NoError(c.t, err)
		c.recode(k, read)
	}
	require.NoError(c.t, c.r.fs.RemoveAll(gone))
	require.NoError(c.t, c.r.fs.Rename("/aside", gone))
	c.r.revive()
	require.Equal(c.t, len(c.r.cfg.Paths), c.r.Healthy())
	c.readAll()
	c.sweep()
	for _, seq := range c.sorted() { // back to full width
		read, err := c.r.Examine(context.Background(), c.segs[seq].it.ID, c.segs[seq].p)
		require.NoError(c.t, err)
		c.recode(c.segs[seq], read)
		require.Equal(c.t, c.r.Coding(), c.segs[seq].p.Geometry)
	}
}

// sweep frees what no placement names, as the relay does when a store was opened.
func (c *campaign) sweep() {
	for _, st := range c.r.States() {
		var left []store.At
		require.NoError(c.t, c.r.Each(context.Background(), st.ID, func(f store.Found) error {
			if k := c.segs[f.ID.Seq]; k == nil || !k.p.Holds(st.ID, f) {
				left = append(left, store.At{Store: st.ID, Found: f})
			}
			return nil
		}))
		require.NoError(c.t, c.r.FreeShards(context.Background(), left))
	}
}

// powerCut codes segments anew, in another geometry too, and cuts the power before the placement is recorded: the old one is as
// good as before.
func (c *campaign) powerCut() {
	c.count.crashes++
	mem, ok := c.r.fs.(*vfs.MemFS)
	require.True(c.t, ok)
	drained := c.r.cfg.Paths[c.rng.IntN(len(c.r.cfg.Paths))]
	_, err := c.r.Drain(drained)
	for _, seq := range c.sorted() {
		k := c.segs[seq]
		read, err := c.r.Examine(context.Background(), k.it.ID, k.p)
		require.NoError(c.t, err)
		_, err = c.r.Recode(context.Background(), k.it.ID, k.p, read, true)
		require.NoError(c.t, err)
	}
	if err == nil {
		require.NoError(c.t, c.r.Add(drained))
	}
	c.r.cfg.Known, c.r.cfg.Roles = c.r.Identities(), store.Roles{}
	clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: c.rng})
	require.NoError(c.t, c.r.Close())
	c.r.fs = clone
	c.r.open()
	require.Equal(c.t, len(c.r.cfg.Paths), c.r.Healthy())
	for _, seq := range c.sorted() {
		read, err := c.r.Examine(context.Background(), c.segs[seq].it.ID, c.segs[seq].p)
		require.NoError(c.t, err)
		require.Empty(c.t, slices.Concat(read.Bad, read.Away), "segment %d", seq)
	}
	c.sweep()
	c.readAll()
}
