package main

import "github.com/spf13/cobra"

func newRelay(c *cli) *cobra.Command       { return later("relay") }
func newAgent(c *cli) *cobra.Command       { return later("agent") }
func newConfigcheck(c *cli) *cobra.Command { return later("configcheck") }
func newDemo(c *cli) *cobra.Command        { return later("demo") }
func newList(c *cli) *cobra.Command        { return later("list") }
func newRestore(c *cli) *cobra.Command     { return later("restore") }
