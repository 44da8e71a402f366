package relay

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/arbiter"
	"forebay/relay/session"
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

// Where says where one object is. object is CLUSTER/DATASET/PATH.
func (r *Relay) Where(object string) (proto.Where, error) {
	parts := strings.SplitN(object, "/", 3)
	if len(parts) < 3 {
		return proto.Where{}, proto.Errorf(proto.ClassPermanent, "object %q: want CLUSTER/DATASET/PATH", object)
	}
	name, err := proto.ParseDataset(parts[0] + "/" + parts[1])
	if err != nil {
		return proto.Where{}, proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	d, err := ledger.DatasetByName(r.ledger, name)
	if err != nil {
		return proto.Where{}, err
	}
	if d.ID == 0 {
		return proto.Where{}, &NotFoundError{What: "dataset", Name: name.String(), Known: r.datasetNames()}
	}
	path := parts[2]
	o, known, err := ledger.Object(r.ledger, d.ID, path)
	if err != nil {
		return proto.Where{}, err
	}
	w := proto.Where{Object: object, Holders: []proto.WhereHolder{}, Links: []proto.WhereLink{}}
	r.tableMu.Lock()
	lease := r.table.At(d.ID, path)
	if lease != nil {
		copied := *lease
		lease = &copied
	}
	r.tableMu.Unlock()
	if !known && lease == nil {
		return w, &NotFoundError{What: "object", Name: object}
	}
	if err := r.whereUpload(&w, o, lease); err != nil {
		return w, err
	}
	if o.Current.Version != 0 {
		if err := r.whereVersion(&w, d.ID, o); err != nil {
			return w, err
		}
	}
	return w, r.whereHolders(&w, d.ID, o)
}

func (r *Relay) datasetNames() (out []string) {
	ds, err := ledger.Datasets(r.ledger)
	if err != nil {
		return nil
	}
	for _, d := range ds {
		out = append(out, d.Name.String())
	}
	return out
}

func (r *Relay) whereUpload(w *proto.Where, o ledger.ObjectRow, lease *arbiter.Lease) error {
	if o.Upload != 0 {
		u, ok, err := ledger.Upload(r.ledger, o.Upload)
		if err != nil {
			return err
		}
		if ok {
			w.Uploading = &proto.WhereUpload{Upload: o.Upload, Epoch: u.Epoch.String(), Acked: u.Acked, Size: u.Size, Streaming: u.Stream, Released: u.Gone}
		}
	}
	if lease == nil {
		return nil
	}
	if w.Uploading == nil {
		w.Uploading = &proto.WhereUpload{Size: lease.Size}
	}
	w.Uploading.Upload, w.Uploading.Epoch = lease.Upload, lease.Epoch.String()
	w.Uploading.Node = r.holderName(lease.Holder)
	return nil
}

func (r *Relay) whereVersion(w *proto.Where, ds proto.DatasetID, o ledger.ObjectRow) error {
	v, ok, err := ledger.Version(r.ledger, ds, o.Current.Version)
	if err != nil || !ok {
		return err
	}
	w.Current = &proto.WhereVersion{Version: o.Current.Version, Kind: v.Desc.Kind.String(), Size: v.Desc.Size, Digest: v.Desc.Digest.String(),
		Mtime: stampNs(v.Desc.Meta.MtimeNs), AckedAt: stampNs(v.SealedNs), Cached: v.Cached && v.Need > 0}
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return err
	}
	for _, l := range rows {
		if l.Dataset != ds {
			continue
		}
		wl, err := r.whereLink(l, o)
		if err != nil {
			return err
		}
		w.Links = append(w.Links, wl)
	}
	return nil
}

func (r *Relay) whereLink(l ledger.LinkRow, o ledger.ObjectRow) (proto.WhereLink, error) {
	wl := proto.WhereLink{Link: l.Name, State: "confirmed", Version: o.Current.Version}
	if o.Current.Version > l.SeedCursor && o.Current.Version <= l.SeedHead {
		wl.State, wl.Version, wl.Why = "owed", 0, "the link is being seeded and has not come to it yet"
		return wl, nil
	}
	q, ok, err := ledger.OwedAt(r.ledger, l.ID, o.Current.Version)
	if err != nil || !ok {
		return wl, err
	}
	wl.Version = 0
	switch {
	case q.Parked:
		wl.State, wl.Why = "parked", q.Reason
	case q.State == ledger.OwedReleased:
		wl.State, wl.Why = "released", "the cache no longer has it: it is asked for again from a holder"
	default:
		wl.State = "owed"
	}
	if wl.Why == "" && r.flush != nil {
		var s proto.LinkStatus
		r.flush.Status(l.Name, &s)
		wl.Why, wl.NextTry = s.State+": "+s.Reason, s.NextTry
	}
	return wl, nil
}

var holdingNames = map[ledger.HoldingState]string{
	ledger.HoldingHas: "has", ledger.HoldingGone: "gone", ledger.HoldingLags: "lags", ledger.HoldingDivergent: "divergent",
}

func (r *Relay) whereHolders(w *proto.Where, ds proto.DatasetID, o ledger.ObjectRow) error {
	hs, err := ledger.Holders(r.ledger)
	if err != nil {
		return err
	}
	alive := r.alive(ds)
	for _, h := range hs {
		had := o.Holding(h.ID)
		if h.Dataset != ds || had == nil {
			continue
		}
		st := holdingNames[had.State]
		if had.State == ledger.HoldingHas && had.Version != o.Current.Version {
			st = "lags"
		}
		w.Holders = append(w.Holders, proto.WhereHolder{Node: h.Node, Root: h.Root, State: st, Version: had.Version, Alive: slices.Contains(alive, h.ID)})
	}
	return nil
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
	blocked, _, _ := r.blocked.get(ds)
	return append(out, blocked...)
}

// RequestScan asks all agents for a fresh scan; the token says when it is done.
func (r *Relay) RequestScan(link string) (proto.ScanRequest, error) {
	l, err := r.linkRow(link)
	if err != nil {
		return proto.ScanRequest{}, err
	}
	e := &ledger.BumpScan{}
	if err := r.ledger.Update(e); err != nil {
		return proto.ScanRequest{}, err
	}
	r.nudgeScan(l.Dataset, e.Token)
	return proto.ScanRequest{Token: e.Token}, nil
}

// Wait says how far everything is that the agents of a link's dataset held at the scan of a token.
func (r *Relay) Wait(link string, token uint64, forAck bool) (proto.WaitState, error) {
	w := proto.WaitState{WaitingFor: []string{}}
	l, err := r.linkRow(link)
	if err != nil {
		return w, err
	}
	live, unsent := 0, proto.WaitState{}
	sessions := r.book.All()
	if w.WaitingFor, err = r.absentLately(l.Dataset, sessions); err != nil {
		return w, err
	}
	for _, s := range sessions {
		for _, root := range s.Roots {
			if root.Dataset == l.Dataset {
				waitRoot(&w, s, root, token)
				if st := root.Status; live == 0 || st.UnsentBytes < unsent.Bytes {
					unsent.Objects, unsent.Bytes = st.UnsentCount-st.Unreadable-st.Unsettled, st.UnsentBytes
				}
				live++
			}
		}
	}
	// What some holder has settled has been sent: the others only prove their copies.
	w.Objects, w.Bytes = max(unsent.Objects, 0), unsent.Bytes
	if live == 0 {
		w.WaitingFor = append(w.WaitingFor, "no agent of "+l.From.String()+" is there")
	}
	if err := r.waitDataset(&w, l, token); err != nil {
		return w, err
	}
	if !forAck {
		r.waitConfirm(&w, l)
	}
	done := len(w.WaitingFor) == 0
	w.Done, w.Partial = done && w.Failures == 0, done && w.Failures > 0
	return w, nil
}

func waitRoot(w *proto.WaitState, s session.Session, root session.Root, token uint64) {
	st := root.Status
	switch {
	case st.Problem != "":
		w.Failures++
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("%s: %s", s.Node, st.Problem))
		return
	case !root.Said || st.ScanToken < token:
		w.WaitingFor = append(w.WaitingFor, s.Node+" is scanning")
		return
	}
	failed := st.Unreadable + st.Skipped + st.Divergent + st.Unsettled
	w.Failures += failed
	if listed(root) < min(failed, proto.MaxFailures) { // an end that says "listed" must find them there
		w.WaitingFor = append(w.WaitingFor, s.Node+" is listing what it cannot back up")
	}
	if st.UnsentCount > st.Unreadable+st.Unsettled {
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("%s has objects that are not settled", s.Node))
	}
}

// listed counts the failures that a root's holder has named, of the kinds that a wait counts.
func listed(root session.Root) (n int64) {
	if len(root.Failures) >= proto.MaxFailures {
		return proto.MaxFailures // it names what it has room for
	}
	for _, f := range root.Failures {
		if f.Kind != proto.FailLagging {
			n++
		}
	}
	return n
}

// waitDataset looks at uploads that wait for a holder and at deletes that are not judged yet.
func (r *Relay) waitDataset(w *proto.WaitState, l ledger.LinkRow, token uint64) error {
	err := ledger.EachUpload(r.ledger, func(_ proto.UploadID, u ledger.UploadRow) (bool, error) {
		if u.Dataset == l.Dataset {
			w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("the upload of %q", u.Path))
		}
		return len(w.WaitingFor) < 20, nil
	})
	if err != nil {
		return err
	}
	d, err := ledger.Dataset(r.ledger, l.Dataset)
	if err != nil {
		return err
	}
	_, blocked, _ := r.blocked.get(l.Dataset)
	switch {
	case d.Gone > blocked:
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("%d deletes to be judged", d.Gone-blocked))
	case d.Gone > 0:
		w.Failures += d.Gone
	}
	if l.ReleasedObjects > 0 && (r.flush == nil || !r.flush.Stalled(l.Name)) { // else a wait for confirmation says why
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("%d objects that are asked for again", l.ReleasedObjects))
	}
	return nil
}

func (r *Relay) waitConfirm(w *proto.WaitState, l ledger.LinkRow) {
	var s proto.LinkStatus
	if r.flush != nil {
		r.flush.Status(l.Name, &s)
	}
	w.RateBytesPerSecond = s.RateBytesPerSecond
	w.Failures += l.ParkedObjects + s.HeldDeletes
	if left := l.OwedObjects - s.HeldDeletes; left > 0 {
		w.Objects += left
		w.Bytes += l.OwedBytes
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("link %s is %s: %s", l.Name, s.State, s.Reason))
	} else if l.SeedCursor < l.SeedHead {
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("link %s is seeding", l.Name))
	}
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
			e.PausedUntil = r.now().Add(d).UnixNano()
			what += " for " + d.String()
		}
	}
	if err := r.ledger.Update(e); err != nil {
		return err
	}
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
	if err := r.ledger.Update(e); err != nil {
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

// Accepting says why a session's segment cannot be taken now, before its bytes travel.
func (r *Relay) Accepting(id proto.SessionID) error {
	if !r.book.Touch(id, r.now()) {
		return unknownSession()
	}
	if _, err := r.stores.Accepting(); err != nil {
		return &proto.Error{Class: proto.ClassOverload, Message: err.Error(), RetryAfter: 2 * time.Second}
	}
	return nil
}
