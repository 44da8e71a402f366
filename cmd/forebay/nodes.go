package main

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

func newNodes(c *cli) *cobra.Command {
	var f relayFlags
	cmd := c.verb("nodes", "The nodes as the relay sees them", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		return ask(ctx, c, &f, part("nodes"), func(nodes []proto.NodeStatus) error {
			c.printNodes(nodes)
			return nil
		})
	})
	cmd.AddCommand(
		newNodeCall(c, "cordon", "Keep a node out of the pick"),
		newNodeCall(c, "uncordon", "Let a node take part in the pick again"),
		newNodeCall(c, "forget", "Forget a node that will not come back: its absence blocks deletes no longer"),
		later("revoke"),
	)
	return f.add(cmd, true)
}

func newNodeCall(c *cli, call, short string) *cobra.Command {
	var f relayFlags
	var yes bool
	cmd := c.verb(call+" NAME", short, cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		cl, err := f.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		if call == "forget" {
			if err := c.confirm(yes, "Forget node %s? What only it had can then count as deleted.", args[0]); err != nil {
				return err
			}
		}
		return cl.Post(ctx, "/v1/nodes/"+url.PathEscape(args[0])+"/"+call, nil, nil, nil)
	})
	if call == "forget" {
		cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	}
	return f.add(cmd, false)
}

func (c *cli) printNodes(nodes []proto.NodeStatus) {
	var rows [][]string
	for _, n := range nodes {
		rows = append(rows, []string{n.Cluster + "/" + n.Node, n.State, show.Seconds(n.LastSeenSeconds), orDash(n.Watch),
			show.Count(n.UnsentObjects), show.Bytes(n.UnsentBytes), show.Bytes(n.UploadedBytes), nodeNote(n)})
	}
	c.table([]string{"node", "state", ">seen", "watch", ">unsent", ">bytes", ">uploaded", "note"}, rows)
}

func nodeNote(n proto.NodeStatus) string {
	var notes []string
	for _, x := range []struct {
		n    int64
		what string
	}{{n.Takeovers, "taken over"}, {n.Unreadable, "unreadable"}, {n.Skipped, "skipped"}, {n.Unsettled, "changing"}, {n.Lagging, "lagging"}, {n.Divergent, "divergent"}} {
		if x.n > 0 {
			notes = append(notes, show.Count(x.n)+" "+x.what)
		}
	}
	if s := n.ClockSkewSeconds; s > 1 || s < -1 {
		notes = append(notes, "clock off by "+show.Seconds(s))
	}
	for _, r := range n.Roots {
		if r.Problem != "" {
			notes = append(notes, show.Name(r.Path)+": "+r.Problem)
		}
	}
	return strings.Join(notes, "; ")
}

// part is the call of ask for one field of the status.
func part(field string) caller {
	return func(ctx context.Context, cl *operator.Client, raw *json.RawMessage) error {
		return cl.StatusPart(ctx, field, raw)
	}
}
