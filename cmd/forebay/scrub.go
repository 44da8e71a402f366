package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

func newScrub(c *cli) *cobra.Command {
	var f relayFlags
	var wait bool
	cmd := c.verb("scrub", "Read and prove all shards in the stores now, and write bad ones anew", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		if !wait {
			return ask(ctx, c, &f, post("/v1/scrub", nil, nil), c.printScrub)
		}
		cl, err := f.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		var before proto.ScrubStatus
		if err := cl.Get(ctx, "/v1/scrub", nil, &before); err != nil {
			return err
		}
		if err := cl.Post(ctx, "/v1/scrub", nil, nil, nil); err != nil {
			return err
		}
		after, err := c.awaitScrub(ctx, cl, before)
		if err != nil {
			return err
		}
		if f.json {
			err = c.encodeJSON(after)
		} else {
			err = c.printScrub(after)
		}
		if l := after.Last; err == nil && (l.Healed < l.Found || l.Lost > 0 || l.Away > 0) {
			return partly("%d of %d bad shards are not written anew, %s lost, %s with shards out of reach", l.Found-l.Healed, l.Found,
				show.Things(l.Lost, "segment"), show.Things(l.Away, "segment"))
		}
		return err
	})
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until all are read; 3 when something is still bad or out of reach")
	var g relayFlags
	cmd.AddCommand(g.add(c.verb("show", "How far the reading of all shards is, and what the last one found", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		return ask(ctx, c, &g, get("/v1/scrub", nil), c.printScrub)
	}), true))
	return f.add(cmd, true)
}

// awaitScrub waits for the end of a round that ends after before.
func (c *cli) awaitScrub(ctx context.Context, cl *operator.Client, before proto.ScrubStatus) (s proto.ScrubStatus, err error) {
	p := c.progress()
	defer p.Close()
	bar := p.Start("read", show.InBytes)
	ended := ""
	if before.Last != nil {
		ended = before.Last.EndedAt
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		s = proto.ScrubStatus{} // what is not in the answer is not
		if err := cl.Get(ctx, "/v1/scrub", nil, &s); err != nil {
			return s, err
		}
		if s.Now != nil {
			bar.Set(s.Now.Bytes, s.Now.TotalBytes)
		}
		if s.Last != nil && s.Last.EndedAt != ended {
			bar.Set(s.Last.Bytes, s.Last.Bytes)
			bar.Finish()
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-tick.C:
		}
	}
}

func (c *cli) printScrub(s proto.ScrubStatus) error {
	switch {
	case s.Now != nil:
		line := fmt.Sprintf("running since %s: %s of %s", s.Now.StartedAt, show.Bytes(s.Now.Bytes), show.Bytes(s.Now.TotalBytes))
		if s.RateBytesPerSecond > 0 {
			line += fmt.Sprintf(", %s, %s left", show.Rate(s.RateBytesPerSecond), show.Seconds(s.ETASeconds))
		}
		c.printf("%s; %s\n", line, scrubFound(s.Now))
	case s.State == "asked":
		c.printf("asked for; forebay scrub show says how far it is\n")
	case s.State == "off":
		c.printf("not scheduled (cache.scrub: off)\n")
	default:
		c.printf("idle, next one at %s\n", orDash(s.NextAt))
	}
	if l := s.Last; l != nil {
		c.printf("last: ended %s, %s in %s; %s\n", l.EndedAt, show.Bytes(l.Bytes), show.Things(l.Segments, "segment"), scrubFound(l))
	}
	if s.FoundTotal > 0 {
		c.printf("ever: %s, %s written anew\n", show.Things(s.FoundTotal, "bad shard"), show.Count(s.HealedTotal))
	}
	return nil
}

func scrubFound(r *proto.ScrubRound) string {
	out := fmt.Sprintf("%s, %s written anew", show.Things(r.Found, "bad shard"), show.Count(r.Healed))
	for _, x := range []struct {
		n    int64
		what string
	}{{r.Lost, "lost and asked for again"}, {r.Away, "with shards out of reach"}} {
		if x.n > 0 {
			out += fmt.Sprintf(", %s %s", show.Things(x.n, "segment"), x.what)
		}
	}
	if r.Stale > 0 {
		out += fmt.Sprintf(", %s freed", show.Things(r.Stale, "leftover shard"))
	}
	return out
}
