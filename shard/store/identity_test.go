package store_test

import (
	"context"
	"os"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/shard/store"
)

func TestSecondRelayIsRefused(t *testing.T) {
	t.Parallel()
	for name, fs := range map[string]vfs.FS{"mem": vfs.NewMem(), "disk": vfs.Default} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fs, 0, func(c *store.Config) {
				c.Paths = []string{"/one"}
				if fs == vfs.Default {
					c.Paths = []string{t.TempDir()}
				}
			})
			_, err := store.Open(r.cfg, store.Deps{FS: fs, Now: r.clock.Now})
			require.Error(t, err)
			assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
			assert.Contains(t, err.Error(), "in use by another relay")
			r.put(item(t, 1, 10)) // the first one is not disturbed
			r.reopen(fs)          // and the lock goes with Close
			assert.Equal(t, 1, r.Healthy())
		})
	}
}

func TestMissingStoreIsNeverInitialised(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := newRig(t, fs, 3)
	it := item(t, 1, 5000)
	p := r.put(it)[0]
	r.cfg.Known = r.Identities()
	require.Len(t, r.cfg.Known, 3)
	require.NoError(t, r.Close())
	// A mount that did not come up: the directory is empty.
	require.NoError(t, fs.Rename("/disk2/forebay", "/aside"))
	require.NoError(t, fs.MkdirAll("/disk2/forebay", 0o755))
	r.open()
	assert.Equal(t, store.Missing, r.States()[1].State)
	assert.Len(t, r.told(store.StoreMissing), 1)
	assert.Equal(t, 2, r.Healthy())
	got := r.wants(it, p)
	if n := len(got.Away); n > 0 { // data or parity, depending on the turn
		assert.Empty(t, got.Bad, "a shard that is away is not damaged")
	}
	names, err := fs.List("/disk2/forebay")
	require.NoError(t, err)
	assert.NotContains(t, names, "store")
	g, err := r.Accepting()
	require.NoError(t, err)
	assert.Equal(t, "1+1", g.String())
	assert.Len(t, r.Identities(), 3, "the ledger must not forget the missing one")

	// It is mounted after all.
	require.NoError(t, fs.RemoveAll("/disk2/forebay"))
	require.NoError(t, fs.Rename("/aside", "/disk2/forebay"))
	r.revive()
	assert.Equal(t, store.OK, r.States()[1].State)
	assert.Equal(t, 3, r.Healthy())
}

func TestAStoreThatGoesAwayWhileOpenIsMissing(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := newRig(t, fs, 3)
	it := item(t, 1, 5000)
	p := r.put(it)[0]
	require.NoError(t, fs.Rename("/disk2/forebay", "/aside"))
	require.NoError(t, fs.MkdirAll("/disk2/forebay", 0o755)) // the mount point under it
	r.Tend()
	r.revive()
	s := r.States()[1]
	assert.Equal(t, store.Missing, s.State, s.LastError)
	assert.Contains(t, s.LastError, "mount or restore it")
	assert.Empty(t, r.told(store.StoreFull), "nothing is full")
	r.wants(it, p)
	require.Len(t, r.put(item(t, 2, 5000)), 1, "the others take data")
	names, err := fs.List("/disk2/forebay")
	require.NoError(t, err)
	assert.NotContains(t, names, "store")

	require.NoError(t, fs.RemoveAll("/disk2/forebay"))
	require.NoError(t, fs.Rename("/aside", "/disk2/forebay"))
	r.revive()
	assert.Equal(t, store.OK, r.States()[1].State)
	r.wants(it, p)
}

// Before anybody has noticed that a disk is gone, nothing is written into its mount point either.
func TestNothingIsWrittenIntoAMountPoint(t *testing.T) {
	t.Parallel()
	write := map[string]func(r *rig) error{
		"the memo":       func(r *rig) error { _, err := r.WriteMemo([]byte("memo")); return err },
		"the generation": func(r *rig) error { return r.SetGeneration(9) },
		"the ballast":    func(r *rig) error { r.Tend(); return nil },
	}
	for what, do := range write {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			fs := vfs.NewMem()
			r := newRig(t, fs, 3)
			require.NoError(t, fs.Rename("/disk2/forebay", "/aside"))
			require.NoError(t, fs.MkdirAll("/disk2/forebay", 0o755))
			_ = do(r) // it may do without the one that is gone
			names, err := fs.List("/disk2/forebay")
			require.NoError(t, err)
			assert.Empty(t, names)
			assert.NotEqual(t, store.OK, r.States()[1].State)
		})
	}
}

// A write that was under way when a disk was unmounted can end in its mount point: it is missing all the same.
func TestLitterMakesNoStoreOfAMountPoint(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := newRig(t, fs, 3)
	require.NoError(t, fs.Rename("/disk2/forebay", "/aside"))
	require.NoError(t, fs.MkdirAll("/disk2/forebay", 0o755))
	for _, name := range []string{"memo", "ballast", "identity.new"} {
		f, err := fs.Create("/disk2/forebay/"+name, vfs.WriteCategoryUnspecified)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	r.Tend()
	r.revive()
	assert.Equal(t, store.Missing, r.States()[1].State, r.States()[1].LastError)
}

// A directory below a disk that is not mounted is not made on the disk that holds the mount point.
func TestANewStoreNeedsItsDisk(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := newRig(t, fs, 2)
	r.cfg.Known = r.Identities()
	require.NoError(t, r.Close())
	r.cfg.Paths = append(r.cfg.Paths, "/mnt/disk3/forebay")
	r.open()
	assert.Equal(t, store.Failed, r.States()[2].State)
	assert.Contains(t, r.States()[2].LastError, "mount the disk")
	_, err := fs.Stat("/mnt")
	assert.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, fs.MkdirAll("/mnt/disk3", 0o755))
	r.revive()
	assert.Equal(t, store.OK, r.States()[2].State)
}

func TestLostDatabaseIsMissing(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := newRig(t, fs, 1)
	r.cfg.Known = r.Identities()
	require.NoError(t, r.Close())
	require.NoError(t, fs.RemoveAll("/disk1/forebay/db"))
	r.open()
	assert.Equal(t, store.Missing, r.States()[0].State)
	_, err := r.Accepting()
	assert.Equal(t, proto.ClassOverload, proto.ClassOf(err))
	_, err = r.Put(context.Background(), []store.Item{item(t, 1, 1)})
	assert.Equal(t, proto.ClassOverload, proto.ClassOf(err))
}

func TestWrongDirectoriesAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, fs *vfs.MemFS, r *rig)
		says  string
	}{
		"foreign relay": {func(t *testing.T, fs *vfs.MemFS, r *rig) { r.cfg.Relay, r.cfg.Known = 77, nil }, "belongs to relay"},
		"old copy": {func(t *testing.T, fs *vfs.MemFS, r *rig) {
			_, err := vfs.Clone(fs, fs, "/disk1/forebay", "/copy")
			require.NoError(t, err)
			r.open()
			r.cfg.Known = r.Identities()
			require.NoError(t, r.Close())
			require.NoError(t, fs.RemoveAll("/disk1/forebay"))
			require.NoError(t, fs.Rename("/copy", "/disk1/forebay"))
		}, "old copy"},
		"another store of ours": {func(t *testing.T, fs *vfs.MemFS, r *rig) { r.cfg.Known[0].ID = store.StoreID{5} }, "put the right disk back"},
		"somebody's files": {func(t *testing.T, fs *vfs.MemFS, r *rig) {
			require.NoError(t, fs.RemoveAll("/disk1/forebay"))
			require.NoError(t, fs.MkdirAll("/disk1/forebay/photos", 0o755))
			r.cfg.Known = nil
		}, "is no store"},
		"damaged identity": {func(t *testing.T, fs *vfs.MemFS, r *rig) {
			overwrite(t, fs, "/disk1/forebay/store", "FBSTxxxxxxxxxxxx")
		}, "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs := vfs.NewMem()
			r := newRig(t, fs, 1)
			r.put(item(t, 1, 100))
			r.cfg.Known = r.Identities()
			require.NoError(t, r.Close())
			c.spoil(t, fs, r)
			r.events = nil
			r.open()
			s := r.States()[0]
			assert.Equal(t, store.Failed, s.State)
			assert.Contains(t, s.LastError, c.says)
			assert.Len(t, r.told(store.StoreRefused), 1)
			assert.Zero(t, r.Healthy())
		})
	}
}

func overwrite(t *testing.T, fs vfs.FS, path, content string) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.Write([]byte(content))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// Mounts that changed places do no harm: a placement names stores, not paths.
func TestStoresMayChangePlaces(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := newRig(t, fs, 3)
	it := item(t, 1, 5000)
	p := r.put(it)[0]
	r.cfg.Known = r.Identities()
	require.NoError(t, r.Close())
	for _, m := range [][2]string{{"/disk1/forebay", "/x"}, {"/disk2/forebay", "/disk1/forebay"}, {"/x", "/disk2/forebay"}} {
		require.NoError(t, fs.Rename(m[0], m[1]))
	}
	r.open()
	assert.Equal(t, 3, r.Healthy())
	assert.Empty(t, r.wants(it, p).Away)
}

// A store that the configuration no longer names is shown, and kept in the ledger.
func TestUnconfiguredStoreIsShown(t *testing.T) {
	t.Parallel()
	r := newRig(t, vfs.NewMem(), 3)
	it := item(t, 1, 5000)
	p := r.put(it)[0]
	r.cfg.Known = r.Identities()
	require.NoError(t, r.Close())
	r.cfg.Paths = r.cfg.Paths[:2]
	r.open()
	states := r.States()
	require.Len(t, states, 3)
	assert.Equal(t, store.Missing, states[2].State)
	assert.Equal(t, "/disk3/forebay", states[2].Path)
	assert.Len(t, r.Identities(), 3)
	r.wants(it, p)
}

// A crash in the middle of the first opening leaves something that the next one completes.
func TestInterruptedInitialisation(t *testing.T) {
	t.Parallel()
	fs := vfs.NewCrashableMem()
	r := newRig(t, fs, 1)
	require.NoError(t, r.Close())
	for _, step := range []string{"db", "stage"} {
		require.NoError(t, fs.RemoveAll("/disk1/forebay/"+step))
	}
	require.NoError(t, fs.Remove("/disk1/forebay/store"))
	overwrite(t, fs, "/disk1/forebay/store.new", "half")
	r.open() // nothing known: the ledger's row had not been written
	assert.Equal(t, 1, r.Healthy())
	r.put(item(t, 1, 10))
}
