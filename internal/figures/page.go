package figures

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// NothingChecks stands behind an invariant that no layer checks, and for which nobody said why.
const NothingChecks = "nothing"

const invariantCount = 19

// unchecked are the invariants that may have no layer, and why.
var unchecked = map[string]string{
	"I11": "nothing yet: there are no recovery points",
	"I19": "nothing yet: there is no release before this one",
}

// Reliability renders the reports of the fault harness: head, which invariant is checked where, the figures of each layer with the
// command that makes them, and what is not covered.
func Reliability(head string, reports []Report) string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString("\n## Which layer checks which invariant\n\n")
	invariants(&b, reports)
	b.WriteString("\n## Figures\n")
	sections(&b, "###", reports)
	notCovered(&b, reports)
	return b.String()
}

// Targets renders the reports against backup servers: head, the figures of each, and what is not covered.
func Targets(head string, reports []Report) string {
	var b strings.Builder
	b.WriteString(head)
	sections(&b, "##", reports)
	notCovered(&b, reports)
	return b.String()
}

// inOrder returns reports as an order of their layers has them; those that it does not name come after them.
func inOrder(reports []Report, layers []string) []Report {
	place := func(r Report) int {
		if i := slices.Index(layers, r.Layer); i >= 0 {
			return i
		}
		return len(layers)
	}
	reports = slices.Clone(reports)
	slices.SortStableFunc(reports, func(a, b Report) int { return place(a) - place(b) })
	return reports
}

func sections(b *strings.Builder, heading string, reports []Report) {
	for _, r := range reports {
		section(b, heading, r)
		if len(r.Figures) > 0 {
			row(b, "\n", "figure", "value", "")
			row(b, "", "---", "---", "---")
		}
		for _, f := range r.Figures {
			row(b, "", f.Name, f.Value, f.Note)
		}
		if r.Table == nil {
			continue
		}
		row(b, "\n", r.Table.Columns...)
		row(b, "", slices.Repeat([]string{"---"}, len(r.Table.Columns))...)
		for _, cells := range r.Table.Rows {
			row(b, "", cells...)
		}
	}
}

// section begins the part of a page that a report has.
func section(b *strings.Builder, heading string, r Report) {
	measured := r.Measured
	if r.Commit != "" {
		measured += " at " + r.Commit
	}
	fmt.Fprintf(b, "\n%s %s\n\n`%s` · %s · %s\n", heading, r.Layer, r.Command, measured, r.Machine)
	if r.Title != "" {
		fmt.Fprintf(b, "\n%s\n", r.Title)
	}
}

func row(b *strings.Builder, before string, cells ...string) {
	b.WriteString(before + "|")
	for _, c := range cells {
		b.WriteString(" " + cell(c) + " |")
	}
	b.WriteString("\n")
}

func notCovered(b *strings.Builder, reports []Report) {
	b.WriteString("\n## Not covered\n\n")
	for _, r := range reports {
		for _, n := range r.NotCovered {
			fmt.Fprintf(b, "- *%s*: %s\n", r.Layer, n)
		}
	}
}

func invariants(b *strings.Builder, reports []Report) {
	by := map[string][]string{}
	for _, r := range reports {
		for n, how := range r.Invariants {
			by[n] = append(by[n], "**"+r.Layer+"**: "+how)
		}
	}
	b.WriteString("| | checked by |\n|---|---|\n")
	for i := 1; i <= invariantCount; i++ {
		n := fmt.Sprintf("I%d", i)
		how := by[n]
		if len(how) == 0 {
			how = []string{cmp.Or(unchecked[n], NothingChecks)}
		}
		fmt.Fprintf(b, "| %s | %s |\n", n, cell(strings.Join(how, "; ")))
	}
}

// cell makes text fit into a cell of a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "|", `\|`), "\n", " ")
}
