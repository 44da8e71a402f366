package ledger_test

import (
	"fmt"
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
	seeds := []uint64{1, 2, 3, 4, 2412344553786330048}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, seed)
			for i := range *stepsFlag {
				m.step()
				if i%97 == 96 {
					newLoss(m).rebuild()
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
	had      map[string]bool // versions that paths had
	again    *ledgertest.Mem
	ids      map[ledger.LinkID]ledger.LinkID // of the lost ledger to those of the new one
}

// newLoss goes through the model's history for what stores and targets got.
func newLoss(m *model) *loss {
	l := &loss{model: m, had: map[string]bool{}, segments: map[uint64][]held{}, rows: map[uint64]proto.DatasetID{}, targets: map[ledger.LinkID]map[string]onTarget{}, ids: map[ledger.LinkID]ledger.LinkID{}}
	then := ledgertest.New()
	for _, e := range m.log {
		if c, ok := e.(*ledger.Confirm); ok {
			l.confirmed(then, c)
		}
		require.NoError(m.t, then.Update(e))
		switch e := e.(type) {
		case *ledger.StoreSegment:
			l.rows[e.Seq] = e.Dataset
			for i, p := range e.Pieces {
				h := held{piece: p}
				switch r := e.Results[i]; r.State {
				case proto.PieceAccepted:
					h.version = r.Version
					l.had[fmt.Sprint(e.Dataset, p.Path, r.Version)] = true
				case proto.PieceStale:
					// The model quotes parents of which its epochs cannot know. What the relay stores was granted in this order.
					o, _, err := ledger.Object(then, e.Dataset, p.Path)
					require.NoError(m.t, err)
					if p.Parent >= o.Current.Version || !p.Epoch.Less(o.Epoch) || p.Parent != 0 && !l.had[fmt.Sprint(e.Dataset, p.Path, p.Parent)] {
						continue
					}
				}
				l.segments[e.Seq] = append(l.segments[e.Seq], h)
			}
		case *ledger.Repack:
			l.rows[e.Seq] = e.Dataset
			for _, mv := range e.Moves {
				l.copied(e.Seq, mv)
			}
		}
	}
	return l
}

// copied is a piece as the relay writes it anew.
func (l *loss) copied(seq uint64, mv ledger.Move) {
	for _, h := range l.segments[mv.From] {
		p := h.piece
		ranged := p.Kind == segment.PieceRange
		match := ranged && mv.Version == 0 && p.Upload == mv.Upload && p.Offset == mv.Offset && p.At == mv.Was && p.Length == mv.Length ||
			!ranged && mv.Version != 0 && h.version == mv.Version && (mv.Length == 0 || p.Kind == segment.PieceObject && p.At == mv.Was && p.Length == mv.Length)
		if !match {
			continue
		}
		p.At, p.Length = mv.At, mv.Length
		l.segments[seq] = append(l.segments[seq], held{p, h.version})
		return
	}
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
	l.again = ledgertest.New()
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
	highest := l.gather(l.refused())
	l.do2(&ledger.SetFloor{Floor: highest + 1000})
	ds, err := ledger.Datasets(l.again)
	require.NoError(l.t, err)
	for _, d := range ds {
		l.conclude(d.ID)
	}
	for end := (&ledger.EndRecovery{Limit: 7}); !end.Done; {
		l.do2(end)
	}
	require.NoError(l.t, ledgertest.Check(l.again), "after %d entries", len(l.log))
	lost := l.world.led
	l.world.led = l.again
	err = l.readable() // every byte that is said to be in the cache is, with the right digest
	l.world.led = lost
	require.NoError(l.t, err)
	for _, d := range ds {
		l.compare(d)
	}
}

func (l *loss) do2(es ...ledger.Entry) {
	l.t.Helper()
	require.NoError(l.t, l.again.Update(es...))
}

// refused is what the memo has of pieces that made no version.
func (l *loss) refused() map[uint64][]ledger.RefusedPiece {
	out := map[uint64][]ledger.RefusedPiece{}
	require.NoError(l.t, ledger.EachRefused(l.led, func(seq uint64, row ledger.RefusedRow) (bool, error) {
		_, known, err := ledger.Segment(l.led, seq)
		require.NoError(l.t, err)
		require.True(l.t, known, "segment %d is freed", seq)
		out[seq] = row.Pieces
		return true, nil
	}))
	return out
}

func (l *loss) gather(refused map[uint64][]ledger.RefusedPiece) (highest proto.VersionID) {
	n := uint64(0)
	add := func(e ledger.Evidence) {
		n++
		e.N = n
		highest = max(highest, rebuild.Highest(e))
		l.do2(&ledger.Gather{Evidence: []ledger.Evidence{e}})
	}
	for seq := range l.store {
		name := l.names[l.rows[seq]]
		l.do2(&ledger.RecoverSegments{Segments: []ledger.RecoveredSegment{{Seq: seq, Dataset: name, Length: 100, Stored: 150, Refused: refused[seq]}}})
		for _, h := range l.segments[seq] {
			e := ledger.Evidence{Dataset: name, Path: h.piece.Path, Segment: seq, Piece: &h.piece}
			for _, no := range refused[seq] {
				if no.Is(&h.piece) {
					e.Refused = no.State
				}
			}
			add(e)
		}
	}
	for was, is := range l.ids {
		row := l.row(was)
		for path, on := range l.targets[was] {
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

func (l *loss) object(was, is proto.DatasetID, path string, o ledger.ObjectRow) {
	where := fmt.Sprintf("%q of dataset %d after %d entries: %+v", path, was, len(l.log), o)
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
		require.True(l.t, known, where)
		require.False(l.t, reverted, where)
		if large := v.Desc.Kind == proto.KindFile && v.Desc.Size > 100; large && (v.Content == ledger.Content{} || v.Content.From > 0) {
			continue // without all of its ranges, a sealed upload cannot be told from one that goes on
		}
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
			require.True(l.t, has.desc.SameContent(v.Desc) && has.desc.Meta.Diff(v.Desc.Meta)&^proto.FieldMtime == 0 || v.Desc.Kind == proto.KindTombstone && (has.version == 0 || has.desc.Kind == proto.KindTombstone),
				"%s: link %d owed %+v", where, link, q)
			continue
		}
		if q.State == ledger.OwedCached && !q.Parked && !q.MetaOnly && v.Content.From == 0 && !got.MetaOnly {
			require.Equal(l.t, ledger.OwedCached, got.State, "%s: link %d: its bytes are in the stores: %+v", where, link, v)
		}
	}
	if n.Current.Desc().SameContent(o.Current.Desc()) && inStores {
		l.upload(is, o, n, where)
	}
}

// cameBack reports whether a version has a content that the path had before: then a rebuild waits for its holder to say so.
func (l *loss) cameBack(ds proto.DatasetID, path string, v ledger.VersionRow) bool {
	for seq, hs := range l.segments {
		for _, h := range hs {
			if l.rows[seq] == ds && h.piece.Path == path && h.piece.Desc != nil && h.piece.Parent < v.Parent && h.piece.Desc.SameContent(v.Desc) {
				return true
			}
		}
	}
	return false
}

// contested reports whether something was sent that follows the version which a delete followed: then it is not deleted.
func (l *loss) contested(ds proto.DatasetID, path string, v ledger.VersionRow) bool {
	for seq, hs := range l.segments {
		for _, h := range hs {
			if v.Desc.Kind == proto.KindTombstone && l.rows[seq] == ds && h.piece.Path == path && h.piece.Parent == v.Parent && h.piece.Kind != segment.PieceDelete && h.piece.Kind != segment.PieceRange {
				return true
			}
		}
	}
	return false
}

// described reports whether the stores have the piece that made a version: of content that was let go and sent again, they have
// the metadata of the copy only.
func (l *loss) described(ds proto.DatasetID, ver proto.VersionID, v ledger.VersionRow) bool {
	for seq, hs := range l.segments {
		for _, h := range hs {
			if l.store[seq] != nil && l.rows[seq] == ds && h.version == ver && h.piece.Desc != nil && v.Desc.Kind != proto.KindTombstone && h.piece.Desc.Meta.Diff(v.Desc.Meta)&^proto.FieldMtime == 0 {
				return true
			}
		}
	}
	return false
}

// upload holds that an upload goes on from what the stores have of it.
func (l *loss) upload(is proto.DatasetID, o, n ledger.ObjectRow, where string) {
	if o.Upload == 0 {
		return
	}
	u, _, err := ledger.Upload(l.led, o.Upload)
	require.NoError(l.t, err)
	if u.Stream || u.Acked == 0 || u.Parent < n.Since { // new metadata came meanwhile, and what they were of is not known: sent again
		return
	}
	for seq, hs := range l.segments {
		for _, h := range hs {
			if l.store[seq] != nil && h.piece.Kind == segment.PieceSeal && h.piece.Upload == o.Upload {
				return // refused then: whether it ended the upload, nothing tells, and it is begun anew
			}
		}
	}
	require.Equal(l.t, o.Upload, n.Upload, where)
}
