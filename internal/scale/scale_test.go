package scale

import (
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A first fill costs messages by the thousand objects, sends everything once, and loads the nodes evenly.
func TestFillIsCheapAndEven(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{seed: 1, nodes: 9, objects: 600, size: 64 << 10})
	w.joinAll(time.Second)
	p := w.fill(0, w.objects)
	objects := int64(w.nodeCount() * w.objects)
	require.Equal(t, objects, p.sealed)
	require.Zero(t, p.wasted)
	require.Zero(t, p.verdicts["divergent"]+p.verdicts["lags"]+p.verdicts["refused"])
	holders := objects * replicas
	requests := p.sum(objectKinds...)
	require.Less(t, requests.calls*1000/holders, int64(60), "requests for a thousand objects and holder")
	require.LessOrEqual(t, p.of("claim").objects, 2*objects, "claims")
	require.Less(t, imbalance(p.by), 1.3)
	for _, d := range w.datasets {
		for k := range d.acked {
			require.EqualValues(t, 1, d.acked[k])
		}
	}
}

// What small objects may cost in a first fill that is no more than begun (8,000 objects in a dataset), for an object and holder: 150 bytes, and
// 5 messages for a thousand; segments, but for the payload, and the bus with all that it delivers included, polls apart.
func TestSmallObjectsCostLittle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{seed: 4, nodes: 3, objects: 8000, size: 4 << 10})
	w.joinAll(time.Second)
	p := w.fill(0, w.objects)
	require.EqualValues(t, w.nodeCount()*w.objects, p.sealed)
	requests, said := p.sum(objectKinds...), p.sum(busKinds...)
	holders := float64(p.sealed * replicas)
	bytes, messages := float64(requests.in+requests.out+said.out)/holders, 1000*float64(requests.calls+said.calls)/holders
	t.Logf("%.1f bytes an object and holder, %.2f messages for a thousand", bytes, messages)
	require.Less(t, bytes, 150.0)
	require.Less(t, messages, 5.0)
}

func (w *world) nodeCount() int { return len(w.nodes) }

// counted is what a simulation counts: all but the CPU time.
func counted(p phase) map[string][5]int64 {
	out := map[string][5]int64{"all": {int64(p.took), p.sent, p.wasted, p.sealed, p.hashed}}
	for k, c := range p.meter.by {
		out[k] = [5]int64{c.calls, c.delivered, c.in, c.out, c.objects}
	}
	for k, n := range p.verdicts {
		out["verdict "+k] = [5]int64{n}
	}
	return out
}

// Equal seeds give equal counts, with nodes that die and come back.
func TestSameSeedSameCounts(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) (out []map[string][5]int64) {
		w := newWorld(t, settings{seed: seed, nodes: 7, objects: 120, skewed: true})
		out = append(out, counted(w.joinAll(time.Second)))
		u := w.fillAnd(0, 100, w.nodes[3], w.nodes[3].stop, w.nodes[3].start)
		out = append(out, counted(u.phase))
		out = append(out, counted(w.churn(30, 5*time.Second)))
		gone, back := w.rejoin(w.nodes[:2])
		return append(out, counted(gone), counted(back))
	}
	first := run(5)
	require.Equal(t, first, run(5))
	require.False(t, slices.EqualFunc(first, run(6), maps.Equal[map[string][5]int64]))
}

// A node that dies amid a fill, by a power cut, is missed for the suspicion time; then the others send what was its turn. Changes that
// come one at a time are acknowledged within a second or two of being found.
func TestDeathAndChangesCostSeconds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{seed: 2, nodes: 6, objects: 400, size: 1 << 20})
	w.joinAll(time.Second)
	dead := w.nodes[2]
	u := w.fillAnd(0, 400, dead, dead.stop, dead.start)
	require.EqualValues(t, 6*400, u.sealed)
	require.LessOrEqual(t, u.wasted, int64(32<<20), "no more than a window")
	require.Less(t, u.allAcked-u.at, 20*time.Second)
	p := w.churn(40, 20*time.Second)
	require.EqualValues(t, 40, p.sealed)
	require.Less(t, quantile(p.waits, 0.5), time.Second)
	require.Less(t, quantile(p.waits, 1), 8*time.Second)
}

// What a message costs the relay does not grow with the number of nodes, datasets and links: it is counted in allocations, for they do not
// depend on what else the machine does. Not parallel: it counts those of the whole process, and so what stores do in the background meanwhile;
// when that looks like a cost, worlds with other seeds must show it too.
func TestNoMessageCostsByTheNode(t *testing.T) {
	kinds := []string{"poll", "claim", "segment", "report", "feed"}
	cost := func(seed uint64, nodes int) map[string]float64 {
		w := newWorld(t, settings{seed: seed, nodes: nodes, objects: 20, size: 64 << 10})
		w.joinAll(time.Second)
		out := map[string]float64{}
		for _, p := range []phase{w.fill(0, w.objects), w.churn(30, 10*time.Second)} {
			for _, kind := range kinds {
				c := p.of(kind)
				out[kind] = math.Max(out[kind], float64(c.allocs)/float64(c.calls+c.objects))
			}
		}
		return out
	}
	few, many := cost(3, 12), cost(3, 60)
	limit := func(kind string) float64 { return 2*few[kind] + 10 }
	for seed := uint64(4); seed < 8 && slices.ContainsFunc(kinds, func(k string) bool { return many[k] >= limit(k) }); seed++ {
		for kind, n := range cost(seed, 60) {
			many[kind] = math.Min(many[kind], n)
		}
	}
	for _, kind := range kinds {
		require.Positive(t, few[kind])
		require.Less(t, many[kind], limit(kind), "allocations of a %s: %.1f with 12 nodes, %.1f with 60", kind, few[kind], many[kind])
	}
}

// The pick spreads objects evenly; how evenly their bytes are spread depends on how much is in the largest.
func TestPickIsEven(t *testing.T) {
	t.Parallel()
	got := streamPick(1, 60, 120_000)
	require.Less(t, imbalance(got.objects), 1.06)
	require.Less(t, imbalance(got.skewed), 2.0)
	require.Equal(t, got, streamPick(1, 60, 120_000))
}
