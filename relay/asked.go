package relay

import (
	"forebay/ledger"
	"forebay/proto"
)

// asking returns the links of a dataset for which holders are asked for released content again: those that could flush it.
// While a target is not there, what its link let go of stays with the holders.
func (r *Relay) asking(ds proto.DatasetID) (out []ledger.LinkRow, err error) {
	ls, err := ledger.Links(r.ledger)
	if err != nil {
		return nil, err
	}
	for _, l := range ls {
		if l.Dataset == ds && l.ReleasedObjects > 0 && (r.flush == nil || !r.flush.Stalled(l.Name)) {
			out = append(out, l)
		}
	}
	return out, nil
}

// asksFor reports whether one of the links wants a version's content again.
func (r *Relay) asksFor(links []ledger.LinkRow, ver proto.VersionID) (bool, error) {
	for _, l := range links {
		q, ok, err := ledger.OwedAt(r.ledger, l.ID, ver)
		if err != nil || ok && q.State == ledger.OwedReleased && !q.Parked {
			return err == nil, err
		}
	}
	return false, nil
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

// asked lists what is wanted again. Where some links wait for their targets, what only they lack is left out: a page may
// then have less, or nothing, and Next goes on all the same.
func (r *Relay) asked(ds proto.DatasetID, above proto.VersionID, limit int) (proto.FeedReply, error) {
	links, err := r.asking(ds)
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
		if ok {
			items = append(items, it)
		}
	}
	rep.Items = items
	return rep, nil
}
