package relay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// Backlog lists what a link owes, oldest first; link "" means all links.
func (r *Relay) Backlog(link string, limit int) ([]proto.BacklogItem, error) {
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return nil, err
	}
	if link != "" {
		l, err := r.linkRow(link)
		if err != nil {
			return nil, err
		}
		rows = []ledger.LinkRow{l}
	}
	out := []proto.BacklogItem{}
	for _, l := range rows {
		owed, err := ledger.Owed(r.ledger, l.ID, 0, limit-len(out))
		if err != nil {
			return nil, err
		}
		for _, q := range owed {
			out = append(out, backlogItem(l.Name, q))
		}
	}
	return out, nil
}

func backlogItem(link string, q ledger.OwedVersion) proto.BacklogItem {
	it := proto.BacklogItem{Link: link, Path: q.Row.Path, Version: q.Version, Kind: q.Owed.Kind.String(), Bytes: q.Owed.Bytes, AckedAt: stampNs(q.Owed.AckedNs), State: "cached"}
	if q.Owed.State == ledger.OwedReleased {
		it.State, it.Reason = "released", "the cache no longer has it: it is asked for again from a holder"
	}
	if q.Owed.Parked {
		it.State, it.Reason = "parked", q.Owed.Reason
	}
	return it
}

// Failures lists what is not, or not wholly, backed up on a link; "" means everything.
func (r *Relay) Failures(link string) ([]proto.FailureInfo, error) {
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return nil, err
	}
	out := []proto.FailureInfo{}
	listed := map[proto.DatasetID]bool{}
	for _, l := range rows {
		if link != "" && l.Name != link {
			continue
		}
		parked, err := r.parked(l)
		if err != nil {
			return nil, err
		}
		out = append(out, parked...)
		if !listed[l.Dataset] {
			listed[l.Dataset] = true
			out = append(out, r.datasetFailures(l.Dataset)...)
		}
	}
	return out, nil
}

// parked lists parked objects and held deletes.
func (r *Relay) parked(l ledger.LinkRow) (out []proto.FailureInfo, err error) {
	if _, configured := r.link(l.Name); configured && r.flush != nil {
		return r.flush.Failures(l.Name, proto.MaxFailures)
	}
	if l.ParkedObjects == 0 {
		return nil, nil
	}
	err = ledger.EachOwed(r.ledger, l, 0, func(q ledger.OwedVersion) (bool, error) {
		if q.Owed.Parked {
			out = append(out, proto.FailureInfo{Dataset: l.From.String(), Link: l.Name, Path: q.Row.Path, Kind: proto.FailParked, Reason: q.Owed.Reason, Since: stampNs(q.Owed.ParkedNs)})
		}
		return len(out) < proto.MaxFailures, nil
	})
	return out, err
}

func (r *Relay) datasetFailures(ds proto.DatasetID) (out []proto.FailureInfo) {
	for _, s := range r.book.All() {
		for _, root := range s.Roots {
			if root.Dataset != ds {
				continue
			}
			for _, f := range root.Failures {
				out = append(out, proto.FailureInfo{Node: s.Node, Root: root.Path, Dataset: root.Name.String(), Path: f.Path, Kind: f.Kind, Reason: f.Reason, Since: stampNs(f.SinceNs)})
			}
		}
	}
	return append(out, r.blocked.get(ds).list...)
}

// Pause stops a link's flushes until it is resumed, or for a while.
func (r *Relay) Pause(link string, on bool, d time.Duration) error {
	l, err := r.linkRow(link)
	if err != nil {
		return err
	}
	e := &ledger.TuneLink{Link: l.ID, Paused: &on}
	what := "resumed"
	if on {
		what = "paused"
		if d > 0 {
			e.PausedUntil, e.PausedUp = r.now().Add(d).UnixNano(), r.up()+int64(d)
			what += " for " + d.String()
		}
	}
	if err := r.ledger.Update(e); err != nil {
		return err
	}
	r.keepMemo()
	r.event("link-"+strings.Fields(what)[0], fmt.Sprintf("an operator %s link %s", what, link), map[string]string{"link": link})
	if r.flush != nil {
		r.flush.Wake(link)
	}
	return nil
}

// Retry brings parked objects back: those of paths, or all. It returns how many.
func (r *Relay) Retry(link string, paths []string) (int64, error) {
	l, err := r.linkRow(link)
	if err != nil {
		return 0, err
	}
	e := &ledger.Retry{Link: l.ID, Paths: paths}
	if err := r.ledger.Update(e); err != nil {
		return 0, err
	}
	if r.flush != nil {
		r.flush.Wake(link)
	}
	return e.Count, nil
}

// Node cordons, uncordons or forgets a node, by name; "cluster/node" where the name alone is not unique.
func (r *Relay) Node(name, do string) error {
	rows, err := ledger.Nodes(r.ledger)
	if err != nil {
		return err
	}
	var hits []ledger.NodeRow
	var known []string
	for _, n := range rows {
		known = append(known, n.Cluster+"/"+n.Node)
		if n.Node == name || n.Cluster+"/"+n.Node == name {
			hits = append(hits, n)
		}
	}
	if len(hits) == 0 {
		return &NotFoundError{What: "node", Name: name, Known: known}
	}
	if len(hits) > 1 {
		return proto.Errorf(proto.ClassPermanent, "there are %d nodes %q: say CLUSTER/NODE, one of %q", len(hits), name, known)
	}
	return r.nodeDo(hits[0], do)
}

func (r *Relay) nodeDo(n ledger.NodeRow, do string) error {
	full := n.Cluster + "/" + n.Node
	on := do == "cordon"
	var e ledger.Entry
	switch do {
	case "cordon", "uncordon":
		e = &ledger.UpdateNode{Cluster: n.Cluster, Node: n.Node, Cordoned: &on}
	case "forget":
		for _, s := range r.book.All() {
			if s.Cluster == n.Cluster && s.Node == n.Node {
				return proto.Errorf(proto.ClassConflict, "node %s is alive: stop its agent first", full)
			}
		}
		e = &ledger.ForgetNode{Cluster: n.Cluster, Node: n.Node}
	default:
		return proto.Errorf(proto.ClassPermanent, "nodes: unknown action %q", do)
	}
	err := r.ledger.Update(e)
	r.roster.reset()
	if err != nil {
		return err
	}
	r.event("node-"+do, fmt.Sprintf("an operator: %s node %s", do, full), map[string]string{"node": n.Node, "cluster": n.Cluster})
	r.book.Renumber()
	r.judgeSoon()
	if on {
		for _, s := range r.book.All() {
			if s.Cluster == n.Cluster && s.Node == n.Node {
				r.endLeases(s, "the node was cordoned")
			}
		}
	}
	return nil
}

// Ready reports whether every link's lag is at most limit; 0 means no limit.
func (r *Relay) Ready(ctx context.Context, limit time.Duration) error {
	if l := r.ledgerStatus(); l.State != "ok" { // else the status may be waited for in vain
		return proto.Errorf(proto.ClassTransient, "the disk of the ledger %s has not answered for %.0f s", l.Path, l.WaitingSeconds)
	}
	s, err := r.Status(ctx)
	if err != nil {
		return err
	}
	if s.Cache.State == "refusing" {
		return proto.Errorf(proto.ClassOverload, "the cache accepts nothing: not enough healthy stores")
	}
	for _, l := range s.Links {
		if limit > 0 && l.LagSeconds > limit.Seconds() {
			return proto.Errorf(proto.ClassTransient, "link %s lags %.0f s", l.Name, l.LagSeconds)
		}
	}
	return nil
}

// Software is the version of this program.
func (r *Relay) Software() string { return r.cfg.Software }

// Flush returns the flush; link must be one of the configuration, or "".
func (r *Relay) Flush(link string) (Flusher, error) {
	if r.flush == nil {
		return nil, proto.Errorf(proto.ClassTransient, "the flush has not started yet")
	}
	if link == "" {
		return r.flush, nil
	}
	if _, ok := r.link(link); !ok {
		return nil, &NotFoundError{What: "link", Name: link, Known: r.linkNames()}
	}
	return r.flush, nil
}

// Accepting says why a session's segment cannot be taken now, before its bytes travel. gone is closed when the session ends,
// after which nothing that it still sends counts.
func (r *Relay) Accepting(id proto.SessionID) (gone <-chan struct{}, err error) {
	gone, ok := r.book.Gone(id)
	if !ok || !r.book.Touch(id, r.now()) {
		return nil, unknownSession()
	}
	if _, err := r.stores.Accepting(); err != nil {
		return nil, &proto.Error{Class: proto.ClassOverload, Message: err.Error(), RetryAfter: 2 * time.Second}
	}
	return gone, nil
}
