package relay

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/segment"
)

// What outage_seconds says while nothing is flushed and the inflow is steady is when the relay refuses, within 10 %, with large
// objects and with small ones, which take more of the stores than their bytes.
func TestOutageSecondsComesTrue(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		capacity int64
		stores   int
		packed   int // objects in a segment
		size     int // of an object, on average
		every    time.Duration
		look     int // after so many objects
	}{
		"large objects, 2+1": {96 << 20, 3, 1, 500 << 10, 5 * time.Second, 5},
		"small objects, 2+1": {32 << 20, 3, 100, 500, time.Second, 20},
		"small objects, 1+0": {16 << 20, 1, 20, 1 << 10, time.Second, 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, c.stores)
			cfg.Capacity, cfg.Suspicion = c.capacity, time.Hour // the clock is moved while the agent is silent
			g := drivenWith(t, cfg)                             // time passes, and things happen, by what the test does alone, however slow the machine is
			g.clock = &clock{}                                  // the agent's
			a := g.join("node-a")
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			type told struct {
				at   time.Time
				says float64
			}
			var said []told
			refused := false
			for i := 0; !refused; i++ {
				require.Less(t, i, 20_000)
				var payload []byte
				var pieces []segment.Piece
				for k := range c.packed {
					content := strings.Repeat("x", c.size*9/10+rng.IntN(c.size/5))
					path := fmt.Sprintf("f%06d-%d", i, k)
					v := a.claim(proto.Claim{Path: path, Kind: proto.KindFile, Size: int64(len(content))})
					if refused = v.Verdict != proto.VerdictSend; refused {
						require.Contains(t, v.Reason, "the cache is full")
						break
					}
					p := object(path, content, v)
					p.At, payload = uint32(len(payload)), append(payload, content...)
					pieces = append(pieces, p)
				}
				if refused {
					break
				}
				_, err := a.send(payload, pieces...)
				require.NoError(t, err)
				g.c.pass(c.every)
				g.round()
				if i%c.look == c.look-1 {
					s, err := g.relay.Status(t.Context())
					require.NoError(t, err)
					said = append(said, told{g.c.now(), s.Cache.OutageSeconds})
				}
			}
			require.Greater(t, len(said), 8)
			now, worst, n := g.c.now(), 0.0, 0
			for _, s := range said[3:] { // a minute or more of inflow was measured
				real := now.Sub(s.at).Seconds()
				if real < 2*60 { // the last pieces are a large part of it
					continue
				}
				n++
				worst = max(worst, math.Abs(s.says-real)/real)
				assert.InEpsilon(t, real, s.says, 0.10, "%.0f s before", real)
			}
			require.Positive(t, n)
			t.Logf("%d figures, the worst off by %.1f %%", n, 100*worst)
			s, err := g.relay.Status(t.Context())
			require.NoError(t, err)
			assert.InDelta(t, 0, s.Cache.OutageSeconds, 10, "it refuses now")
		})
	}
}

func TestInflowIsRecorded(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("node-a")
	a.put("f", "12345", 0)
	a.put("g", "123", 0)
	g.clock.advance(5 * time.Minute)
	g.eventually("it is written when the slot is over", func() bool {
		in, err := g.relay.Inflow("l1")
		require.NoError(t, err)
		return len(in.Slots) == 1 && in.Slots[0].Bytes == 8 && in.Slots[0].Objects == 2 && in.Dataset == "primary/media" && in.StepSeconds == 300
	})
	g.down()
	g.up()
	a.hello()
	a.put("h", "1", 0)
	g.down() // in the middle of a slot
	g.up()
	in, err := g.relay.Inflow("l1")
	require.NoError(t, err)
	sum := int64(0)
	for _, s := range in.Slots {
		sum += s.Objects
	}
	assert.EqualValues(t, 3, sum)
	_, err = g.relay.Inflow("l2")
	assert.ErrorContains(t, err, `there is no link "l2"`)
}
