package figures

import (
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the pages anew from the reports")

const docs = "../../docs/"

// The pages are what the reports say. Rewrite them with: make reliability
func TestPagesAreCurrent(t *testing.T) {
	story, err := os.ReadFile(docs + "benchmarks/story.md")
	require.NoError(t, err)
	benchmarks := func(head string, reports []Report) string { return Benchmarks(head, string(story), reports) }
	for name, render := range map[string]func(string, []Report) string{
		"reliability": Reliability, "targets": Targets, "scale": Scale, "benchmarks": benchmarks,
	} {
		reports, err := Load(docs + name)
		require.NoError(t, err)
		head, err := os.ReadFile(docs + name + "/head.md")
		require.NoError(t, err)
		want := render(string(head), reports)
		require.NotContains(t, want, "| "+NothingChecks+" |", "each invariant has a layer that checks it")
		page := docs + name + ".md"
		if *update {
			require.NoError(t, os.WriteFile(page, []byte(want), 0o644))
		}
		got, err := os.ReadFile(page)
		require.NoError(t, err)
		require.Equal(t, want, string(got), "%s is not what the reports say: make reliability", page)
	}
}

func TestReportsAreChecked(t *testing.T) {
	t.Parallel()
	good := Report{Layer: "stores", Command: "make stores", Measured: "2026-11-25", Figures: []Figure{{Name: "lost", Value: "0 of 5 | 6"}},
		Invariants: map[string]string{"I10": "a look", "I3": "decodes"}, NotCovered: []string{"the rest"}}
	dir := t.TempDir()
	require.NoError(t, good.Save(dir))
	back, err := Load(dir)
	require.NoError(t, err)
	require.Len(t, back, 1)
	require.Equal(t, good.Figures, back[0].Figures)
	require.Regexp(t, `^([0-9a-f]{7,}\+?)?$`, back[0].Commit)
	back[0].Commit = "0123abc+"
	require.Contains(t, Reliability("", back), "2026-11-25 at 0123abc+ ·")
	text := Reliability("# Head\n", back)
	require.Regexp(t, `(?s)# Head.*\| I2 \| nothing \|\n\| I3 \| \*\*stores\*\*: decodes \|\n.*\| I10 .*\| I11 \| nothing yet.*0 of 5 \\\| 6.*\*stores\*: the rest`, text)

	for what, spoil := range map[string]func(*Report){
		"want a name":    func(r *Report) { r.Layer = "The Stores" },
		"no command":     func(r *Report) { r.Command = "" },
		"want a day":     func(r *Report) { r.Measured = "yesterday" },
		"no figures":     func(r *Report) { r.Figures = nil },
		"name and value": func(r *Report) { r.Figures = []Figure{{Name: "x"}} },
		"invariant":      func(r *Report) { r.Invariants = map[string]string{"I20": "?"} },
	} {
		bad := good
		spoil(&bad)
		require.ErrorContains(t, bad.Save(dir), what)
	}
	require.NoError(t, os.WriteFile(dir+"/stores.json", []byte(`{"format":2,"command":"make stores"}`), 0o644))
	_, err = Load(dir)
	require.ErrorContains(t, err, "format 2")
}

func TestSeriesBecomeColumns(t *testing.T) {
	t.Parallel()
	text := Scale("# Head\n", []Report{
		{Layer: "pick", Figures: []Figure{{Name: "Plain: one", Value: "1 | 2", Note: "n"}}, NotCovered: []string{"much"}},
		{Layer: "nodes", Command: "make scale", Measured: "2026-11-28", Figures: []Figure{{Name: "30 nodes: a poll", Value: "5"}, {Name: "30 nodes: idle", Value: "6"}, {Name: "300 nodes: a poll", Value: "7"}}},
	})
	require.Regexp(t, `(?s)^# Head.*## nodes.*\| \| 30 nodes \| 300 nodes \| \|\n\|---\|---\|---\|---\|\n\| a poll \| 5 \| 7 \|  \|\n\| idle \| 6 \|  \|  \|\n.*## pick.*\| Plain: one \| 1 \\\| 2 \| n \|.*- \*pick\*: much\n$`, text)
}
