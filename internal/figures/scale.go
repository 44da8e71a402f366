package figures

import (
	"fmt"
	"slices"
	"strings"
)

// scaleOrder is that of the reports on the page of scale; what is not named comes after them.
var scaleOrder = []string{"limits", "cluster", "objects", "nodes", "nodes-before", "pick", "memory", "transport"}

// Scale renders the reports of internal/scale as a page: head, the figures of each report with the command that makes them, and what is
// not covered. Figures of a series ("300 nodes: a poll") become one line with a column for each of it.
func Scale(head string, reports []Report) string {
	reports = inOrder(reports, scaleOrder)
	var b strings.Builder
	b.WriteString(head)
	for _, r := range reports {
		section(&b, "##", r)
		b.WriteString("\n")
		series(&b, r.Figures)
	}
	notCovered(&b, reports)
	return b.String()
}

// series writes figures as a table.
func series(b *strings.Builder, all []Figure) {
	var columns, lines []string
	values, notes := map[[2]string]string{}, map[string]string{}
	for _, f := range all {
		column, line := "value", f.Name
		if of, name, ok := strings.Cut(f.Name, ": "); ok && of[0] >= '0' && of[0] <= '9' {
			column, line = of, name
		}
		if !slices.Contains(columns, column) {
			columns = append(columns, column)
		}
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
		values[[2]string{column, line}], notes[line] = f.Value, f.Note
	}
	fmt.Fprintf(b, "| | %s | |\n|---|%s---|\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, l := range lines {
		fmt.Fprintf(b, "| %s |", cell(l))
		for _, c := range columns {
			fmt.Fprintf(b, " %s |", cell(values[[2]string{c, l}]))
		}
		fmt.Fprintf(b, " %s |\n", cell(notes[l]))
	}
}
