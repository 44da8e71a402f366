package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

func newFlush(c *cli) *cobra.Command {
	var f relayFlags
	var ignoreWindow, noWait bool
	cmd := c.verb("flush LINK [--ignore-window] [--no-wait]", "Flush what is owed now, whatever the conditions", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		cl, err := f.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		q := url.Values{}
		if ignoreWindow {
			q.Set("ignore_window", "1")
		}
		before := proto.LinkStatus{Name: args[0]}
		if !noWait {
			if before, err = linkStatus(ctx, cl, args[0]); err != nil {
				return err
			}
		}
		var reply proto.FlushReply
		if err := cl.Post(ctx, operator.LinkPath(args[0], "flush"), q, nil, &reply); err != nil {
			return err
		}
		left := int64(0)
		if !noWait {
			if left, err = c.awaitFlush(ctx, cl, before, reply); err != nil {
				return err
			}
		}
		if f.json {
			return c.encodeJSON(reply)
		}
		verb := "confirmed"
		if noWait {
			verb = "to be flushed"
		}
		c.printf("%s, %s %s\n", show.Things(reply.Objects, "object"), show.Bytes(reply.Bytes), verb)
		if left > 0 {
			return partly("%s still parked or held: see forebay backlog %s", show.Things(left, "object"), args[0])
		}
		return nil
	})
	cmd.Flags().BoolVar(&ignoreWindow, "ignore-window", false, "also outside the link's window and over its budget")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return once it has begun")
	return f.add(cmd, true)
}

// awaitFlush waits until nothing that was owed when the flush began is owed any more, but for parked and held objects, and
// returns how many those are.
func (c *cli) awaitFlush(ctx context.Context, cl *operator.Client, before proto.LinkStatus, reply proto.FlushReply) (left int64, err error) {
	if reply.Objects == 0 {
		return 0, nil
	}
	link := before.Name
	p := c.progress()
	defer p.Close()
	bar := p.Start("flushing", show.InBytes)
	began, said := time.Now(), ""
	for {
		open, left, err := flushOpen(ctx, cl, link, reply.Until)
		if err != nil {
			return 0, err
		}
		if !open {
			bar.Set(reply.Bytes, reply.Bytes)
			bar.Finish()
			return left, nil
		}
		l, err := linkStatus(ctx, cl, link)
		if err != nil {
			return 0, err
		}
		if stopped(before, l) {
			return 0, fmt.Errorf("link %s is %s: %s; what is owed is flushed when that has ended", link, l.State, l.Reason)
		}
		bar.Set(max(0, reply.Bytes-l.BacklogBytes), reply.Bytes)
		if why := l.State + ": " + l.Reason; l.Reason != "" && why != said {
			said = why
			p.Say("%s", show.Text(why))
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(lookAgain(time.Since(began))):
		}
	}
}

// lookAgain is after how long something that has taken so long already is looked at again: what is soon done is soon seen to be done,
// and what takes long is seldom asked for.
func lookAgain(taken time.Duration) time.Duration {
	return min(max(taken/10, 50*time.Millisecond), 500*time.Millisecond)
}

// stopped reports whether a flush will not go on by itself: the target was tried and is not there, or somebody stopped the link.
func stopped(before, now proto.LinkStatus) bool {
	switch now.State {
	case "stalled":
		return before.State != now.State || before.NextTry != now.NextTry // else the try is still to come
	case "paused", "orphaned":
		return true
	}
	return false
}

// flushOpen looks whether anything up to a version is still owed and neither parked nor held.
func flushOpen(ctx context.Context, cl *operator.Client, link string, until proto.VersionID) (open bool, left int64, err error) {
	for limit := 1000; ; limit *= 10 {
		var items []proto.BacklogItem
		if err := cl.Get(ctx, "/v1/backlog", url.Values{"link": {link}, "limit": {strconv.Itoa(limit)}}, &items); err != nil {
			return false, 0, err
		}
		left = 0
		for _, i := range items {
			switch {
			case i.Version > until:
			case i.State == "parked" || i.State == "held":
				left++
			default:
				return true, 0, nil
			}
		}
		if len(items) < limit {
			return false, left, nil
		}
	}
}

// linkStatus is the state of one link.
func linkStatus(ctx context.Context, cl *operator.Client, name string) (proto.LinkStatus, error) {
	s, err := cl.Status(ctx)
	if err != nil {
		return proto.LinkStatus{}, err
	}
	for _, l := range s.Links {
		if l.Name == name {
			return l, nil
		}
	}
	return proto.LinkStatus{Name: name}, nil // the next call has the relay say what there is instead
}
