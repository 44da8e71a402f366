package main

import (
	"context"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
)

func newLink(c *cli) *cobra.Command {
	return group("link", "Links", newLinkDrop(c))
}

func newLinkDrop(c *cli) *cobra.Command {
	var f relayFlags
	var yes bool
	cmd := c.verb("drop LINK [--yes]", "Give up what a link owes; it is recorded", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		cl, err := f.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		l, err := linkStatus(ctx, cl, args[0])
		if err != nil {
			return err
		}
		if err := c.confirm(yes, "Drop link %s? It still owes %s, %s, which then may never be backed up there.", l.Name,
			show.Things(l.BacklogObjects, "object"), show.Bytes(l.BacklogBytes)); err != nil {
			return err
		}
		return cl.Post(ctx, operator.LinkPath(l.Name, "drop"), nil, nil, nil)
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return f.add(cmd, false)
}
