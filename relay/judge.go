package relay

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/relay/arbiter"
	"forebay/relay/ingest"
)

// blockedDeletes is what the last rounds of judging found that is gone from some holders and not deleted.
type blockedDeletes struct {
	mu sync.Mutex
	by map[proto.DatasetID]blockedRound
}

// blockedRound is that of one dataset.
type blockedRound struct {
	list  []proto.FailureInfo // the first of them
	count int64               // all of them
	fresh int64               // of these, those that wait for the word of a holder that has only just been asked, or is going to be
	began time.Time
}

func (r *Relay) judgeSoon() {
	select {
	case r.judge <- struct{}{}:
	default:
	}
}

// A round looks at everything that is gone from some holder and not deleted, which can be millions for as long as a node is away.
// Once that takes long, it rests judgeShare-1 times as long, though no longer than judgeRest; not after a round that deleted
// something, and not while somebody waits.
const (
	judgeShare = 10
	judgeRest  = 10 * time.Second
)

// judgeDeletes turns paths that every holder reported gone into tombstones.
func (r *Relay) judgeDeletes(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for rested := int64(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.judge:
		}
		began := r.up()
		if began < rested && !r.waitedFor.any(began) {
			continue
		}
		if rested = 0; !r.judgeRound(ctx) {
			rested = judgeNext(began, r.up())
		}
	}
}

// judgeNext returns before which running time no other round begins, after one without deletes that took from began to ended.
func judgeNext(began, ended int64) int64 {
	rest := min((judgeShare-1)*max(ended-began, 0), int64(judgeRest))
	if rest < int64(time.Second) { // not worth making anybody wait
		rest = 0
	}
	return ended + rest
}

// judgeRound looks at what is gone. It reports whether some of that is off the list now.
func (r *Relay) judgeRound(ctx context.Context) (moved bool) {
	ds, err := ledger.Datasets(r.ledger)
	if err != nil {
		return false // the ledger failed: Run ends with it
	}
	for _, d := range ds {
		some, err := r.judgeDataset(ctx, d)
		if err != nil && ctx.Err() == nil {
			r.deps.Log.Warn().Err(err).Str("dataset", d.Name.String()).Msg("deletes were not judged")
		}
		moved = moved || some
	}
	if err := r.dropUnclaimed(); err != nil && ctx.Err() == nil {
		r.deps.Log.Warn().Err(err).Msg("it was not looked which uploads nobody carries on")
	}
	return moved
}

// known returns the holders of a dataset as the judgement sees them.
func (r *Relay) known(ds proto.DatasetID) ([]arbiter.Member, error) {
	hs, err := ledger.Holders(r.ledger)
	if err != nil {
		return nil, err
	}
	nodes, err := ledger.Nodes(r.ledger)
	if err != nil {
		return nil, err
	}
	live := r.book.All()
	var out []arbiter.Member
	for _, h := range hs {
		if h.Dataset != ds {
			continue
		}
		m := arbiter.Member{Row: h, Node: h.Node}
		for _, n := range nodes {
			if n.Cluster == h.Cluster && n.Node == h.Node {
				m.Away = r.away(n)
			}
		}
		for _, s := range live {
			if root := s.Root(h.ID); root != nil {
				m.Alive = true
				m.SettledNs = root.SettledUp
				m.Empty = h.IndexGen > 1 && (h.BareNs != 0 || root.Status.Objects == 0)
				m.Never = h.BareNs != 0 || h.Told == 0 && root.Status.Objects == 0
				if h.BareNs != 0 {
					m.Bare = time.Duration(r.up() - h.BareNs)
				}
			}
		}
		out = append(out, m)
	}
	return out, nil
}

// holdUp returns the holders whose having a path holds up its delete: all but those that are away past the grace. Cordoned ones
// too, for they have it none the less.
func (r *Relay) holdUp(name proto.Dataset, ds proto.DatasetID) (out []proto.HolderID, err error) {
	members, err := r.known(ds)
	grace := r.grace(name)
	for _, m := range members {
		if m.Alive || m.Away < grace {
			out = append(out, m.Row.ID)
		}
	}
	return out, err
}

func (r *Relay) judgeDataset(ctx context.Context, d ledger.DatasetRow) (moved bool, err error) {
	if d.Gone == 0 {
		r.blocked.set(d.ID, blockedRound{began: r.now()})
		return false, nil
	}
	members, err := r.known(d.ID)
	if err != nil {
		return false, err
	}
	grace := r.grace(d.Name)
	round, up := blockedRound{began: r.now()}, r.up()
	hurry := r.waitedFor.hurry(d.ID, up)
	holders := make([]proto.HolderID, len(members))
	for i, m := range members {
		holders[i] = m.Row.ID
	}
	asks := r.looks.begin(holders)
	for above := ""; ; {
		list, err := ledger.GoneList(r.ledger, d.ID, above, proto.MaxClaims)
		if err != nil {
			return moved, err
		}
		var gone []ledger.GonePath
		var back []string
		for _, g := range list {
			lacks := r.looks.lacking(holders, g.Path, g.Object.Current.Version, g.LastNs, up)
			v := arbiter.JudgeGone(g, members, grace, lacks)
			if v.Delete && g.Object.Current.Kind == proto.KindDir {
				within, err := r.liveBelow(d.ID, g.Path)
				if err != nil {
					return moved, err
				}
				if within != "" { // links could not delete it
					v = arbiter.GoneVerdict{Why: fmt.Sprintf("%q in it is not deleted yet", within)}
				}
			}
			switch {
			case v.Delete:
				gone = append(gone, g)
			case v.Back:
				back = append(back, g.Path)
			default:
				fresh := up-g.LastNs < int64(lookAfter)
				if hurry || !fresh {
					asks.gather(v, g)
				}
				if fresh && len(v.Look)+len(v.Scan) > 0 {
					round.fresh++
				}
				round.count++
				if len(round.list) < proto.MaxFailures {
					round.list = append(round.list, proto.FailureInfo{Dataset: d.Name.String(), Path: g.Path, Kind: proto.FailUnderHeld, Reason: "gone from some holders, not deleted: " + v.Why, Since: stamp(r.wallOf(g.SinceNs))})
				}
			}
		}
		buried, err := r.bury(ctx, d, gone)
		if err != nil {
			return moved, err
		}
		moved = moved || buried+len(back) > 0
		if buried > 0 {
			r.judgeSoon() // the next round takes off the list what is a tombstone now, or came back
		}
		if len(back) > 0 {
			if err := r.ledger.Update(&ledger.UnmarkGone{Dataset: d.ID, Paths: back}); err != nil {
				return moved, err
			}
		}
		if len(list) < proto.MaxClaims {
			r.blocked.set(d.ID, round)
			r.looks.gather(holders, asks.found())
			return moved, nil
		}
		above = list[len(list)-1].Path
	}
}

// gather adds what holders are to be asked about a delete that waits for them.
func (a *asks) gather(v arbiter.GoneVerdict, g ledger.GonePath) {
	for _, h := range v.Look {
		a.add(h, proto.Look{Holder: h, Path: g.Path, Version: g.Object.Current.Version})
	}
	for _, h := range v.Scan {
		a.add(h, proto.Look{Holder: h})
	}
}

// liveBelow returns the name of something below a directory that is no tombstone, "" when there is nothing. Holders report
// a directory and what was in it in several messages, and may be gone between two of them.
func (r *Relay) liveBelow(ds proto.DatasetID, dir string) (within string, err error) {
	err = ledger.EachObject(r.ledger, ds, dir+"/", func(path string, o ledger.ObjectRow) (bool, error) {
		rest, below := strings.CutPrefix(path, dir+"/")
		if below && o.Current.Version != 0 && o.Current.Kind != proto.KindTombstone {
			within = rest
		}
		return below && within == "", nil
	})
	return within, err
}

// bury writes tombstones. They travel like everything else that is acknowledged: as pieces of a segment, so that the stores
// describe themselves (I5). A path that came back since it was judged is refused by the ledger, in the step that writes the
// tombstone; the next round looks at it again. It returns how many it wrote: paths that are being uploaded are left out.
func (r *Relay) bury(ctx context.Context, d ledger.DatasetRow, gone []ledger.GonePath) (n int, err error) {
	if len(gone) == 0 {
		return 0, nil
	}
	h := segment.Header{Dataset: d.Name, Sealed: r.now().UnixNano()}
	for _, g := range gone {
		r.tableMu.Lock()
		busy := r.table.At(d.ID, g.Path) != nil
		r.tableMu.Unlock()
		if busy {
			continue
		}
		p := segment.Piece{Kind: segment.PieceDelete, Path: g.Path, Parent: g.Object.Current.Version,
			Epoch: proto.Epoch{Generation: r.meta.Generation}, Desc: &proto.Desc{Kind: proto.KindTombstone}}
		if d := g.Object.Current.Desc(); d.Kind.HasContent() || d.Kind == proto.KindSymlink {
			p.Deleted = &proto.Desc{Kind: d.Kind, Size: d.Size, Digest: d.Digest, LinkTo: d.LinkTo}
		}
		h.Pieces = append(h.Pieces, p)
	}
	if len(h.Pieces) == 0 {
		return 0, nil
	}
	raw, err := segment.Encode(h, nil)
	if err != nil {
		return 0, fmt.Errorf("encode tombstones: %w", err)
	}
	seg, err := segment.Decode(raw)
	if err != nil {
		return 0, fmt.Errorf("decode tombstones: %w", err)
	}
	if _, err = r.submit(ctx, &ingest.Job{Segment: seg, Dataset: d.ID}); err != nil {
		return 0, err
	}
	r.deps.Fault.At(faultpoint.RelayBuried)
	return len(h.Pieces), nil
}

func (b *blockedDeletes) set(ds proto.DatasetID, round blockedRound) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil {
		b.by = map[proto.DatasetID]blockedRound{}
	}
	b.by[ds] = round
}

func (b *blockedDeletes) get(ds proto.DatasetID) blockedRound {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.by[ds]
}

// burialLook is how many objects are looked at in a round of the sweep for tombstones that may go: 5,000 take it some 20 ms of each half
// a second. All of a dataset at once would keep the sweep from freeing space for minutes where there are a hundred million.
const burialLook = 5000

// burials is where the look for tombstones that may go has come to.
type burials struct {
	mu      sync.Mutex
	under   bool            // a look at all datasets is under way; the sweep's own
	dataset proto.DatasetID // it goes on with this one,
	path    string          // above this path
}

// dropTombstones forgets deletes that every known holder has followed the feed past and no link owes. It looks at up to look objects from
// where it has come to, and reports whether it has come to the end of all datasets.
func (r *Relay) dropTombstones(look int) (done bool) {
	ds, err := ledger.Datasets(r.ledger)
	if err != nil {
		return true // the ledger failed: Run ends with it
	}
	hs, err := ledger.Holders(r.ledger)
	if err != nil {
		return true
	}
	b := &r.burials
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range ds {
		if d.ID < b.dataset {
			continue
		}
		if d.ID > b.dataset {
			b.dataset, b.path = d.ID, ""
		}
		seen := seenBy(hs, d.ID)
		for end := seen == 0; !end; {
			if look <= 0 {
				return false
			}
			var n int
			b.path, n, end = r.dropSome(d.ID, b.path, look, seen, hs)
			look -= n
		}
	}
	b.dataset, b.path = 0, ""
	return true
}

// dropSome drops up to a thousand of the tombstones of a dataset up to version seen, among at most look objects above a path. It returns
// the last path that it looked at, how many it looked at, and whether there are no more. What cannot be read ends it.
func (r *Relay) dropSome(ds proto.DatasetID, above string, look int, seen proto.VersionID, hs []ledger.HolderRow) (last string, n int, end bool) {
	var paths []string
	asked, told := false, false
	last, end = above, true
	err := ledger.EachObject(r.ledger, ds, above, func(path string, o ledger.ObjectRow) (bool, error) {
		if n == look || len(paths) == proto.MaxClaims {
			end = false
			return false, nil
		}
		last, n = path, n+1
		if o.Current.Kind != proto.KindTombstone || o.Current.Version > seen {
			return true, nil
		}
		if !asked { // a rebuilt ledger does not know who has what before they have told again
			asked, told = true, r.allTold(hs, ds)
		}
		if !heldStill(o, hs, told) && (o.Since == 0 || told) {
			paths = append(paths, path)
		}
		return true, nil
	})
	if err != nil {
		return last, n, true
	}
	if len(paths) > 0 && r.ledger.Update(&ledger.DropTombstones{Dataset: ds, Paths: paths}) == nil { // a failed ledger ends Run
		r.deps.Fault.At(faultpoint.RelayTombstonesGone)
	}
	return last, n, end
}

// allTold reports whether every known holder of a dataset is here, and has scanned and settled all that it has in this session.
func (r *Relay) allTold(hs []ledger.HolderRow, ds proto.DatasetID) bool {
	told := map[proto.HolderID]bool{}
	for _, s := range r.book.All() {
		for _, root := range s.Roots {
			is, _ := root.Settles()
			told[root.Holder] = is
		}
	}
	return !slices.ContainsFunc(hs, func(h ledger.HolderRow) bool { return h.Dataset == ds && !told[h.ID] })
}

// heldStill reports whether a known holder is not known to lack the path: it may come back with it, and only the tombstone
// tells that it lags. Once all have told again what they have, what an index said before it was made anew counts no longer.
func heldStill(o ledger.ObjectRow, hs []ledger.HolderRow, told bool) bool {
	for _, h := range hs {
		if had := o.Holding(h.ID); had != nil && had.State != ledger.HoldingGone && (!told || had.IndexGen == h.IndexGen) {
			return true
		}
	}
	return false
}

// seenBy is the version up to which every known holder of a dataset has followed the feed.
func seenBy(hs []ledger.HolderRow, ds proto.DatasetID) (seen proto.VersionID) {
	first := true
	for _, h := range hs {
		if h.Dataset == ds && (first || h.Cursor < seen) {
			seen, first = h.Cursor, false
		}
	}
	return seen
}
