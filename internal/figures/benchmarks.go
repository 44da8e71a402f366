package figures

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// What a benchmark has samples of: of each side (SampleOf), and of the work.
const (
	Wall    = "wall_seconds"
	CPU     = "cpu_seconds"
	Peak    = "peak_bytes"
	Written = "written_bytes"
	Wire    = "wire_bytes"

	Bytes   = "work | bytes"   // of content
	Objects = "work | objects" // 0: their number does not matter
)

// SampleOf names what was measured of one side.
func SampleOf(side, what string) string { return side + " | " + what }

// benchmarkOrder is that of the reports on the page; what is not named comes after them.
var benchmarkOrder = []string{"large", "coded", "source", "small", "small-s3", "dense", "rescan", "ten", "idle", "primary", "targets"}

// Benchmarks renders the measurements beside other programs as a page: head, what is required with what was measured, the figures of each
// work with the command that makes them, the story of the changes that they led to, and what is not covered.
func Benchmarks(head, story string, reports []Report) string {
	reports = inOrder(reports, benchmarkOrder)
	var b strings.Builder
	b.WriteString(head)
	b.WriteString("\n## What is required\n\n")
	row(&b, "", "work", "required", "measured", "")
	row(&b, "", "---", "---", "---", "---")
	for _, r := range Judge(reports) {
		row(&b, "", r.Work, r.Required, r.Measured, r.Verdict)
	}
	sections(&b, "##", reports)
	b.WriteString("\n" + strings.TrimRight(story, "\n") + "\n")
	notCovered(&b, reports)
	return b.String()
}

// Judgement is one required figure beside what was measured.
type Judgement struct{ Work, Required, Measured, Verdict string }

// The verdicts.
const (
	Met        = "met"
	Missed     = "**missed**"
	Unmeasured = "not measured"
	Shown      = "" // no figure is required
)

// Judge compares what is required with the reports. A figure is the median of its rounds; what has no samples was not measured.
func Judge(reports []Report) (out []Judgement) {
	for _, r := range required() {
		j := Judgement{Work: r.work, Required: r.text, Verdict: Unmeasured}
		if i := slices.IndexFunc(reports, func(x Report) bool { return x.Layer == r.layer }); i >= 0 {
			if v := r.value(reports[i]); len(v) > 0 {
				j.Measured, j.Verdict = r.say(v), r.judge(median(v))
			}
		}
		j.Measured = cmp.Or(j.Measured, "–")
		out = append(out, j)
	}
	return out
}

// requirement is a figure that is required: at least or at most so much.
type requirement struct {
	work, text string
	layer      string // whose samples tell
	value      func(Report) []float64
	limit, aim float64 // aim 0: there is none
	most       bool    // the value may be at most the limit; else it must be at least
	format     string  // of a value, without its unit
	unit       string
	scale      float64 // what the format shows of it; 0: as it is
}

func (r requirement) judge(v float64) string {
	reaches := func(limit float64) bool { return r.most && v <= limit || !r.most && v >= limit }
	switch {
	case r.limit == 0 && r.aim == 0:
		return Shown
	case r.limit == 0 && reaches(r.aim):
		return "aim met"
	case r.limit == 0:
		return "aim **missed**"
	case !reaches(r.limit):
		return Missed
	case r.aim != 0 && !reaches(r.aim):
		return Met + ", the aim is not"
	}
	return Met
}

// say shows the median and, of several rounds, the least and the most.
func (r requirement) say(v []float64) string {
	scale := cmp.Or(r.scale, 1)
	text := fmt.Sprintf(r.format+r.unit, median(v)*scale)
	if len(v) > 1 {
		text += fmt.Sprintf(" ("+r.format+" to "+r.format+" in %d rounds)", slices.Min(v)*scale, slices.Max(v)*scale, len(v))
	}
	return text
}

// median is that of at least one value.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
