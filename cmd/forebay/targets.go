package main

import (
	"context"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"forebay/internal/show"
	"forebay/proto"
)

func newTargets(c *cli) *cobra.Command {
	var f relayFlags
	cmd := c.verb("targets", "The targets and whether they are there", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		return ask(ctx, c, &f, get("/v1/targets", nil), func(targets []proto.TargetInfo) error {
			c.printTargets(targets)
			return nil
		})
	})
	cmd.AddCommand(newTargetsCheck(c), newTargetsDrivers(c))
	return f.add(cmd, true)
}

func newTargetsCheck(c *cli) *cobra.Command {
	var f relayFlags
	cmd := c.verb("check NAME", "Look now whether a target is there and what it can do", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		return ask(ctx, c, &f, post("/v1/targets/"+url.PathEscape(args[0])+"/check", nil, nil), func(t proto.TargetInfo) error {
			c.printTargets([]proto.TargetInfo{t})
			if !t.OK {
				return quietly(exitFailed)
			}
			return nil
		})
	})
	return f.add(cmd, true)
}

func (c *cli) printTargets(targets []proto.TargetInfo) {
	var rows [][]string
	for _, t := range targets {
		state, free := "ok", "-"
		if !t.OK {
			state = "not there"
		}
		if t.OK && t.Free >= 0 {
			free = show.Bytes(t.Free)
		}
		notes := t.Notes
		if t.Error != "" {
			notes = append([]string{t.Error}, notes...)
		}
		rows = append(rows, []string{t.Name, t.Type, t.Where, state, orDash(t.Confirm), free, orDash(strings.Join(t.Links, ",")), strings.Join(notes, "; ")})
	}
	c.table([]string{"target", "type", "where", "state", "confirm", ">free", "links", "note"}, rows)
}
