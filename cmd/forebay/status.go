package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

func newStatus(c *cli) *cobra.Command {
	var f relayFlags
	var check bool
	var agent string
	cmd := c.verb("status [--check] [--agent URL]", "What is where, how late, and why", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		if agent != "" {
			return c.agentStatus(ctx, agent, f.json, check)
		}
		h := proto.Red
		err := ask(ctx, c, &f, func(ctx context.Context, cl *operator.Client, raw *json.RawMessage) error {
			if err := cl.Get(ctx, "/v1/status", nil, raw); err != nil {
				return err
			}
			h = healthIn(*raw)
			return nil
		}, func(s proto.Status) error {
			c.printStatus(s)
			return nil
		})
		if err != nil || !check {
			return err
		}
		return quietly(health(h))
	})
	cmd.Flags().BoolVar(&check, "check", false, "exit 0 when healthy, 3 when degraded, 1 when red or not there")
	cmd.Flags().StringVar(&agent, "agent", "", "ask the agent that listens at `URL` instead of the relay")
	return f.add(cmd, true)
}

// healthIn reads the health of a relay's or agent's status; none is red.
func healthIn(raw json.RawMessage) proto.Health {
	var s struct {
		Health proto.Health `json:"health"`
	}
	if err := json.Unmarshal(raw, &s); err != nil || s.Health == "" {
		return proto.Red
	}
	return s.Health
}

func (c *cli) printStatus(s proto.Status) {
	c.printf("relay %s  %s  %s\n", s.Relay, strings.ToUpper(string(s.Health)), orDash(s.Version))
	c.printProblems(s.Problems, s.Now)
	c.printCache(s.Cache)
	if len(s.Links) > 0 {
		c.printf("\n")
		c.printLinks(s.Links, s.Now)
		if b := bandwidth(s.Bandwidth); b != "" {
			c.printf("%s\n", b)
		}
	} else {
		c.printf("\nNo links: nothing is backed up. Add one to relay.yaml.\n")
	}
	if len(s.Nodes) > 0 {
		c.printf("\n")
		c.printNodes(s.Nodes)
	} else {
		c.printf("\nNo agent has announced itself yet.\n")
	}
	if len(s.Datasets) > 0 {
		c.printf("\n")
		c.printDatasets(s.Datasets)
	}
}

func (c *cli) printProblems(problems []proto.Problem, now string) {
	if len(problems) == 0 {
		return
	}
	c.printf("\n%s:\n", show.Things(int64(len(problems)), "problem"))
	for _, h := range []proto.Health{proto.Red, proto.Yellow, proto.Green, ""} {
		for _, p := range problems {
			if p.Health != h {
				continue
			}
			since := ""
			if age := ageAt(p.Since, now); age != "" {
				since = " (for " + age + ")"
			}
			c.printf("  %-6s %s: %s%s\n", h, p.Code, show.Text(p.What), since)
			if p.Do != "" {
				c.printf("         -> %s\n", show.Text(p.Do))
			}
		}
	}
}

func (c *cli) printCache(s proto.CacheStatus) {
	c.printf("\ncache    %s, %s of %s used%s, coding %s", s.State, show.Bytes(s.UsedBytes), show.Bytes(s.CapacityBytes),
		percent(s.UsedBytes, s.CapacityBytes), s.Coding)
	if s.CodingNow != "" && s.CodingNow != s.Coding {
		c.printf(" (new segments %s)", s.CodingNow)
	}
	c.printf("\n")
	var more []string
	if s.InflowBytesPerSecond > 0 {
		more = append(more, "inflow "+show.Rate(s.InflowBytesPerSecond), "room for an outage of "+show.Seconds(s.OutageSeconds))
	}
	if s.OldestSeconds > 0 {
		more = append(more, "oldest "+show.Seconds(s.OldestSeconds))
	}
	if s.OnlyCopyBytes > 0 {
		more = append(more, "the only copy of "+show.Bytes(s.OnlyCopyBytes))
	}
	if s.DegradedSegments > 0 {
		more = append(more, show.Things(s.DegradedSegments, "degraded segment"))
	}
	if b := s.Rebuild; b.WaitingSegments > 0 {
		left := ""
		if b.ETASeconds > 0 {
			left = fmt.Sprintf(", %s, %s left", show.Rate(b.RateBytesPerSecond), show.Seconds(b.ETASeconds))
		}
		more = append(more, fmt.Sprintf("coding anew %s (%s%s)", show.Things(b.WaitingSegments, "segment"), show.Bytes(b.WaitingBytes), left))
	}
	if n := s.Scrub.Now; n != nil {
		more = append(more, fmt.Sprintf("scrub %s of %s", show.Bytes(n.Bytes), show.Bytes(n.TotalBytes)))
	}
	if s.WastedBytes > 0 {
		more = append(more, show.Bytes(s.WastedBytes)+" received in vain")
	}
	if len(more) > 0 {
		c.printf("         %s\n", strings.Join(more, ", "))
	}
	for _, st := range s.Stores {
		if st.State != "ok" {
			c.printf("         store %s is %s: %s\n", show.Name(st.Path), st.State, show.Text(orDash(st.LastError)))
		}
	}
}

// bandwidth says what all links share; nothing when that is unlimited.
func bandwidth(b proto.BandwidthStatus) string {
	switch {
	case b.Setting == "" || b.Setting == "off":
		return ""
	case b.LimitBytesPerSecond == 0:
		return "all links together: unlimited now (" + b.Setting + ")"
	}
	return "all links together: " + show.Rate(float64(b.LimitBytesPerSecond)) + " (" + b.Setting + ")"
}

func (c *cli) printLinks(links []proto.LinkStatus, now string) {
	var rows [][]string
	for _, l := range links {
		rows = append(rows, []string{l.Name, l.State, show.Count(l.BacklogObjects), show.Bytes(l.BacklogBytes), show.Seconds(l.LagSeconds),
			show.Count(l.ConfirmedObjects), linkNote(l, now)})
	}
	c.table([]string{"link", "state", ">owed", ">bytes", ">lag", ">confirmed", "note"}, rows)
}

// linkNote says in a few words what an operator wants to know of a link beyond its numbers.
func linkNote(l proto.LinkStatus, now string) string {
	var n []string
	add := func(when bool, format string, args ...any) {
		if when {
			n = append(n, fmt.Sprintf(format, args...))
		}
	}
	add(l.Reason != "", "%s", l.Reason)
	add(l.RateBytesPerSecond > 0 && l.BacklogBytes > 0 && (l.State == "flushing" || l.State == "seeding"), "%s, %s left", show.Rate(l.RateBytesPerSecond), show.Seconds(l.ETASeconds))
	add(l.Forced, "forced past its window or budget")
	add(l.BudgetBytes > 0, "%s left of the window's budget of %s", show.Bytes(l.BudgetLeftBytes), show.Bytes(l.BudgetBytes))
	add(l.ParkedObjects > 0, "%s parked", show.Count(l.ParkedObjects))
	add(l.HeldDeletes > 0, "%s held", show.Things(l.HeldDeletes, "delete"))
	add(l.HistoryHeld != "", "%s", l.HistoryHeld)
	add(l.KeptVersions > 0, "%s kept, %s", show.Things(l.KeptVersions, "version"), show.Bytes(l.KeptBytes))
	add(l.OwedNotCachedObjects > 0, "%s owed, not cached", show.Count(l.OwedNotCachedObjects))
	add(l.LastError != "" && l.LastError != l.Reason, "last error%s: %s", ago(l.LastErrorAt, now), l.LastError)
	add(l.NextTry != "", "next try %s", l.NextTry)
	add(l.Overrides > 0, "%s set by hand", show.Things(int64(l.Overrides), "policy value"))
	for _, note := range l.Notes {
		add(l.Reason == "" || !strings.Contains(note, l.Reason), "%s", note) // an object's failure that is the link's
	}
	if len(n) == 0 {
		return l.From + " -> " + l.To
	}
	return strings.Join(n, "; ")
}

func (c *cli) printDatasets(sets []proto.DatasetInfo) {
	var rows [][]string
	for _, d := range sets {
		var n []string
		if !d.Linked {
			n = append(n, "no link names it: not uploaded")
		}
		if d.Receiving > 0 {
			n = append(n, show.Things(d.Receiving, "upload")+" under way")
		}
		if d.UnderHeld > 0 {
			n = append(n, show.Count(d.UnderHeld)+" gone from some holders")
		}
		rows = append(rows, []string{d.Name, show.Count(d.Objects), show.Bytes(d.Bytes), strings.Join(n, "; ")})
	}
	c.table([]string{"dataset", ">objects", ">bytes", "note"}, rows)
}

func percent(part, whole int64) string {
	if whole <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%.0f %%)", 100*float64(part)/float64(whole))
}

// ago is ageAt in a sentence.
func ago(then, now string) string {
	if age := ageAt(then, now); age != "" {
		return " " + age + " ago"
	}
	return ""
}

// ageAt is how long before now an instant was, both RFC 3339; "" when one is unknown.
func ageAt(then, now string) string {
	a, err := time.Parse(time.RFC3339, then)
	if err != nil {
		return ""
	}
	b, err := time.Parse(time.RFC3339, now)
	if err != nil {
		return ""
	}
	return show.Span(b.Sub(a))
}
