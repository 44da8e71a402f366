// Package demo shows, and proves, the main job on one machine: it starts a relay, three agents and a directory target as
// separate processes, gives them a real tree, kills the agent that is sending a large object, changes things, and compares
// the backup, and what is restored from it alone, with the source. Nothing is slowed down for it.
//
// It looks at the system from outside only, as an operator does: by configuration files, signals, verbs and the operators'
// API. It imports proto and the packages of the edge (internal/operator, show, treecmp), never agent, relay, flush, ledger or
// shard.
package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

// Options say what to show.
type Options struct {
	Source     string // any tree
	Dir        string // where the demo makes its own directory
	LargeBytes int64  // size of the generated object
	Seed       uint64 // of its content
	Keep       bool   // leave it all running
	Executable string // this program
}

// Deps are what the demo has of the world.
type Deps struct {
	Now      func() time.Time
	Progress *show.Progress
	Environ  []string // of the children
}

// FailedError is the failure of a demo whose logs were kept.
type FailedError struct {
	Err  error
	Logs string
}

// Error says what failed and where the logs are.
func (e *FailedError) Error() string { return fmt.Sprintf("%v (logs: %s)", e.Err, e.Logs) }

// Unwrap returns the cause.
func (e *FailedError) Unwrap() error { return e.Err }

// Demo is one run.
type Demo struct {
	opt     Options
	dep     Deps
	cluster *cluster
	source  tree
	large   string // name of the generated object
	meter   *meter
	sum     Summary
}

// New returns a demo. It starts nothing.
func New(opt Options, dep Deps) *Demo { return &Demo{opt: opt, dep: dep} }

// Run does it all. When it returns, no process of its is left and, if it went well or ctx ended, no file; a failure keeps
// the logs and is a *FailedError. With Keep and no failure everything is left as it is. Differences are no error: they are
// in the summary.
func (d *Demo) Run(ctx context.Context) (sum *Summary, err error) {
	began := d.dep.Now()
	if err := d.fits(ctx); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(d.opt.Dir, "forebay-demo-")
	if err != nil {
		return nil, fmt.Errorf("make the demo's directory: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.cluster = &cluster{dir: dir, executable: d.opt.Executable, env: d.dep.Environ, spawner: newSpawner(!d.opt.Keep),
		onExit: func(c *child) {
			cancel(fmt.Errorf("%s ended by itself (%w); the end of its log:\n%s", c.name, c.err, tail(c.log)))
		}}
	kept := false
	defer func() { // also when this panics
		if kept {
			return
		}
		d.dep.Progress.Close()
		d.cluster.spawner.killAll()
		d.dep.Progress.Say("removing the demo's files")
		err = d.clean(err)
	}()

	err = d.steps(ctx, cancel)
	if err != nil {
		err = d.cause(ctx, err)
	}
	d.sum.Schema, d.sum.Source, d.sum.LeftOut = proto.StatusSchema, d.opt.Source, d.source.left
	d.sum.Seconds = d.dep.Now().Sub(began).Seconds()
	if err != nil {
		return nil, err
	}
	d.sum.judge()
	if d.sum.Verdict == VerdictDifferent {
		err := d.listDifferences()
		if err == nil {
			err = errors.New("the backup is not what the source is: see differences.txt")
		}
		return &d.sum, err
	}
	if d.opt.Keep {
		kept, d.sum.Dir = true, dir
		d.tellKept()
	}
	return &d.sum, nil
}

// fits looks whether there is room.
func (d *Demo) fits(ctx context.Context) error {
	if st, err := os.Stat(d.opt.Source); err != nil || !st.IsDir() {
		return fmt.Errorf("source %s is no directory: choose one with --source", d.opt.Source)
	}
	c, err := count(ctx, d.opt.Source)
	if err != nil {
		return fmt.Errorf("look at the source: %w", err)
	}
	bytes := need(c, d.opt.LargeBytes)
	d.dep.Progress.Say("source %s: %s, %s; generated: 1 object of %s", show.Name(d.opt.Source), show.Things(c.objects, "object"), show.Bytes(c.bytes), show.Bytes(d.opt.LargeBytes))
	d.dep.Progress.Say("needs %s of disk space in %s for three replicas, the cache, the backup and a restored copy", show.Bytes(bytes), d.opt.Dir)
	return checkSpace(d.opt.Dir, bytes)
}

// cause finds why a step failed: the end of a daemon says more than the failure of a call to it.
func (d *Demo) cause(ctx context.Context, err error) error {
	var gone *operator.UnreachableError
	if errors.As(err, &gone) { // its end may not have been noticed yet
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
