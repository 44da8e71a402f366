package relay

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/shard/store"
)

// memoFormat is the version of memo.
const memoFormat = 1

// memo is what a rebuild of the ledger cannot learn from segments and targets: who the holders are, and what operators set by
// hand. Each store has a copy, at most a few seconds old, and never older than a pause, a resume, or the answer
// that refuses an older content.
type memo struct {
	Format    int              `cbor:"1,keyasint"`
	WrittenNs int64            `cbor:"2,keyasint"` // of several of equal Generation and Count, the newest counts
	ScanToken uint64           `cbor:"3,keyasint,omitempty"`
	Stores    []store.Identity `cbor:"4,keyasint,omitempty"`
	Nodes     []ledger.NodeRow `cbor:"5,keyasint,omitempty"` // without what changes all the time
	Holders   []memoHolder     `cbor:"6,keyasint,omitempty"`
	Links     []memoLink       `cbor:"7,keyasint,omitempty"`
	UpNs      int64            `cbor:"8,keyasint,omitempty"` // the running time: guard counts, pauses and graces go by it
	Refused   []memoRefused    `cbor:"9,keyasint,omitempty"` // by segment; of very many, the newest, see Above
	// Generation is the relay's that wrote the memo, Count is which one it is of that generation: no clock orders memos.
	Generation uint32 `cbor:"10,keyasint,omitempty"`
	Count      uint64 `cbor:"11,keyasint,omitempty"`
	// Taken is Meta.Taken. With Generation and UpNs it tells an older copy of the ledger from this one.
	Taken uint64 `cbor:"12,keyasint,omitempty"`
	// Of segments with a higher number than Above, up to Settled, Refused has all pieces that there are to be told of.
	Above   uint64 `cbor:"13,keyasint,omitempty"`
	Settled uint64 `cbor:"14,keyasint,omitempty"`
	// Roles are what operators decided about stores.
	Roles store.Roles `cbor:"15,keyasint,omitempty"`
}

// after reports whether m was written after o.
func (m *memo) after(o *memo) bool {
	return cmp.Or(cmp.Compare(m.Generation, o.Generation), cmp.Compare(m.Count, o.Count), cmp.Compare(m.WrittenNs, o.WrittenNs)) > 0
}

// memoRefused names pieces that the ledger refused, of a segment that is in the stores still.
type memoRefused struct {
	Segment uint64                `cbor:"1,keyasint"`
	Pieces  []ledger.RefusedPiece `cbor:"2,keyasint"`
	Partly  bool                  `cbor:"3,keyasint,omitempty"` // not all of them, see ledger.RefusedRow
}

// refused returns what is known of the refused pieces of a segment. No memo knows nothing.
func (m *memo) refused(seq uint64) ledger.RefusedRow {
	if m == nil {
		return ledger.RefusedRow{Partly: true}
	}
	row := ledger.RefusedRow{Partly: seq <= m.Above || seq > m.Settled}
	if i, ok := slices.BinarySearchFunc(m.Refused, seq, func(r memoRefused, seq uint64) int { return cmp.Compare(r.Segment, seq) }); ok {
		row.Pieces, row.Partly = m.Refused[i].Pieces, row.Partly || m.Refused[i].Partly
	}
	return row
}

// maxRefused bounds the segments of memo.Refused.
const maxRefused = 10_000

type memoHolder struct {
	Dataset proto.Dataset `cbor:"1,keyasint"`
	Node    string        `cbor:"2,keyasint"`
	Root    string        `cbor:"3,keyasint"`
}

// memoLink is what was set by hand on a link, and its count of deletes for the guard.
type memoLink struct {
	Name        string                     `cbor:"1,keyasint"`
	From        proto.Dataset              `cbor:"2,keyasint"`
	Target      string                     `cbor:"3,keyasint"`
	Prefix      string                     `cbor:"4,keyasint,omitempty"`
	Paused      bool                       `cbor:"5,keyasint,omitempty"`
	PausedUntil int64                      `cbor:"6,keyasint,omitempty"`
	Overrides   map[string]ledger.Override `cbor:"7,keyasint,omitempty"`
	Deletes     map[int64]int64            `cbor:"8,keyasint,omitempty"`
	ApprovedNs  int64                      `cbor:"9,keyasint,omitempty"`
	// Marked: something was confirmed, so the target has the link's mark.
	Marked   bool  `cbor:"10,keyasint,omitempty"`
	PausedUp int64 `cbor:"11,keyasint,omitempty"` // see ledger.LinkRow
	// Budget is what was charged to the link's windows.
	Budget []ledger.BudgetWindow `cbor:"12,keyasint,omitempty"`
}

// keeper writes the memo when it has changed.
type keeper struct {
	mu    sync.Mutex
	last  []byte
	tuned []byte      // its unmarked form
	at    time.Time   // when that was written
	count uint64      // of the memos of this generation
	due   atomic.Bool // it is to be written before the next answer
	again atomic.Bool // a store lacks the last one
}

// markEvery is how often the memo is written at most for nothing but what tells copies of the ledger apart.
const markEvery = 5 * time.Second

// unmarked is the memo without what goes on all the time.
func (m memo) unmarked() []byte {
	m.UpNs, m.Taken, m.Count, m.WrittenNs, m.Settled = 0, 0, 0, 0, 0
	m.Links = slices.Clone(m.Links)
	for i := range m.Links {
		m.Links[i].Budget = nil
	}
	return proto.Marshal(m)
}

// gatherMemo reads what the memo keeps from the ledger. It is settled, since before the call, what became of segments up to settled.
func gatherMemo(r ledger.Rows, known knownStores, settled uint64) (memo, error) {
	m := memo{Format: memoFormat, Settled: settled, Roles: known.Roles}
	for _, id := range known.Stores {
		id.Opened, id.Generation = 0, 0 // the stores' own are what counts
		m.Stores = append(m.Stores, id)
	}
	meta, err := ledger.ReadMeta(r)
	if err != nil {
		return m, err
	}
	m.ScanToken, m.UpNs, m.Generation, m.Taken = meta.ScanToken, meta.UpNs, meta.Generation, meta.Taken
	nodes, err := ledger.Nodes(r)
	if err != nil {
		return m, err
	}
	for _, n := range nodes {
		m.Nodes = append(m.Nodes, ledger.NodeRow{Cluster: n.Cluster, Node: n.Node, Instance: n.Instance, Cordoned: n.Cordoned, Software: n.Software})
	}
	hs, err := ledger.Holders(r)
	if err != nil {
		return m, err
	}
	for _, h := range hs {
		d, err := ledger.Dataset(r, h.Dataset)
		if err != nil {
			return m, err
		}
		m.Holders = append(m.Holders, memoHolder{Dataset: d.Name, Node: h.Node, Root: h.Root})
	}
	err = ledger.EachRefused(r, func(seq uint64, row ledger.RefusedRow) (bool, error) {
		m.Refused = append(m.Refused, memoRefused{seq, row.Pieces, row.Partly})
		if len(m.Refused) > 2*maxRefused {
			m.keepRefused()
		}
		return true, nil
	})
	if err != nil {
		return m, err
	}
	m.keepRefused()
	links, err := ledger.Links(r)
	for _, l := range links {
		if l.Name == "" || l.Orphaned {
			continue
		}
		b, err := ledger.Budget(r, l.ID)
		if err != nil {
			return m, err
		}
		m.Links = append(m.Links, memoLink{Name: l.Name, From: l.From, Target: l.Target, Prefix: l.Prefix, Paused: l.Paused, PausedUntil: l.PausedUntil,
			Overrides: l.Overrides, Deletes: l.Deletes, ApprovedNs: l.ApprovedNs, Marked: l.ConfirmedObjects > 0, PausedUp: l.PausedUp, Budget: b.Windows})
	}
	return m, err
}

// keepRefused drops all but the newest of Refused.
func (m *memo) keepRefused() {
	if n := len(m.Refused) - maxRefused; n > 0 {
		m.Above = m.Refused[n-1].Segment
		m.Refused = slices.Clone(m.Refused[n:])
	}
}

// keepMemo writes the memo into the stores if it has changed since it was written last, or if a store lacks it.
func (r *Relay) keepMemo() {
	r.memo.mu.Lock()
	defer r.memo.mu.Unlock()
	m, err := gatherMemo(r.ledger, r.knownStores(), r.ingest.SettledSince())
	if err != nil {
		return // the ledger failed: Run ends with it
	}
	k, now, body := &r.memo, r.now(), proto.Marshal(m)
	again := k.again.Swap(false)
	if !again && bytes.Equal(body, k.last) {
		return
	}
	tuned := m.unmarked()
	if d := now.Sub(k.at); !again && bytes.Equal(tuned, k.tuned) && d >= 0 && d < markEvery {
		return
	}
	// What was read need not be durable yet, and the memo must never be ahead of a ledger after a power cut: an update returns when
	// everything before it is.
	if err := r.ledger.Update(); err != nil {
		return
	}
	k.count++
	m.WrittenNs, m.Count = now.UnixNano(), k.count
	whole, err := r.stores.WriteMemo(proto.Marshal(m))
	if err != nil || !whole {
		k.again.Store(true) // no store is in use, or one failed, which is shown; it is written when they are
	}
	if err == nil {
		k.last, k.tuned, k.at = body, tuned, now
	}
}

// behind reports whether a store has the memo of a later state of the ledger than old: then it was put back from a copy.
func (r *Relay) behind(old ledger.Meta) bool {
	found := r.stores.Memos()
	m, wrong := newestMemo(found)
	for _, p := range found {
		if p.Err != nil {
			wrong = append(wrong, p.Err)
		}
	}
	for _, err := range wrong {
		r.deps.Log.Warn().Err(err).Msg("a memo of the ledger was not read")
	}
	if m == nil || old.Format == 0 || m.Generation < old.Generation {
		return false
	}
	if m.Generation > old.Generation {
		return true
	}
	if old.Rebuilt == old.Generation {
		return false // no relay has run with it: the memo is what it was rebuilt with
	}
	return m.Taken > old.Taken || m.UpNs > old.UpNs
}

// newestMemo returns the newest of the stores' memos, nil when there is none, and what is wrong with others.
func newestMemo(found []store.Peeked) (newest *memo, wrong []error) {
	for _, p := range found {
		if p.Memo == nil {
			continue
		}
		var m memo
		if err := proto.Unmarshal(p.Memo, &m); err != nil {
			wrong = append(wrong, fmt.Errorf("memo in store %s: %w", p.Path, err))
			continue
		}
		if m.Format > memoFormat {
			wrong = append(wrong, proto.Errorf(proto.ClassPermanent, "memo in store %s has format %d, this program knows %d: use a newer release", p.Path, m.Format, memoFormat))
			continue
		}
		if newest == nil || m.after(newest) {
			newest = &m
		}
	}
	return newest, wrong
}

// refuseOthersStores keeps a relay without a ledger from beginning anew beside stores that are in use: it would have another
// id than they, and they are what its ledger can be rebuilt from. A store that does not say whose it is may be one of those.
func (r *Relay) refuseOthersStores() error {
	for _, p := range store.Peek(r.deps.FS, r.cfg.Stores) {
		if p.Err != nil && !p.Found {
			return proto.Errorf(proto.ClassConflict, "there is no ledger in %s, and whose store %s is cannot be read (%w): if it is this relay's, make it readable and rebuild the ledger with: forebay relay --recover-ledger --config FILE; to begin a new relay, give it empty stores",
				r.cfg.Data, p.Path, p.Err)
		}
		if p.Found && p.Identity.Opened > 0 {
			return proto.Errorf(proto.ClassConflict, "there is no ledger in %s, but store %s belongs to relay %s: if its ledger is lost, rebuild it with: forebay relay --recover-ledger --config FILE; if data: is wrong, correct it; to begin a new relay, give it empty stores",
				r.cfg.Data, p.Path, p.Identity.Relay)
		}
	}
	return nil
}
