package main

import (
	"context"
	"encoding/json"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"forebay/proto"
)

// buildInfo is what a binary knows of itself.
type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Time     string `json:"time,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	API      int    `json:"api"`
}

// build reads the build's own record.
func build() buildInfo {
	b := buildInfo{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, API: proto.Version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version = info.Main.Version; b.Version == "" {
		b.Version = "(devel)"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func newVersion(c *cli) *cobra.Command {
	var f relayFlags
	var cmd *cobra.Command
	cmd = c.verb("version", "What this program is; with --relay also what the relay is", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		answer := struct {
			buildInfo
			Relay json.RawMessage `json:"relay,omitempty"`
		}{buildInfo: build()}
		if cmd.Flags().Changed("relay") {
			cl, err := f.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			if err := cl.Get(ctx, "/v1/version", nil, &answer.Relay); err != nil {
				return err
			}
		}
		if f.json {
			return c.encodeJSON(answer)
		}
		c.printf("forebay %s  %s  %s  API %d\n", answer.Version, answer.Go, answer.Platform, answer.API)
		if answer.Revision != "" {
			changed := ""
			if answer.Modified {
				changed = " with changes"
			}
			c.printf("commit %s%s of %s\n", answer.Revision, changed, answer.Time)
		}
		if answer.Relay == nil {
			return nil
		}
		var relay proto.VersionInfo
		if err := json.Unmarshal(answer.Relay, &relay); err != nil {
			return err
		}
		c.printf("relay   %s  %s  API %d\n", orDash(relay.Version), relay.Go, relay.API)
		return nil
	})
	return f.add(cmd, true)
}
