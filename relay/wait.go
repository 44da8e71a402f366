package relay

import (
	"fmt"
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/session"
)

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

// waitedFor remembers, of each dataset, when somebody waited for it last: deletes that only a holder's word is missing for are asked
// for at once then. A scan that the wait asked for may have begun before another holder's scan found that they are gone.
type waitedFor struct {
	mu sync.Mutex
	at map[proto.DatasetID]int64 // running time
}

func (w *waitedFor) note(ds proto.DatasetID, up int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at == nil {
		w.at = map[proto.DatasetID]int64{}
	}
	w.at[ds] = up
}

func (w *waitedFor) hurry(ds proto.DatasetID, up int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, ok := w.at[ds]
	return ok && up-at < int64(hurryFor)
}

// any reports whether somebody waits for any dataset.
func (w *waitedFor) any(up int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.at {
		if up-at < int64(hurryFor) {
			return true
		}
	}
	return false
}

// Wait says how far everything is that the agents of a link's dataset held at the scan of a token.
func (r *Relay) Wait(link string, token uint64, forAck bool) (proto.WaitState, error) {
	w := proto.WaitState{WaitingFor: []string{}}
	l, err := r.linkRow(link)
	if err != nil {
		return w, err
	}
	r.waitedFor.note(l.Dataset, r.up())
	live, unsent, behind := 0, proto.WaitState{}, false
	sessions := r.book.All()
	if w.WaitingFor, err = r.absentLately(l.Dataset, sessions); err != nil {
		return w, err
	}
	d, err := ledger.Dataset(r.ledger, l.Dataset)
	if err != nil {
		return w, err
	}
	for _, s := range sessions {
		for _, root := range s.Roots {
			if root.Dataset == l.Dataset {
				waitRoot(&w, s, root, token, d.Head)
				if st := root.Status; live == 0 || st.UnsentBytes < unsent.Bytes {
					unsent.Objects, unsent.Bytes = st.UnsentCount-st.Unreadable-st.Unsettled, st.UnsentBytes
					behind = st.Cursor < d.Head
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
		r.waitConfirm(&w, l, behind)
	}
	done := len(w.WaitingFor) == 0
	w.Done, w.Partial = done && w.Failures == 0, done && w.Failures > 0
	if !done {
		return w, nil
	}
	return w, r.ledger.Update() // a script goes on with it: it must hold after a power cut too
}

// waitRoot looks at a root. What it calls divergent may be what others have sent since it was judged: it must have heard of that, up to
// head.
func waitRoot(w *proto.WaitState, s session.Session, root session.Root, token uint64, head proto.VersionID) {
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
	if st.Divergent > 0 && st.Cursor < head {
		w.WaitingFor = append(w.WaitingFor, s.Node+" has not heard of the newest versions")
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
	err := ledger.EachUpload(r.ledger, func(id proto.UploadID, u ledger.UploadRow) (bool, error) {
		if u.Dataset == l.Dataset {
			what := fmt.Sprintf("the upload of %q", u.Path)
			if !r.leased(id) {
				what += ", which nobody carries on just now"
			}
			w.WaitingFor = append(w.WaitingFor, what)
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
	blocked := r.blocked.get(l.Dataset)
	switch {
	case d.Gone > 0 && r.witnessComes(l.Dataset, blocked.began):
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("%d deletes to be judged by the last scans", d.Gone))
	case d.Gone > blocked.count:
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("%d deletes to be judged", d.Gone-blocked.count))
	case blocked.fresh > 0:
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("%d deletes that other holders look for", blocked.fresh))
	case d.Gone > 0:
		w.Failures += d.Gone
	}
	if l.ReleasedObjects > 0 && !r.stalled(l.Name) { // else a wait for confirmation says why
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("%d objects that are asked for again", l.ReleasedObjects))
	}
	return nil
}

// witnessComes reports whether deletes are about to be judged anew: what a holder's scan found was settled since they were judged last,
// or will be with its next status.
func (r *Relay) witnessComes(ds proto.DatasetID, round time.Time) bool {
	for _, s := range r.book.All() {
		for i := range s.Roots {
			root := &s.Roots[i]
			if _, will := root.Settles(); root.Dataset == ds && (will || !root.TurnedAt.Before(round)) {
				return true
			}
		}
	}
	return false
}

// waitConfirm adds what the link owes. Behind is set where what is unsent was told before the newest versions were heard of: some of it
// may be owed by now.
func (r *Relay) waitConfirm(w *proto.WaitState, l ledger.LinkRow, behind bool) {
	var s proto.LinkStatus
	if r.flush != nil {
		r.flush.Status(l.Name, &s)
	}
	w.RateBytesPerSecond = s.RateBytesPerSecond
	w.Failures += l.ParkedObjects + s.HeldDeletes
	if left := l.OwedObjects - s.HeldDeletes; left > 0 {
		if behind {
			w.Objects, w.Bytes = max(w.Objects, left), max(w.Bytes, l.OwedBytes)
		} else {
			w.Objects, w.Bytes = w.Objects+left, w.Bytes+l.OwedBytes
		}
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("link %s is %s: %s", l.Name, s.State, s.Reason))
	} else if l.SeedCursor < l.SeedHead {
		w.WaitingFor = append(w.WaitingFor, fmt.Sprintf("link %s is seeding", l.Name))
	}
}

// patience is how many suspicion times a wait gives an agent that was there a moment ago to come back: one that only lost its
// connection may hold what nobody else has told yet.
const patience = 10

// absentLately names the nodes of a dataset whose agents are gone since a moment only.
func (r *Relay) absentLately(ds proto.DatasetID, live []session.Session) (out []string, err error) {
	out = []string{} // JSON shows a list
	hs, err := ledger.Holders(r.ledger)
	if err != nil {
		return nil, err
	}
	nodes, err := ledger.Nodes(r.ledger)
	if err != nil {
		return nil, err
	}
	here := map[string]bool{}
	for _, s := range live {
		here[s.Cluster+"/"+s.Node] = true
	}
	seen := map[string]ledger.NodeRow{}
	for _, n := range nodes {
		seen[n.Cluster+"/"+n.Node] = n
	}
	for _, h := range hs {
		name := h.Cluster + "/" + h.Node
		if h.Dataset != ds || here[name] {
			continue
		}
		here[name] = true // a node with several roots is named once
		if limit := patience * r.book.Suspicion(); r.away(seen[name]) < limit {
			out = append(out, fmt.Sprintf("%s, whose agent went away a moment ago", h.Node))
		}
	}
	return out, nil
}
