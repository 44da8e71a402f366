package main

import (
	"context"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"forebay/agent"
	"forebay/agent/nice"
	"forebay/agent/scan"
	"forebay/agent/watch"
	"forebay/config"
	"forebay/internal/openfiles"
	"forebay/proto/bus"
)

func newAgent(c *cli) *cobra.Command {
	var file, forget string
	cmd := daemonVerb("agent --config F", "Run the agent of this node", func(ctx context.Context) error {
		if forget != "" {
			return c.forgetIndex(file, forget)
		}
		return c.runAgent(ctx, file)
	})
	cmd.Flags().StringVar(&file, "config", "/etc/forebay/agent.yaml", "the agent's configuration")
	cmd.Flags().StringVar(&forget, "forget-index", "", "forget what the index has of the root at this path, and end; the agent must not run")
	cmd.AddCommand(later("join"))
	return cmd
}

// forgetIndex has the index of a root made anew.
func (c *cli) forgetIndex(file, root string) error {
	cfg, err := config.LoadAgent(file, checkGlob)
	if err != nil {
		return &codeError{exitUsage, err}
	}
	if err := agent.ForgetIndex(agentConfig(cfg), root); err != nil {
		return err
	}
	c.printf("the index of %s is forgotten: start the agent, which makes it anew by a scan\n", root)
	return nil
}

// daemonVerb makes the command of a daemon, which sees to signals itself.
func daemonVerb(use, short string, run func(ctx context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: usageArgs(cobra.NoArgs), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context()) },
	}
}

func (c *cli) runAgent(ctx context.Context, file string) error {
	cfg, err := config.LoadAgent(file, checkGlob)
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
	if err := enoughFiles(); err != nil {
		return err
	}
	d := &agentDaemon{log: log, cfg: cfg, load: func() (*config.Agent, error) {
		next, err := config.LoadAgent(file, checkGlob)
		if err != nil {
			return nil, err
		}
		return next, tellFindings(log, next.CheckPaths())
	}, make: func(cfg *config.Agent) (*agent.Agent, error) {
		return agent.New(agentConfig(cfg), agent.Deps{
			Now: c.now, Log: log.Logger, DialBus: dialBus(log.Logger, cfg.Node), OpenWatch: watch.Open, SetPriority: nice.Set, Fault: failpoint(),
		})
	}}
	if d.agent, err = d.make(cfg); err != nil {
		return err
	}
	return serve(ctx, service{
		name: "agent", log: log,
		run: func(ctx context.Context, ready func()) error {
			ready() // it works without a relay: it scans, and looks for one
			return d.run(ctx)
		},
		reload: d.reload,
	})
}

// agentFiles is how many files an agent must be able to have open: its index keeps up to 128, the rest is for connections, what is scanned and what
// is read.
const agentFiles = 256

// enoughFiles refuses to begin what would end for want of descriptors.
func enoughFiles() error {
	limit, err := openfiles.Limit()
	if err != nil {
		return err
	}
	_, err = openfiles.Divide(limit, 1, agentFiles, agentFiles, 0)
	return err
}

// agentConfig is the configuration as the agent takes it.
func agentConfig(cfg *config.Agent) agent.Config {
	out := agent.Config{
		Node: cfg.Node, Cluster: cfg.Cluster, Relays: cfg.Relays, DataDir: cfg.Data, Software: build().Version, Listen: cfg.Listen,
		Limits: agent.Limits{Read: int64(cfg.Limits.Read), Upload: int64(cfg.Limits.Upload), Nice: cfg.Limits.Nice, IO: cfg.Limits.IO},
	}
	if out.Limits.IO == "none" {
		out.Limits.IO = ""
	}
	for _, d := range cfg.Datasets {
		out.Datasets = append(out.Datasets, agent.Dataset{Name: d.Name, Paths: d.Paths, Scan: time.Duration(d.Scan), Include: d.Include, Exclude: d.Exclude})
	}
	return out
}

// tellFindings logs what is wrong with the paths of a configuration; what the daemon cannot do without is an error.
func tellFindings(log logging, found []config.Finding) error {
	var fatal []string
	for _, f := range found {
		if f.Fatal {
			fatal = append(fatal, f.String())
		} else {
			log.Warn().Msg(f.String())
		}
	}
	if len(fatal) > 0 {
		return &codeError{exitUsage, fatalFindings(fatal)}
	}
	return nil
}

type fatalFindings []string

// Error returns a line for each finding.
func (f fatalFindings) Error() string { return strings.Join(f, "\n") }

// checkGlob lets the package that matches patterns judge them.
func checkGlob(glob string) error {
	_, err := scan.NewRules([]string{glob}, nil)
	return err
}

// dialBus connects to the bus that the relay names.
func dialBus(log zerolog.Logger, name string) func(urls []string, token string) (bus.Bus, error) {
	return func(urls []string, token string) (bus.Bus, error) {
		b, err := bus.Dial(bus.Config{URLs: urls, Token: token, Name: name}, log)
		if err != nil {
			return nil, err // not a *bus.NATS that is nil in an interface
		}
		return b, nil
	}
}
