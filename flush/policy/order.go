package policy

import (
	"cmp"
	"slices"
	"time"
)

// AgingStep is how long a link that is ready waits for one step of priority. With priorities bounded by MaxPriority, a link
// overtakes each other one that has had a turn after at most 2 x MaxPriority steps, 200 minutes: nothing waits for ever.
const AgingStep = time.Minute

// LinkView is what Order needs to know of a link that has something to flush now.
type LinkView struct {
	Link       string
	Priority   int
	Oldest     time.Time // acknowledgement of its oldest waiting object
	ReadySince time.Time // since when it has been able to flush without getting a turn
}

// Rank is a link's place in the order.
type Rank struct {
	Link     string
	Priority int // with what waiting has added
}

// Order says in which order links that are ready get the next free worker: by priority and what waiting has added to it,
// then the one with the oldest object, then by name.
func Order(links []LinkView, now time.Time) []Rank {
	type candidate struct {
		Rank
		oldest time.Time
	}
	all := make([]candidate, len(links))
	for i, l := range links {
		priority := max(-MaxPriority, min(l.Priority, MaxPriority))
		if waited := now.Sub(l.ReadySince); waited > 0 && !l.ReadySince.IsZero() {
			priority += int(waited / AgingStep)
		}
		all[i] = candidate{Rank{l.Link, priority}, l.Oldest}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), a.oldest.Compare(b.oldest), cmp.Compare(a.Link, b.Link))
	})
	out := make([]Rank, len(all))
	for i, c := range all {
		out[i] = c.Rank
	}
	return out
}
