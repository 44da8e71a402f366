package flush

import (
	"context"

	"forebay/flush/journal"
	"forebay/proto"
	"forebay/units"
)

// What of the past is past its time: decided here from what the journal says, and carried out in past.go.

// cutoff is the running time up to which versions that ended are past their time.
func cutoff(h journal.History, up int64) int64 {
	if !h.On && h.Keep == 0 {
		return up
	}
	return up - int64(h.Keep) - tickSlack
}

// heldPast says why kept versions wait for an operator, "" when they do not.
func heldPast(want units.Duration, h journal.History, versions int64) string {
	if want.Std() >= h.Keep || versions == 0 {
		return ""
	}
	what := "history.keep was shortened from " + units.Duration(h.Keep).String() + " to " + want.String()
	if want == 0 {
		what = "history.keep was taken away, it was " + units.Duration(h.Keep).String()
	}
	return what + ": what that lets go is kept until it is approved with history prune"
}

// counts is what count found.
type counts struct {
	left   kept
	nextUp int64 // when the first of those that are left ended
	due    int64
	dueNs  int64 // the last of the stamps with which those that are due ended
	listed int64 // by the journal, swept ones too
}

// count counts the versions that are kept, and those that ended up to a running time.
func count(ctx context.Context, j *journal.Journal, h journal.History, upTo int64) (c counts, err error) {
	err = j.EachPast(ctx, "", func(_ string, past []journal.Entry) error {
		stored := map[proto.Digest]bool{}
		for _, e := range past {
			c.listed++
			switch {
			case e.Ended.Up <= h.Horizon:
			case e.Ended.Up <= upTo:
				c.due++
				c.dueNs = max(c.dueNs, e.Ended.Ns)
			default:
				c.left.versions++
				if c.nextUp == 0 || e.Ended.Up < c.nextUp {
					c.nextUp = e.Ended.Up
				}
				if e.Ended.Stored && !stored[e.Desc.Digest] {
					stored[e.Desc.Digest] = true
					c.left.bytes += e.Desc.Size
				}
			}
		}
		return nil
	})
	return c, err
}

// goneContents are the contents of a path's versions that were given up and not swept, but for those that a version has which is
// kept; each with the running time when the first of its versions ended.
func goneContents(past []journal.Entry, h journal.History) map[proto.Digest]int64 {
	out := map[proto.Digest]int64{}
	for _, e := range past {
		if up := e.Ended.Up; up <= h.Horizon && up > h.Swept && e.Desc.Kind.HasContent() {
			if was, ok := out[e.Desc.Digest]; !ok || up < was {
				out[e.Desc.Digest] = up
			}
		}
	}
	for _, e := range past {
		if e.Ended.Up > h.Horizon {
			delete(out, e.Desc.Digest)
		}
	}
	return out
}
