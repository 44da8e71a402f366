package main

import (
	"context"
	"net/url"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
)

func newPause(c *cli) *cobra.Command {
	var f relayFlags
	var span durationFlag
	cmd := c.verb("pause LINK [--for D]", "Stop flushing a link, also across restarts", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		q := url.Values{}
		if span > 0 {
			q.Set("for", span.String())
		}
		return f.tell(ctx, operator.LinkPath(args[0], "pause"), q, nil)
	})
	cmd.Flags().Var(&span, "for", "resume by itself after `D`")
	return f.add(cmd, false)
}

// tell makes a call whose answer says nothing.
func (f *relayFlags) tell(ctx context.Context, path string, q url.Values, body any) error {
	cl, err := f.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	return cl.Post(ctx, path, q, body, nil)
}
