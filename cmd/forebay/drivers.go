package main

import (
	"context"

	"github.com/spf13/cobra"

	"forebay/flush/target/drivers"
)

// newTargetsDrivers prints the table by which drivers are found.
func newTargetsDrivers(c *cli) *cobra.Command {
	var asJSON bool
	cmd := c.verb("drivers", "Which driver reaches what: device and way of communication, protocol, driver", cobra.NoArgs, func(context.Context, []string) error {
		if asJSON {
			return c.encodeJSON(drivers.Table)
		}
		var rows [][]string
		for _, d := range drivers.Table {
			rows = append(rows, []string{d.Device, d.Way, d.Protocol, d.Type, d.Driver, string(d.Confirm), orDash(d.Tested)})
		}
		c.table([]string{"device", "way", "protocol", "type", "driver", "confirm", "tested against"}, rows)
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
