package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"forebay/internal/show"
	"forebay/internal/treecmp"
)

// compare compares a copy with a replica.
func (d *Demo) compare(ctx context.Context, what, copied, replica string, result *treecmp.Result) (err error) {
	bar := d.dep.Progress.Start("comparing", show.InBytes)
	bar.SetTotal(d.source.bytes + d.opt.LargeBytes)
	*result, err = treecmp.Compare(ctx, replica, copied, treecmp.Options{
		Owner: os.Geteuid() == 0, Exclude: []string{reserved}, Skip: d.source.covers,
		Progress: func(_, bytes int64) { bar.Add(bytes) },
	})
	bar.Stop()
	if err == nil {
		d.dep.Progress.Say("%s: %s", what, compared(*result))
	}
	return err
}

// restore ends all daemons, restores from the target alone and compares again.
func (d *Demo) restore(ctx context.Context) error {
	c, say := d.cluster, d.dep.Progress.Say
	if err := c.stop(ctx); err != nil {
		return err
	}
	d.peaks()
	to := c.path("restored")
	say("relay and agents are stopped; restoring from the target alone")
	if err := d.runRestore(ctx, to); err != nil {
		return err
	}
	if err := d.compare(ctx, "restored tree", to, c.nodes[1].root, &d.sum.Restored); err != nil {
		return err
	}
	if !d.opt.Keep {
		return nil
	}
	if err := c.startRelay(ctx); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := c.startNode(n); err != nil {
			return err
		}
	}
	return c.awaitNodes(ctx, c.names()...)
}

// runRestore runs forebay restore as a process of its own.
func (d *Demo) runRestore(ctx context.Context, to string) error {
	c := d.cluster
	r, err := c.spawner.start("restore", c.executable, []string{"restore", "--from", c.target(), "--to", to}, c.env, c.path("logs", "restore.log"), nil)
	if err != nil {
		return err
	}
	bar := d.dep.Progress.Start("restoring", show.InBytes)
	defer bar.Stop()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.done:
			if r.err != nil && !d.partly(r.err) {
				return fmt.Errorf("forebay restore ended with %w; the end of its log:\n%s", r.err, tail(r.log))
			}
			bar.Finish()
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if written, ok := r.written(); ok {
				bar.Set(min(written, d.sum.Bytes), d.sum.Bytes)
			}
		}
	}
}

// partly reports whether a restore ended with "done in part" where it had to: the backup knows what could not be read at the
// source. The comparison that follows judges the rest.
func (d *Demo) partly(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == exitPart && len(d.source.left) > 0
}

// exitPart is the exit code of verbs that did what they could.
const exitPart = 3

// peaks notes the highest memory of the daemons.
func (d *Demo) peaks() {
	for _, p := range d.cluster.spawner.all() {
		switch p.name {
		case "relay":
			d.sum.RelayPeakRSS = max(d.sum.RelayPeakRSS, p.peak.Load())
		case "restore":
		default:
			d.sum.AgentPeakRSS = max(d.sum.AgentPeakRSS, p.peak.Load())
		}
	}
}
