package agent

import (
	"time"

	"forebay/proto"
)

// Status is what an agent says of itself at its own address. Times are RFC 3339 UTC, a zero time is "never".
type Status struct {
	Schema   int           `json:"schema"`
	Node     string        `json:"node"`
	Cluster  string        `json:"cluster"`
	Version  string        `json:"version"`
	Started  time.Time     `json:"started"`
	Health   string        `json:"health"` // green; yellow after a file that was not taken; red while something keeps the agent from its work
	Session  SessionStatus `json:"session"`
	Roots    []RootStatus  `json:"roots"`
	InFlight int64         `json:"in_flight_bytes"` // sent and not acknowledged
	Problems []Problem     `json:"problems"`
}

// SessionStatus is what an agent says of its relay.
type SessionStatus struct {
	Relay   string    `json:"relay"` // name, "" when there is no session
	Address string    `json:"address"`
	ID      uint64    `json:"id"`
	Since   time.Time `json:"since"`
	Bus     bool      `json:"bus"` // hints arrive at once; without, polls bring them
}

// RootStatus is what an agent says of one root.
type RootStatus struct {
	Dataset       string    `json:"dataset"`
	Path          string    `json:"path"`
	Index         string    `json:"index"`
	Watch         string    `json:"watch"`
	Scanning      bool      `json:"scanning"`
	LastScan      time.Time `json:"last_scan"`
	Objects       int64     `json:"objects"`
	Bytes         int64     `json:"bytes"`
	UnsentObjects int64     `json:"unsent_objects"`
	UnsentBytes   int64     `json:"unsent_bytes"`
	OldestUnsent  time.Time `json:"oldest_unsent"`
	UploadedBytes int64     `json:"uploaded_bytes"`
	Skipped       int64     `json:"skipped"`
	Unreadable    int64     `json:"unreadable"`
	Unsettled     int64     `json:"unsettled"`
	Lagging       int64     `json:"lagging"`
	Divergent     int64     `json:"divergent"`
	Cursor        uint64    `json:"cursor"`
	Problem       string    `json:"problem,omitempty"`
}

// Problem is something that an operator should do something about.
type Problem struct {
	Code string `json:"code"`
	What string `json:"what"`
}

// noticeCode is the code of the problem that SetNotice makes.
const noticeCode = "config"

// statusSchema is the version of Status.
const statusSchema = 1

// Status returns how the agent is. It reads counters only.
func (a *Agent) Status() Status {
	s := Status{
		Schema: statusSchema, Node: a.cfg.Node, Cluster: a.cfg.Cluster, Version: a.cfg.Software, Started: a.started.UTC(),
		Health: "green", InFlight: a.shared.Window.Under(), Problems: []Problem{},
	}
	a.mu.Lock()
	if a.session != nil {
		s.Session = SessionStatus{
			Relay: a.session.Hello.RelayName, Address: a.session.Client.Base(), ID: uint64(a.session.Hello.Session),
			Since: a.since.UTC(), Bus: a.bus != nil && a.bus.Connected(),
		}
	}
	if a.trouble != "" {
		s.Problems = append(s.Problems, Problem{Code: "relay", What: a.trouble})
	}
	if a.notice != "" {
		s.Problems = append(s.Problems, Problem{Code: noticeCode, What: a.notice})
	}
	a.mu.Unlock()
	for _, r := range a.roots {
		rs := r.local()
		if rs.Problem != "" {
			s.Problems = append(s.Problems, Problem{Code: "root", What: rs.Problem})
		}
		s.Roots = append(s.Roots, rs)
	}
	for _, p := range s.Problems {
		if p.Code != noticeCode {
			s.Health = "red"
		} else if s.Health == "green" {
			s.Health = "yellow"
		}
	}
	return s
}

// local is the root's status for the agent's own address.
func (r *root) local() RootStatus {
	p := r.status()
	return RootStatus{
		Dataset: r.dataset.Name, Path: r.path, Index: r.ix.ID(), Watch: p.Watch, Scanning: p.Scanning, LastScan: stamp(p.LastScanNs),
		Objects: p.Objects, Bytes: p.Bytes, UnsentObjects: p.UnsentCount, UnsentBytes: p.UnsentBytes, OldestUnsent: stamp(p.OldestUnsent),
		UploadedBytes: p.UploadedBytes, Skipped: p.Skipped, Unreadable: p.Unreadable, Unsettled: p.Unsettled,
		Lagging: p.Lagging, Divergent: p.Divergent, Cursor: uint64(p.Cursor), Problem: p.Problem,
	}
}

// stamp makes a time of nanoseconds since 1970, 0 being none.
func stamp(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// RelayStatus returns what the next poll will say of each root, in the order of the configuration. Holders are not set.
func (a *Agent) RelayStatus() []proto.RootStatus { return a.rootStatus() }
