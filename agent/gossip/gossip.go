// Package gossip gathers what this agent's uploads do and tells the other holders, at most once every interval. It holds no
// truth: what does not fit or does not arrive is forgotten (I4). It imports proto only.
package gossip

import (
	"sync"

	"forebay/proto"
)

// maxItems bounds what is kept between two messages; beyond, news is dropped.
const maxItems = 8192

// maxBytes is where a message is closed; paths are the only part of an item without a small bound.
const maxBytes = proto.MaxBusMessage / 2

// itemOverhead is an item's size in a message besides its path, with room to spare.
const itemOverhead = 64

// Teller gathers progress. It is safe for concurrent use.
type Teller struct {
	mu    sync.Mutex
	items map[source]map[string]proto.ProgressItem
	n     int
}

type source struct {
	dataset string
	holder  proto.HolderID
}

// New returns an empty Teller.
func New() *Teller { return &Teller{items: map[source]map[string]proto.ProgressItem{}} }

// Note replaces what was to be told of the item's path.
func (t *Teller) Note(dataset string, holder proto.HolderID, item proto.ProgressItem) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := source{dataset, holder}
	of := t.items[key]
	if of == nil {
		of = map[string]proto.ProgressItem{}
		t.items[key] = of
	}
	if _, ok := of[item.Path]; !ok {
		if t.n >= maxItems {
			return
		}
		t.n++
	}
	of[item.Path] = item
}

// Take returns what there is to tell as messages of at most proto.MaxBusMessage bytes once encoded, and forgets it.
func (t *Teller) Take() []proto.Progress {
	t.mu.Lock()
	items := t.items
	t.items, t.n = map[source]map[string]proto.ProgressItem{}, 0
	t.mu.Unlock()
	var out []proto.Progress
	for key, of := range items {
		msg, size := proto.Progress{Dataset: key.dataset, Holder: key.holder}, 0
		for _, item := range of {
			if size += itemOverhead + len(item.Path); size > maxBytes && len(msg.Items) > 0 {
				out = append(out, msg)
				msg, size = proto.Progress{Dataset: key.dataset, Holder: key.holder}, itemOverhead+len(item.Path)
			}
			msg.Items = append(msg.Items, item)
		}
		out = append(out, msg)
	}
	return out
}
