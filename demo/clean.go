package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"forebay/internal/show"
	"forebay/internal/treecmp"
)

// clean removes the demo's files: all of them, or after a failure all but the logs.
func (d *Demo) clean(failed error) error {
	dir := d.cluster.dir
	if failed == nil || errors.Is(failed, context.Canceled) {
		return errors.Join(failed, removeAll(dir))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errors.Join(failed, err)
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != "logs" && !d.opt.Keep {
			failed = errors.Join(failed, removeAll(filepath.Join(dir, e.Name())))
		}
	}
	return &FailedError{Err: failed, Logs: filepath.Join(dir, "logs")}
}

// listDifferences writes what differs beside the logs.
func (d *Demo) listDifferences() (err error) {
	f, err := os.Create(d.cluster.path("logs", "differences.txt"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for name, r := range map[string]treecmp.Result{"backup": d.sum.Mirror, "restored": d.sum.Restored} {
		for i, x := range r.Listed {
			if i < 10 {
				d.dep.Progress.Say("%s differs: %s", name, x)
			}
			if _, err := io.WriteString(f, name+" "+x.String()+"\n"); err != nil {
				return err
			}
		}
	}
	return nil
}

// tellKept says how to look at what was left running, and how to end it.
func (d *Demo) tellKept() {
	c, say := d.cluster, d.dep.Progress.Say
	exe := show.Name(d.opt.Executable)
	say("\nLeft running in %s:", c.dir)
	say("  export FOREBAY_RELAY=%s", c.url)
	say("  %s status", exe)
	say("  %s events", exe)
	say("  %s where %s", exe, object(d.large))
	say("  %s verify %s --deep", exe, linkName)
	for _, n := range c.nodes {
		say("  %s status --agent http://%s   # %s, replica %s", exe, n.address, n.name, n.root)
	}
	pids := ""
	for _, p := range c.spawner.running() {
		pids += fmt.Sprintf(" %d", p.pid())
	}
	say("To end it:")
	say("  kill%s; sleep 2; rm -rf %s", pids, c.dir)
}

// guard turns a panic of a goroutine into the end of the demo, so that it cleans up.
func guard(cancel context.CancelCauseFunc) {
	if p := recover(); p != nil {
		cancel(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
	}
}
