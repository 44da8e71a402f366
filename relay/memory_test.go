package relay

import (
	"math"
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

func TestMemoryIsDivided(t *testing.T) {
	t.Parallel()
	for memory, want := range map[int64][2]int64{
		0: {24, 64 << 20}, 64 << 30: {24, 64 << 20}, 512 << 20: {16, 64 << 20}, 128 << 20: {4, 16 << 20}, 1 << 20: {2, 4 << 20},
	} {
		r := &Relay{cfg: Config{Memory: memory}}
		require.EqualValues(t, want[0], r.Segments(), "%d bytes", memory)
		require.Equal(t, want[1], r.cfg.blockCache(), "%d bytes", memory)
	}
}

func TestLittleMemoryIsAProblem(t *testing.T) { //nolint:paralleltest // it looks at what the whole process holds, twice
	runtime.GC()
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	held := float64(s[0].Value.Uint64())
	for limit, want := range map[int64][]proto.Health{0: nil, math.MaxInt64: nil, int64(held * 2): nil, int64(held / 0.82): {proto.Yellow}, int64(held): {proto.Red}} {
		var f finder
		f.memory(limit)
		var got []proto.Health
		for _, p := range f.out {
			require.Equal(t, "little-memory", p.Code)
			got = append(got, p.Health)
		}
		require.Equal(t, want, got, "%d of %d", int64(held), limit)
	}
}
