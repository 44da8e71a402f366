package main

import (
	"context"

	"github.com/spf13/cobra"

	"forebay/internal/show"
	"forebay/proto"
)

func newStores(c *cli) *cobra.Command {
	var f relayFlags
	cmd := c.verb("stores", "The stores of the relay's cache", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		return ask(ctx, c, &f, part("cache.stores"), func(stores []proto.StoreStatus) error {
			var rows [][]string
			for _, s := range stores {
				rows = append(rows, []string{show.Name(s.Path), s.State, show.Bytes(s.UsedBytes), known(s.FreeBytes), s.LastError})
			}
			c.table([]string{"store", "state", ">used", ">free", "last error"}, rows)
			return nil
		})
	})
	cmd.AddCommand(later("add"), later("drain"), later("replace"))
	return f.add(cmd, true)
}

// known prints a size, "-" for one that is not known.
func known(n int64) string {
	if n < 0 {
		return "-"
	}
	return show.Bytes(n)
}
