package arbiter

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// Member is a known holder of a dataset as the judgement of deletes sees it.
type Member struct {
	Row   ledger.HolderRow
	Node  string
	Alive bool
	Away  time.Duration // for how long the relay has missed it, when not alive
	// SettledNs is when, in the relay's running time, the last scan of this session began of which all that it found has been settled
	// with the relay; 0 when there is none.
	SettledNs int64
	// Empty is when its index was made anew and has found nothing at all: nobody can tell an empty root from one that is not mounted.
	// Never is when its index, made anew or not, has found nothing in any scan, and Bare for how long that has been so.
	Empty, Never bool
	Bare         time.Duration
}

// GoneVerdict is the judgement of a path that some holder reported gone.
type GoneVerdict struct {
	Delete bool   // every holder known to have had it has reported it gone: a tombstone
	Back   bool   // nobody lacks it any more: take it off the list
	Why    string // else: what the delete waits for, for operators
	// Look are holders that could look whether they have the path: it waits for nothing but their word. Scan are those whose index is
	// fresh: they must scan.
	Look, Scan []proto.HolderID
}

// goneTogether is how far apart holders report a path gone that was deleted on all of them.
const goneTogether = 10 * time.Minute

// JudgeGone decides whether a path is deleted. It is gone when each node known to have had it has reported it gone in a
// completed scan; a holder that is away, or has not yet told all that it has, holds that up, the former for grace (I13).
//
// A holder that reported an older version gone may have got the path again since, like one that was never known to have it: both
// must have finished a scan since then, and have settled all that it found, for what a scan finds is not yet told when it ends; or have
// looked for this path alone since then, as those of lacks have, which did not find it. So must one that reported it gone and whose index
// was made anew afterwards: with all indexes lost, nobody could ever tell again. Since then is since the last holder reported it
// gone: it may have moved from there. When one had lost it long before, it may have moved to that one too, whose word must be as new.
//
// A holder that has never found anything holds deletes up for grace since its first scan, as one that is away does.
func JudgeGone(g ledger.GonePath, members []Member, grace time.Duration, lacks []proto.HolderID) GoneVerdict {
	o, last := g.Object, g.LastNs
	moved := last-g.SinceNs > int64(goneTogether)
	if o.Current.Version == 0 || o.Current.Kind == proto.KindTombstone {
		return GoneVerdict{Back: true}
	}
	gone, has, empty, first := 0, "", "", "" // first is the first of those that the delete waits for
	var waits GoneVerdict
	for _, m := range members {
		h := o.Holding(m.Row.ID)
		if !m.Alive && m.Away >= grace {
			continue
		}
		told := h != nil && h.IndexGen == m.Row.IndexGen
		scanned := m.Row.ScannedGen == m.Row.IndexGen
		settled := scanned && m.Row.ScannedNs >= last && m.SettledNs >= last
		switch {
		case told && h.State == ledger.HoldingGone && h.Version >= o.Current.Version && (!moved || settled):
			gone++
		case !m.Alive:
			return GoneVerdict{Why: fmt.Sprintf("node %s is away and may have it", m.Node)}
		case told && h.State != ledger.HoldingGone:
			has = m.Node
		case m.Empty && h != nil && h.State != ledger.HoldingGone:
			return GoneVerdict{Why: fmt.Sprintf("node %s had it, and has found nothing at all since its index was made anew: is its root mounted?", m.Node)}
		case !scanned:
			waits.Scan, first = append(waits.Scan, m.Row.ID), cmp.Or(first, m.Node)
		case !settled && !slices.Contains(lacks, m.Row.ID):
			waits.Look, first = append(waits.Look, m.Row.ID), cmp.Or(first, m.Node)
		case told, h != nil && h.State == ledger.HoldingGone && !m.Empty:
			gone++ // an older version was gone from it, or it said so of an older index; it has looked since, and has it not
		case h == nil && m.Never && m.Bare < grace:
			empty = m.Node
		}
	}
	if first != "" {
		waits.Why = fmt.Sprintf("node %s has not finished a scan since", first)
	}
	switch {
	case waits.Why != "" && has != "":
		return GoneVerdict{Why: waits.Why}
	case waits.Why != "":
		return waits
	case gone == 0 && has != "":
		return GoneVerdict{Back: true}
	case has != "":
		return GoneVerdict{Why: fmt.Sprintf("node %s still has it", has)}
	case empty != "":
		return GoneVerdict{Why: fmt.Sprintf("node %s has never found anything: is its root mounted? It is waited for until that has been so for %s", empty, grace)}
	case gone == 0:
		return GoneVerdict{Why: "no live holder has reported it gone"}
	}
	return GoneVerdict{Delete: true}
}
