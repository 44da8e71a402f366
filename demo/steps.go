package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

// steps are the demo itself.
func (d *Demo) steps(ctx context.Context, cancel context.CancelCauseFunc) error {
	if err := d.makeReplicas(ctx); err != nil {
		return err
	}
	say := d.dep.Progress.Say
	say("starting a relay with three stores (coding %d+%d) and agents on %d nodes", dataShards, parityShards, replicas)
	if err := d.cluster.startRelay(ctx); err != nil {
		return err
	}
	defer d.cluster.client.Close()
	metered, stop := context.WithCancel(ctx)
	d.startMeter()
	finished := make(chan struct{})
	go func() { // ends at stop, or with ctx
		defer close(finished)
		defer guard(cancel)
		d.meter.run(metered)
	}()
	err := d.protect(ctx)
	stop()
	<-finished
	if err != nil {
		return err
	}
	d.meter.acked.Finish()
	d.meter.confirmed.Finish()
	if last, err := d.cluster.client.Status(ctx); err == nil {
		d.meter.note(last)
	}
	d.meter.figures(&d.sum)
	if err := d.compare(ctx, "backup", d.cluster.target(), d.cluster.nodes[0].root, &d.sum.Mirror); err != nil {
		return err
	}
	return d.restore(ctx)
}

// makeReplicas copies the source for each node and generates the large object.
func (d *Demo) makeReplicas(ctx context.Context) (err error) {
	c, err := count(ctx, d.opt.Source)
	if err != nil {
		return err
	}
	if err := d.cluster.prepare(coded(c.bytes+d.opt.LargeBytes)*5/4 + 1<<30); err != nil {
		return err
	}
	bar := d.dep.Progress.Start("replicas", show.InBytes)
	bar.SetTotal(replicas * (c.bytes + d.opt.LargeBytes))
	roots := d.cluster.roots()
	if d.source, err = copyTree(ctx, d.opt.Source, roots[0], bar.Add); err != nil {
		return err
	}
	for _, root := range roots[1:] { // of the first replica, so that a source that changes makes no fork
		// An unreadable placeholder is found unreadable again: what was left out is known from the first copy.
		if _, err := copyTree(ctx, roots[0], root, bar.Add); err != nil {
			return err
		}
	}
	d.large = newName(largeName, roots)
	if err := writeLarge(ctx, roots, d.large, d.opt.LargeBytes, d.opt.Seed, d.dep.Now(), bar.Add); err != nil {
		return err
	}
	bar.Finish()
	return nil
}

func (d *Demo) startMeter() {
	first := d.source.bytes + d.opt.LargeBytes
	d.meter = &meter{relay: d.cluster.client, link: linkName, now: d.dep.Now, children: d.cluster.spawner.running, started: d.dep.Now(),
		acked: d.dep.Progress.Start("acknowledged", show.InBytes), confirmed: d.dep.Progress.Start("confirmed", show.InBytes), total: first, firstCopy: first}
}

// protect runs the agents until everything is confirmed, with a kill and some changes on the way.
func (d *Demo) protect(ctx context.Context) error {
	c, say := d.cluster, d.dep.Progress.Say
	for _, n := range c.nodes {
		if err := c.startNode(n); err != nil {
			return err
		}
	}
	victim, err := d.killUploader(ctx)
	if err != nil {
		return err
	}
	plan := planChanges(d.source.small, newName("forebay demo", c.roots()))
	when := d.dep.Now()
	for _, root := range c.roots() {
		if err := apply(plan, root, when); err != nil {
			return fmt.Errorf("change the replica %s: %w", root, err)
		}
	}
	d.meter.expect(moved(plan, c.nodes[0].root))
	for _, step := range plan {
		d.sum.Changes = append(d.sum.Changes, step.String())
	}
	say("on every replica: %s", tally(plan))
	if err := c.startNode(victim); err != nil {
		return err
	}
	if err := c.awaitNodes(ctx, c.names()...); err != nil {
		return err
	}
	say("%s is back; waiting until all is confirmed", victim.name)
	return d.wait(ctx)
}

// killUploader kills the agent that is sending the large object and watches who goes on.
func (d *Demo) killUploader(ctx context.Context) (*node, error) {
	c, say := d.cluster, d.dep.Progress.Say
	w := &watcher{relay: c.client, object: object(d.large), size: d.opt.LargeBytes, now: d.dep.Now}
	after, err := lastEvent(ctx, c.client)
	if err != nil {
		return nil, err
	}
	name, acked, err := w.untilUnderWay(ctx)
	if err != nil {
		return nil, err
	}
	victim, err := c.find(name)
	if err != nil {
		return nil, err
	}
	victim.process.sample()
	at := d.dep.Now()
	victim.process.kill()
	<-victim.process.done
	say("killed %s (SIGKILL) while it was sending %s: %s of %s bytes were acknowledged", name, d.large, show.Count(acked), show.Count(d.opt.LargeBytes))
	t, err := w.successor(ctx, name, at, after)
	if err != nil {
		return nil, err
	}
	t.KilledAt = acked
	d.sum.Takeover = t
	say("%s; its first byte was acknowledged %s after the SIGKILL", t, show.Seconds(t.FirstAfter))
	return victim, nil
}

// tellEvery is the least time between two lines that say what is waited for.
const tellEvery = 3 * time.Second

// wait waits as forebay wait does.
func (d *Demo) wait(ctx context.Context) error {
	patience := 10*time.Minute + time.Duration(d.meter.total/(4<<20))*time.Second
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	said, at := "", time.Time{}
	state, err := d.cluster.client.Wait(limited, linkName, operator.UntilConfirm, func(s proto.WaitState) {
		what := strings.Join(slices.Sorted(slices.Values(s.WaitingFor)), ", ")
		if now := d.dep.Now(); what != "" && what != said && now.Sub(at) >= tellEvery {
			said, at = what, now
			d.dep.Progress.Say("waiting: %s", show.Text(what))
		}
	})
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("not all was confirmed after %s: still waiting: %q", patience, state.WaitingFor)
		}
		return err
	}
	if !state.Partial {
		return nil
	}
	failures, err := d.cluster.client.Failures(ctx, linkName)
	if err != nil {
		return err
	}
	for _, f := range failures {
		if !d.source.covers(f.Path) {
			return fmt.Errorf("object %q is %s: %s", f.Path, f.Kind, f.Reason)
		}
	}
	return nil
}

// tally counts changes by kind.
func tally(plan []change) string {
	counts := map[string]int{}
	for _, c := range plan {
		counts[c.what]++
	}
	return fmt.Sprintf("%d objects changed, %d renamed, %d deleted, %d new mode, %d new", counts["changed"], counts["renamed"], counts["deleted"], counts["new mode of"], counts["new"])
}
