package reliability

import (
	"cmp"
	"fmt"
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

// Page renders reports as a page: head, which invariant is checked where, the figures of each layer with the command that
// makes them, and what is not covered.
func Page(head string, reports []Report) string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString("\n## Which layer checks which invariant\n\n")
	invariants(&b, reports)
	b.WriteString("\n## Figures\n")
	for _, r := range reports {
		measured := r.Measured
		if r.Commit != "" {
			measured += " at " + r.Commit
		}
		fmt.Fprintf(&b, "\n### %s\n\n`%s` · %s · %s\n\n| figure | value | |\n|---|---|---|\n", r.Layer, r.Command, measured, r.Machine)
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
