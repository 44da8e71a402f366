package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"forebay/cmd/forebay/relayd"
	"forebay/config"
)

// defaultConfig is where verbs look for the relay's configuration.
const defaultConfig = "/etc/forebay/relay.yaml"

func newRelay(c *cli) *cobra.Command {
	var file string
	var recovers, fromTargets bool
	cmd := daemonVerb("relay --config F [--recover-ledger [--from-targets]]", "Run the relay", func(ctx context.Context) error {
		if recovers {
			return c.recoverLedger(ctx, file, fromTargets)
		}
		if fromTargets {
			return usagef("--from-targets goes with --recover-ledger")
		}
		return c.runRelay(ctx, file)
	})
	cmd.Flags().StringVar(&file, "config", defaultConfig, "the relay's configuration")
	cmd.Flags().BoolVar(&recovers, "recover-ledger", false, "do not run: rebuild a lost ledger from the stores and the targets' journals, and end")
	cmd.Flags().BoolVar(&fromTargets, "from-targets", false, "the stores are lost as well, and empty ones are in their places: rebuild it from the targets' journals alone")
	return cmd
}

func (c *cli) runRelay(ctx context.Context, file string) error {
	cfg, err := config.LoadRelay(file)
	if err != nil {
		return &codeError{exitUsage, err}
	}
	log, err := c.newLogging(cfg.Log)
	if err != nil {
		return err
	}
	if err := tellFindings(log, cfg.CheckPaths()); err != nil {
		return err
	}
	load := func() (*config.Relay, error) {
		next, err := config.LoadRelay(file)
		if err != nil {
			return nil, err
		}
		return next, tellFindings(log, next.CheckPaths())
	}
	served := make(chan struct{})
	d, err := relayd.New(cfg, relayd.Deps{Log: log.Logger, Now: c.now, Software: build().Version, Memory: c.memory, Load: load, Getenv: os.Getenv, Fault: failpoint(), Ready: func() { close(served) }})
	if err != nil {
		return err
	}
	log.Info().Str("listen", d.Addr()).Msg("relay " + cfg.Name)
	if c.memory > 0 {
		log.Info().Int64("bytes", c.memory).Msg("memory is limited")
	}
	return serve(ctx, service{
		name: "relay", log: log,
		run: func(ctx context.Context, ready func()) error {
			go func() { // ends when the relay serves, or has ended
				select {
				case <-served:
					ready()
				case <-ctx.Done():
				}
			}()
			return d.Run(ctx)
		},
		reload: func() {
			d.Reload()
			_ = log.set(d.LogLevel()) // was checked with the file
		},
	})
}
