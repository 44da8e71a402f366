package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"forebay/agent"
	"forebay/internal/operator"
	"forebay/internal/show"
)

// agentStatus prints what an agent says of itself.
func (c *cli) agentStatus(ctx context.Context, url string, asJSON, check bool) error {
	cl, err := operator.NewAgent(url)
	if err != nil {
		return usagef("--agent: %w", err)
	}
	defer cl.Close()
	var raw json.RawMessage
	if err := cl.Get(ctx, "/v1/status", nil, &raw); err != nil {
		return err
	}
	if asJSON {
		err = c.printJSON(raw)
	} else {
		err = c.printAgent(raw)
	}
	if err != nil || !check {
		return err
	}
	return quietly(health(healthIn(raw)))
}

func (c *cli) printAgent(raw json.RawMessage) error {
	var s agent.Status
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("answer of the agent: %w", err)
	}
	c.printf("agent %s/%s  %s  %s\n", s.Cluster, s.Node, strings.ToUpper(s.Health), orDash(s.Version))
	for _, p := range s.Problems {
		c.printf("  %s: %s\n", p.Code, show.Text(p.What))
	}
	if s.Session.Relay == "" {
		c.printf("relay    none\n")
	} else {
		hints := "hints by the bus"
		if !s.Session.Bus {
			hints = "no bus: it polls"
		}
		c.printf("relay    %s at %s since %s, %s, %s under way\n", s.Session.Relay, s.Session.Address, s.Session.Since.Format(time.RFC3339), hints, show.Bytes(s.InFlight))
	}
	var rows [][]string
	for _, r := range s.Roots {
		rows = append(rows, []string{r.Dataset, r.Watch, scanned(r), show.Count(r.Objects), show.Bytes(r.Bytes), show.Count(r.UnsentObjects), show.Bytes(r.UnsentBytes), rootNote(r)})
	}
	if len(rows) > 0 {
		c.printf("\n")
		c.table([]string{"dataset", "watch", "last scan", ">objects", ">bytes", ">unsent", ">bytes", "root"}, rows)
	}
	return nil
}

// scanned is when a root was scanned last.
func scanned(r agent.RootStatus) string {
	switch {
	case r.Scanning:
		return "now"
	case r.LastScan.IsZero():
		return "never"
	}
	return r.LastScan.Format(time.RFC3339)
}

// rootNote is a root's path and what is not well with it.
func rootNote(r agent.RootStatus) string {
	notes := []string{show.Name(r.Path)}
	for _, x := range []struct {
		n    int64
		what string
	}{{r.Unreadable, "unreadable"}, {r.Skipped, "skipped"}, {r.Unsettled, "changing"}, {r.Lagging, "lagging"}, {r.Divergent, "divergent"}} {
		if x.n > 0 {
			notes = append(notes, show.Count(x.n)+" "+x.what)
		}
	}
	if r.Problem != "" {
		notes = append(notes, r.Problem)
	}
	return strings.Join(notes, "; ")
}
