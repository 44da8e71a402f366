package relay

import (
	"maps"
	"slices"
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// A hard link lives by its leader's bytes. When the leader's name gets another content, holders on which the link was a file of its
// own all along see nothing change: nobody would claim it, and no link could ever flush it. So they are asked for it, as for content that
// the cache let go.

// looseLinks are hard links that a flush could not make because their leader has another content. They are in memory only, and asked
// for looseFor at a time: the flush tells of them again.
type looseLinks struct {
	mu  sync.Mutex
	all map[proto.DatasetID]map[string]looseLink // by path
}

type looseLink struct {
	version proto.VersionID
	until   int64 // running time
}

// looseFor is long enough for each holder to have its turn.
const looseFor = 15 * time.Second

// maxLoose bounds what is remembered for a dataset. What is not is told again once others are settled.
const maxLoose = 1000

// NoteLoose is told of a hard link that cannot be flushed for its leader. It does not block.
func (r *Relay) NoteLoose(ds proto.DatasetID, path string, ver proto.VersionID) {
	l := &r.loose
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[proto.DatasetID]map[string]looseLink{}
	}
	if l.all[ds] == nil {
		l.all[ds] = map[string]looseLink{}
	}
	if _, known := l.all[ds][path]; known || len(l.all[ds]) < maxLoose {
		l.all[ds][path] = looseLink{ver, r.up() + int64(looseFor)}
	}
}

// count returns how many hard links of a dataset holders are asked for.
func (l *looseLinks) count(ds proto.DatasetID) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.all[ds]))
}

// looseItems lists the hard links of a dataset that holders are asked for. Those that have become something else are forgotten.
func (r *Relay) looseItems(ds proto.DatasetID) (items []proto.FeedItem, err error) {
	l := &r.loose
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(l.all[ds])) {
		k := l.all[ds][path]
		o, _, err := ledger.Object(r.ledger, ds, path)
		if err != nil {
			return nil, err
		}
		cur := o.Current
		still, err := ledger.Loose(r.ledger, ds, cur)
		if err != nil {
			return nil, err
		}
		if !still || cur.Version != k.version || r.up() > k.until {
			delete(l.all[ds], path)
			continue
		}
		items = append(items, proto.FeedItem{Version: k.version, Path: path, Kind: cur.Kind, Size: cur.Size, Digest: cur.Digest, LinkTo: cur.LinkTo})
	}
	return items, nil
}
