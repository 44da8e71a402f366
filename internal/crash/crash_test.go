package crash

import (
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/internal/faultpoint"
	"forebay/internal/figures"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the workload and of what the disks keep; 0: each schedule has its own")
	pointFlag  = flag.String("point", "", "crash here only")
	thenFlag   = flag.String("then", "", "and then here, after -point")
	pairsFlag  = flag.Int("pairs", 0, "how many pairs are drawn beside those that have each point once; -1 for all")
	reportFlag = flag.String("report", "", "directory for the report, none by default")
)

// TestEveryPointIsPassed goes through the workload without a crash of ours, and finds each point named to be passed, and no
// other.
func TestEveryPointIsPassed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.play(2)
	for _, p := range faultpoint.Relay() {
		if w.hits[p] < 1 {
			t.Errorf("%s is never passed", p)
		}
		delete(w.hits, p)
	}
	require.Empty(t, w.hits, "points that faultpoint.Relay does not list")
}

// schedule is one way of crashing.
type schedule struct {
	seed uint64
	arms []arm
}

func (s schedule) String() string {
	name := ""
	for i, a := range s.arms {
		if i > 0 {
			name += "_then_"
		}
		name += fmt.Sprintf("%s#%d", a.point, a.hit)
	}
	return name
}

// seedOf draws a seed from what is run, so that each schedule has one of its own that does not change.
func seedOf(s string) uint64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return h.Sum64()
}

// tally counts what schedules came to.
type tally struct {
	run, passed, short, bytes, crashes atomic.Int64
	at                                 sync.Map // points where a crash went off
}

func (n *tally) exercised() (k int) {
	n.at.Range(func(any, any) bool { k++; return true })
	return k
}

// runs runs schedules, several at a time. short counts those whose last point did not come again.
func runs(t *testing.T, list []schedule) *tally {
	t.Helper()
	n := &tally{}
	t.Run("all", func(t *testing.T) {
		for _, s := range list {
			t.Run(s.String(), func(t *testing.T) {
				t.Parallel()
				defer func() {
					if t.Failed() {
						again := fmt.Sprintf("-point %s -seed %d", s.arms[0].point, s.seed)
						if len(s.arms) > 1 {
							again = fmt.Sprintf("-point %s -then %s -seed %d", s.arms[0].point, s.arms[1].point, s.seed)
						}
						t.Logf("again: go test ./internal/crash -run 'TestSingles|TestPairs' %s", again)
					}
				}()
				n.run.Add(1)
				w := newWorld(t, s.seed, s.arms...)
				w.play(2)
				n.bytes.Add(w.bytes)
				n.crashes.Add(int64(len(w.fired)))
				for _, p := range w.fired {
					n.at.Store(p, true)
				}
				if len(w.arms) > 0 {
					n.short.Add(1)
				}
				if !t.Failed() {
					n.passed.Add(1)
				}
			})
		}
	})
	return n
}

// once are the points that are passed only when stores are new: nothing leads to them a second time.
func once(p faultpoint.Point) bool {
	return p == faultpoint.StoreInitialised || p == faultpoint.RelayNamed || p == faultpoint.StoreBallast
}

// TestSingles crashes at each point the first time that it is passed, and at a later time. In the short form it has the points
// that a first start passes, with nothing on the disks; TestPairs has all of them there.
func TestSingles(t *testing.T) {
	t.Parallel()
	if *thenFlag != "" {
		t.Skip("a pair is asked for")
	}
	long := *pairsFlag < 0 || *pointFlag != ""
	fresh := newWorld(t, 1).hits
	var list []schedule
	for _, p := range faultpoint.Relay() {
		if *pointFlag != "" && string(p) != *pointFlag || !long && fresh[p] == 0 {
			continue
		}
		first := schedule{arms: []arm{{p, 1}}}
		first.seed = seedOf(first.String())
		list = append(list, first)
		later := schedule{arms: []arm{{p, 2 + int(seedOf(string(p))%3)}}}
		later.seed = seedOf(later.String())
		if long && (!once(p) || later.arms[0].hit <= 3) { // there are three stores
			list = append(list, later)
		}
	}
	n := runs(t, list)
	t.Logf("%d schedules with one crash, %d passed, %d where the later time did not come, %d bytes acknowledged", n.run.Load(), n.passed.Load(), n.short.Load(), n.bytes.Load())
	if *pointFlag == "" && long {
		report(t, "singles", "each point the first time that it is passed, and at a later time", n)
	}
}

// TestPairs crashes at a point, and in what follows at another: all ordered pairs, or some that a seed draws so that each
// point is in one of them.
func TestPairs(t *testing.T) {
	t.Parallel()
	var list []schedule
	add := func(p, q faultpoint.Point) {
		s := schedule{arms: []arm{{p, 1}, {q, 1}}}
		s.seed = seedOf(s.String())
		list = append(list, s)
	}
	points := faultpoint.Relay()
	for _, p := range points {
		for _, q := range points {
			if *pointFlag != "" && string(p) != *pointFlag || *thenFlag != "" && string(q) != *thenFlag {
				continue
			}
			add(p, q)
		}
	}
	some := *pointFlag == "" && *pairsFlag >= 0
	if some {
		seed := *seedFlag
		if seed == 0 {
			seed = rand.Uint64()
		}
		t.Logf("pairs drawn with -seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 2))
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		list = list[:min(*pairsFlag, len(list))]
		rng.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
		slices.SortStableFunc(points, func(p, q faultpoint.Point) int { // those that come once come first
			return map[bool]int{true: -1}[once(p)] - map[bool]int{true: -1}[once(q)]
		})
		for i := range (len(points) + 1) / 2 {
			add(points[i], points[len(points)-1-i])
		}
	}
	n := runs(t, list)
	t.Logf("%d schedules with two crashes, %d passed, %d where the second did not come, %d bytes acknowledged", n.run.Load(), n.passed.Load(), n.short.Load(), n.bytes.Load())
	if some {
		var alone []schedule // what never came after the other of its pair
		for _, p := range points {
			if _, ok := n.at.Load(p); !ok {
				s := schedule{arms: []arm{{p, 1}}}
				s.seed = seedOf(s.String())
				alone = append(alone, s)
			}
		}
		runs(t, alone).at.Range(func(p, _ any) bool { n.at.Store(p, true); return true })
		require.Equal(t, len(points), n.exercised(), "points at which a crash went off")
	}
	if *pointFlag == "" && *pairsFlag < 0 {
		report(t, "pairs", "every ordered pair of points: the second in what follows the crash at the first", n)
	}
}

// report writes what a campaign came to.
func report(t *testing.T, what, last string, n *tally) {
	if *reportFlag == "" {
		return
	}
	points := len(faultpoint.Relay())
	lost := fmt.Sprintf("0 of %d", n.bytes.Load())
	if n.run.Load() != n.passed.Load() {
		lost = "some: see the failures"
	}
	require.NoError(t, figures.Report{Layer: "crash-" + what, Command: "make crash REPORT=docs/reliability", Measured: time.Now().UTC().Format(time.DateOnly),
		Figures: []figures.Figure{
			{Name: "named fault points", Value: fmt.Sprint(len(faultpoint.All())), Note: fmt.Sprintf("%d of the relay, its stores, ledger, flush and targets; %d of the agent, at which real processes are killed instead", points, len(faultpoint.Agent()))},
			{Name: "of those of the relay exercised", Value: fmt.Sprintf("%d of %d", n.exercised(), points), Note: "a crash went off there"},
			{Name: "crash schedules, " + what, Value: fmt.Sprintf("%d run, %d passed", n.run.Load(), n.passed.Load()), Note: last},
			{Name: "of these, the last point never came", Value: fmt.Sprint(n.short.Load()), Note: "the workload ended first: points that are passed only when stores are new, or not that often; they were checked like the others"},
			{Name: "crashes", Value: fmt.Sprint(n.crashes.Load()), Note: "each keeps 0, 50 or 100 % of what was not synced; the workload has a crash of its own besides"},
			{Name: "acknowledged bytes lost or wrong", Value: lost},
		},
		Invariants: map[string]string{
			"I1":  "all that is owed is read back after each crash",
			"I2":  "no segment goes before what let go of it is durable; none stays behind",
			"I5":  "every start has the disks alone",
			"I7":  "the generation grows with every start",
			"I9":  "what was acknowledged of a large object is not asked for again",
			"I10": "the mirror is compared with the source",
			"I18": "no acknowledged version is older after a crash",
		},
		NotCovered: []string{"power cuts of the target's own disk: its file system is the kernel's, and only the relay forgets what was not synced"},
	}.Save(*reportFlag))
}
