package main

import (
	"context"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

func newDeletes(c *cli) *cobra.Command {
	var f relayFlags
	cmd := c.verb("deletes LINK", "Deletes that the guard holds back", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		return ask(ctx, c, &f, get(operator.LinkPath(args[0], "deletes"), nil), func(h proto.HeldDeletes) error {
			c.printHeld(h)
			return nil
		})
	})
	cmd.AddCommand(newDeletesApprove(c))
	return f.add(cmd, true)
}

func newDeletesApprove(c *cli) *cobra.Command {
	var f relayFlags
	var yes bool
	cmd := c.verb("approve LINK [--yes]", "Let the held deletes through", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		if !yes {
			todo, err := foreseen(ctx, c, &f, get(operator.LinkPath(args[0], "deletes"), nil), func(h proto.HeldDeletes) bool {
				if h.Held > 0 && c.inTerminal {
					c.printHeld(h)
				}
				return h.Held > 0
			}, "Delete these at the target of link %s?", args[0])
			if err != nil || !todo {
				return err
			}
		}
		return ask(ctx, c, &f, post(operator.LinkPath(args[0], "deletes/approve"), nil, nil), func(h proto.HeldDeletes) error {
			c.printf("%s approved\n", show.Things(h.Held, "delete"))
			return nil
		})
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return f.add(cmd, true)
}

func (c *cli) printHeld(h proto.HeldDeletes) {
	if h.Held == 0 {
		c.printf("no deletes are held\n")
		return
	}
	c.printf("%s held: %s\n", show.Things(h.Held, "delete"), show.Text(orDash(h.Reason)))
	for _, path := range h.Paths {
		c.printf("  %s\n", show.Name(path))
	}
	if more := h.Held - int64(len(h.Paths)); more > 0 {
		c.printf("  and %s more\n", show.Count(more))
	}
}
