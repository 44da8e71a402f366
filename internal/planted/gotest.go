package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Manner is how a command ended.
type Manner string

// The ways in which a command ends. Failed counts as caught; of the others, those that a bug declares with by:.
const (
	Passed   Manner = "passed"   // tests ran and all of them passed
	Failed   Manner = "failed"   // a test judged that something is wrong
	Panicked Manner = "panicked" // the program of the tests panicked
	Exited   Manner = "exit"     // it ended before its tests did, as when pebble ends the process
	TimedOut Manner = "timeout"
	NoBuild  Manner = "no-build" // it did not compile
	NoTests  Manner = "no-tests" // no test of that name ran
)

// Manners are those that may stand behind by: in a bug.
var Manners = []Manner{Failed, Panicked, Exited, TimedOut}

// Outcome is what a command came to.
type Outcome struct {
	Manner  Manner
	Test    string // the first test that failed
	Message string // what it said, on one line
	Seed    string // that it printed, if it did
	Took    time.Duration
}

// event is a line of go test -json; see cmd/test2json.
type event struct {
	Action string
	Test   string
	Output string
}

// grace is how much longer than its tests a command may take, to compile.
const grace = 5 * time.Minute

// tests runs a command in root with a GOFLAGS. What its processes leave behind is ended.
func (r *runner) tests(ctx context.Context, c Catch, limit time.Duration, overlay string) (Outcome, error) {
	began := r.now()
	args := append([]string{"test", "-json", "-count=1", "-vet=off", "-timeout=" + limit.String(), "-run=" + c.Run, c.Package}, c.Flags...)
	out, err := r.goCommand(ctx, limit+grace, overlay, args...)
	if errors.Is(err, context.DeadlineExceeded) {
		return Outcome{Manner: TimedOut, Message: "it did not end", Took: r.now().Sub(began)}, nil
	}
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		return Outcome{}, fmt.Errorf("%s: %w", c, err)
	}
	o := read(bytes.NewReader(out))
	o.Took = r.now().Sub(began)
	return o, nil
}

// goCommand runs go and returns all that it wrote.
func (r *runner) goCommand(ctx context.Context, limit time.Duration, overlay string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.goTool, args...)
	cmd.Dir = r.root
	// A test that a bug makes fail is no example for later runs: rapid would write it into the tree.
	cmd.Env = slices.Concat(r.env, []string{"PWD=" + r.root, "RAPID_NOFAILFILE=true"})
	if overlay != "" {
		cmd.Env = append(cmd.Env, "GOFLAGS="+strings.TrimSpace(r.goFlags+" -overlay="+overlay))
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// A group of its own, so that what a test that timed out had started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.Bytes(), err
}

// read makes an outcome of what go test -json wrote. Lines that are no events (of the compiler, when it cannot say it in
// JSON) are passed over.
func read(out io.Reader) Outcome {
	var (
		said     = make(map[string]*strings.Builder) // by test; "" is the package
		passed   int
		first    string // test that failed first; subtests fail before those that hold them
		failed   bool
		noBuild  bool
		last     string // test that spoke last
		compiler strings.Builder
	)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		if said[e.Test] == nil {
			said[e.Test] = new(strings.Builder)
		}
		switch e.Action {
		case "output":
			said[e.Test].WriteString(e.Output)
			if e.Test != "" {
				last = e.Test
			}
		case "build-output":
			compiler.WriteString(e.Output)
		case "build-fail":
			noBuild = true
		case "pass":
			if e.Test != "" {
				passed++
			}
		case "fail":
			failed = true
			if e.Test != "" && first == "" {
				first = e.Test
			}
		}
	}
	if noBuild {
		return Outcome{Manner: NoBuild, Message: oneLine(compiler.String())}
	}
	if !failed && passed == 0 {
		return Outcome{Manner: NoTests, Message: "no test ran"}
	}
	if !failed {
		return Outcome{Manner: Passed}
	}
	return judge(said, first, last)
}

var (
	panicking = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*)$`)
	timedOut  = regexp.MustCompile(`(?m)^panic: test timed out after .*$`)
	seeded    = regexp.MustCompile(`(?i)\bseed[ =:]+"?(-?[0-9]+|0x[0-9a-f]+)`)
)

// judge tells the ways of failing apart.
func judge(said map[string]*strings.Builder, first, last string) Outcome {
	all := func(test string) string {
		if b := said[test]; b != nil {
			return b.String()
		}
		return ""
	}
	o := Outcome{Manner: Failed, Test: first}
	if first == "" {
		o.Test = last
	}
	text := all(first)
	everything := text
	for _, b := range said {
		everything += b.String()
	}
	switch {
	case timedOut.MatchString(everything):
		o.Manner, o.Message = TimedOut, timedOut.FindString(everything)
	case panicking.MatchString(everything):
		o.Manner, o.Message = Panicked, panicking.FindString(everything)
	case first == "":
		o.Manner = Exited
		o.Message = message(all(last) + all(""))
	default:
		o.Message = message(text)
	}
	if m := seeded.FindStringSubmatch(everything); m != nil {
		o.Seed = m[1]
	}
	return o
}

var (
	testifyPart = regexp.MustCompile(`^\s+(Error|Messages):\s+(.*)$`)
	testifyNext = regexp.MustCompile(`^ {8}\s+\t\s*(\S.*)$`)
	testifyDiff = regexp.MustCompile(`^ {8}\s+\tDiff:$`)
	testifyKey  = regexp.MustCompile(`^ {8}\t[A-Z][A-Za-z ]*:`)
	atLine      = regexp.MustCompile(`^\s*[a-z0-9_]+\.go:[0-9]+: ?(.*)$`)
)

// message finds in a test's output what it complained about: testify's first error and its message, else the first line
// that t printed, else the last line that says anything.
func message(text string) string {
	var testify, note []string
	var printed, last string
	in, errors := "", 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch m := testifyPart.FindStringSubmatch(line); {
		case m != nil:
			if in = m[1]; in == "Error" {
				errors++
			}
			if errors == 1 && in == "Error" {
				testify = append(testify, m[2])
			} else if errors == 1 {
				note = append(note, m[2])
			}
		case testifyKey.MatchString(line) || testifyDiff.MatchString(line):
			in = ""
		case in == "Error" && errors == 1:
			if m := testifyNext.FindStringSubmatch(line); m != nil {
				testify = append(testify, m[1])
			}
		}
		if m := atLine.FindStringSubmatch(line); m != nil && strings.TrimSpace(m[1]) != "" && printed == "" {
			printed = m[1]
		}
		if t := strings.TrimSpace(line); t != "" && !strings.HasPrefix(t, "---") && !strings.HasPrefix(t, "===") && !strings.HasPrefix(t, "FAIL") {
			last = t
		}
	}
	switch {
	case len(testify) > 0:
		return oneLine(strings.Join(append(note, testify...), " "))
	case printed != "":
		return oneLine(printed)
	default:
		return oneLine(last)
	}
}

// temporary is a test's own directory, whose name is another one in each run.
var temporary = regexp.MustCompile(`/tmp/[^\s/]+/[0-9]+/`)

// oneLine cuts text to what fits a line of a report.
func oneLine(text string) string {
	const most = 160
	text = temporary.ReplaceAllString(strings.Join(strings.Fields(text), " "), "")
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}
