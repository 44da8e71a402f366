package main

import (
	"context"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
)

func newRetry(c *cli) *cobra.Command {
	var f relayFlags
	return f.add(c.verb("retry LINK [OBJECT…]", "Try parked objects again: those named, or all", cobra.MinimumNArgs(1), func(ctx context.Context, args []string) error {
		var body any
		if len(args) > 1 {
			paths := make([]string, len(args)-1)
			for i, a := range args[1:] {
				paths[i] = unquoted(a)
			}
			body = paths
		}
		cl, err := f.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		var reply struct {
			Objects int64 `json:"objects"`
		}
		if err := cl.Post(ctx, operator.LinkPath(args[0], "retry"), nil, body, &reply); err != nil {
			return err
		}
		c.printf("%s parked, to be tried again\n", show.Things(reply.Objects, "object"))
		if named := int64(len(args) - 1); reply.Objects < named {
			return partly("%s of %s: the others are not parked on link %s; forebay backlog %s lists what is", show.Count(reply.Objects), show.Things(named, "object"), args[0], args[0])
		}
		return nil
	}), false)
}
