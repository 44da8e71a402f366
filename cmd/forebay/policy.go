package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/proto"
)

func newPolicy(c *cli) *cobra.Command {
	return group("policy", "A link's flush policy, live", newPolicyShow(c), newPolicySet(c), newPolicyReset(c), newPolicySimulate(c))
}

func newPolicyShow(c *cli) *cobra.Command {
	var f relayFlags
	return f.add(c.verb("show LINK", "Values in force and where each comes from", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		return ask(ctx, c, &f, get(operator.LinkPath(args[0], "policy"), nil), c.printPolicy)
	}), true)
}

func newPolicySet(c *cli) *cobra.Command {
	var f relayFlags
	return f.add(c.verb("set LINK KEY=VALUE…", "Override the file until reset", cobra.MinimumNArgs(2), func(ctx context.Context, args []string) error {
		for _, kv := range args[1:] {
			if key, _, ok := strings.Cut(kv, "="); !ok || key == "" {
				return usagef("%q: want KEY=VALUE, such as age=5m; forebay policy show %s lists the keys", kv, args[0])
			}
		}
		return ask(ctx, c, &f, post(operator.LinkPath(args[0], "policy"), nil, proto.PolicyChange{Set: args[1:]}), c.printPolicy)
	}), true)
}

func newPolicyReset(c *cli) *cobra.Command {
	var f relayFlags
	return f.add(c.verb("reset LINK [KEY]", "Back to the file's value, of one key or of all", cobra.RangeArgs(1, 2), func(ctx context.Context, args []string) error {
		key := "*"
		if len(args) > 1 {
			key = args[1]
		}
		return ask(ctx, c, &f, post(operator.LinkPath(args[0], "policy"), nil, proto.PolicyChange{Reset: []string{key}}), c.printPolicy)
	}), true)
}

func (c *cli) printPolicy(values []proto.PolicyValue) error {
	var rows [][]string
	for _, v := range values {
		origin := v.Origin
		if v.SetAt != "" {
			origin += " " + v.SetAt
		}
		rows = append(rows, []string{v.Key, orDash(v.Value), origin})
	}
	c.table([]string{"key", "value", "origin"}, rows)
	return nil
}
