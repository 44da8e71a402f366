package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"forebay/cmd/forebay/relayd"
	"forebay/config"
	"forebay/internal/show"
)

// recoverLedger rebuilds the ledger of a relay that is not running.
func (c *cli) recoverLedger(ctx context.Context, file string, fromTargets bool) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	cfg, err := config.LoadRelay(file)
	if err != nil {
		return &codeError{exitUsage, err}
	}
	p := c.progress()
	defer p.Close()
	bars := map[string]*show.Bar{}
	report, err := relayd.Recover(ctx, cfg, relayd.RecoverDeps{Now: c.now, Getenv: os.Getenv, Software: build().Version, FromTargets: fromTargets, Progress: func(step string, done, total int64) {
		if bars[step] == nil {
			for _, b := range bars {
				b.Finish()
			}
			bars[step] = p.Start(step, show.InObjects)
		}
		bars[step].Set(done, total)
	}})
	if err != nil {
		return err
	}
	for _, b := range bars {
		b.Finish()
	}
	c.printRecovered(report)
	if report.Partly {
		return partly("the ledger of relay %s was rebuilt as far as it could be, see the notes above; start the relay as usual", cfg.Name)
	}
	return nil
}

func (c *cli) printRecovered(r relayd.RecoverReport) {
	for _, n := range r.Notes {
		c.printf("note     %s\n", show.Text(n))
	}
	if r.Aside != "" {
		c.printf("note     the ledger that could not be used is now %s\n", show.Name(r.Aside))
	}
	for _, l := range r.Links {
		state := ""
		if l.Paused {
			state = ", paused"
		}
		if l.Overrides > 0 {
			state += ", " + show.Things(l.Overrides, "setting") + " by hand"
		}
		c.printf("link     %s has %s, owes %s of %s (%s of them deletes, %s not cached)%s\n", show.Name(l.Name), show.Things(l.Confirmed, "object"),
			show.Things(l.Owed, "object"), show.Bytes(l.OwedBytes), show.Count(l.Deletes), show.Count(l.Released), state)
	}
	if r.Asked > 0 {
		c.printf("asked    %s: their bytes are to come from a holder again\n", show.Things(r.Asked, "object"))
	}
	if r.Uploads > 0 {
		c.printf("uploads  %s to go on with, %s of them are here\n", show.Things(r.Uploads, "upload"), show.Bytes(r.UploadBytes))
	}
	c.printf("rebuilt  %s and %s from %s, generation %d\n", show.Things(r.Objects, "object"), show.Things(r.Tombstones, "delete"), show.Things(r.Segments, "segment"), r.Generation)
}
