package main

import (
	"context"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

func newHistory(c *cli) *cobra.Command {
	var f relayFlags
	cmd := c.verb("history LINK", "What a link's target keeps of overwritten and deleted objects", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		return ask(ctx, c, &f, get(operator.LinkPath(args[0], "history"), nil), func(h proto.HistoryReport) error {
			c.printHistory(h)
			return nil
		})
	})
	cmd.AddCommand(newHistoryPrune(c))
	return f.add(cmd, true)
}

func newHistoryPrune(c *cli) *cobra.Command {
	var f relayFlags
	var yes, dry bool
	cmd := c.verb("prune LINK [--dry-run] [--yes]", "Let go of what a shorter history.keep no longer keeps", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		look := get(operator.LinkPath(args[0], "history"), nil)
		if dry {
			return ask(ctx, c, &f, look, func(h proto.HistoryReport) error {
				c.printDue(h, "would go")
				return nil
			})
		}
		if !yes {
			todo, err := foreseen(ctx, c, &f, look, func(h proto.HistoryReport) bool {
				some := h.DueVersions > 0 || h.Held != ""
				if !some || c.inTerminal {
					c.printDue(h, "would go")
				}
				return some
			}, "Remove these from the target of link %s?", args[0])
			if err != nil || !todo {
				return err
			}
		}
		return ask(ctx, c, &f, post(operator.LinkPath(args[0], "history/prune"), nil, nil), func(h proto.HistoryReport) error {
			c.printf("history.keep is %s now: %s let go\n", h.Keep, show.Things(h.DueVersions, "version"))
			return nil
		})
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would go")
	return f.add(cmd, true)
}

func (c *cli) printHistory(h proto.HistoryReport) {
	switch {
	case !h.On && h.Versions == 0:
		c.printf("link %s keeps nothing of the past: set history.keep\n", h.Link)
		return
	case h.On:
		c.printf("keeps      what is overwritten and deleted, for %s\nreaches    back to %s\n", h.Keep, h.Reaches)
	default:
		c.printf("keeps      nothing more; what it kept was to be kept for %s\n", h.Keep)
	}
	c.printf("kept       %s, %s\n", show.Things(h.Versions, "version"), show.Bytes(h.Bytes))
	if h.Locked > 0 {
		c.printf("locked     %s past their time, by the target until %s\n", show.Things(h.Locked, "content"), orDash(h.LockedUntil))
	}
	if h.Held != "" {
		c.printf("held       %s\n", show.Text(h.Held))
		c.printDue(h, "would go then")
	}
}

func (c *cli) printDue(h proto.HistoryReport, what string) {
	c.printf("%s, %s %s:\n", show.Things(h.DueVersions, "version"), show.Bytes(h.DueBytes), what)
	for _, path := range h.DuePaths {
		c.printf("  %s\n", show.Name(path))
	}
	if int64(len(h.DuePaths)) < h.DueVersions && len(h.DuePaths) >= proto.MaxDuePaths {
		c.printf("  and more\n")
	}
}
