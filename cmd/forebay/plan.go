package main

import (
	"context"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

func newPlan(c *cli) *cobra.Command {
	var f relayFlags
	cmd := c.verb("plan LINK", "Dry run of the next flush", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		return ask(ctx, c, &f, get(operator.LinkPath(args[0], "plan"), nil), func(p proto.PlanReport) error {
			forced := ""
			if p.Forced {
				forced = " (forced past its window)"
			}
			c.printf("link %s would %s%s: %s\n", p.Link, p.Action, forced, show.Text(orDash(p.Reason)))
			c.printf("%s, %s, %s, %s, %s\n", show.Things(p.Objects, "object"), show.Bytes(p.Bytes), show.Things(p.Deletes, "delete"),
				show.Things(p.Held, "held delete"), show.Things(p.Conflicts, "conflict"))
			if p.NextLook != "" {
				c.printf("looks again %s\n", p.NextLook)
			}
			if len(p.First) > 0 {
				c.printf("\n")
				c.printBacklog(p.First)
			}
			return nil
		})
	})
	return f.add(cmd, true)
}
