package main

import (
	"context"
	"fmt"
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
	var look bool
	cmd := c.verb("check NAME [--look]", "Try what a target can do: write, move, fsync, read, delete, how fast", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		query := url.Values{"try": {"1"}}
		if look {
			query = nil
		}
		return ask(ctx, c, &f, post("/v1/targets/"+url.PathEscape(args[0])+"/check", query, nil), func(t proto.TargetInfo) error {
			c.printTargets([]proto.TargetInfo{t})
			c.printTrial(t.Trial)
			if !t.OK {
				return quietly(exitFailed)
			}
			return nil
		})
	})
	cmd.Flags().BoolVar(&look, "look", false, "only look whether it is there, without writing")
	return f.add(cmd, true)
}

// printTrial shows what came of trying a target.
func (c *cli) printTrial(t *proto.TargetTrial) {
	if t == nil {
		return
	}
	var rows [][]string
	for _, s := range t.Steps {
		state := "ok"
		if !s.OK {
			state = "failed"
		}
		rows = append(rows, []string{s.Name, state, fmt.Sprintf("%.3f s", s.Seconds), s.What})
	}
	c.printf("\n")
	c.table([]string{"tried", "", ">took", ""}, rows)
	class := "no link can use it"
	if t.Confirm != "" {
		class = "links can ask for confirm: " + t.Confirm + ", and for what is weaker"
	}
	c.printf("%s\n", class)
	if t.WriteBytesPerSecond > 0 {
		c.printf("%s/s written, %s/s read, %.0f small objects a second\n", show.Bytes(int64(t.WriteBytesPerSecond)), show.Bytes(int64(t.ReadBytesPerSecond)), t.SmallObjectsPerSecond)
	}
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
