package ledger_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/ledger/ledgertest"
	"forebay/ledger/rebuild"
	"forebay/proto"
	"forebay/proto/segment"
)

// TestModelRebuild loses the ledger of the model test at some moment, and rebuilds it from what the stores and the targets of
// that moment have.
func TestModelRebuild(t *testing.T) {
	t.Parallel()
	for _, seed := range modelSeeds(1, 2, 3, 4, 1105, 1266, 2410, 2696, 2783, 905149527669114574, 2412344553786330048) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, seed)
			m.rebuilt = true
			l := newLoss(m)
			for i := range *stepsFlag {
				m.step()
				if i%97 == 96 {
					l.rebuild()
				}
			}
		})
	}
}

// held is a piece in a segment, with the version that it made.
type held struct {
	piece   segment.Piece
	version proto.VersionID
}

type onTarget struct {
	version proto.VersionID
	desc    proto.Desc
}

// loss is a moment of a model: what is left without its ledger.
type loss struct {
	*model
	segments map[uint64][]held
	rows     map[uint64]proto.DatasetID
	targets  map[ledger.LinkID]map[string]onTarget
	had      map[string]proto.Desc  // versions that paths had
	next     map[string]proto.Epoch // the grant of what followed a version of a path; none for a delete
	seen     int                    // entries of the model's log that are in the above
	then     *ledgertest.Mem        // the ledger after them
	settled  uint64                 // the memo has what was refused of segments up to it
	refused  map[uint64]ledger.RefusedRow
	again    *ledgertest.Mem
	ids      map[ledger.LinkID]ledger.LinkID // of the lost ledger to those of the new one
}

func newLoss(m *model) *loss {
	return &loss{model: m, had: map[string]proto.Desc{}, next: map[string]proto.Epoch{}, segments: map[uint64][]held{}, rows: map[uint64]proto.DatasetID{}, targets: map[ledger.LinkID]map[string]onTarget{}, then: ledgertest.New(), refused: map[uint64]ledger.RefusedRow{}}
}

// follow goes on through the model's history for what stores and targets got.
func (l *loss) follow() {
	m, then := l.model, l.then
	for i, e := range m.log[l.seen:] {
		if c, ok := e.(*ledger.Confirm); ok {
			l.confirmed(then, c)
		}
		require.NoError(m.t, then.Update(e))
		l.memo(e, l.seen+i)
		switch e := e.(type) {
		case *ledger.StoreSegment:
			l.rows[e.Seq] = e.Dataset
			for i, p := range e.Pieces {
				h := held{piece: p}
				switch r := e.Results[i]; r.State {
				case proto.PieceAccepted:
					if h.version = r.Version; p.Desc == nil {
						break
					}
					l.next[fmt.Sprint(e.Dataset, p.Path, p.Parent)] = p.Epoch
					l.had[fmt.Sprint(e.Dataset, p.Path, r.Version)] = *p.Desc
				case proto.PieceStale:
					// The model quotes parents of which its epochs cannot know. What the relay stores was granted in this order.
					o, _, err := ledger.Object(then, e.Dataset, p.Path)
					require.NoError(m.t, err)
					was, known := l.had[fmt.Sprint(e.Dataset, p.Path, p.Parent)]
					meta := p.Kind == segment.PieceMeta && !was.SameContent(*p.Desc) // granted over equal content only
					next := l.next[fmt.Sprint(e.Dataset, p.Path, p.Parent)]
					granted := next == (proto.Epoch{}) || p.Epoch.Less(next) // after which none followed the same version
					if !granted || p.Parent >= o.Current.Version || !p.Epoch.Less(o.Epoch) || p.Parent != 0 && !known || meta {
						continue
					}
				}
				l.segments[e.Seq] = append(l.segments[e.Seq], h)
			}
		case *ledger.Repack:
			l.rows[e.Seq] = e.Dataset
			for i, mv := range e.Moves {
				l.segments[e.Seq] = append(l.segments[e.Seq], l.copied(mv, m.pieces[e.Seq][i]))
			}
		}
	}
	l.seen = len(m.log)
}

// copied is a piece that was written anew, with the version that it had made.
func (l *loss) copied(mv ledger.Move, p segment.Piece) held {
	for _, h := range l.segments[mv.From] {
		if o := h.piece; o.Kind == p.Kind && o.Path == p.Path && o.Epoch == p.Epoch && o.Upload == p.Upload && o.At == mv.Was && o.Length == p.Length {
			return held{p, h.version}
		}
	}
	l.t.Fatalf("%+v is not in segment %d", p, mv.From)
	return held{}
}

func (l *loss) confirmed(then *ledgertest.Mem, c *ledger.Confirm) {
	row, err := ledger.Link(then, c.Link)
	require.NoError(l.t, err)
	if l.targets[c.Link] == nil {
		l.targets[c.Link] = map[string]onTarget{}
	}
	for _, ver := range c.Versions {
		if _, owed, err := ledger.OwedAt(then, c.Link, ver); err != nil || !owed {
			require.NoError(l.t, err)
			continue
		}
		v, _, err := ledger.Version(then, row.Dataset, ver)
		require.NoError(l.t, err)
		if l.targets[c.Link][v.Path].version < ver {
			l.targets[c.Link][v.Path] = onTarget{ver, v.Desc}
		}
	}
}

// rebuild builds a ledger from what is left and compares it with the one that was lost.
func (l *loss) rebuild() {
	l.t.Helper()
	l.follow()
	l.again, l.ids = ledgertest.New(), map[ledger.LinkID]ledger.LinkID{}
	l.do2(&ledger.Recover{Relay: 7, Name: "relay-1", Generation: l.epoch.Generation})
	links, err := ledger.Links(l.led)
	require.NoError(l.t, err)
	for _, row := range links {
		if row.Name == "" || row.Orphaned {
			continue
		}
		e := &ledger.SetLink{Name: row.Name, From: row.From, Target: row.Target, Prefix: row.Prefix, Coalesce: row.Coalesce}
		l.do2(e)
		l.ids[row.ID] = e.Link.ID
	}
	highest := l.gather()
	l.do2(&ledger.SetFloor{Floor: highest + 1000})
	ds, err := ledger.Datasets(l.again)
	require.NoError(l.t, err)
	for _, d := range ds {
		l.conclude(d.ID)
	}
	lost := l.world.led
	l.world.led = l.again
	err = l.readable() // every byte that is said to be in the cache is, with the right digest
	l.world.led = lost
	require.NoError(l.t, err)
	for _, d := range ds {
		l.compare(d)
	}
	for end := (&ledger.EndRecovery{Limit: 7}); !end.Done; {
		l.do2(end)
	}
	require.NoError(l.t, ledgertest.Check(l.again), "after %d entries", len(l.log))
}

func (l *loss) do2(es ...ledger.Entry) {
	l.t.Helper()
	require.NoError(l.t, l.again.Update(es...))
}

// memo writes the memo now and then, and always before an answer that a rebuild would have to be told of.
func (l *loss) memo(e ledger.Entry, n int) {
	seq := uint64(0)
	switch e := e.(type) {
	case *ledger.StoreSegment:
		if seq = e.Seq; n%5 != 0 && !e.Noted {
			return
		}
	case *ledger.Repack:
		if seq = e.Seq; n%5 != 0 {
			return
		}
	default:
		return
	}
	l.settled, l.refused = seq, map[uint64]ledger.RefusedRow{}
	require.NoError(l.t, ledger.EachRefused(l.then, func(seq uint64, row ledger.RefusedRow) (bool, error) {
		_, known, err := ledger.Segment(l.then, seq)
		require.NoError(l.t, err)
		require.True(l.t, known, "segment %d is freed", seq)
		l.refused[seq] = row
		return true, nil
	}))
}

func (l *loss) gather() (highest proto.VersionID) {
	n := uint64(0)
	add := func(e ledger.Evidence) {
		n++
		e.N = n
		highest = max(highest, rebuild.Highest(e))
		l.do2(&ledger.Gather{Evidence: []ledger.Evidence{e}})
	}
	for _, seq := range slices.Sorted(maps.Keys(l.store)) {
		name := l.names[l.rows[seq]]
		row := l.refused[seq]
		row.Partly = seq > l.settled
		l.do2(&ledger.RecoverSegments{Segments: []ledger.RecoveredSegment{{Seq: seq, Dataset: name, Length: 100, Stored: 150, Refused: row}}})
		for _, h := range l.segments[seq] {
			e := ledger.Evidence{Dataset: name, Path: h.piece.Path, Segment: seq, Piece: &h.piece}
			e.Refused, e.Told = row.Says(&h.piece)
			add(e)
		}
	}
	for _, was := range slices.Sorted(maps.Keys(l.ids)) {
		is, row := l.ids[was], l.row(was)
		for _, path := range slices.Sorted(maps.Keys(l.targets[was])) {
			on := l.targets[was][path]
			t := &ledger.OnTarget{Link: is, Version: on.version}
			if on.desc.Kind == proto.KindTombstone {
				t.Gone = true
			} else {
				t.Holds, t.Desc = on.version, on.desc
			}
			add(ledger.Evidence{Dataset: row.From, Path: path, Target: t})
		}
	}
	return highest
}

func (l *loss) conclude(ds proto.DatasetID) {
	rows, err := ledger.Links(l.again)
	require.NoError(l.t, err)
	var links []rebuild.Link
	for _, row := range rows {
		if row.Dataset == ds {
			links = append(links, rebuild.Link{ID: row.ID})
		}
	}
	require.NoError(l.t, ledger.EachEvidence(l.again, ds, func(path string, all []ledger.Evidence) error {
		l.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		o := rebuild.Conclude(path, all, links)
		if o.Desc.Kind != proto.KindNone || len(o.Uploads) > 0 {
			l.do2(&ledger.RecoverObjects{Dataset: ds, Objects: []ledger.Recovered{o}})
		}
		return nil
	}))
}

// compare holds the rebuilt rows of a dataset against the lost ones.
func (l *loss) compare(d ledger.DatasetRow) {
	old, err := ledger.DatasetByName(l.led, d.Name)
	require.NoError(l.t, err)
	now, err := ledger.Dataset(l.again, d.ID)
	require.NoError(l.t, err)
	require.Greater(l.t, now.Head, old.Head, "no version number is given twice")
	require.NoError(l.t, ledger.EachObject(l.led, old.ID, "", func(path string, o ledger.ObjectRow) (bool, error) {
		l.object(old.ID, d.ID, path, o)
		return true, nil
	}))
}

// told is a message that is made up only when it is needed.
type told func() string

func (f told) String() string { return f() }

// told lists what there is of a path.
func (l *loss) told(was, is proto.DatasetID, path string, o ledger.ObjectRow) string {
	out := fmt.Sprintf("%q of dataset %d after %d entries: %+v", path, was, len(l.log), o)
	require.NoError(l.t, ledger.EachEvidence(l.again, is, func(p string, all []ledger.Evidence) error {
		for _, e := range all {
			if e.Piece != nil && p == path {
				q := *e.Piece
				q.Blocks = nil
				out += fmt.Sprintf("\n  segment %d, refused %d: %+v, makes %+v", e.Segment, e.Refused, q, q.Desc)
			} else if p == path {
				out += fmt.Sprintf("\n  target %+v", *e.Target)
			}
		}
		return nil
	}))
	return out
}

func (l *loss) object(was, is proto.DatasetID, path string, o ledger.ObjectRow) {
	where := told(func() string { return l.told(was, is, path, o) })
	n, known, err := ledger.Object(l.again, is, path)
	require.NoError(l.t, err)
	var nv ledger.VersionRow
	if n.Current.Version != 0 {
		nv, _, err = ledger.Version(l.again, is, n.Current.Version)
		require.NoError(l.t, err)
	}
	for link, at := range l.targets { // no target goes back (I18)
		on, has := at[path]
		if has && l.ids[link] != 0 && l.row(link).Dataset == was && on.version == o.Current.Version {
			require.True(l.t, n.Current.Desc().SameContent(on.desc), "%s: a target has the current version, rebuilt is %+v", where, n)
		}
	}
	if o.Current.Version == 0 {
		l.upload(is, o, n, where)
		return
	}
	v, _, err := ledger.Version(l.led, was, o.Current.Version)
	require.NoError(l.t, err)
	inStores := l.store[v.Home] != nil
	reverted := slices.ContainsFunc(o.Recent, func(k ledger.Known) bool { return k.Desc().SameContent(v.Desc) })
	for link, id := range l.ids {
		q, owed, err := ledger.OwedAt(l.led, link, o.Current.Version)
		require.NoError(l.t, err)
		if !owed || l.row(link).Dataset != was || !inStores {
			continue
		}
		require.False(l.t, reverted, "%s", where)
		if large := v.Desc.Kind == proto.KindFile && v.Desc.Size > 100; large && (v.Content == ledger.Content{} || v.Content.From > 0) {
			continue // without all of its ranges, a sealed upload cannot be told from one that goes on
		}
		require.True(l.t, known, "%s", where)
		// Until a link has it, the newest mtime among the holders counts, which they tell again.
		nv.Desc.Meta.MtimeNs, v.Desc.Meta.MtimeNs = 0, 0
		if !n.Current.Desc().SameContent(v.Desc) {
			require.True(l.t, l.cameBack(was, path, v) || l.contested(was, path, v), "%s: %+v is owed and in the stores, rebuilt is %+v", where, v.Desc, n)
			continue
		}
		require.True(l.t, !l.described(was, o.Current.Version, v) || nv.Desc.Meta.Equal(v.Desc.Meta), "%s: %+v, rebuilt %+v of %+v", where, v, nv, n)
		// Of content that was sent again, only the copy may be left: it seems to follow the version that it is.
		require.True(l.t, n.Follows(o.Current.Version) || n.Since == o.Current.Version+1, "%s: rebuilt %+v", where, n)
		got, owes, err := ledger.OwedAt(l.again, id, n.Current.Version)
		require.NoError(l.t, err)
		if has := l.targets[link][path]; !owes {
			if !l.described(was, o.Current.Version, v) {
				continue // what the target lacks is the metadata that the stores do not have either
			}
			require.True(l.t, has.desc.SameContent(v.Desc) && has.desc.Meta.Diff(v.Desc.Meta)&^proto.FieldMtime == 0 || v.Desc.Kind == proto.KindTombstone && (has.version == 0 || has.desc.Kind == proto.KindTombstone),
				"%s: link %d owed %+v", where, link, q)
			continue
		}
		if q.State == ledger.OwedCached && !q.Parked && !q.MetaOnly && v.Content.From == 0 && v.Content.Lacks == 0 && !got.MetaOnly && nv.Desc.Kind == v.Desc.Kind && !l.empty(v) {
			require.Equal(l.t, ledger.OwedCached, got.State, "%s: link %d: its bytes are in the stores: %+v", where, link, v)
		}
	}
	if n.Current.Desc().SameContent(o.Current.Desc()) && inStores {
		l.upload(is, o, n, where)
	}
}

// empty reports whether a version is one hole: no piece has its bytes, and where only its seal told so, it is asked for again.
func (l *loss) empty(v ledger.VersionRow) bool {
	rs, err := ledger.Ranges(l.led, v.Content.Upload)
	require.NoError(l.t, err)
	return v.Content.Upload != 0 && len(rs) == 0
}

// cameBack reports whether a version, of which the memo does not tell yet that it was not refused, has a content that the path
// had before: it may be that of a holder that lags, so a rebuild waits for its holder to say so.
func (l *loss) cameBack(ds proto.DatasetID, path string, v ledger.VersionRow) bool {
	if v.Home <= l.settled {
		return false
	}
	for link, at := range l.targets {
		if on, has := at[path]; has && l.ids[link] != 0 && l.row(link).Dataset == ds && on.version <= v.Parent && on.desc.SameContent(v.Desc) {
			return true
		}
	}
	for seq, hs := range l.segments {
		for _, h := range hs {
			if l.store[seq] != nil && l.rows[seq] == ds && h.piece.Path == path && h.piece.Desc != nil && h.piece.Parent < v.Parent && h.piece.Desc.SameContent(v.Desc) {
				return true
			}
		}
	}
	return false
}

// contested reports whether something was sent that follows the version which a delete followed, of which the memo does not tell
// yet that it was not refused: then it is not deleted.
func (l *loss) contested(ds proto.DatasetID, path string, v ledger.VersionRow) bool {
	for seq, hs := range l.segments {
		for _, h := range hs {
			if l.store[seq] != nil && v.Home > l.settled && v.Desc.Kind == proto.KindTombstone && l.rows[seq] == ds && h.piece.Path == path && h.piece.Parent == v.Parent && h.piece.Kind != segment.PieceDelete && h.piece.Kind != segment.PieceRange {
				return true
			}
		}
	}
	return false
}

// described reports whether the stores have the piece that made a version, and it cannot be taken for one that brought the same
// content again: of content that was let go and sent again, they have the metadata of the copy only.
func (l *loss) described(ds proto.DatasetID, ver proto.VersionID, v ledger.VersionRow) bool {
	found, after, first := false, proto.VersionID(0), ^proto.VersionID(0)
	for seq, hs := range l.segments {
		for _, h := range hs {
			p := h.piece
			if l.store[seq] == nil || l.rows[seq] != ds || p.Path != v.Path || p.Desc == nil || v.Desc.Kind == proto.KindTombstone {
				continue
			}
			if h.version == ver && p.Desc.Meta.Diff(v.Desc.Meta)&^proto.FieldMtime == 0 {
				if p.Kind == segment.PieceMeta || p.Kind == segment.PieceObject && p.Length == 0 {
					return true
				}
				found, after = true, p.Parent
			}
			if p.Desc.SameContent(v.Desc) {
				first = min(first, p.Parent)
			}
		}
	}
	return found && first >= after
}

// stored reports whether the stores have all of an upload, or the word that it is unchanged: what came before it was abandoned, too.
func (l *loss) stored(id proto.UploadID, c content) bool {
	got := map[int64]bool{}
	for seq, hs := range l.segments {
		for _, h := range hs {
			if l.store[seq] == nil || h.piece.Upload != id || h.piece.Kind != segment.PieceRange && h.piece.Kind != segment.PieceSame {
				continue
			}
			for i := range h.piece.Blocks {
				got[h.piece.Offset/block+int64(i)] = true
			}
		}
	}
	for i := range proto.Blocks(c.size) {
		if !c.holes[i] && !got[i] {
			return false
		}
	}
	return true
}

// granted is the counter of the last grant of an upload of which the stores have a piece.
func (l *loss) granted(id proto.UploadID) (n uint64) {
	for seq, hs := range l.segments {
		for _, h := range hs {
			if l.store[seq] != nil && h.piece.Upload == id && id != 0 {
				n = max(n, uint64(h.piece.Epoch.Generation)<<32|h.piece.Epoch.Counter)
			}
		}
	}
	return n
}

// upload holds that an upload goes on from what the stores have of it.
func (l *loss) upload(is proto.DatasetID, o, n ledger.ObjectRow, where told) {
	if o.Upload == 0 {
		return
	}
	u, _, err := ledger.Upload(l.led, o.Upload)
	require.NoError(l.t, err)
	follows := proto.VersionID(0)
	for seq, hs := range l.segments {
		for _, h := range hs {
			if l.store[seq] != nil && h.piece.Kind == segment.PieceRange && h.piece.Upload == o.Upload {
				follows = max(follows, h.piece.Parent)
			}
		}
	}
	if u.Stream || u.Acked == 0 || follows < n.Since { // new metadata came meanwhile, and what they were of is not known: sent again
		return
	}
	for seq, hs := range l.segments {
		for _, h := range hs {
			if l.store[seq] != nil && h.piece.Kind == segment.PieceSeal && h.piece.Upload == o.Upload {
				return // refused then: whether it ended the upload, nothing tells, and it is begun anew
			}
		}
	}
	if c := l.begun[o.Upload]; n.Current.Desc().SameContent(*c.desc()) && l.stored(o.Upload, c) {
		return // the content of the current version came again: without the seal it was found to be all there
	}
	if n.Upload != 0 && l.granted(n.Upload) >= l.granted(o.Upload) {
		return // what a later grant sent came too late, but who had that grant is the one to go on
	}
	require.Equal(l.t, o.Upload, n.Upload, "%s", where)
}
