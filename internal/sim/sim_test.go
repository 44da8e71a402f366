package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	flagSeeds   = flag.Int("seeds", 6, "how many seeds TestSeeds runs")
	flagSeed    = flag.Uint64("seed", 1, "the first of them")
	flagSteps   = flag.Int("steps", 8000, "steps with faults, of each seed")
	flagWithout = flag.String("without", "", "kinds of faults that are left out, separated by commas")
	flagTheme   = flag.String("theme", "", "what all seeds press on: room, uploads, deletes or older; any: on a bit of everything; default: half of them on what they draw")
	flagReport  = flag.String("report", "", "directory that the figures are saved in")
	flagTrace   = flag.Int("trace", 60, "lines of the trace that a failure shows")
	flagFor     = flag.Duration("for", 0, "no new seed is begun after so long; 0: all are run")
	flagStop    = flag.Bool("stop", false, "no new seed is begun once one has failed")
	flagShrink  = flag.Bool("shrink", false, "find out which kinds of faults a failure needs")
	flagDump    = flag.Bool("dump", false, "log the whole trace")
)

// newWorld makes a world; what it does from then on is decided by the seed.
func newWorld(t testing.TB, seed uint64, without []string) *world {
	w := &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 0x5eed)), counts: map[string]int{}, trace: newTrace(), left: map[string]bool{}}
	if *flagDump {
		w.trace.tell = func(line string) { t.Log(line) }
	}
	w.cfg = drawSettings(w.rng, without)
	w.net = network{w: w, cut: map[pair]bool{}}
	w.oracle = newOracle(w)
	w.app = &app{w: w, truth: map[string]change{}, old: map[string][]*content{}, preserve: w.chance(0.5)}
	if w.cfg.theme != "" {
		w.count("seeds about " + w.cfg.theme)
	}
	if w.cfg.hintless {
		w.count("seeds without hints")
	}
	w.drawLinks()
	w.relay = newRelay(w, t.TempDir())
	w.fsids = 100
	for i := range w.cfg.nodes {
		a := &agent{w: w, node: fmt.Sprintf("n%d", i+1)}
		a.clock = clock{w: w}
		if w.cfg.faults["clock"] {
			a.clock.drift = w.rng.Int64N(200_000) - 100_000 // 100 ppm
			a.clock.off = int64(w.between(-2*time.Second, 2*time.Second))
		}
		a.disk, a.ix = newDisk(a, uint64(i+1)), newIndex(fmt.Sprintf("n%d-0", i+1))
		a.synced = a.ix.copyOf()
		w.agents = append(w.agents, a)
	}
	w.relay.up()
	for _, a := range w.agents {
		a.start()
	}
	w.working()
	w.faulting()
	return w
}

func (w *world) working() {
	w.after(w.between(w.cfg.work/4, 2*w.cfg.work), "app", func() {
		if !w.calm {
			w.app.work()
			w.working()
		}
	})
}

func (w *world) faulting() {
	w.after(w.between(w.cfg.tempo/20, w.cfg.tempo), "fault", func() {
		if !w.calm {
			w.fault()
			w.faulting()
		}
	})
}

// calmFor is how long everything may take to come to rest once faults are over and windows are open.
const calmFor = 6 * time.Hour

// run does the steps with faults, then lets everything come to rest.
func (w *world) run(steps int) {
	for w.steps < steps && len(w.failed) == 0 {
		w.step()
	}
	if len(w.failed) > 0 {
		return
	}
	w.trace.begin(w.now, "calm")
	w.calmDown()
	w.trace.end()
	w.settling()
	last, why := w.now, "not yet"
	for limit := w.now + int64(calmFor); why != "" && w.now < limit && len(w.failed) == 0; {
		w.step()
		if w.now-last > int64(time.Minute) {
			last = w.now
			clear(w.left)
			w.nowheres = 0
			why = w.drained()
		}
	}
	w.counts["gone, and kept for want of a witness"] = len(w.left)
	w.counts["owed, and nobody has it any more"] = w.nowheres
	if why != "" && len(w.failed) == 0 {
		w.trace.begin(w.now, "end")
		w.wrong("I16", "it does not come to rest: %s", why)
		w.trace.end()
	}
}

// settling has the application bring all replicas together.
func (w *world) settling() {
	for i := range 3 {
		w.after(time.Duration(i)*5*time.Minute, "round of all", func() {
			for _, a := range w.agents {
				w.app.roundOf(a.disk, true)
			}
		})
	}
}

// simulate runs one seed and closes its world.
func simulate(t testing.TB, seed uint64, steps int, without []string) *world {
	w := newWorld(t, seed, without)
	defer w.relay.stop()
	w.run(steps)
	return w
}

// report says what failed and how to see it again.
func (w *world) report(steps int, without []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, step %d, %s, settings %+v\n", w.seed, w.steps, time.Duration(w.now), w.cfg)
	n := min(*flagTrace, len(w.trace.last))
	for _, line := range w.trace.last[len(w.trace.last)-n:] {
		b.WriteString("  " + line + "\n")
	}
	for _, f := range w.failed {
		b.WriteString("WRONG " + f + "\n")
	}
	fmt.Fprintf(&b, "again: go test ./internal/sim -run TestSeeds -seeds 1 -seed %d -steps %d -theme %q -without %q", w.seed, steps, *flagTheme, strings.Join(without, ","))
	return b.String()
}

// shrink leaves out one kind of fault after the other, as long as the seed still fails in the same way.
func shrink(t testing.TB, w *world, steps int, without []string) (*world, []string) {
	invariant := func(w *world) string { name, _, _ := strings.Cut(w.failed[0], ":"); return name }
	for _, k := range kinds {
		if !w.cfg.faults[k] {
			continue
		}
		less := append(slices.Clone(without), k)
		if x := simulate(t, w.seed, steps, less); len(x.failed) > 0 && invariant(x) == invariant(w) {
			w, without = x, less
		}
	}
	return w, without
}

func leftOut() []string {
	if *flagWithout == "" {
		return nil
	}
	return strings.Split(*flagWithout, ",")
}

// TestSeeds runs simulations with faults and checks the invariants after every step, and that everything comes to rest when
// faults are over.
func TestSeeds(t *testing.T) {
	t.Parallel()
	sum := &tally{began: time.Now(), counts: map[string]int{}}
	for first := 0; first < *flagSeeds; first += chunk {
		if *flagFor > 0 && time.Since(sum.began) > *flagFor || *flagStop && t.Failed() {
			break
		}
		runSeeds(t, sum, *flagSeed+uint64(first), min(chunk, *flagSeeds-first))
	}
	t.Log(sum.String())
	if *flagReport != "" && !t.Failed() {
		require.NoError(t, sum.report().Save(*flagReport))
	}
}

// chunk is how many seeds are run before it is looked at the time.
const chunk = 8

func runSeeds(t *testing.T, sum *tally, first uint64, n int) {
	t.Run(fmt.Sprintf("from %d", first), func(t *testing.T) {
		for i := range n {
			seed := first + uint64(i)
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				w, without := simulate(t, seed, *flagSteps, leftOut()), leftOut()
				if len(w.failed) > 0 {
					fmt.Fprintf(os.Stderr, "seed %d fails after %d steps: %s\n", seed, w.steps, w.failed[0]) // its report comes when all are done
				}
				if len(w.failed) > 0 && *flagShrink {
					w, without = shrink(t, w, *flagSteps, without)
				}
				require.Empty(t, w.failed, w.report(*flagSteps, without))
				sum.add(w)
			})
		}
	})
}

// TestSameSeedSameTrace: a failure can be looked at again.
func TestSameSeedSameTrace(t *testing.T) {
	t.Parallel()
	hashes := map[string]bool{}
	for _, seed := range []uint64{*flagSeed, *flagSeed + 1} {
		steps := min(*flagSteps, 4000)
		a, b := simulate(t, seed, steps, nil), simulate(t, seed, steps, nil)
		require.Equal(t, a.trace.hash(), b.trace.hash(), "seed %d: two runs, %d and %d steps", seed, a.steps, b.steps)
		require.Equal(t, a.counts, b.counts, "seed %d", seed)
		hashes[a.trace.hash()] = true
	}
	require.Len(t, hashes, 2, "another seed is another run")
}

// tally adds up what seeds counted.
type tally struct {
	mu     sync.Mutex
	began  time.Time
	seeds  int
	steps  int
	span   time.Duration
	counts map[string]int
}

func (s *tally) add(w *world) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seeds++
	s.steps += w.steps
	s.span += time.Duration(w.now)
	for k, n := range w.counts {
		s.counts[k] += n
	}
}
