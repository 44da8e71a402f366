package advice

import (
	"fmt"
	"math"
	"slices"

	"forebay/internal/show"
	"forebay/units"
)

const (
	daySeconds  = 24 * 60 * 60
	weekSeconds = 7 * daySeconds
)

// class orders the confirm classes, the weakest first; auto is 0.
func class(confirm string) int { return slices.Index([]string{"", "ack", "sync", "reread"}, confirm) }

// links judges the policy of each link to a target that was measured.
func (a *adviser) links() {
	for _, t := range a.m.Targets {
		if t.Write <= 0 {
			continue
		}
		for _, d := range a.m.Disks {
			if d.Role == RoleStore && t.Device != "" && d.Device == t.Device {
				a.add(Warn, "targets", "", fmt.Sprintf("target %s (%s) is on the disk of store %s: the backup is lost together with the cache. "+
					"Put it on another disk or machine", t.Name, t.Where, d.Path))
				break
			}
		}
		for _, l := range a.s.Relay.Links {
			if l.Target == t.Name {
				a.link(t, l)
			}
		}
	}
}

// carried is how much a link can flush in a week, and what bounds it.
func carried(t Target, l Link) (week, speed float64, why string) {
	speed, why = t.Write, fmt.Sprintf("the target takes %s", show.Rate(t.Write))
	if l.Paced > 0 && l.Paced < speed {
		speed, why = l.Paced, fmt.Sprintf("bandwidth lets %s through on average", show.Rate(l.Paced))
	}
	week = speed * l.Open
	if byBudget := float64(l.Budget) * float64(l.Windows); l.Budget > 0 && byBudget < week {
		week, why = byBudget, fmt.Sprintf("flush.budget lets %s through in each window", show.Bytes(l.Budget))
	}
	return week, speed, why
}

func (a *adviser) link(t Target, l Link) {
	if l.Peak > t.Write {
		a.add(Note, "flush.bandwidth", "", fmt.Sprintf("link %s: %s is more than target %s takes (%s) and holds nothing back", l.Name,
			l.Bandwidth, t.Name, show.Rate(t.Write)))
	}
	if class(l.Confirm) > class(t.Confirm) && t.Confirm != "" {
		a.add(Warn, "confirm", t.Confirm, fmt.Sprintf("link %s asks for %s and target %s reaches %s: it would stall", l.Name, l.Confirm,
			t.Name, t.Confirm))
	}
	week, speed, why := carried(t, l)
	day := week / 7
	if in := a.s.Relay.Inflow; in > 0 {
		a.inflow(t, l, in*daySeconds, day, speed, why)
	} else {
		text := fmt.Sprintf("link %s carries %s a day (%s, %s): more than that on average and its backlog grows", l.Name,
			show.Bytes(int64(day)), why, window(l))
		if ack := a.out.Acknowledged; ack > speed {
			text += fmt.Sprintf("; while data come at %s, the cache takes up %s", show.Rate(ack), show.Rate(ack-speed))
		}
		a.add(Note, "flush.window", "", text)
	}
	if t.Small > 0 {
		a.add(Note, "", "", fmt.Sprintf("to try other values for link %s: forebay policy simulate %s KEY=VALUE --rate %s --per-object %s",
			l.Name, l.Name, rate(t.Write), perObject(t.Small)))
	}
}

func window(l Link) string {
	if l.Window == "always" {
		return "at any time"
	}
	return fmt.Sprintf("in windows of %s a week", show.Seconds(l.Open))
}

// inflow compares what comes with what a link carries; all in bytes a day, speed in bytes a second.
func (a *adviser) inflow(t Target, l Link, comes, day, speed float64, why string) {
	if day >= comes {
		a.add(Note, "flush.window", "", fmt.Sprintf("link %s carries %s a day (%s, %s) where %s come in: %.0f %% to spare", l.Name,
			show.Bytes(int64(day)), why, window(l), show.Bytes(int64(comes)), 100*(day/comes-1)))
	} else {
		a.tooSlow(t, l, comes, day, speed, why)
	}
	if l.Deadline > 0 && l.LongestClosed > 0 && speed > comes/daySeconds {
		drain := comes / daySeconds * l.LongestClosed / (speed - comes/daySeconds)
		if need := l.LongestClosed + drain; need > l.Deadline {
			a.add(Set, "flush.deadline", units.Duration(math.Ceil(need/3600)*3600*1e9).String(), fmt.Sprintf(
				"link %s: what waited %s for a window needs another %s to drain; a shorter deadline forces flushes outside the window", l.Name,
				show.Seconds(l.LongestClosed), show.Seconds(drain)))
		}
	}
}

func (a *adviser) tooSlow(t Target, l Link, comes, day, speed float64, why string) {
	short := fmt.Sprintf("link %s carries %s a day (%s, %s) where %s come in: its backlog grows by %s a day", l.Name,
		show.Bytes(int64(day)), why, window(l), show.Bytes(int64(comes)), show.Bytes(int64(comes-day)))
	hours := math.Ceil(comes / speed / 3600)
	switch {
	case l.Budget > 0 && speed*l.Open/7 >= comes:
		a.add(Warn, "flush.budget", units.Size(ceil(comes*7/float64(max(l.Windows, 1)))).String(), short)
	case speed < t.Write && 1.1*comes <= t.Write*l.Open/7:
		a.add(Warn, "flush.bandwidth", rate(1.1*comes*7/l.Open), short)
	case hours <= 24 && l.Open < weekSeconds:
		a.add(Warn, "flush.window", "", short+fmt.Sprintf(". Windows of %.0f hours a day would do", hours))
	default:
		a.add(Warn, "links", "", short+". No setting helps: it needs a faster target")
	}
}

// network judges the way to the relay.
func (a *adviser) network() {
	n := a.m.Network
	if n == nil || n.Upload <= 0 {
		return
	}
	suspicion := 3.0
	if r := a.s.Relay; r != nil && r.Suspicion > 0 {
		suspicion = r.Suspicion
	}
	if n.TripP99*10 > suspicion {
		a.add(Set, "suspicion", units.Duration(math.Ceil(n.TripP99*10)*1e9).String(), fmt.Sprintf(
			"one in a hundred round trips to %s takes %s or more: with a suspicion of %s healthy agents would be taken for dead", n.Relay,
			millis(n.TripP99), show.Seconds(suspicion)))
	}
	limit := 0.0
	if a.s.Agent != nil {
		limit = a.s.Agent.Upload
	}
	switch {
	case limit > n.Upload:
		a.add(Note, "limits.upload", "", fmt.Sprintf("%s is more than the way to %s carries (%s) and holds nothing back", show.Rate(limit),
			n.Relay, show.Rate(n.Upload)))
	case limit == 0:
		a.add(Note, "limits.upload", rate(0.8*n.Upload), fmt.Sprintf("without it an upload takes all of the way to %s, %s; this leaves a "+
			"fifth for others", n.Relay, show.Rate(n.Upload)))
	}
}
