package relay

import (
	"fmt"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/session"
)

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
	seen := map[string]int64{}
	for _, n := range nodes {
		seen[n.Cluster+"/"+n.Node] = n.SeenNs
	}
	for _, h := range hs {
		name := h.Cluster + "/" + h.Node
		if h.Dataset != ds || here[name] {
			continue
		}
		here[name] = true // a node with several roots is named once
		away := r.now().Sub(time.Unix(0, seen[name]))
		if limit := patience * r.book.Suspicion(); away < limit {
			out = append(out, fmt.Sprintf("%s, whose agent went away a moment ago", h.Node))
		}
	}
	return out, nil
}
