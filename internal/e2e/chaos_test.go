package e2e

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/internal/figures"
)

var chaosTime = flag.Duration("chaos", 12*time.Second, "how long faults go on in TestChaos; make chaos TIME=10m")

// chaosRound is the longest schedule before everything must drain and be equal.
const chaosRound = time.Minute

// Everything at once: a workload, and faults that a seed chose, one at a time and several together. When they stop,
// everything drains without an operator, all trees are equal, nothing was lost, torn or wrongly deleted. The same seed gives
// the same schedule; what the processes make of it differs.
func TestChaos(t *testing.T) {
	if *chaosTime <= chaosRound {
		t.Parallel()
	}
	total := outcome{count: map[faultKind]int{}}
	for began, round := time.Now(), int64(0); round == 0 || time.Since(began) < *chaosTime; round++ {
		length := min(chaosRound, *chaosTime)
		if !t.Run(fmt.Sprintf("seed %d", *seed+round), func(t *testing.T) { total.add(chaosFrom(t, *seed+round, length)) }) {
			t.Fatalf("again: go test ./internal/e2e -run TestChaos -seed %d -chaos %s", *seed+round, length)
		}
	}
	t.Log(total)
	if *reportDir != "" {
		require.NoError(t, total.report().Save(*reportDir))
	}
}

// outcome is what one or several rounds came to.
type outcome struct {
	rounds, ops, looks int
	faults             int
	length             time.Duration
	objects            int64
	bytes              int64
	acked, wasted      int64
	unlinked           int
	guarded            int   // rounds with a short grace and a guard
	held               int64 // deletes that were approved in those
	restarts           int   // of relay and agents because a disk was full
	count              map[faultKind]int
}

func (o *outcome) add(b outcome) {
	o.rounds, o.ops, o.looks, o.faults, o.restarts = o.rounds+b.rounds, o.ops+b.ops, o.looks+b.looks, o.faults+b.faults, o.restarts+b.restarts
	o.length, o.objects, o.bytes, o.acked, o.wasted = o.length+b.length, o.objects+b.objects, o.bytes+b.bytes, o.acked+b.acked, o.wasted+b.wasted
	o.unlinked, o.guarded, o.held = o.unlinked+b.unlinked, o.guarded+b.guarded, o.held+b.held
	for k, n := range b.count {
		o.count[k] += n
	}
}

func (o outcome) String() string {
	return fmt.Sprintf("%d rounds (%d guarded, %d held deletes approved), %s of faults, %d changes, %d faults (%s); %d objects of %d bytes compared on two links; %d files read by the pollers; %d bytes acknowledged, %d in vain",
		o.rounds, o.guarded, o.held, o.length, o.ops, o.faults, told(o.count), o.objects, o.bytes, o.looks, o.acked, o.wasted)
}

// chaosFrom runs one round from a seed.
func chaosFrom(t *testing.T, seed int64, length time.Duration) outcome {
	const suspicion = 2 * time.Second
	kinds, guarded := chaosKinds(t), seed%2 == 0
	if guarded { // a root half of which is back, while all others are away for the grace, is a delete for good
		kinds = slices.DeleteFunc(slices.Clone(kinds), func(k faultKind) bool { return k == noReplica })
	}
	c := newChaos(t, suspicion, guarded)
	s := draw(seed, length, kinds, c.order, suspicion)
	c.run(s, "busy")
	return c.outcome(length)
}

// outcome counts what came of a round.
func (c *chaos) outcome(length time.Duration) outcome {
	o := outcome{rounds: 1, ops: c.ops, length: length, count: c.count, unlinked: c.unlinked, held: c.held, restarts: c.relay.ended(1)}
	if c.guarded {
		o.guarded = 1
	}
	for _, a := range c.agents {
		o.restarts += a.ended(1)
	}
	for _, n := range c.count {
		o.faults += n
	}
	for _, w := range c.watches {
		o.looks += w.looks
	}
	st := c.status()
	for _, d := range st.Datasets {
		o.objects, o.bytes = o.objects+2*d.Objects, o.bytes+2*d.Bytes
	}
	o.acked, o.wasted = st.Cache.AckedBytes, st.Cache.WastedBytes
	return o
}

// full is how many disks filled up.
func (o outcome) full() (n int) {
	for k, times := range o.count {
		if k.needsBadDisk() {
			n += times
		}
	}
	return n
}

// report is what the campaign publishes: it is made only when all rounds were well.
func (o outcome) report() figures.Report {
	figure := func(name, note, format string, args ...any) figures.Figure {
		return figures.Figure{Name: name, Value: fmt.Sprintf(format, args...), Note: note}
	}
	return figures.Report{
		Layer: "chaos", Command: fmt.Sprintf("make chaos TIME=%s SEED=%d", *chaosTime, *seed), Measured: time.Now().UTC().Format(time.DateOnly),
		Figures: []figures.Figure{
			figure("rounds", "each with a schedule of its own, of a minute at most", "%d, %s of faults", o.rounds, o.length),
			figure("faults", told(o.count), "%d", o.faults),
			figure("changes of the dataset", "on three replicas, up to 300 ms apart", "%d", o.ops),
			figure("objects lost or wrong", "compared with the source on both links, and by verify --deep", "0 of %d", o.objects),
			figure("bytes compared", "", "%d", o.bytes),
			figure("hard links that came as files of their own", "content equal; see Limits in ARCHITECTURE.md", "%d", o.unlinked),
			figure("partial or mixed objects seen at the targets", "files read by pollers, 10 ms between two rounds", "0 of %d", o.looks),
			figure("objects deleted wrongly", "paths that the source always had, watched by the pollers", "0"),
			figure("rounds that drained without an operator", "but for the approval of held deletes in guarded rounds", "%d of %d", o.rounds, o.rounds),
			figure("rounds with a grace of 5 s, which nodes outstay, and a guard", fmt.Sprintf("each link deletes %d objects at most before the rest is approved: %d were, and the source had none of them", guardedDeletes, o.held), "%d", o.guarded),
			figure("recovery without an operator after disk full", fmt.Sprintf("%d disks of relay, stores, agents and targets filled up, or ran out of inodes", o.full()), "yes"),
			figure("restarts of relay and agents for full disks", "by a supervisor, as the shipped units do; all recovered", "%d", o.restarts),
			figure("bytes acknowledged, and received in vain", "", "%d, %d", o.acked, o.wasted),
		},
		Invariants: map[string]string{
			"I1":  "all trees equal and deeply verified after each round, with relay and agents killed, disks full, stores away",
			"I4":  "the bus goes down with each kill of the relay",
			"I8":  "pollers know every content that the source ever had",
			"I10": "pollers read every file that appears under its final name",
			"I13": "pollers miss no path that the source always had, with replicas emptied, nodes away for longer than the grace, indexes lost and put back to older copies; they count no more deletes than the guard allows",
			"I15": "faults of one target; the other link must be equal too",
			"I16": "everything drains once faults stop, and health is green",
			"I18": "agents that lost their index, replicas that lag; the targets end equal to the source",
		},
		NotCovered: []string{
			"the same seed gives the same schedule, not the same timing: a failure may need several runs to come again",
			"processes share one machine and one clock; connections are cut by a proxy, not by a network",
			"power cuts keep every write that the disk had completed: a disk that lies about its cache is not modelled here",
		},
	}
}
