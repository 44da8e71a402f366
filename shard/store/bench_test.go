package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard/store"
)

func benchRig(b *testing.B, stores int, geometry string) *rig {
	dir := b.TempDir()
	return newRig(b, vfs.Default, 0, coding(geometry), func(c *store.Config) {
		c.Capacity = 1 << 40
		for i := range stores {
			c.Paths = append(c.Paths, filepath.Join(dir, fmt.Sprint(i)))
		}
	})
}

// BenchmarkPut writes commit groups to a real file system, every one durable, and frees them again.
func BenchmarkPut(b *testing.B) {
	for _, c := range []struct {
		stores, segments, payload int
		geometry                  string
	}{{1, 4, 8 << 20, "1+0"}, {3, 4, 8 << 20, "2+1"}, {6, 4, 8 << 20, "4+2"}, {3, 1, 1000, "2+1"}, {3, 16, 1000, "2+1"}} {
		b.Run(fmt.Sprintf("%s/%dx%d", c.geometry, c.segments, c.payload), func(b *testing.B) {
			r := benchRig(b, c.stores, c.geometry)
			group := items(b, 0, c.segments, c.payload-c.segments)
			b.SetBytes(int64(c.segments * len(group[0].Raw)))
			b.ReportAllocs()
			seq := uint64(0)
			for b.Loop() {
				for i := range group {
					seq++
					group[i].ID = proto.SegmentID{Relay: relay, Seq: seq}
					segment.Stamp(group[i].Raw, group[i].ID)
				}
				placements := r.put(group...)
				b.StopTimer()
				var free []store.IDPlacement
				for i, p := range placements {
					free = append(free, store.IDPlacement{ID: group[i].ID, Placement: p})
				}
				require.NoError(b, r.Free(context.Background(), free))
				b.StartTimer()
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, g := range []struct {
		stores   int
		geometry string
	}{{1, "1+0"}, {3, "2+1"}, {6, "4+2"}} {
		b.Run(g.geometry, func(b *testing.B) {
			r := benchRig(b, g.stores, g.geometry)
			group := items(b, 0, 4, 8<<20-4)
			placements := r.put(group...)
			b.SetBytes(int64(len(group[0].Raw)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				_, err := r.Get(context.Background(), group[i%4].ID, placements[i%4])
				require.NoError(b, err)
			}
		})
	}
}

func BenchmarkFree(b *testing.B) {
	r := benchRig(b, 1, "1+0")
	const batch = 500
	next := uint64(0)
	for b.Loop() {
		b.StopTimer()
		var free []store.IDPlacement
		for range batch / 50 {
			group := items(b, next, 50, 100)
			next += 100
			for i, p := range r.put(group...) {
				if i%2 == 0 { // no neighbours: each costs a step of its own
					free = append(free, store.IDPlacement{ID: group[i].ID, Placement: p})
				}
			}
		}
		b.StartTimer()
		require.NoError(b, r.Free(context.Background(), free))
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/(batch/2), "µs/segment")
}
