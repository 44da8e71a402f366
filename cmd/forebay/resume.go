package main

import (
	"context"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
)

func newResume(c *cli) *cobra.Command {
	var f relayFlags
	return f.add(c.verb("resume LINK", "Flush a paused link again", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		return f.tell(ctx, operator.LinkPath(args[0], "resume"), nil, nil)
	}), false)
}
