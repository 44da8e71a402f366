package demo

import (
	"fmt"
	"io"
	"strings"

	"forebay/internal/show"
	"forebay/internal/treecmp"
)

// The verdicts.
const (
	VerdictEqual     = "equal"     // backup and restored tree are what the source is
	VerdictPart      = "in part"   // they are, but for what could not be read or is of no kind that is backed up
	VerdictDifferent = "different" // they are not
)

// Summary is the outcome of a demo. Sizes are bytes, times seconds.
type Summary struct {
	Schema  int     `json:"schema"`
	Verdict string  `json:"verdict"`
	Source  string  `json:"source"`
	Dir     string  `json:"dir,omitempty"` // what --keep kept
	Seconds float64 `json:"seconds"`

	Objects          int64 `json:"objects"` // live at the relay at the end
	Bytes            int64 `json:"bytes"`
	ConfirmedObjects int64 `json:"confirmed_objects"` // ever, replaced and deleted ones too
	ConfirmedBytes   int64 `json:"confirmed_bytes"`

	LogicalBytes    int64   `json:"logical_bytes"` // content of everything that was to be sent: first copy and changes, once
	WireBytes       int64   `json:"wire_bytes"`    // payload that the relay received
	AckedBytes      int64   `json:"acked_bytes"`
	WastedBytes     int64   `json:"wasted_bytes"` // received twice or in vain
	WireOverObjects float64 `json:"wire_over_logical"`

	Takeover Takeover `json:"takeover"`
	Changes  []string `json:"changes"`

	AckedPerSecond     float64 `json:"acked_bytes_per_second"` // first copy, from the agents' start, takeover included
	FlushedPerSecond   float64 `json:"flushed_bytes_per_second"`
	Coding             string  `json:"coding"`
	StoredBytes        int64   `json:"stored_bytes"` // written to the stores
	WriteAmplification float64 `json:"write_amplification"`
	RelayPeakRSS       int64   `json:"relay_peak_rss_bytes"`
	AgentPeakRSS       int64   `json:"agent_peak_rss_bytes"` // of the largest

	Mirror   treecmp.Result `json:"mirror"`   // target against source
	Restored treecmp.Result `json:"restored"` // restored tree against source
	LeftOut  []leftOut      `json:"left_out,omitempty"`
}

// judge sets the verdict.
func (s *Summary) judge() {
	switch {
	case !s.Mirror.Equal() || !s.Restored.Equal():
		s.Verdict = VerdictDifferent
	case len(s.LeftOut) > 0:
		s.Verdict = VerdictPart
	default:
		s.Verdict = VerdictEqual
	}
}

// Print writes the summary for people.
func (s *Summary) Print(w io.Writer) {
	line := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "  %-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	_, _ = fmt.Fprintf(w, "\nSummary\n")
	line("held", "%s, %s; %s, %s confirmed in all", show.Things(s.Objects, "object"), show.Bytes(s.Bytes),
		show.Things(s.ConfirmedObjects, "version"), show.Bytes(s.ConfirmedBytes))
	line("on the wire", "%s for %s of objects (%.3f), of which %s twice or in vain", show.Bytes(s.WireBytes), show.Bytes(s.LogicalBytes),
		s.WireOverObjects, show.Bytes(s.WastedBytes))
	line("takeover", "%s from SIGKILL to the first byte of %s (lease after %s), from byte %s of %s", show.Seconds(s.Takeover.FirstAfter),
		s.Takeover.Successor, show.Seconds(s.Takeover.SeenAfter), show.Count(s.Takeover.FromByte), show.Count(s.Takeover.Size))
	line("speed", "%.0f MB/s acknowledged, %.0f MB/s flushed", s.AckedPerSecond/1e6, s.FlushedPerSecond/1e6)
	line("stores", "%s written, coding %s, write amplification %.3f", show.Bytes(s.StoredBytes), s.Coding, s.WriteAmplification)
	line("peak memory", "relay %s, largest agent %s", show.Bytes(s.RelayPeakRSS), show.Bytes(s.AgentPeakRSS))
	line("backup", "%s", compared(s.Mirror))
	line("restored", "%s", compared(s.Restored))
	if len(s.LeftOut) > 0 {
		line("left out", "%s:", show.Things(int64(len(s.LeftOut)), "path"))
		for i, l := range s.LeftOut {
			if i == 20 {
				_, _ = fmt.Fprintf(w, "    and %d more\n", len(s.LeftOut)-i)
				break
			}
			_, _ = fmt.Fprintf(w, "    %s: %s\n", show.Name(l.Path), l.Why)
		}
	}
	line("took", "%s", show.Seconds(s.Seconds))
	line("verdict", "%s", strings.ToUpper(s.Verdict))
}

func compared(r treecmp.Result) string {
	if r.Equal() {
		return fmt.Sprintf("equal to the source: %s, %s, content and metadata", show.Things(r.Objects, "object"), show.Bytes(r.Bytes))
	}
	return fmt.Sprintf("NOT equal to the source: %s in %s", show.Things(r.Differences, "difference"), show.Things(r.Objects, "object"))
}
