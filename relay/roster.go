package relay

import (
	"fmt"
	"sync"

	"forebay/ledger"
	"forebay/proto"
)

// roster is who holds what, by name, and whose node is cordoned, as the ledger has it. Every claim, segment, report and poll asks for
// that: were it read from the rows of all holders and nodes each time, each of them would cost as much as there are nodes. What is in it
// changes when a holder is new, and by an operator's word; all else in those rows is read from the ledger.
type roster struct {
	mu       sync.Mutex
	read     bool
	byID     map[proto.HolderID]enrolled
	datasets map[proto.DatasetID][]enrolled // by number
}

// enrolled is a holder in the roster.
type enrolled struct {
	ID       proto.HolderID
	Dataset  proto.DatasetID
	Node     string
	Root     string
	Cordoned bool // its node is
}

// reset has the ledger read again: call it once the ledger knows what changed.
func (o *roster) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.read = false
}

// fill reads the ledger if it has to. o.mu is held.
func (o *roster) fill(rows ledger.Rows) error {
	if o.read {
		return nil
	}
	hs, err := ledger.Holders(rows)
	if err != nil {
		return err
	}
	nodes, err := ledger.Nodes(rows)
	if err != nil {
		return err
	}
	type name struct{ cluster, node string }
	cordoned := map[name]bool{}
	for _, n := range nodes {
		if n.Cordoned {
			cordoned[name{n.Cluster, n.Node}] = true
		}
	}
	o.byID, o.datasets = make(map[proto.HolderID]enrolled, len(hs)), map[proto.DatasetID][]enrolled{}
	for _, h := range hs {
		l := enrolled{ID: h.ID, Dataset: h.Dataset, Node: h.Node, Root: h.Root, Cordoned: cordoned[name{h.Cluster, h.Node}]}
		o.byID[h.ID] = l
		o.datasets[h.Dataset] = append(o.datasets[h.Dataset], l)
	}
	o.read = true
	return nil
}

// of returns the holders of a dataset that are not forgotten, by number. The caller must not change it.
func (o *roster) of(rows ledger.Rows, ds proto.DatasetID) ([]enrolled, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.fill(rows)
	return o.datasets[ds], err
}

// holder returns one of them; one that is not known, or cannot be read, has its number for a node.
func (o *roster) holder(rows ledger.Rows, id proto.HolderID) (enrolled, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.fill(rows)
	if l, ok := o.byID[id]; ok && err == nil {
		return l, nil
	}
	return enrolled{Node: fmt.Sprintf("holder %d", id)}, err
}

// knows reports whether all holders are in the roster. What has not been read lacks nothing.
func (o *roster) knows(hs []proto.HolderID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, h := range hs {
		if _, ok := o.byID[h]; !ok && o.read {
			return false
		}
	}
	return true
}
