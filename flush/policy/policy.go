// Package policy decides when and how fast a link flushes, in which order links take turns, and which deletes may be
// copied. Everything here is a function of what is handed in: a View of one link, the time, and the link's Policy. The
// planner of package flush gathers the view, asks Decide, and carries the plan out.
//
// It has no clock, no goroutine and no I/O (ParseZone alone reads the time zone database), and imports units and the
// vocabulary of package target only. Binaries embed the database by importing time/tzdata; without one, only UTC is known.
package policy

import (
	"time"

	"forebay/flush/target"
	"forebay/units"
)

// Policy is everything about a link that can change while it runs. Take Default and change it with Set; check it with
// Validate.
type Policy struct {
	// Size, Age and Objects are the conditions: any one that is reached lets the backlog through. Zero means that the
	// condition is not set; when none is set, everything goes at once. Age counts from the oldest acknowledgement.
	Size    units.Size
	Age     units.Duration
	Objects int64

	Windows   Windows    // when the link may flush, in Zone; none = always
	Zone      Zone       // the zone of Windows, Bandwidth and Budget
	Bandwidth Timetable  // how fast, in Zone
	Budget    units.Size // bytes that one window may send, see BudgetWindow; 0 = no bound
	Weight    int        // the link's part of the relay's bandwidth, beside the others'; 1 to MaxWeight

	Deadline units.Duration // from the acknowledgement; forces the flush; 0 = none
	Priority int            // of links that are ready at once, higher first; -MaxPriority to MaxPriority
	BatchMin units.Size     // less than this goes only when Age or Deadline is reached
	BatchMax units.Size     // a batch is cut at this many bytes

	Confirm  target.ConfirmClass // "" = auto: sync where the target can, else ack
	Coalesce bool                // skip what was superseded before its flush
	Share    units.Percent       // the link's part of the cache; 0 = an equal part of what the others leave
	WhenFull WhenFull            // what becomes of segments over the share that only stalled links need
	Delete   Delete
	Keep     units.Duration // how long the target keeps what was overwritten or deleted; 0 = not at all
}

// WhenFull says what happens to segments that are owed only to links that do not move when their share is used up.
type WhenFull string

// The choices.
const (
	Release WhenFull = "release" // still owed, but asked for again from a holder later
	Hold    WhenFull = "hold"    // kept, which may delay other links
)

// Delete says whether and when deletes are copied to the target.
type Delete struct {
	Propagate bool
	Grace     units.Duration // how long an absent holder blocks a delete
	Guard     Guard
}

// MaxPriority bounds priorities, and with that the longest wait of a link (see Order).
const MaxPriority = 100

// MaxWeight bounds weights.
const MaxWeight = 1000

// Default returns the policy of a link whose configuration says nothing.
func Default() Policy {
	return Policy{
		Weight:   1,
		BatchMax: units.GiB,
		Coalesce: true,
		WhenFull: Release,
		Delete:   Delete{Grace: units.Duration(24 * time.Hour), Guard: Guard{Share: 20 * units.Hundred / 100, Objects: 1000}},
	}
}

// Shares resolves the shares of all links of a relay: set holds each link's Policy.Share in order. What is not taken is
// divided equally among the links that set none. A sum over the whole is scaled down, which can only happen while shares
// are changed one by one on a running relay; the configuration refuses it.
func Shares(set []units.Percent) []units.Percent {
	var taken, unset int64
	for _, s := range set {
		taken += int64(s)
		if s == 0 {
			unset++
		}
	}
	whole := int64(units.Hundred)
	out := make([]units.Percent, len(set))
	for i, s := range set {
		switch {
		case s == 0:
			out[i] = units.Percent(max(whole-taken, 0) / unset)
		case taken > whole:
			out[i] = units.Percent(int64(s) * whole / taken)
		default:
			out[i] = s
		}
	}
	return out
}
