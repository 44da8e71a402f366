package store_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/crashfs"
	"forebay/proto"
	"forebay/shard/store"
)

// A power cut at any moment: every acknowledged group is readable with all its shards afterwards, whatever part of the
// unsynced data reached the disk.
func TestCrashKeepsAcknowledgedGroups(t *testing.T) {
	t.Parallel()
	for _, percent := range []int{0, 50, 100} {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, uint64(percent)))
		t.Logf("%d %% of unsynced data kept, seed %d", percent, seed)
		mem := crashfs.New()
		var now atomic.Bool
		var clones []*crashfs.FS
		var mu sync.Mutex
		// Cut the power before a write, sync, link or rename now and then, in the middle of whatever is going on.
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsRead || !now.Load() {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if rng.IntN(20) == 0 && len(clones) < 200 {
				clones = append(clones, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
			}
			return nil
		}))
		r := newRig(t, fs, 3)
		known := r.Identities()
		type acked struct {
			it store.Item
			p  store.Placement
		}
		var done []acked
		var ackedAt []int // clones made before ackedAt[i] may lack group i
		now.Store(true)
		for group := range 8 {
			its := items(t, uint64(group*10), 3, 20_000)
			for i, p := range r.put(its...) {
				done = append(done, acked{its[i], p})
				mu.Lock()
				ackedAt = append(ackedAt, len(clones))
				mu.Unlock()
			}
		}
		now.Store(false)
		clones = append(clones, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
		for n, clone := range clones {
			after := newRigKnowing(t, clone, 3, known)
			require.Equal(t, 3, after.Healthy(), "clone %d: every store must open", n)
			for i, a := range done {
				if ackedAt[i] > n {
					break
				}
				got := after.wants(a.it, a.p)
				require.Empty(t, got.Bad, "clone %d", n)
			}
			require.NoError(t, after.Close())
			after.Set = nil
		}
	}
}

func newRigKnowing(t *testing.T, fs vfs.FS, stores int, known []store.Identity) *rig {
	return newRig(t, fs, stores, func(c *store.Config) { c.Known = known })
}

// faulty lets a test break one store's disk.
type faulty struct {
	mu    sync.Mutex
	match func(op errorfs.Op) error
}

func (f *faulty) set(match func(op errorfs.Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.match = match
}

func (f *faulty) MaybeError(op errorfs.Op) error {
	f.mu.Lock()
	match := f.match
	f.mu.Unlock()
	if match == nil {
		return nil
	}
	return match(op)
}

func (f *faulty) String() string { return "faulty" }

var errDisk = errors.New("input/output error")

// on fails operations of a kind on files whose path has all the parts.
func on(err error, kind errorfs.OpKind, parts ...string) func(errorfs.Op) error {
	return func(op errorfs.Op) error {
		if op.Kind != kind {
			return nil
		}
		for _, p := range parts {
			if !strings.Contains(op.Path, p) {
				return nil
			}
		}
		return err
	}
}

// A store that fails while a group is written is left out; the group is acknowledged in a narrower geometry with the same
// parity. Later the store is opened again from disk. A failed MANIFEST write is what pebble ends the process for.
func TestStoreFailsDuringPut(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(errorfs.Op) error{
		"stage create":   on(errDisk, errorfs.OpCreate, "disk2", "stage"),
		"stage write":    on(errDisk, errorfs.OpFileWrite, "disk2", "stage"),
		"stage sync":     on(errDisk, errorfs.OpFileSync, "disk2", "stage"),
		"manifest write": on(errDisk, errorfs.OpFileWrite, "disk2", "MANIFEST"),
		"manifest sync":  on(errDisk, errorfs.OpFileSync, "disk2", "MANIFEST"),
		"directory sync": on(errDisk, errorfs.OpFileSync, "disk2", "db"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &faulty{}
			r := newRig(t, errorfs.Wrap(vfs.NewMem(), f), 3)
			before := items(t, 1, 2, 5000)
			beforeAt := r.put(before...)
			f.set(fault)
			during := items(t, 10, 3, 5000)
			at := r.put(during...)
			for i, it := range during {
				assert.Equal(t, "1+1", at[i].Geometry.String(), "the parity is kept")
				assert.Empty(t, r.wants(it, at[i]).Bad)
			}
			for i, it := range before {
				r.wants(it, beforeAt[i])
			}
			s := r.States()[1]
			assert.Equal(t, store.Failed, s.State)
			assert.NotEmpty(t, s.LastError)
			assert.Equal(t, 2, r.Healthy())
			require.Len(t, r.told(store.StoreFailed), 1)
			assert.ErrorContains(t, r.told(store.StoreFailed)[0].Err, "input/output error")

			// While the disk is broken, it is tried and stays out; when it is well, it comes back with what it had.
			r.revive()
			f.set(nil)
			r.revive()
			require.Equal(t, store.OK, r.States()[1].State, r.States()[1].LastError)
			// What the database lists has its table: a Fatalf that returned would let pebble clean up after a MANIFEST write
			// that took place.
			listed := 0
			require.NoError(t, r.Each(context.Background(), r.States()[1].ID, func(store.Found) error { listed++; return nil }))
			assert.LessOrEqual(t, listed, len(tables(t, r.fs, r.cfg.Paths[1])))
			after := items(t, 20, 2, 5000)
			afterAt := r.put(after...)
			assert.Equal(t, "2+1", afterAt[0].Geometry.String())
			for i, it := range before {
				got := r.wants(it, beforeAt[i])
				assert.Empty(t, got.Bad)
				assert.Empty(t, got.Away)
			}
			r.reopen(r.fs)
			for i, it := range after {
				r.wants(it, afterAt[i])
			}
		})
	}
}

func TestTooFewStoresIsOverload(t *testing.T) {
	t.Parallel()
	f := &faulty{}
	r := newRig(t, errorfs.Wrap(vfs.NewMem(), f), 3)
	f.set(func(op errorfs.Op) error {
		if strings.Contains(op.Path, "disk3") {
			return nil
		}
		return on(errDisk, errorfs.OpFileSync, "stage")(op)
	})
	_, err := r.Put(context.Background(), items(t, 1, 3, 1000))
	require.Error(t, err)
	assert.Equal(t, proto.ClassOverload, proto.ClassOf(err))
	assert.Contains(t, err.Error(), "disk1")
	assert.Contains(t, err.Error(), "input/output error")
	f.set(nil)
	r.revive()
	assert.Empty(t, r.ids(), "nothing of a refused group stays")
	r.put(items(t, 1, 3, 1000)...)
}

// A free that hits a failing MANIFEST fails the store; when it is back, freeing again frees.
func TestStoreFailsDuringFree(t *testing.T) {
	t.Parallel()
	f := &faulty{}
	r := newRig(t, errorfs.Wrap(vfs.NewMem(), f), 1)
	it := item(t, 1, 1000)
	p := r.put(it)[0]
	f.set(on(errDisk, errorfs.OpFileSync, "MANIFEST"))
	require.Error(t, r.Free(context.Background(), []store.IDPlacement{{ID: it.ID, Placement: p}}))
	assert.Equal(t, store.Failed, r.States()[0].State)
	f.set(nil)
	r.revive()
	require.NoError(t, r.Free(context.Background(), []store.IDPlacement{{ID: it.ID, Placement: p}}))
	assert.Empty(t, r.ids())
}

// A disk that hangs takes a deadline, not the relay.
func TestDiskHangs(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]struct {
		op   errorfs.OpKind
		part string
		read bool
	}{"sync": {errorfs.OpFileSync, "stage", false}, "manifest": {errorfs.OpFileSync, "MANIFEST", false}, "read": {errorfs.OpFileReadAt, "db", true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &faulty{}
			r := newRig(t, errorfs.Wrap(vfs.NewMem(), f), 3, func(c *store.Config) { c.Deadline = 300 * time.Millisecond })
			it := item(t, 1, 9000)
			p := r.put(it)[0]
			slow := "disk" + string('1'+rune(indexOf(r, p.Stores[0])))
			hang, release := make(chan struct{}), sync.Once{}
			let := func() { release.Do(func() { close(hang) }) }
			t.Cleanup(let)
			f.set(func(op errorfs.Op) error {
				if on(errDisk, kind.op, slow, kind.part)(op) != nil {
					<-hang
				}
				return nil
			})
			if kind.read {
				got := r.wants(it, p)
				assert.Equal(t, []int{0}, got.Away)
			} else {
				next := item(t, 2, 9000)
				at := r.put(next)[0]
				assert.Equal(t, "1+1", at.Geometry.String())
				r.wants(next, at)
			}
			failed := func() store.Health { return r.States()[indexOf(r, p.Stores[0])].State }
			assert.Equal(t, store.Failed, failed())
			r.revive()
			assert.Equal(t, store.Failed, failed(), "it must not be opened beside a call that still hangs")
			f.set(nil)
			let()
			require.Eventually(t, func() bool { r.revive(); return failed() == store.OK }, waitLong, waitStep)
			assert.Empty(t, r.wants(it, p).Away)
		})
	}
}

func indexOf(r *rig, id store.StoreID) int {
	for i, s := range r.States() {
		if s.ID == id {
			return i
		}
	}
	return -1
}

// A disk that answers reads with errors is passed over, and after a few given up until it answers again.
func TestReadErrors(t *testing.T) {
	t.Parallel()
	f := &faulty{}
	r := newRig(t, errorfs.Wrap(vfs.NewMem(), f), 3)
	its := items(t, 1, 6, 9000)
	at := r.put(its...)
	r.reopen(r.fs) // so that nothing is cached
	f.set(on(errDisk, errorfs.OpFileReadAt, "disk1", ".sst"))
	for i, it := range its {
		got := r.wants(it, at[i])
		assert.Empty(t, got.Bad, "a disk that does not answer says nothing about the shard")
	}
	assert.Equal(t, store.Failed, r.States()[0].State)
	f.set(nil)
	r.revive()
	for i, it := range its {
		assert.Empty(t, r.wants(it, at[i]).Away)
	}
}

// The generation is on the disk before SetGeneration returns, also in a store that was away then.
func TestGenerationIsDurable(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	f := &faulty{}
	r := newRig(t, errorfs.Wrap(mem, f), 2)
	f.set(func(op errorfs.Op) error {
		if strings.Contains(op.Path, "disk2") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errDisk
		}
		return nil
	})
	require.NoError(t, r.SetGeneration(41), "one store is enough; the ledger has it too")
	known := r.Identities()
	crashed := newRigKnowing(t, mem.CrashClone(vfs.CrashCloneCfg{}), 2, known)
	highest := uint32(0)
	for _, g := range crashed.Generations() {
		highest = max(highest, g)
	}
	assert.EqualValues(t, 41, highest)
	f.set(nil)
	r.revive()
	for _, g := range r.Generations() {
		assert.EqualValues(t, 41, g)
	}
}

// Where hard links do not work, tables are copied.
func TestNoHardLinks(t *testing.T) {
	t.Parallel()
	f := &faulty{}
	r := newRig(t, errorfs.Wrap(vfs.NewMem(), f), 1)
	f.set(on(errDisk, errorfs.OpLink))
	it := item(t, 1, 700_000)
	p := r.put(it)[0]
	r.wants(it, p)
}

// The first opening may be cut short at any step, and the next one must be able to complete it.
func TestCrashDuringInitialisation(t *testing.T) {
	t.Parallel()
	for _, percent := range []int{0, 50, 100} {
		seed := rand.Uint64()
		t.Logf("%d %% of unsynced data kept, seed %d", percent, seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		mem := crashfs.New()
		var mu sync.Mutex
		var clones []*crashfs.FS
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				mu.Lock()
				defer mu.Unlock()
				clones = append(clones, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
			}
			return nil
		}))
		r := newRig(t, fs, 1)
		require.Equal(t, 1, r.Healthy())
		mu.Lock()
		begun := clones
		mu.Unlock()
		require.Greater(t, len(begun), 10)
		for n, clone := range begun {
			after := newRig(t, clone, 1)
			require.Equal(t, 1, after.Healthy(), "cut at step %d of %d: %s", n, len(begun), after.States()[0].LastError)
			after.put(item(t, 1, 10))
		}
	}
}
