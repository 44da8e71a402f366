package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"forebay/config"
)

// onlyAgent and onlyRelay are keys by which the two files are told apart.
var (
	onlyAgent = []string{"node", "cluster", "relays", "datasets", "limits"}
	onlyRelay = []string{"name", "nats", "cache", "suspicion", "targets", "links", "bandwidth"}
)

func newConfigcheck(c *cli) *cobra.Command {
	var paths bool
	cmd := c.verb("configcheck F… [--paths]", "Check relay.yaml and agent.yaml files; silent when they are right", cobra.MinimumNArgs(1), func(_ context.Context, args []string) error {
		return c.configcheck(args, paths)
	})
	cmd.Flags().BoolVar(&paths, "paths", false, "also look whether the paths in them are there and can be used")
	return cmd
}

func (c *cli) configcheck(files []string, paths bool) error {
	wrong := false
	report := func(format string, args ...any) { _, _ = fmt.Fprintf(c.errs, format+"\n", args...) }
	var relays []*config.Relay
	var agents []*config.Agent
	for _, file := range files {
		relay, agent, err := parseEither(file)
		var found []config.Finding
		switch {
		case err != nil:
			wrong = true
			report("%s", errorText(err))
		case relay != nil:
			relays = append(relays, relay)
			found = relay.CheckPaths()
		default:
			agents = append(agents, agent)
			found = agent.CheckPaths()
		}
		for _, f := range found {
			if paths {
				report("%s: %s", file, f)
				wrong = wrong || f.Fatal
			}
		}
	}
	for _, relay := range relays {
		for _, agent := range agents {
			for _, f := range config.CheckTogether(relay, agent) {
				report("%s and relay %s: %s", agent.Node, relay.Name, f)
				wrong = true
			}
		}
	}
	if wrong {
		return quietly(exitFailed)
	}
	return nil
}

// parseEither reads a file as what its keys say it is.
func parseEither(file string) (*config.Relay, *config.Agent, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	if isAgent(text) {
		agent, err := config.ParseAgent(text, file, checkGlob)
		return nil, agent, err
	}
	relay, err := config.ParseRelay(text, file)
	return relay, nil, err
}

// isAgent tells an agent.yaml by its keys. What is no YAML is nobody's; the parser then says so.
func isAgent(text []byte) bool {
	var keys map[string]any
	if err := yaml.Unmarshal(text, &keys); err != nil {
		return false
	}
	score := 0
	for _, key := range onlyAgent {
		if _, ok := keys[key]; ok {
			score++
		}
	}
	for _, key := range onlyRelay {
		if _, ok := keys[key]; ok {
			score--
		}
	}
	return score > 0
}

// errorText is an error as it is printed: mistakes of a file one a line in the form that editors jump to, all else behind
// the program's name.
func errorText(err error) string {
	var mistakes config.Errors
	if errors.As(err, &mistakes) {
		return mistakes.Error()
	}
	return "forebay: " + err.Error()
}
