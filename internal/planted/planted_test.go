package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/figures"
)

// The bugs fit the tree: one whose lines were changed is noticed at once, not in the next long run.
func TestBugsFit(t *testing.T) {
	t.Parallel()
	bugs, err := ReadBugs("bugs")
	require.NoError(t, err)
	require.NotEmpty(t, bugs)
	numbers := make(map[string]string)
	for _, b := range bugs {
		_, err := Mutate("../..", b)
		assert.NoError(t, err, "%s: change its lines with the code (docs/planting.md)", b.Name)
		number, _, _ := strings.Cut(b.Name, "-")
		assert.Empty(t, numbers[number], "%s has the same number", b.Name)
		numbers[number] = b.Name
		for _, c := range b.Catch {
			assert.DirExists(t, filepath.Join("../..", c.Package), "%s: %s", b.Name, c)
		}
	}
}

const toyBug = `planted 1
what: adds one too many
breaks: I1 I6
chosen: blind
note: a note
catch: ./ ^TestAdd$ -short
-- old add.go --
	return a + b
-- new add.go --
	return a + b + 1
`

func TestParseBug(t *testing.T) {
	t.Parallel()
	b, err := ParseBug("01-add", []byte(toyBug))
	require.NoError(t, err)
	require.True(t, b.Blind)
	require.Equal(t, []string{"I1", "I6"}, b.Breaks)
	require.Equal(t, []string{"a note"}, b.Notes)
	require.Equal(t, []Catch{{Package: "./", Run: "^TestAdd$", Flags: []string{"-short"}}}, b.Catch)
	require.Equal(t, []Edit{{File: "add.go", Old: []byte("\treturn a + b\n"), New: []byte("\treturn a + b + 1\n")}}, b.Edits)
	require.Equal(t, []Manner{Failed}, b.By)
	for want, change := range map[string][2]string{
		"the first line":        {"planted 1", "planted 2"},
		"unknown key":           {"note: a note", "nota: a note"},
		"not KEY: VALUE":        {"note: a note", "note"},
		"no invariant":          {"I6", "I20"},
		"not blind":             {"chosen: blind", "chosen: me"},
		"say what: is wrong":    {"what: adds one too many\n", ""},
		"what it breaks":        {"breaks: I1 I6\n", ""},
		"names 0 commands":      {"catch: ./ ^TestAdd$ -short\n", ""},
		"is not ./PACKAGE":      {"./ ^TestAdd$ -short", "TestAdd"},
		"missing closing":       {"^TestAdd$", "^(TestAdd$"},
		"come in pairs":         {"-- new add.go --", "-- new sub.go --"},
		"the shipped code":      {"add.go --", "../add.go --"},
		"nothing to change":     {"a + b + 1", "a + b"},
		"is none of":            {"note: a note", "by: magic"},
		"not a duration":        {"note: a note", "limit: soon"},
		"-- new FILE -- are mi": {"-- old add.go --\n\treturn a + b\n-- new add.go --\n\treturn a + b + 1\n", ""},
	} {
		text := strings.ReplaceAll(toyBug, change[0], change[1])
		require.NotEqual(t, toyBug, text, want)
		_, err := ParseBug("01-add", []byte(text))
		assert.ErrorContains(t, err, want)
	}
	_, err = ParseBug("add", []byte(toyBug))
	require.ErrorContains(t, err, "the name")
}

// toy is a module whose tests see some bugs and not others.
var toy = map[string]string{
	"go.mod": "module toy\n\ngo 1.26\n",
	"add.go": "package toy\n\nimport \"time\"\n\n// Add adds.\nfunc Add(a, b int) int {\n\treturn a + b\n}\n\n" +
		"// Wait waits for nothing.\nfunc Wait() {\n\ttime.Sleep(0)\n}\n",
	"add_test.go": `package toy

import "testing"

func TestAdd(t *testing.T) {
	t.Run("small", func(t *testing.T) {
		if got := Add(2, 2); got != 4 {
			t.Errorf("seed 77: two and two are %d", got)
		}
	})
}

func TestZero(t *testing.T) {
	if Add(0, 0) != 0 {
		t.Error("nothing is something")
	}
}

func TestWait(t *testing.T) { Wait() }

func TestBroken(t *testing.T) { t.Error("always") }
`,
}

// toyCase is a bug of the toy module and what is to become of it.
type toyCase struct {
	name     string
	old, new string
	catch    []string
	by       string // more header lines
	want     Verdict
	manner   Manner
	test     string
	detail   string
}

// The runner tells apart all that can become of a bug, on a module made for that.
func TestRunner(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("go")
	require.NoError(t, err)
	dir := t.TempDir()
	for name, text := range toy {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	sum, wait := "\treturn a + b\n", "\ttime.Sleep(0)\n"
	cases := []toyCase{
		{name: "caught", old: sum, new: "\treturn a * b * 2\n", catch: []string{"^TestZero$", "^TestAdd$"}, want: Caught, manner: Failed, test: "TestAdd/small"},
		{name: "survived", old: sum, new: "\treturn a * b\n", catch: []string{"^TestZero$", "^TestAdd$"}, want: Survived},
		{name: "stale", old: "\treturn a - b\n", new: sum, catch: []string{"^TestAdd$"}, want: Stale, detail: "0 times"},
		{name: "half", old: "a + b\n", new: "a * b\n", catch: []string{"^TestAdd$"}, want: Stale, detail: "0 times"},
		{name: "no-go", old: sum, new: "\treturn a +\n", catch: []string{"^TestAdd$"}, want: Invalid, detail: "it is not Go"},
		{name: "unused", old: sum, new: "\tc := 1\n\treturn a + b\n", catch: []string{"^TestAdd$"}, want: Invalid, detail: "declared and not used"},
		{name: "no-test", old: sum, new: "\treturn a\n", catch: []string{"^TestSub$"}, want: Invalid, manner: NoTests, detail: "no test ran"},
		{name: "broken", old: sum, new: "\treturn a\n", catch: []string{"^TestBroken$"}, want: Broken, manner: Failed, test: "TestBroken", detail: "without the bug"},
		{name: "panics", old: wait, new: "\ttime.Sleep(0)\n\tpanic(\"ouch\")\n", catch: []string{"^TestWait$"}, want: Unclear, manner: Panicked, test: "TestWait", detail: "ouch"},
		{name: "panic", old: wait, new: "\ttime.Sleep(0)\n\tpanic(\"ouch\")\n", catch: []string{"^TestWait$"}, by: "by: panicked\n", want: Caught, manner: Panicked, test: "TestWait"},
		{name: "hangs", old: wait, new: "\ttime.Sleep(time.Hour)\n", catch: []string{"^TestWait$"}, by: "by: timeout\nlimit: 200ms\n", want: Caught, manner: TimedOut, test: "TestWait"},
	}
	var bugs []Bug
	for i, c := range cases {
		text := fmt.Sprintf("planted 1\nwhat: %s\nbreaks: I1\nchosen: with-tests\n%s", c.name, c.by)
		for _, run := range c.catch {
			text += "catch: ./ " + run + "\n"
		}
		text += "-- old add.go --\n" + c.old + "-- new add.go --\n" + c.new
		b, err := ParseBug(fmt.Sprintf("%02d-%s", i, c.name), []byte(text))
		require.NoError(t, err)
		bugs = append(bugs, b)
	}
	var progress bytes.Buffer
	r, err := newRunner(dir, tool, append(os.Environ(), "GOWORK=off"), "-buildvcs=false", time.Now, &progress)
	require.NoError(t, err)
	results, err := r.run(context.Background(), bugs, 2)
	require.NoError(t, err)
	for i, c := range cases {
		got := results[i]
		assert.Equal(t, c.want, got.Verdict, "%s: %+v", c.name, got.Outcome)
		assert.Equal(t, c.manner, got.Outcome.Manner, c.name)
		assert.Equal(t, c.test, got.Outcome.Test, c.name)
		assert.Contains(t, got.Detail, c.detail, c.name)
	}
	require.Equal(t, "seed 77: two and two are 8", results[0].Outcome.Message)
	require.Equal(t, "77", results[0].Outcome.Seed)
	require.Equal(t, 2, results[0].Tried)
	for name, text := range toy {
		now, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, text, string(now), "the tree is not touched")
	}

	table := Table(results)
	require.Contains(t, table, "3 of 11 planted bugs caught")
	require.Contains(t, table, "passed: go test -run '^TestZero$' ./")
	report := Report(results, len(results), time.Unix(0, 0), time.Minute)
	require.NoError(t, report.Validate())
	require.Equal(t, "3 of 11", report.Figures[0].Value)
	require.Len(t, report.NotCovered, 8)
	require.Equal(t, map[string]string{"I1": "3 bugs that break it are seen"}, report.Invariants)

	// What was caught is known to later runs of some; what was not, or has changed since, is to be run again.
	caught := slices.DeleteFunc(slices.Clone(results), func(r Result) bool { return r.Verdict != Caught })
	require.Len(t, caught, 3)
	var known []Bug
	for _, r := range caught {
		known = append(known, r.Bug)
	}
	reports := t.TempDir()
	require.NoError(t, Report(caught, 3, time.Unix(0, 0), time.Minute).Save(reports))
	whole, err := complete(caught[1:2], known, reports)
	require.NoError(t, err)
	later := Report(whole, 1, time.Unix(0, 0), time.Second)
	first := Report(caught, 3, time.Unix(0, 0), time.Second)
	for _, f := range first.Figures {
		if f.Name != "time for all" {
			require.Contains(t, later.Figures, f)
		}
	}
	require.Contains(t, later.Figures, figures.Figure{Name: "run at this commit", Value: "1 of 3, in 1s", Note: "the others in earlier runs, at earlier commits"})
	known[0].What = "something else"
	missed := bugs[slices.IndexFunc(results, func(r Result) bool { return r.Verdict == Survived })]
	_, err = complete(caught[1:2], append(known, missed), reports)
	require.ErrorContains(t, err, known[0].Name+", "+missed.Name)
}

// What go test says is understood where the runner's own test cannot make it happen.
func TestRead(t *testing.T) {
	t.Parallel()
	exit := `{"Action":"run","Test":"TestA"}
{"Action":"output","Test":"TestA","Output":"pebble: no longer\n"}
{"Action":"output","Output":"FAIL\ttoy\t0.1s\n"}
{"Action":"fail"}
`
	o := read(strings.NewReader(exit))
	require.Equal(t, Outcome{Manner: Exited, Test: "TestA", Message: "pebble: no longer"}, o)
	build := `{"Action":"build-output","Output":"x.go:1: undefined: y\n"}
{"Action":"build-fail"}
{"Action":"fail"}
`
	require.Equal(t, Outcome{Manner: NoBuild, Message: "x.go:1: undefined: y"}, read(strings.NewReader(build)))
	skipped := `{"Action":"skip","Test":"TestA"}
{"Action":"pass"}
`
	require.Equal(t, NoTests, read(strings.NewReader(skipped)).Manner, "what is skipped has seen nothing")
	testify := `{"Action":"output","Test":"TestA","Output":"    a_test.go:170: \n"}
{"Action":"output","Test":"TestA","Output":"        \tError Trace:\t/a_test.go:170\n"}
{"Action":"output","Test":"TestA","Output":"        \tError:      \tNot equal: \n"}
{"Action":"output","Test":"TestA","Output":"        \t            \texpected: 1\n"}
{"Action":"output","Test":"TestA","Output":"        \t            \tactual  : 2\n"}
{"Action":"output","Test":"TestA","Output":"        \t            \tDiff:\n"}
{"Action":"output","Test":"TestA","Output":"        \t            \t--- Expected\n"}
{"Action":"output","Test":"TestA","Output":"        \tTest:       \tTestA\n"}
{"Action":"output","Test":"TestA","Output":"        \tMessages:   \tmedia/x, seed=12\n"}
{"Action":"output","Test":"TestA","Output":"        \tError:      \tanother\n"}
{"Action":"fail","Test":"TestA"}
{"Action":"fail"}
`
	require.Equal(t, Outcome{Manner: Failed, Test: "TestA", Message: "media/x, seed=12 Not equal: expected: 1 actual : 2", Seed: "12"}, read(strings.NewReader(testify)))
}
