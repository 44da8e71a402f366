package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"forebay/internal/figures"
)

// score counts verdicts.
func score(results []Result, which func(Result) bool) (caught, planted int) {
	for _, r := range results {
		if which(r) {
			planted++
			if r.Verdict == Caught {
				caught++
			}
		}
	}
	return caught, planted
}

func anyBug(Result) bool { return true }

// Table has a line for each bug, and for those that were not caught why.
func Table(results []Result) string {
	w := new(strings.Builder)
	for _, r := range results {
		fmt.Fprintf(w, "%-9s %-42s %-12s %s\n", r.Verdict, r.Bug.Name, strings.Join(r.Bug.Breaks, " "), saw(r))
		if r.Verdict != Caught {
			fmt.Fprintf(w, "          %s\n", r.Bug.What)
			if r.Detail != "" {
				fmt.Fprintf(w, "          %s\n", strings.ReplaceAll(strings.TrimSpace(r.Detail), "\n", "\n          "))
			}
			if r.Verdict == Survived {
				for _, c := range r.Bug.Catch {
					fmt.Fprintf(w, "          passed: %s\n", c)
				}
			}
		}
	}
	caught, planted := score(results, anyBug)
	fmt.Fprintf(w, "%d of %d planted bugs caught\n", caught, planted)
	return w.String()
}

// List has a line for each bug.
func List(bugs []Bug) string {
	w := new(strings.Builder)
	for _, b := range bugs {
		fmt.Fprintf(w, "%-42s %-12s %s\n", b.Name, strings.Join(b.Breaks, " "), b.What)
	}
	return w.String()
}

// saw says who caught a bug.
func saw(r Result) string {
	if r.Verdict != Caught {
		return ""
	}
	text := fmt.Sprintf("%s %s: ", strings.TrimPrefix(r.By.Package, "./"), r.Outcome.Test)
	if r.Outcome.Manner != Failed {
		text += string(r.Outcome.Manner) + ": "
	}
	text += r.Outcome.Message
	if r.Outcome.Seed != "" {
		text += " (seed " + r.Outcome.Seed + ")"
	}
	return text
}

// complete adds to the results of a run what the report of earlier ones has of the other bugs. A bug that was not caught then, or was
// changed since, is to be run.
func complete(results []Result, all []Bug, dir string) ([]Result, error) {
	ran := map[string]Result{}
	for _, r := range results {
		ran[r.Bug.Name] = r
	}
	known := map[string]figures.Figure{}
	if len(results) < len(all) {
		reports, err := figures.Load(dir)
		if err != nil {
			return nil, err
		}
		for _, r := range reports {
			for _, f := range r.Figures {
				if r.Layer == layer {
					known[f.Name] = f
				}
			}
		}
	}
	var whole []Result
	var lacking []string
	for _, b := range all {
		r, ok := ran[b.Name]
		if !ok {
			r, ok = recall(b, known[b.Name])
		}
		if !ok {
			lacking = append(lacking, b.Name)
			continue
		}
		whole = append(whole, r)
	}
	if len(lacking) > 0 {
		return nil, fmt.Errorf("nothing is reported: the report in %s knows nothing of %s; run with -only '^(%s)$' as well", dir, strings.Join(lacking, ", "), strings.Join(lacking, "|"))
	}
	return whole, nil
}

// recall is the result of a bug that was caught, from its figure.
func recall(b Bug, f figures.Figure) (Result, bool) {
	rest, ok := strings.CutPrefix(f.Note, b.What+" · ")
	if !ok || f.Value != string(Caught) {
		return Result{}, false
	}
	by, _, _ := strings.Cut(rest, " · ")
	by, seed, _ := strings.Cut(by, ", seed ")
	pkg, test, ok := strings.Cut(by, " ")
	return Result{Bug: b, Verdict: Caught, By: &Catch{Package: "./" + pkg}, Outcome: Outcome{Test: test, Seed: seed}}, ok
}

// layer is the report's.
const layer = "planted"

// Report makes the layer's report of all bugs, of which some were run now, in a time.
func Report(results []Result, now int, day time.Time, took time.Duration) figures.Report {
	figure := func(name string, which func(Result) bool, note string) figures.Figure {
		caught, planted := score(results, which)
		return figures.Figure{Name: name, Value: fmt.Sprintf("%d of %d", caught, planted), Note: note}
	}
	lines := []figures.Figure{
		figure("planted bugs caught", anyBug, "each by a test that fails with it and passes without it"),
		figure("chosen by someone who had not read the tests", func(r Result) bool { return r.Bug.Blind }, ""),
		figure("chosen by someone who had", func(r Result) bool { return !r.Bug.Blind }, ""),
	}
	layers := make(map[string]int)
	invariants := make(map[string]int)
	for _, r := range results {
		if r.Verdict != Caught {
			continue
		}
		layers[r.By.Layer()]++
		for _, i := range r.Bug.Breaks {
			invariants[i]++
		}
	}
	for _, l := range sorted(layers) {
		lines = append(lines, figures.Figure{Name: "caught by " + l, Value: fmt.Sprint(layers[l]), Note: "the first of a bug's commands that sees it counts; cheap ones come first"})
	}
	if now == len(results) {
		lines = append(lines, figures.Figure{Name: "time for all", Value: took.Round(time.Second).String(), Note: "compiling included"})
	} else {
		lines = append(lines, figures.Figure{Name: "run at this commit", Value: fmt.Sprintf("%d of %d, in %s", now, len(results), took.Round(time.Second)), Note: "the others in earlier runs, at earlier commits"})
	}
	var notCovered []string
	for _, r := range results {
		f := figures.Figure{Name: r.Bug.Name, Value: string(r.Verdict), Note: r.Bug.What}
		if r.Verdict == Caught {
			f.Note += fmt.Sprintf(" · %s %s", strings.TrimPrefix(r.By.Package, "./"), r.Outcome.Test)
		}
		if r.Outcome.Seed != "" {
			f.Note += ", seed " + r.Outcome.Seed
		}
		for _, n := range r.Bug.Notes {
			f.Note += " · " + n
		}
		lines = append(lines, f)
		if r.Verdict != Caught {
			notCovered = append(notCovered, fmt.Sprintf("%s is not caught: %s", r.Bug.Name, r.Bug.What))
		}
	}
	how := make(map[string]string)
	for i, n := range invariants {
		how[i] = fmt.Sprintf("%d bugs that break it are seen", n)
		if n == 1 {
			how[i] = "1 bug that breaks it is seen"
		}
	}
	return figures.Report{
		Layer: layer, Command: "make planted REPORT=docs/reliability", Measured: day.Format(time.DateOnly),
		Figures: lines, Invariants: how, NotCovered: notCovered,
	}
}

func sorted[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
