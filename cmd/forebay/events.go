package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

// eventPage is how many events are asked for at once.
const eventPage = 1000

func newEvents(c *cli) *cobra.Command {
	var f relayFlags
	var follow bool
	var last int
	cmd := c.verb("events [--follow] [--last N]", "The event log", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		cl, err := f.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		return c.events(ctx, cl, f.json, follow, last)
	})
	cmd.Flags().BoolVar(&follow, "follow", false, "go on as events come, until interrupted")
	cmd.Flags().IntVar(&last, "last", 100, "print the last `N`, 0 for all there are")
	return f.add(cmd, true)
}

// events prints the last events of the log and then, if it is to follow, those that come. JSON is one event a line.
func (c *cli) events(ctx context.Context, cl *operator.Client, asJSON, follow bool, last int) error {
	after := uint64(0)
	var kept []json.RawMessage
	for {
		page, err := eventsAfter(ctx, cl, &after, false)
		if err != nil {
			return err
		}
		kept = append(kept, page...)
		if last > 0 && len(kept) > last {
			kept = slices.Clone(kept[len(kept)-last:])
		}
		if len(page) < eventPage {
			break
		}
	}
	for {
		for _, raw := range kept {
			if err := c.printEvent(raw, asJSON); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		var err error
		if kept, err = eventsAfter(ctx, cl, &after, true); err != nil {
			return err
		}
	}
}

// eventsAfter gets a page and moves after behind it.
func eventsAfter(ctx context.Context, cl *operator.Client, after *uint64, wait bool) ([]json.RawMessage, error) {
	q := url.Values{"after": {strconv.FormatUint(*after, 10)}, "limit": {strconv.Itoa(eventPage)}}
	if wait {
		q.Set("wait", "1")
	}
	var page []json.RawMessage
	if err := cl.Get(ctx, "/v1/events", q, &page); err != nil {
		return nil, err
	}
	for _, raw := range page {
		var e struct {
			Seq uint64 `json:"seq"`
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return nil, fmt.Errorf("event of the relay: %w", err)
		}
		*after = max(*after, e.Seq)
	}
	return page, nil
}

func (c *cli) printEvent(raw json.RawMessage, asJSON bool) error {
	if asJSON {
		c.printf("%s\n", raw)
		return nil
	}
	var e proto.Event
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("event of the relay: %w", err)
	}
	var fields []string
	for _, key := range slices.Sorted(maps.Keys(e.Fields)) {
		fields = append(fields, key+"="+show.Name(e.Fields[key]))
	}
	line := fmt.Sprintf("%s  %-16s  %s", e.At.UTC().Format(time.RFC3339), e.Kind, show.Text(e.What))
	if len(fields) > 0 {
		line += "  [" + strings.Join(fields, " ") + "]"
	}
	c.printf("%s\n", line)
	return nil
}
