package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Verdict is what became of a bug.
type Verdict string

// The verdicts. Only Caught is good.
const (
	Caught   Verdict = "caught"
	Survived Verdict = "SURVIVED" // all its commands passed
	Stale    Verdict = "STALE"    // its old lines are not in the tree: write it anew
	Invalid  Verdict = "INVALID"  // it does not compile, or its commands run no test
	Unclear  Verdict = "UNCLEAR"  // a command failed in a way that the bug does not declare with by:
	Broken   Verdict = "BROKEN"   // the command fails without the bug too, so it proves nothing
)

// Result is what became of one bug, and who saw it.
type Result struct {
	Bug     Bug
	Verdict Verdict
	By      *Catch  // the command that caught it; with Unclear and Broken the one that is in doubt
	Outcome Outcome // of By
	Detail  string  // why it is neither caught nor survived
	Tried   int     // commands that ran
	Took    time.Duration
}

// runner plants bugs one at a time in the module at root, never touching its files.
type runner struct {
	root     string
	goTool   string
	env      []string // for go
	goFlags  string   // GOFLAGS of env, to which the overlay is added
	now      func() time.Time
	progress io.Writer

	alone sync.RWMutex // held for writing by commands that start many processes and wait for them
	print sync.Mutex

	mu    sync.Mutex
	sound map[string]*baseline // by command
}

// baseline is how a command does without any bug. It is found out once.
type baseline struct {
	once    sync.Once
	outcome Outcome
	err     error
}

// run runs all bugs, jobs of them at a time, and returns their results in order. An error means that bugs could not be run
// at all, not that one was missed.
func (r *runner) run(ctx context.Context, bugs []Bug, jobs int) ([]Result, error) {
	results, errs := make([]Result, len(bugs)), make([]error, len(bugs))
	next := make(chan int)
	var workers sync.WaitGroup
	for range jobs {
		// Ends when next is closed.
		workers.Go(func() {
			for i := range next {
				if results[i], errs[i] = r.one(ctx, bugs[i]); errs[i] != nil {
					continue
				}
				r.say("%-9s %s (%s)", results[i].Verdict, bugs[i].Name, results[i].Took.Round(time.Second))
			}
		})
	}
	for i := range bugs {
		next <- i
	}
	close(next)
	workers.Wait()
	return results, errors.Join(errs...)
}

func (r *runner) say(format string, args ...any) {
	r.print.Lock()
	defer r.print.Unlock()
	_, _ = fmt.Fprintf(r.progress, format+"\n", args...) // who cannot see it sees the table
}

// one plants a bug and runs its commands until one catches it.
func (r *runner) one(ctx context.Context, b Bug) (res Result, err error) {
	began := r.now()
	res = Result{Bug: b, Verdict: Survived}
	if ctx.Err() != nil {
		return res, fmt.Errorf("%s was not run: %w", b.Name, ctx.Err())
	}
	defer func() { res.Took = r.now().Sub(began) }()
	changed, err := Mutate(r.root, b)
	if stale := new(StaleError); errors.As(err, &stale) {
		res.Verdict, res.Detail = Stale, err.Error()
		return res, nil
	}
	if err != nil {
		res.Verdict, res.Detail = Invalid, err.Error()
		return res, nil
	}
	dir, err := os.MkdirTemp("", "forebay-planted-")
	if err != nil {
		return res, fmt.Errorf("plant %s: %w", b.Name, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	flag, err := overlay(r.root, dir, changed)
	if err != nil {
		return res, fmt.Errorf("plant %s: %w", b.Name, err)
	}
	if out, err := r.goCommand(ctx, grace, flag, append([]string{"build"}, packages(b)...)...); err != nil {
		if ctx.Err() != nil {
			return res, ctx.Err()
		}
		res.Verdict, res.Detail = Invalid, "it does not compile: "+oneLine(string(out))
		return res, nil
	}
	for _, c := range b.Catch {
		if done, err := r.try(ctx, &res, c, flag); done || err != nil {
			return res, err
		}
	}
	return res, nil
}

// try runs one command of a bug. It reports whether that decides the bug's fate.
func (r *runner) try(ctx context.Context, res *Result, c Catch, flag string) (bool, error) {
	o, err := r.exclusive(ctx, c, res.Bug.Limit, flag)
	if err != nil || ctx.Err() != nil {
		return true, errors.Join(err, ctx.Err())
	}
	res.Tried++
	decide := func(v Verdict, detail string) (bool, error) {
		res.Verdict, res.By, res.Outcome, res.Detail = v, &c, o, detail
		return true, nil
	}
	switch {
	case o.Manner == Passed:
		return false, nil
	case o.Manner == NoTests:
		return decide(Invalid, fmt.Sprintf("no test ran: %s", c))
	case o.Manner == NoBuild:
		return decide(Invalid, "the tests do not compile with it: "+o.Message)
	case !slices.Contains(res.Bug.By, o.Manner):
		return decide(Unclear, fmt.Sprintf("%s ended by %s (%s %s), which the bug does not declare with by:", c, o.Manner, o.Test, o.Message))
	}
	base, err := r.baseline(ctx, c, res.Bug.Limit)
	if err != nil {
		return true, err
	}
	if base.Manner != Passed {
		return decide(Broken, fmt.Sprintf("without the bug %s ended by %s too: %s %s", c, base.Manner, base.Test, base.Message))
	}
	return decide(Caught, "")
}

// baseline runs a command without any bug, once.
func (r *runner) baseline(ctx context.Context, c Catch, limit time.Duration) (Outcome, error) {
	r.mu.Lock()
	b := r.sound[c.String()]
	if b == nil {
		b = new(baseline)
		r.sound[c.String()] = b
	}
	r.mu.Unlock()
	b.once.Do(func() { b.outcome, b.err = r.exclusive(ctx, c, limit, "") })
	return b.outcome, b.err
}

// exclusive runs a command; one of the tests of the whole runs alone, as in make test.
func (r *runner) exclusive(ctx context.Context, c Catch, limit time.Duration, flag string) (Outcome, error) {
	if c.Package == "./internal/e2e" {
		r.alone.Lock()
		defer r.alone.Unlock()
	} else {
		r.alone.RLock()
		defer r.alone.RUnlock()
	}
	return r.tests(ctx, c, limit, flag)
}

// newRunner returns a runner for the module at root. env is the environment of the go commands.
func newRunner(root, goTool string, env []string, goFlags string, now func() time.Time, progress io.Writer) (*runner, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("find the module: %w", err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		return nil, fmt.Errorf("run this at the root of the module: %w", err)
	}
	return &runner{
		root: root, goTool: goTool, env: env, goFlags: goFlags, now: now, progress: progress, sound: make(map[string]*baseline),
	}, nil
}
