// Package figures keeps what campaigns measure and publish: each saves a report, and pages of docs are rendered from them: reliability.md
// from those of the fault harness, targets.md from those against real backup servers, scale.md from simulations of a thousand nodes,
// benchmarks.md from measurements beside other programs. It imports nothing of Forebay and is used by tests only.
package figures

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Format is the version of the reports' files.
const Format = 1

// Report is what one campaign found in one run. A layer of the fault harness is one.
type Report struct {
	Format  int    `json:"format"`          // filled in by Save
	Layer   string `json:"layer"`           // lower-case name: it is the file's, too
	Title   string `json:"title,omitempty"` // what it is about, where the name does not say it
	Command string `json:"command"`         // runs the campaign again, from the root of the repository
	// Measured is the day of the run, as 2006-01-02.
	Measured string `json:"measured"`
	Machine  string `json:"machine"` // filled in by Save
	// Commit is what was run, shortened, with a + where files differed from it. Filled in by Save; empty outside of a git checkout.
	Commit string `json:"commit,omitempty"`
	// Figures, or a Table of them: one of the two at least.
	Figures []Figure `json:"figures,omitempty"`
	Table   *Table   `json:"table,omitempty"`
	// Samples are what was measured, a value for each round, by name and unit (SampleOf). What is required is judged by them.
	Samples map[string][]float64 `json:"samples,omitempty"`
	// Invariants says how the layer checks each invariant that it checks, by number ("I7").
	Invariants map[string]string `json:"invariants,omitempty"`
	NotCovered []string          `json:"not_covered,omitempty"`
}

// Figure is one measured or counted figure.
type Figure struct {
	Name  string `json:"name"`
	Value string `json:"value"`          // with its unit
	Note  string `json:"note,omitempty"` // what it means, or how it was taken
}

// Table has figures of several things of one kind side by side.
type Table struct {
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"` // of a cell for each column, the first of which names what it is about
}

func (t *Table) validate() error {
	if t == nil {
		return nil
	}
	var errs []error
	if len(t.Rows) == 0 {
		errs = append(errs, errors.New("a table without rows"))
	}
	for _, r := range t.Rows {
		if len(r) != len(t.Columns) || len(r) == 0 || r[0] == "" {
			errs = append(errs, fmt.Errorf("row %q: want a name and all of %q", r, t.Columns))
		}
	}
	return errors.Join(errs...)
}

var (
	layerName     = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	invariantName = regexp.MustCompile(`^I([1-9]|1[0-9])$`)
)

// Validate says what is wrong with a report, all of it at once.
func (r Report) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !layerName.MatchString(r.Layer) {
		bad("layer %q: want a name in lower case", r.Layer)
	}
	if r.Command == "" {
		bad("no command: how is it run again?")
	}
	if _, err := time.Parse(time.DateOnly, r.Measured); err != nil {
		bad("measured %q: want a day as 2006-01-02", r.Measured)
	}
	if len(r.Figures) == 0 && r.Table == nil {
		bad("no figures")
	}
	if err := r.Table.validate(); err != nil {
		errs = append(errs, err)
	}
	for _, f := range r.Figures {
		if f.Name == "" || f.Value == "" {
			bad("figure %+v: name and value are needed", f)
		}
	}
	for n, how := range r.Invariants {
		if !invariantName.MatchString(n) || how == "" {
			bad("invariant %q: want I1 to I19 and how it is checked", n)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("report %s: %w", r.Layer, errors.Join(errs...))
}

// Save writes the report to DIR/LAYER.json, in place of the one of the run before.
func (r Report) Save(dir string) error {
	r.Format = Format
	r.Machine = fmt.Sprintf("%d processors, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	r.Commit = commit()
	if err := r.Validate(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("report %s: %w", r.Layer, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save report %s: %w", r.Layer, err)
	}
	if err := os.WriteFile(filepath.Join(dir, r.Layer+".json"), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("save report %s: %w", r.Layer, err)
	}
	return nil
}

// commit names what is checked out. The reports themselves do not count as differing: a campaign may save several.
func commit() string {
	head, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return ""
	}
	name := strings.TrimSpace(string(head))
	changed, err := exec.Command("git", "status", "--porcelain", "--untracked-files=no", "--", ":(top)",
		":(top,exclude)docs/reliability", ":(top,exclude)docs/targets", ":(top,exclude)docs/scale", ":(top,exclude)docs/benchmarks").Output()
	if err != nil || len(changed) > 0 {
		name += "+"
	}
	return name
}

// Load reads all reports of a directory, by layer.
func Load(dir string) ([]Report, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("load reports: %w", err)
	}
	var out []Report
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("load reports: %w", err)
		}
		var r Report
		if err := json.Unmarshal(b, &r); err != nil {
			return nil, fmt.Errorf("load report %s: %w", name, err)
		}
		if r.Format != Format {
			return nil, fmt.Errorf("load report %s: format %d, this program knows %d: run %s again", name, r.Format, Format, r.Command)
		}
		if err := r.Validate(); err != nil {
			return nil, fmt.Errorf("load report %s: %w", name, err)
		}
		if r.Layer+".json" != filepath.Base(name) {
			return nil, fmt.Errorf("load report %s: it is of layer %s", name, r.Layer)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Report) int { return strings.Compare(a.Layer, b.Layer) })
	return out, nil
}
