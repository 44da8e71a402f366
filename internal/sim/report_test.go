package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"forebay/internal/figures"
)

// String is the figures on one line.
func (s *tally) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var counts []string
	for _, k := range slices.Sorted(maps.Keys(s.counts)) {
		counts = append(counts, fmt.Sprintf("%s %d", k, s.counts[k]))
	}
	return fmt.Sprintf("%d seeds, %d steps, %.1f simulated hours, %.1f a minute: %s", s.seeds, s.steps, s.span.Hours(), s.rate(), strings.Join(counts, ", "))
}

// rate is in simulated hours a minute.
func (s *tally) rate() float64 { return s.span.Hours() / time.Since(s.began).Minutes() }

// report is the layer's part of docs/reliability.md.
func (s *tally) report() figures.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	faults := 0
	var byKind []string
	for _, k := range kinds {
		if n := s.counts["fault: "+k]; n > 0 {
			faults += n
			byKind = append(byKind, fmt.Sprintf("%s %d", k, n))
		}
	}
	n := func(what string) string { return fmt.Sprint(s.counts[what]) }
	return figures.Report{
		Layer: "sim", Command: fmt.Sprintf("make sim SEEDS=%d SEED=%d STEPS=%d REPORT=docs/reliability", s.seeds, *flagSeed, *flagSteps), Measured: s.began.Format(time.DateOnly),
		Figures: []figures.Figure{
			{Name: "Seeds", Value: fmt.Sprint(s.seeds), Note: "each draws the size of the system, its policies and its faults; none broke an invariant"},
			{Name: "Steps", Value: fmt.Sprint(s.steps), Note: "invariants are checked after each that may have changed something"},
			{Name: "Simulated time", Value: fmt.Sprintf("%.0f h", s.span.Hours()), Note: fmt.Sprintf("%.0f simulated hours a minute", s.rate())},
			{Name: "Equal seeds, equal traces", Value: "yes", Note: "TestSameSeedSameTrace runs seeds twice and compares the hashes of their traces"},
			{Name: "Faults", Value: fmt.Sprint(faults), Note: strings.Join(byKind, ", ")},
			{Name: "Messages", Value: fmt.Sprintf("%d dropped, %d repeated", s.counts["requests dropped"]+s.counts["answers dropped"]+s.counts["hints dropped"], s.counts["requests repeated"]), Note: "requests, answers and hints"},
			{Name: "Takeovers in the middle of an object", Value: n("takeovers"), Note: fmt.Sprintf("%d bytes were carried on; %s duplicates and %s pieces under ended leases changed nothing", s.counts["bytes carried on"], n("duplicates dropped"), n("stale pieces refused"))},
			{Name: "Versions acknowledged", Value: n("versions"), Note: fmt.Sprintf("and %s deletes; lost, mixed or delivered wrong: 0", n("tombstones"))},
			{Name: "Changes at targets", Value: n("commits"), Note: fmt.Sprintf("none partial, none back to an older version; %s older contents that nodes offered were refused, %s came back for good, when no node had a newer one", n("older contents refused"), n("older contents that came back for good"))},
			{Name: "Bytes over a window's budget", Value: fmt.Sprintf("0 of %s", n("bytes sent under a budget")), Note: fmt.Sprintf("counted at the targets, a day being the window; %s budgets were spent to their last block, and high water forced %s bytes more", n("budgets spent"), n("bytes forced over a budget's window"))},
		},
		Invariants: map[string]string{
			"I1":  fmt.Sprintf("after every step: what was acknowledged is known to the ledger, and is owed or at the target; all bytes are read now and then and after each start; of %s versions whose bytes were let go for want of room, a node that was there had said that it has them", n("versions let go")),
			"I2":  "after every step: the ledger's references, free list and counters are recounted from its rows",
			"I3":  "a bit of a table of one store is turned; every byte that is owed still reads as what its digest says",
			"I4":  fmt.Sprintf("hints are dropped: in %s of the seeds no message on the bus ever arrives, and everything still comes to rest", n("seeds without hints")),
			"I5":  "the relay crashes with 0, 50 and 100 % of what was not synced, and goes on from its disks",
			"I6":  "no range of an upload is accepted twice",
			"I7":  "nothing is accepted under a lower epoch than was granted, across restarts",
			"I8":  fmt.Sprintf("each version is a content that some holder had at that path, and %s were read back as they were sealed; of %s uploads only holders of another content were left to carry on, %s seals of a mix were refused", n("versions read as they were sealed"), n("uploads that only holders of another content could carry on"), n("mismatching seals refused")),
			"I9":  "a grant lists exactly what was acknowledged of the upload",
			"I10": "what is committed is durable and whole, by size and digest",
			"I13": "no tombstone for what a node that is known and not away for the grace has had all the time; no delete where it is not propagated",
			"I14": "each write to a target is inside its window, or forced by deadline or high water; bytes of any 20 s are within the rate, those of a day within the budget",
			"I15": "a link whose target is well owes nothing for longer than 20 minutes, whatever happens to the other; not beside a link with a rate in a cache that fills",
			"I16": "when faults end, relay, ledger and targets come to equal the nodes, without an operator, and nothing is parked",
			"I17": "a link with work whose target is away says so, and health is not green",
			"I18": "no node is let send, and no version has, a content that its path had before, while a node that has what came after it is there; the version of a path at a target never goes down",
		},
		NotCovered: []string{
			"the shells of the agent (scanner, index on disk, HTTP): models around its decisions stand for them",
			"goroutines side by side: the simulation has one",
			"hard links, extended attributes, owners, objects larger than the cache",
			"budgets of windows other than a day, and with a relay's clock that is set",
		},
	}
}
