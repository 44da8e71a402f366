package reliability

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Page renders reports as a page: head, which invariant is checked where, the figures of each layer with the command that
// makes them, and what is not covered.
func Page(head string, reports []Report) string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString("\n## Which layer checks which invariant\n\n")
	invariants(&b, reports)
	b.WriteString("\n## Figures\n")
	for _, r := range reports {
		fmt.Fprintf(&b, "\n### %s\n\n`%s` · %s · %s\n\n| figure | value | |\n|---|---|---|\n", r.Layer, r.Command, r.Measured, r.Machine)
		for _, f := range r.Figures {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", cell(f.Name), cell(f.Value), cell(f.Note))
		}
	}
	b.WriteString("\n## Not covered\n\n")
	for _, r := range reports {
		for _, n := range r.NotCovered {
			fmt.Fprintf(&b, "- *%s*: %s\n", r.Layer, n)
		}
	}
	return b.String()
}

func invariants(b *strings.Builder, reports []Report) {
	by := map[string][]string{}
	for _, r := range reports {
		for n, how := range r.Invariants {
			by[n] = append(by[n], "**"+r.Layer+"**: "+how)
		}
	}
	b.WriteString("| | checked by |\n|---|---|\n")
	for _, n := range slices.SortedFunc(maps.Keys(by), func(a, b string) int { return number(a) - number(b) }) {
		fmt.Fprintf(b, "| %s | %s |\n", n, cell(strings.Join(by[n], "; ")))
	}
}

func number(invariant string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(invariant, "I"))
	return n
}

// cell makes text fit into a cell of a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "|", `\|`), "\n", " ")
}
