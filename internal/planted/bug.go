package main

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/tools/txtar"
)

// Format is the version of the files in bugs/. Their first line says it: "planted 1".
const Format = 1

// Bug is one mutation of the shipped code, and what is to notice it. It is read from a file NN-name.bug, a txtar archive:
//
//	planted 1
//	what: one sentence: what the mutated code does wrong
//	breaks: I1 I2                      invariants, at least one
//	chosen: with-tests                 or blind: by someone who had not read the tests
//	by: exit                           optional: ways beside a failed test that count; see Manner
//	limit: 2m                          optional: time for each command; DefaultLimit
//	note: first nothing saw it; …      optional, may be repeated
//	catch: ./relay ^(TestA|TestB)$     package, tests, then more flags of go test or of the tests; cheapest first, may be repeated
//	-- old relay/claims.go --
//	whole lines that are exactly once in the file
//	-- new relay/claims.go --
//	what stands there instead
//
// with as many pairs of old and new as it takes.
type Bug struct {
	Name   string // of the file, without .bug
	What   string
	Breaks []string
	Blind  bool
	By     []Manner // ways of failing that count as caught; always with Failed
	Limit  time.Duration
	Notes  []string
	Catch  []Catch
	Edits  []Edit
	text   []byte // the whole file
}

// Edit replaces whole lines of one file.
type Edit struct {
	File     string // from the root of the module, with slashes
	Old, New []byte // whole lines; New may be empty
}

// Catch is one command that is expected to notice a bug: some tests of one package.
type Catch struct {
	Package string   // ./relay
	Run     string   // regular expression of go test -run
	Flags   []string // more flags for go test, or for the tests
}

// DefaultLimit is how long the tests of one command may take, without compiling.
const DefaultLimit = 2 * time.Minute

// MaxCatch is the most commands that a bug may name: who has to run the whole harness to see a bug has no test for it.
const MaxCatch = 3

var (
	bugName   = regexp.MustCompile(`^[0-9]{2,3}-[a-z0-9-]+$`)
	invariant = regexp.MustCompile(`^I([1-9]|1[0-9])$`)
)

// String is the command as one would type it.
func (c Catch) String() string {
	return strings.Join(append([]string{"go test -run '" + c.Run + "'"}, append([]string{c.Package}, c.Flags...)...), " ")
}

// Layer says which layer of the harness a command belongs to.
func (c Catch) Layer() string {
	switch p := strings.TrimPrefix(c.Package, "./"); p {
	case "internal/sim", "internal/crash", "internal/e2e":
		return path.Base(p)
	case "shard/store", "ledger/disk":
		return "stores"
	default:
		return "package tests"
	}
}

// ReadBugs reads all bugs of a directory, in the order of their names. Errors name the file.
func ReadBugs(dir string) ([]Bug, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.bug"))
	if err != nil {
		return nil, fmt.Errorf("list bugs: %w", err)
	}
	slices.Sort(files)
	var out []Bug
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read bug: %w", err)
		}
		b, err := ParseBug(strings.TrimSuffix(filepath.Base(f), ".bug"), text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		out = append(out, b)
	}
	return out, nil
}

// ParseBug reads one bug. Unknown keys and formats are errors.
func ParseBug(name string, text []byte) (Bug, error) {
	b := Bug{Name: name, By: []Manner{Failed}, Limit: DefaultLimit, text: text}
	if !bugName.MatchString(name) {
		return b, fmt.Errorf("the name %q is not like 07-name-in-lower-case.bug", name)
	}
	archive := txtar.Parse(text)
	lines := strings.Split(strings.TrimRight(string(archive.Comment), "\n"), "\n")
	if want := fmt.Sprintf("planted %d", Format); lines[0] != want {
		return b, fmt.Errorf("the first line is %q, this program knows %q", lines[0], want)
	}
	chosen := ""
	for _, line := range lines[1:] {
		key, value, ok := strings.Cut(line, ": ")
		value = strings.TrimSpace(value)
		if !ok || value == "" {
			return b, fmt.Errorf("line %q is not KEY: VALUE", line)
		}
		if err := b.set(key, value, &chosen); err != nil {
			return b, err
		}
	}
	if err := b.edits(archive.Files); err != nil {
		return b, err
	}
	return b, b.check(chosen)
}

func (b *Bug) set(key, value string, chosen *string) (err error) {
	switch key {
	case "what":
		b.What = value
	case "breaks":
		b.Breaks = strings.Fields(value)
	case "chosen":
		*chosen, b.Blind = value, value == "blind"
	case "by":
		for _, m := range strings.Fields(value) {
			b.By = append(b.By, Manner(m))
		}
	case "limit":
		if b.Limit, err = time.ParseDuration(value); err != nil || b.Limit <= 0 {
			return fmt.Errorf("limit %q is not a duration like 90s", value)
		}
	case "note":
		b.Notes = append(b.Notes, value)
	case "catch":
		f := strings.Fields(value)
		if len(f) < 2 || !strings.HasPrefix(f[0], "./") {
			return fmt.Errorf("catch %q is not ./PACKAGE REGEXP [FLAG…]", value)
		}
		if _, err := regexp.Compile(f[1]); err != nil {
			return fmt.Errorf("catch %q: %w", value, err)
		}
		b.Catch = append(b.Catch, Catch{Package: f[0], Run: f[1], Flags: f[2:]})
	default:
		return fmt.Errorf("unknown key %q", key)
	}
	return nil
}

func (b *Bug) edits(files []txtar.File) error {
	for i := 0; i < len(files); i += 2 {
		old, ok := strings.CutPrefix(files[i].Name, "old ")
		if !ok || i+1 == len(files) || files[i+1].Name != "new "+old {
			return fmt.Errorf("section %q: sections come in pairs, -- old FILE -- and -- new FILE --", files[i].Name)
		}
		if !strings.HasSuffix(old, ".go") || strings.HasSuffix(old, "_test.go") || !filepath.IsLocal(old) || path.Clean(old) != old {
			return fmt.Errorf("section %q: bugs are planted in the shipped code, named from the root of the module", files[i].Name)
		}
		if len(bytes.TrimSpace(files[i].Data)) == 0 || bytes.Equal(files[i].Data, files[i+1].Data) {
			return fmt.Errorf("section %q: there is nothing to change", files[i].Name)
		}
		b.Edits = append(b.Edits, Edit{File: old, Old: files[i].Data, New: files[i+1].Data})
	}
	return nil
}

func (b *Bug) check(chosen string) error {
	switch {
	case b.What == "":
		return fmt.Errorf("it does not say what: is wrong")
	case len(b.Breaks) == 0:
		return fmt.Errorf("it does not say what it breaks:")
	case chosen != "blind" && chosen != "with-tests":
		return fmt.Errorf("chosen: is %q, not blind or with-tests", chosen)
	case len(b.Edits) == 0:
		return fmt.Errorf("it changes nothing: -- old FILE -- and -- new FILE -- are missing")
	case len(b.Catch) == 0 || len(b.Catch) > MaxCatch:
		return fmt.Errorf("it names %s commands in catch:, one to %d are allowed", strconv.Itoa(len(b.Catch)), MaxCatch)
	}
	for _, i := range b.Breaks {
		if !invariant.MatchString(i) {
			return fmt.Errorf("breaks: %q is no invariant from I1 to I19", i)
		}
	}
	for _, m := range b.By {
		if !slices.Contains(Manners, m) {
			return fmt.Errorf("by: %q is none of %v", m, Manners)
		}
	}
	return nil
}
