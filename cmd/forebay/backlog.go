package main

import (
	"context"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"forebay/internal/show"
	"forebay/proto"
)

func newBacklog(c *cli) *cobra.Command {
	var f relayFlags
	var limit int
	cmd := c.verb("backlog [LINK] [--limit N]", "What is still owed, oldest first", cobra.MaximumNArgs(1), func(ctx context.Context, args []string) error {
		q := url.Values{"limit": {strconv.Itoa(limit)}}
		if len(args) > 0 {
			q.Set("link", args[0])
		}
		return ask(ctx, c, &f, get("/v1/backlog", q), func(items []proto.BacklogItem) error {
			if len(items) == 0 {
				c.printf("nothing is owed\n")
				return nil
			}
			c.printBacklog(items)
			return nil
		})
	})
	cmd.Flags().IntVar(&limit, "limit", 100, "print at most `N`")
	return f.add(cmd, true)
}

func (c *cli) printBacklog(items []proto.BacklogItem) {
	var rows [][]string
	for _, i := range items {
		rows = append(rows, []string{i.Link, orDash(i.AckedAt), i.State, i.Kind, show.Bytes(i.Bytes), show.Name(i.Path), i.Reason})
	}
	c.table([]string{"link", "acknowledged", "state", "kind", ">bytes", "object", "reason"}, rows)
}
