// Package bench is what the benchmark beside other programs counts with: what commands used, the statistics of rounds, and the report of
// a work. Package internal/e2e runs the works (make bench); the peer that speaks to NATS JetStream is a command below this package. It
// imports nothing of Forebay but internal/figures and internal/proc, and tests alone use it.
package bench

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"forebay/internal/figures"
)

// Run is what one side needed for the work, once.
type Run struct {
	Wall    time.Duration
	CPU     time.Duration // user and system, of all processes of the side
	Peak    int64         // bytes: the peaks of its processes' resident memory, added up
	Written int64         // bytes that the kernel counted for its processes on their way to a disk
	Wire    int64         // bytes over the loopback interface meanwhile, anybody's; 0 for a side that uses none
	// More are figures of this side alone, by name with a unit ("agent_peak_bytes").
	More map[string]float64
}

// Side is one of those that do the same work.
type Side struct {
	Name    string
	Missing string // why it cannot run, and what to do; empty: it can
	Runs    []Run  // by round
}

// Work is what all sides did, and what they needed.
type Work struct {
	Name    string // lower case: that of the report
	Title   string // for people: what was done, and how large it was
	Command string // does it again
	Bytes   int64  // of content
	Objects int64  // files; 0: the work is not about their number
	Sides   []Side // Forebay first
	// Compared says beside which of its own sides a peer stands; empty: the first.
	Compared map[string]string
	Table    *figures.Table // nil: one of times, processors, memory and bytes
	Notes    []string       // what the figures do not say
}

// Order is that of n sides in a round: each begins in its turn, so that none always follows the same one.
func Order(n, round int) []int {
	out := make([]int, n)
	for i := range n {
		out[i] = (i + round) % n
	}
	return out
}

// Median is that of the values, NaN of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// Ratios are a/b, round by round.
func Ratios(a, b []float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = a[i] / b[i]
	}
	return out
}

// Report makes the report of a work, measured on a day as 2006-01-02. Its samples are all runs; its table has their medians.
func (w Work) Report(day string) figures.Report {
	r := figures.Report{Layer: w.Name, Title: w.Title, Command: w.Command, Measured: day, Samples: map[string][]float64{}, NotCovered: w.Notes}
	for _, s := range w.Sides {
		if s.Missing != "" {
			r.NotCovered = append(r.NotCovered, fmt.Sprintf("%s: SKIP, %s", s.Name, s.Missing))
			continue
		}
		for _, run := range s.Runs {
			add := func(what string, v float64) {
				key := figures.SampleOf(s.Name, what)
				r.Samples[key] = append(r.Samples[key], v)
			}
			add(figures.Wall, run.Wall.Seconds())
			add(figures.CPU, run.CPU.Seconds())
			add(figures.Peak, float64(run.Peak))
			add(figures.Written, float64(run.Written))
			add(figures.Wire, float64(run.Wire))
			for name, v := range run.More {
				add(name, v)
			}
		}
	}
	r.Samples[figures.Bytes] = []float64{float64(w.Bytes)}
	r.Samples[figures.Objects] = []float64{float64(w.Objects)}
	if r.Table = w.Table; r.Table == nil {
		r.Table = w.table(r.Samples)
	}
	return r
}

func (w Work) table(samples map[string][]float64) *figures.Table {
	t := &figures.Table{Columns: []string{
		"", "median", "Forebay's speed", "least, most", "CPU", "peak MiB", "bytes written", "on the wire",
	}}
	for i, s := range w.Sides {
		if s.Missing != "" {
			t.Rows = append(t.Rows, []string{s.Name, "SKIP: " + s.Missing, "", "", "", "", "", ""})
			continue
		}
		of := func(what string) []float64 { return samples[figures.SampleOf(s.Name, what)] }
		row := []string{s.Name, w.rate(Median(of(figures.Wall)))}
		beside := cmp.Or(w.Compared[s.Name], w.Sides[0].Name)
		if i == 0 || beside == s.Name || w.reference(s.Name) {
			row = append(row, "", "")
		} else {
			ratios := Ratios(of(figures.Wall), samples[figures.SampleOf(beside, figures.Wall)])
			row = append(row, fmt.Sprintf("%.2f ×", Median(ratios)), fmt.Sprintf("%.2f, %.2f", slices.Min(ratios), slices.Max(ratios)))
		}
		share := func(what string) string {
			if m := Median(of(what)); m > 0 && w.Bytes > 0 {
				return fmt.Sprintf("%.3f ×", m/float64(w.Bytes))
			}
			return "–"
		}
		peak := fmt.Sprintf("%.0f", Median(of(figures.Peak))/(1<<20))
		if agent, relay := of(figures.AgentPeak), of(figures.RelayPeak); len(agent) > 0 && len(relay) > 0 {
			peak += fmt.Sprintf(" (an agent %.0f, the relay %.0f)", Median(agent)/(1<<20), Median(relay)/(1<<20))
		}
		t.Rows = append(t.Rows, append(row, w.cost(Median(of(figures.CPU))), peak, share(figures.Written), share(figures.Wire)))
	}
	return t
}

// reference reports whether a side is one that others are compared with.
func (w Work) reference(side string) bool {
	for _, beside := range w.Compared {
		if beside == side {
			return true
		}
	}
	return false
}

// cost says what the work took of processors.
func (w Work) cost(seconds float64) string {
	var out []string
	if w.Bytes > 0 {
		out = append(out, fmt.Sprintf("%.2f s/GiB", seconds/float64(w.Bytes)*(1<<30)))
	}
	if w.Objects > 0 {
		out = append(out, fmt.Sprintf("%.3f ms an object", seconds/float64(w.Objects)*1e3))
	}
	return strings.Join(out, ", ")
}

// rate says how fast the work was done.
func (w Work) rate(seconds float64) string {
	out := []string{fmt.Sprintf("%.2f s", seconds)}
	if w.Objects > 0 {
		out = append(out, fmt.Sprintf("%.0f objects/s", float64(w.Objects)/seconds))
	} else if w.Bytes > 0 {
		out = append(out, fmt.Sprintf("%.0f MB/s", float64(w.Bytes)/1e6/seconds))
	}
	return strings.Join(out, ", ")
}
