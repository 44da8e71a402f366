package store_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/shard/store"
)

// rewrite changes a file's bytes in place.
func rewrite(t *testing.T, fs vfs.FS, path string, change func([]byte) []byte) {
	t.Helper()
	f, err := fs.Open(path)
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	overwrite(t, fs, path, string(change(b)))
}

func flipAt(n int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[n%len(b)] ^= 0x10
		return b
	}
}

// damaged runs change against the tables of some stores while the relay is down, and opens the stores again.
func (r *rig) damage(change func(fs vfs.FS, path string, tables []string), paths ...string) {
	r.tb.Helper()
	r.cfg.Known = r.Identities()
	require.NoError(r.tb, r.Close())
	for _, p := range paths {
		change(r.fs, p, tables(r.tb, r.fs, p))
	}
	r.open()
}

// Any byte of a table may rot: the segment is read with parity's help, the bad shard is named, healing makes it whole
// again. The process lives on, which it would not with pebble's own corruption handler.
func TestBitRotIsFoundAndHealed(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 24 {
		fs := vfs.NewMem()
		r := newRig(t, fs, 3)
		it := item(t, 1, 16_000) // small: pebble searches a damaged block for the flipped bit
		p := r.put(it)[0]
		at := rng.IntN(1 << 20)
		bad := rng.IntN(3) // any shard, parity too
		path := r.States()[indexOf(r, p.Stores[bad])].Path
		r.damage(func(fs vfs.FS, _ string, tables []string) {
			require.Len(t, tables, 1)
			rewrite(t, fs, tables[0], flipAt(at))
		}, path)
		require.Equal(t, 3, r.Healthy())
		r.wants(it, p)
		healed, err := r.Heal(context.Background(), it.ID, p)
		require.NoError(t, err)
		assert.Equal(t, p, healed, "the shard is made anew where it was")
		r.events = nil
		again, err := r.Heal(context.Background(), it.ID, p)
		require.NoError(t, err, "byte %d", at)
		assert.Equal(t, p, again)
		assert.Empty(t, r.told(store.ShardBad), "byte %d of shard %d: all shards are good after healing", at, bad)
		r.reopen(fs)
		r.wants(it, p)
		require.NoError(t, r.Close())
		r.Set = nil
	}
}

func TestDamagedTables(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, fs vfs.FS, tables []string){
		"one missing": func(t *testing.T, fs vfs.FS, tables []string) { require.NoError(t, fs.Remove(tables[0])) },
		"all missing": func(t *testing.T, fs vfs.FS, tables []string) {
			for _, name := range tables {
				require.NoError(t, fs.Remove(name))
			}
		},
		"cut": func(t *testing.T, fs vfs.FS, tables []string) {
			rewrite(t, fs, tables[1], func(b []byte) []byte { return b[:len(b)/2] })
		},
		"empty": func(t *testing.T, fs vfs.FS, tables []string) {
			rewrite(t, fs, tables[1], func([]byte) []byte { return nil })
		},
		"noise": func(t *testing.T, fs vfs.FS, tables []string) {
			rewrite(t, fs, tables[2], func(b []byte) []byte {
				for i := range b {
					b[i] ^= byte(i*7 + 1)
				}
				return b
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			healsDamage(t, change)
		})
	}
}

// healsDamage damages the tables of one store of three and wants every segment read, healed and freed.
func healsDamage(t *testing.T, change func(t *testing.T, fs vfs.FS, tables []string)) {
	r := newRig(t, vfs.NewMem(), 3)
	its := items(t, 1, 4, 9000)
	at := r.put(its...)
	r.damage(func(fs vfs.FS, _ string, tables []string) { change(t, fs, tables) }, "/disk2/forebay")
	assert.Equal(t, 3, r.Healthy(), "damaged tables do not keep a store shut")
	for i, it := range its {
		_, err := r.Heal(context.Background(), it.ID, at[i])
		require.NoError(t, err, "%+v", r.States()[1])
	}
	assert.NotEmpty(t, r.told(store.ShardBad), "what is damaged is told")
	for i, it := range its {
		got := r.wants(it, at[i])
		assert.Empty(t, got.Bad)
	}
	r.reopen(r.fs)
	for i, it := range its {
		assert.Empty(t, r.wants(it, at[i]).Bad)
	}
	// Freeing works on what was damaged too.
	var all []store.IDPlacement
	for i, it := range its {
		all = append(all, store.IDPlacement{ID: it.ID, Placement: at[i]})
	}
	require.NoError(t, r.Free(context.Background(), all))
	assert.Empty(t, r.ids())
}

// A damaged segment that is freed without having been healed goes like any other.
func TestFreeWhatIsDamaged(t *testing.T) {
	t.Parallel()
	r := newRig(t, vfs.NewMem(), 2)
	it := item(t, 1, 50_000)
	p := r.put(it)[0]
	r.damage(func(fs vfs.FS, _ string, tables []string) { require.NoError(t, fs.Remove(tables[0])) }, r.cfg.Paths...)
	require.NoError(t, r.Free(context.Background(), []store.IDPlacement{{ID: it.ID, Placement: p}}))
	assert.Empty(t, r.ids())
}

// More damage than parity: a typed error names it, and wrong bytes never come back (I3).
func TestTooMuchDamageIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, vfs.NewMem(), 6)
	it := item(t, 1, 40_000)
	p := r.put(it)[0]
	require.Equal(t, "4+2", p.Geometry.String())
	r.damage(func(fs vfs.FS, _ string, tables []string) { rewrite(t, fs, tables[0], flipAt(5000)) }, r.cfg.Paths[:2]...)
	got := r.wants(it, p)
	assert.LessOrEqual(t, len(got.Bad), 2)
	r.damage(func(fs vfs.FS, _ string, tables []string) { rewrite(t, fs, tables[0], flipAt(5000)) }, r.cfg.Paths[2])
	var lost *store.LostError
	_, err := r.Get(context.Background(), it.ID, p)
	require.ErrorAs(t, err, &lost)
	assert.Equal(t, it.ID, lost.ID)
	assert.Len(t, lost.Bad, 3)
	assert.False(t, lost.Temporary())
	assert.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
	_, err = r.Heal(context.Background(), it.ID, p)
	require.ErrorAs(t, err, &lost)
}

// Stores that are only away make an error that says so: the segment may come back with them.
func TestAwayIsNotLost(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := newRig(t, fs, 3)
	it := item(t, 1, 30_000)
	p := r.put(it)[0]
	r.cfg.Known = r.Identities()
	require.NoError(t, r.Close())
	require.NoError(t, fs.Rename("/disk1/forebay", "/one"))
	require.NoError(t, fs.Rename("/disk3/forebay", "/three"))
	r.open()
	var lost *store.LostError
	_, err := r.Get(context.Background(), it.ID, p)
	require.ErrorAs(t, err, &lost)
	assert.True(t, lost.Temporary())
	assert.Equal(t, proto.ClassTransient, proto.ClassOf(err))
}

// With more damage than the stores that are away could make up for, waiting for them is in vain: the segment is gone, to be asked
// for again (I3, I16).
func TestAwayDoesNotHideLoss(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := newRig(t, fs, 6)
	it := item(t, 1, 40_000)
	p := r.put(it)[0]
	require.Equal(t, "4+2", p.Geometry.String())
	r.cfg.Known = r.Identities()
	require.NoError(t, r.Close())
	for _, disk := range []string{"/disk4", "/disk5", "/disk6"} {
		require.NoError(t, fs.Rename(disk+"/forebay", disk+"/aside"))
	}
	r.open()
	damaged := func(n int, temporary bool) {
		t.Helper()
		var lost *store.LostError
		_, err := r.Get(context.Background(), it.ID, p)
		require.ErrorAs(t, err, &lost)
		assert.Equal(t, temporary, lost.Temporary(), "%d damaged, three away: %v", n, err)
		assert.Equal(t, temporary, proto.ClassOf(err) == proto.ClassTransient)
	}
	damaged(0, true)
	for n, path := range r.cfg.Paths[:3] {
		r.damage(func(fs vfs.FS, _ string, tables []string) { rewrite(t, fs, tables[0], flipAt(5000)) }, path)
		damaged(n+1, n+1 <= 2) // of six, four are needed
	}
}

// A shard whose store is gone is healed into a spare store; the caller gets the new placement. Without a spare it says so.
func TestHealIntoSpare(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := newRig(t, fs, 4, coding("2+1"))
	var it store.Item
	var p store.Placement
	for seq := uint64(1); !slices.Contains(p.Stores, r.States()[0].ID); seq++ {
		it = item(t, seq, 40_000)
		p = r.put(it)[0]
	}
	gone := r.States()[0].ID
	r.cfg.Known = r.Identities()
	require.NoError(t, r.Close())
	require.NoError(t, fs.Rename("/disk1/forebay", "/aside"))
	r.open()
	healed, err := r.Heal(context.Background(), it.ID, p)
	require.NoError(t, err)
	assert.NotContains(t, healed.Stores, gone)
	assert.Contains(t, p.Stores, gone, "the caller's placement is not changed under it")
	got := r.wants(it, healed)
	assert.Empty(t, got.Away)

	// The old store comes back with its stale shard: Each shows it, Free with that store alone removes it.
	require.NoError(t, fs.RemoveAll("/disk1/forebay"))
	require.NoError(t, fs.Rename("/aside", "/disk1/forebay"))
	r.revive()
	stale := 0
	require.NoError(t, r.Each(context.Background(), gone, func(f store.Found) error {
		if f.ID == it.ID {
			stale++
		}
		return nil
	}))
	assert.Equal(t, 1, stale)
	only := healed
	only.Stores = []store.StoreID{gone}
	require.NoError(t, r.Free(context.Background(), []store.IDPlacement{{ID: it.ID, Placement: only}}))
	assert.Empty(t, r.wants(it, healed).Bad)

	three := newRig(t, vfs.NewMem(), 3)
	p = three.put(it)[0]
	three.cfg.Known = three.Identities()
	require.NoError(t, three.Close())
	require.NoError(t, three.fs.Rename("/disk2/forebay", "/aside"))
	three.open()
	same, err := three.Heal(context.Background(), it.ID, p)
	require.Error(t, err)
	assert.Equal(t, proto.ClassOverload, proto.ClassOf(err))
	assert.Equal(t, p, same)
}

// Shards that are written anew together come to lie in stores of their own: the loss of one of these is to cost one shard.
func TestHealSeveralIntoSpares(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := newRig(t, fs, 6, coding("2+2"))
	it := item(t, 1, 40_000)
	p := r.put(it)[0]
	states := r.States()
	r.cfg.Known = r.Identities()
	require.NoError(t, r.Close())
	for i, s := range states {
		if slices.Contains(p.Stores[:2], s.ID) {
			require.NoError(t, fs.Rename(s.Path, fmt.Sprint("/aside", i)))
		}
	}
	r.open()
	healed, err := r.Heal(context.Background(), it.ID, p)
	require.NoError(t, err)
	require.Empty(t, r.wants(it, healed).Away)
	slices.SortFunc(healed.Stores, func(a, b store.StoreID) int { return slices.Compare(a[:], b[:]) })
	require.Len(t, slices.Compact(healed.Stores), 4)
}

// A segment that could not be written whole in another geometry is as good as before, and nothing of what was written for it stays.
func TestRecodeThatFailsLeavesTheOldShards(t *testing.T) {
	t.Parallel()
	f := &faulty{}
	fs := errorfs.Wrap(vfs.NewMem(), f)
	r := newRig(t, fs, 3, coding("2+1"))
	it := item(t, 1, 40_000)
	p := r.put(it)[0]
	r.cfg.Known = r.Identities()
	require.NoError(t, r.Close())
	require.NoError(t, fs.Rename("/disk3/forebay", "/aside"))
	r.open()
	read, err := r.Examine(context.Background(), it.ID, p)
	require.NoError(t, err)
	f.set(on(errDisk, errorfs.OpFileWrite, "disk2", "stage"))
	next, err := r.Recode(context.Background(), it.ID, p, read, false)
	require.ErrorContains(t, err, "anew as 1+1")
	require.Equal(t, p, next)
	f.set(nil)
	r.revive()
	r.wants(it, p)
	for _, s := range r.States()[:2] {
		require.Equal(t, store.OK, s.State)
		require.NoError(t, r.Each(context.Background(), s.ID, func(found store.Found) error {
			require.True(t, p.Holds(s.ID, found), "%+v", found)
			return nil
		}))
	}
}

// Of a segment that lies in the stores twice, from a move that was cut short, that placement counts from which it can be read.
func TestLocateTakesWhatCanBeRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, vfs.NewMem(), 6, coding("4+2"))
	it := item(t, 1, 40_000)
	wide := r.put(it)[0]
	require.NoError(t, r.Close())
	coding("1+1")(&r.cfg)
	r.open()
	narrow := r.put(it)[0]
	located := func() store.Located {
		all, err := r.Locate(context.Background(), it.ID.Relay)
		require.NoError(t, err)
		require.Len(t, all, 1)
		return all[0]
	}
	require.Equal(t, wide.Geometry, located().Geometry, "it has more to spare")
	some := wide
	some.Stores = slices.DeleteFunc(slices.Clone(wide.Stores), func(id store.StoreID) bool { return slices.Contains(narrow.Stores, id) })[:3]
	require.NoError(t, r.Free(context.Background(), []store.IDPlacement{{ID: it.ID, Placement: some}}))
	got := located()
	require.Equal(t, narrow.Geometry, got.Geometry, "three of six shards that need four are more than two of two, and worth nothing")
	require.True(t, got.Readable())
	r.wants(it, got.Placement)
}
