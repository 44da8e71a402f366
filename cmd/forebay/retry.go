package main

import (
	"context"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
)

func newRetry(c *cli) *cobra.Command {
	var f relayFlags
	return f.add(c.verb("retry LINK [OBJECT…]", "Try parked objects again: those named, or all", cobra.MinimumNArgs(1), func(ctx context.Context, args []string) error {
		var body any
		if len(args) > 1 {
			body = args[1:]
		}
		return f.tell(ctx, operator.LinkPath(args[0], "retry"), nil, body)
	}), false)
}
