package bench

import (
	"time"

	"forebay/cmd/forebay/bench/advice"
	"forebay/config"
	"forebay/flush/policy"
	"forebay/shard"
	"forebay/units"
)

// View is what advice needs to know of the configurations; either may be nil. inflow is in bytes a day, 0 when it is not told.
func View(r *config.Relay, a *config.Agent, inflow int64) advice.Setup {
	var s advice.Setup
	if a != nil {
		s.Agent = &advice.Agent{Upload: float64(a.Limits.Upload)}
	}
	if r == nil {
		return s
	}
	k := r.Cache
	s.Relay = &advice.Relay{
		Stores: len(k.Stores),
		Coding: shard.Geometry{Data: k.Coding.Data, Parity: k.Coding.Parity}, Capacity: int64(k.Capacity),
		HighWater:   float64(k.HighWater) / float64(units.Hundred),
		RebuildRate: float64(k.RebuildRate), ScrubRate: float64(k.ScrubRate), Scrub: k.Scrub.Std().Seconds(),
		Suspicion: r.Suspicion.Std().Seconds(),
		Inflow:    float64(inflow) / (24 * 60 * 60),
	}
	for _, l := range r.Links {
		s.Relay.Links = append(s.Relay.Links, link(l, r.Bandwidth, r.Zone))
	}
	return s
}

// link lays a link's policy out over a week of a year without clock changes, minute by minute: no window or timetable is finer.
func link(l config.Link, relay policy.Timetable, relayZone policy.Zone) advice.Link {
	p := l.Policy
	out := advice.Link{Name: l.Name, Target: l.To, Confirm: string(p.Confirm), Window: "always", Bandwidth: p.Bandwidth.String(),
		Budget: int64(p.Budget), Deadline: p.Deadline.Std().Seconds()}
	if !p.Windows.Always() {
		out.Window = p.Windows.String()
	}
	const minutes = 7 * 24 * 60
	monday := time.Date(2024, 1, 15, 0, 0, 0, 0, time.UTC)
	open := make([]bool, minutes)
	unlimited, free, paced := false, false, 0.0
	for m := range minutes {
		at := monday.Add(time.Duration(m) * time.Minute)
		if open[m] = p.Windows.Always() || p.Windows.Open(at, p.Zone.Location()); !open[m] {
			continue
		}
		out.Open += 60
		own, all := float64(p.Bandwidth.At(at, p.Zone.Location())), float64(relay.At(at, relayZone.Location()))
		out.Peak, free = max(out.Peak, own), free || own == 0
		if own == 0 || all > 0 && all < own {
			own = all
		}
		unlimited = unlimited || own == 0
		paced += 60 * own
	}
	if out.Open > 0 && !unlimited {
		out.Paced = paced / out.Open
	}
	if free {
		out.Peak = 0
	}
	out.LongestClosed, out.Windows = closed(open)
	return out
}

// closed returns the longest stretch of a week in which nothing is open, in seconds, and how often something opens; weeks repeat.
func closed(open []bool) (longest float64, opens int) {
	n := len(open)
	for m := range n {
		if open[m] && !open[(m+n-1)%n] {
			opens++
		}
		if open[m] || !open[(m+n-1)%n] {
			continue
		}
		run := 0
		for ; run < n && !open[(m+run)%n]; run++ {
		}
		longest = max(longest, float64(60*run))
	}
	if opens == 0 {
		opens = 7
	}
	return longest, opens
}
