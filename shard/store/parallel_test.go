package store_test

import (
	"context"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/shard/store"
)

// Everything at once, with a store that fails and comes back now and then: what is acknowledged reads back, what is freed
// is gone.
func TestAllAtOnce(t *testing.T) {
	t.Parallel()
	f := &faulty{}
	r := newRig(t, errorfs.Wrap(vfs.NewMem(), f), 4, coding("2+1"))
	stop := make(chan struct{})
	var background, workers sync.WaitGroup
	background.Go(func() { // ends when stop is closed
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if i%2 == 0 {
				f.set(on(errDisk, errorfs.OpFileSync, "disk3", "MANIFEST"))
			} else {
				f.set(nil)
			}
			r.revive()
			_ = r.States()
			_ = r.Capacity() + r.Used()
			_ = r.Generations()
		}
	})
	for w := range uint64(6) {
		workers.Go(func() { // ends after its rounds
			for round := range uint64(15) {
				its := items(t, w*1000+round*10, 3, 3000)
				placements, err := r.Put(context.Background(), its)
				if !assert.NoError(t, err) { // three of four stores always work
					return
				}
				for i, it := range its {
					got, err := r.Get(context.Background(), it.ID, placements[i])
					if assert.NoError(t, err) {
						assert.Equal(t, it.Raw, got.Segment.Raw)
						assert.Empty(t, got.Bad)
					}
				}
				assert.NoError(t, r.SetGeneration(uint32(round)))
			}
		})
	}
	workers.Wait()
	close(stop)
	background.Wait()
	f.set(nil)
	r.revive()
	assert.Equal(t, 4, r.Healthy())
}

// Calls that queue up behind one for which pebble gave up are let go at once, and keep nobody from opening the store again.
func TestQueueBehindADeadInstance(t *testing.T) {
	t.Parallel()
	f := &faulty{}
	r := newRig(t, errorfs.Wrap(vfs.NewMem(), f), 1)
	at := r.put(items(t, 100, 8, 100)...)
	f.set(on(errDisk, errorfs.OpFileSync, "MANIFEST"))
	var all sync.WaitGroup
	for i := range uint64(8) {
		all.Go(func() { // ends with the store's deadline at the latest
			_, err := r.Put(context.Background(), items(t, i*10, 2, 100))
			assert.Error(t, err)
			// The store may be down already, then there is nothing to free it from.
			_ = r.Free(context.Background(), []store.IDPlacement{{ID: item(t, 100+i, 0).ID, Placement: at[i]}})
		})
	}
	all.Wait()
	f.set(nil)
	r.revive()
	require.Equal(t, store.OK, r.States()[0].State, r.States()[0].LastError)
	r.put(items(t, 500, 2, 100)...)
}
