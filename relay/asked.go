package relay

import (
	"math"
	"slices"

	"forebay/ledger"
	"forebay/proto"
)

// asker is a link for which holders are asked for content again.
type asker struct {
	row  ledger.LinkRow
	room int64 // content bytes that may come for it now
	part int64 // as many are worth asking for
	any  bool  // it has nothing else to send: one object may come, however large
	full bool  // there was no room for something
}

// takes reports whether content of n bytes may come, and counts it.
func (a *asker) takes(n int64) bool {
	if n > a.room && !a.any {
		a.full = true
		return false
	}
	a.room, a.any = a.room-n, false
	return true
}

// worth reports whether so much may come that it is worth asking for.
func (a *asker) worth() bool { return a.any || a.room > 0 && a.room >= a.part }

// asking returns the links of a dataset for which holders are asked for released content again: those that could flush it.
// While a target is not there, what its link let go of stays with the holders. A link that let go of content because it
// kept others from the room, or one while the room is short, is brought no more than its share of the cache before it has sent that:
// else that would have to be let go, too. What it has that is newer does not count, for the oldest is sent first.
func (r *Relay) asking(ds proto.DatasetID) (out []asker, err error) {
	ls, err := ledger.Links(r.ledger)
	if err != nil {
		return nil, err
	}
	for _, l := range ls {
		_, known := r.link(l.Name)
		if l.Dataset != ds || l.ReleasedObjects == 0 || !known || r.stalled(l.Name) {
			continue
		}
		out = append(out, r.asker(l))
	}
	return out, nil
}

// askers returns those of them for which it is worth asking now.
func (r *Relay) askers(ds proto.DatasetID) ([]asker, error) {
	links, err := r.asking(ds)
	return slices.DeleteFunc(links, func(a asker) bool { return !a.worth() }), err
}

func (r *Relay) asker(l ledger.LinkRow) asker {
	top, older := r.laggards.get(l.ID)
	x, err := r.admission.expansion()
	if _, low := r.admission.marks(); err != nil || top == 0 && r.admission.used() < low {
		return asker{row: l, room: math.MaxInt64}
	}
	r.tableMu.Lock()
	coming := r.table.Again(l.Dataset)
	r.tableMu.Unlock()
	share := int64(float64(r.share(l.Name)) / x)
	return asker{row: l, room: share - min(older, share) - coming, part: share / 4, any: older == 0 && coming == 0}
}

// asksFor reports whether one of the links wants a version's content again and has room for it, and counts it for all that do.
func (r *Relay) asksFor(links []asker, ver proto.VersionID) (asked bool, err error) {
	for i := range links {
		q, ok, err := ledger.OwedAt(r.ledger, links[i].row.ID, ver)
		if err != nil {
			return false, err
		}
		if ok && q.State == ledger.OwedReleased && !q.Parked && links[i].takes(q.Bytes) {
			asked = true
		}
	}
	return asked, nil
}

// isAsked reports whether a version's content is wanted again, now.
func (r *Relay) isAsked(ds proto.DatasetID, ver proto.VersionID) (bool, error) {
	asked, err := ledger.IsAsked(r.ledger, ds, ver)
	if err != nil || !asked {
		return false, err
	}
	links, err := r.asking(ds)
	if err != nil {
		return false, err
	}
	return r.asksFor(links, ver)
}

// asked lists what is wanted again. Where some links wait for their targets, what only they lack is left out: a page may then have
// less, or nothing, and Next goes on all the same. A page ends where there is no room for more, and the next one goes on there, for
// who asks may have nothing of what is in this one.
func (r *Relay) asked(ds proto.DatasetID, above proto.VersionID, limit int) (proto.FeedReply, error) {
	links, err := r.askers(ds)
	if err != nil {
		return proto.FeedReply{}, err
	}
	if len(links) == 0 {
		return proto.FeedReply{Next: above}, nil
	}
	rep, err := ledger.Asked(r.ledger, ds, above, limit)
	if err != nil {
		return rep, err
	}
	items := rep.Items[:0]
	for _, it := range rep.Items {
		ok, err := r.asksFor(links, it.Version)
		if err != nil {
			return rep, err
		}
		if len(items) > 0 && slices.ContainsFunc(links, func(a asker) bool { return a.full }) {
			rep.Next = it.Version - 1
			break
		}
		if ok {
			items = append(items, it)
		}
	}
	rep.Items = items
	return rep, nil
}
