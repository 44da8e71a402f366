package ledger_test

import (
	"fmt"
	"maps"
	"slices"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// The random entries of the model test, but for segments.

// anyLink returns a link, 0 when there is none.
func (m *model) anyLink() ledger.LinkID {
	ls, err := ledger.Links(m.led)
	require.NoError(m.t, err)
	if len(ls) == 0 {
		return 0
	}
	return ls[m.rng.IntN(len(ls))].ID
}

// some returns some of the versions that a link owes, and sometimes one that it does not.
func (m *model) some(id ledger.LinkID) (out []proto.VersionID) {
	for _, v := range m.owed(id) {
		if m.rng.IntN(3) == 0 {
			out = append(out, v)
		}
	}
	if m.rng.IntN(5) == 0 {
		out = append(out, proto.VersionID(m.rng.IntN(200)))
	}
	return out
}

func (m *model) anyConfirm() {
	if l := m.anyLink(); l != 0 {
		vers := m.some(l)
		m.flush(l, vers)
		m.apply(&ledger.Confirm{Link: l, Versions: vers, NowNs: m.tick(), Deletes: m.rng.Int64N(3)})
	}
}

func (m *model) anyRelease() {
	if l := m.anyLink(); l != 0 {
		m.apply(&ledger.Release{Link: l, Versions: m.some(l)})
	}
}

func (m *model) anyPark() {
	if l := m.anyLink(); l != 0 {
		e := &ledger.Park{Link: l, Versions: m.some(l), NowNs: m.tick()}
		e.Reasons = make([]string, len(e.Versions))
		m.apply(e)
	}
}

func (m *model) anyRetry() {
	if l := m.anyLink(); l != 0 {
		e := &ledger.Retry{Link: l}
		if m.rng.IntN(2) == 0 {
			e.Paths = []string{m.path(), m.path()}
		}
		m.apply(e)
	}
}

func (m *model) anyReowe() {
	if l := m.anyLink(); l != 0 {
		vers := m.some(l)
		for range 3 {
			d, err := ledger.Dataset(m.led, m.row(l).Dataset)
			require.NoError(m.t, err)
			vers = append(vers, proto.VersionID(m.rng.Uint64N(uint64(d.Head)+1)))
		}
		m.apply(&ledger.Reowe{Link: l, Versions: vers, NowNs: m.tick()})
	}
}

func (m *model) anySeed() {
	if l := m.anyLink(); l != 0 {
		m.apply(&ledger.Seed{Link: l, Limit: 1 + m.rng.IntN(4)})
	}
}

func (m *model) setLink() {
	ds := m.sets[m.rng.IntN(len(m.sets))]
	e := &ledger.SetLink{Name: fmt.Sprintf("l%d", m.rng.IntN(4)), From: m.names[ds], Target: "dir:/x", Coalesce: m.rng.IntN(2) == 0, NowNs: m.tick()}
	if m.rng.IntN(3) == 0 {
		e.Prefix = "p"
	}
	m.apply(e)
}

func (m *model) anyOrphan() {
	if l := m.anyLink(); l != 0 {
		m.apply(&ledger.OrphanLink{Link: l})
	}
}

func (m *model) anyDrop() {
	if l := m.anyLink(); l != 0 && m.row(l).Orphaned {
		m.apply(&ledger.DropLink{Link: l, Limit: 1 + m.rng.IntN(6)})
	}
}

func (m *model) anyFree() {
	seqs := m.freeable()
	for _, s := range seqs {
		delete(m.store, s)
	}
	m.apply(&ledger.FreeSegments{Seqs: seqs})
}

// anyLose makes a segment that is there unreadable.
func (m *model) anyLose() {
	if len(m.store) == 0 {
		return
	}
	seqs := slices.Sorted(maps.Keys(m.store))
	seq := seqs[m.rng.IntN(len(seqs))]
	delete(m.store, seq)
	m.apply(&ledger.LoseSegment{Seq: seq})
}

func (m *model) anyMove() {
	if len(m.store) > 0 {
		seqs := slices.Sorted(maps.Keys(m.store))
		m.apply(&ledger.MoveSegment{Seq: seqs[m.rng.IntN(len(seqs))], Stored: m.rng.Int64N(1000), Degraded: m.rng.IntN(2) == 0})
	}
}

// anyRepack copies what is needed of two segments into a new one. Now and then something else happens before it is recorded.
func (m *model) anyRepack() {
	ds, copied, pieces := m.world.ds, map[uint32][]proto.Digest{}, []segment.Piece(nil)
	e := &ledger.Repack{Dataset: ds, NowNs: m.tick()}
	at := uint32(0)
	for _, seq := range slices.Sorted(maps.Keys(m.store)) {
		s, ok, err := ledger.Segment(m.led, seq)
		require.NoError(m.t, err)
		if !ok || s.Dataset != ds || m.rng.IntN(4) != 0 {
			continue
		}
		residents, err := ledger.Residents(m.led, seq)
		require.NoError(m.t, err)
		for _, res := range residents {
			for _, c := range res.Copies(seq, m.pieces[seq]) {
				p := m.pieces[seq][c.Piece]
				p.At, c.Move.At = at, at
				if p.Length > 0 {
					copied[at] = m.store[seq][c.Move.Was]
				}
				at += p.Length
				e.Moves, pieces = append(e.Moves, c.Move), append(pieces, p)
			}
		}
	}
	switch m.rng.IntN(4) {
	case 0:
		m.anyConfirm()
	case 1:
		m.anyLose()
		m.anyFree()
	}
	m.seq++
	m.store[m.seq], m.pieces[m.seq] = copied, pieces
	e.Seq, e.Length, e.Stored = m.seq, int64(at), 2*int64(at)
	m.apply(e)
}

func (m *model) anyAbandon() {
	if ups := m.uploads[m.world.ds]; len(ups) > 0 {
		id := ups[m.rng.IntN(len(ups))].id
		m.apply(&ledger.AbandonUpload{Upload: id})
		m.abandoned(id)
	}
}

// abandoned ends an upload: what is granted next has another number.
func (m *model) abandoned(id proto.UploadID) {
	if !m.rebuilt {
		return // what comes late comes all the same
	}
	for ds, ups := range m.uploads {
		m.uploads[ds] = slices.DeleteFunc(ups, func(u *receiving) bool { return u.id == id })
	}
}

func (m *model) anyHoldings() {
	e := &ledger.ReportHoldings{Holder: m.anyHolder(), UpNs: m.tick(), ScanDone: m.rng.IntN(2) == 0, ScanUp: m.now / 2}
	for range m.rng.IntN(4) {
		path := m.path()
		cur := m.object(path).Current.Version
		switch m.rng.IntN(3) {
		case 0:
			e.Have = append(e.Have, proto.HaveEntry{Version: cur, MtimeNs: m.rng.Int64N(5000)})
		case 1:
			e.Gone = append(e.Gone, proto.GoneEntry{Path: path, Version: cur})
		case 2:
			e.Claims = append(e.Claims, ledger.HoldingByPath{Path: path, Holding: ledger.Holding{State: ledger.HoldingHas, Version: cur}})
		}
	}
	m.apply(e)
}

func (m *model) anyDeletes() {
	var pieces []segment.Piece
	var paths []string
	for range 1 + m.rng.IntN(3) {
		path := m.path()
		if slices.Contains(paths, path) {
			continue
		}
		pieces, paths = append(pieces, remove(path, m.parent(path))), append(paths, path)
	}
	e := m.segment(0, pieces...)
	held := map[string]bool{}
	if m.seq%2 == 0 {
		e.Alive = m.holders[m.world.ds]
		for _, path := range paths {
			held[path] = m.held(path)
		}
	}
	m.apply(e, &ledger.UnmarkGone{Dataset: m.world.ds, Paths: paths})
	for i, path := range paths {
		require.False(m.t, held[path] && e.Results[i].State != proto.PieceStale, "%s is at a holder and was deleted", path)
	}
}

// held reports whether a holder told with its present index that it has something at a path.
func (m *model) held(path string) bool {
	hs, err := ledger.Holders(m.led)
	require.NoError(m.t, err)
	o := m.object(path)
	return slices.ContainsFunc(hs, func(h ledger.HolderRow) bool {
		had := o.Holding(h.ID)
		return h.Dataset == m.world.ds && had != nil && had.State != ledger.HoldingGone && had.IndexGen == h.IndexGen
	})
}

func (m *model) anyTombstones() {
	m.apply(&ledger.DropTombstones{Dataset: m.world.ds, Paths: []string{m.path(), m.path(), m.path()}})
}

func (m *model) anyStart() {
	e := &ledger.Start{Name: "relay-1"}
	m.apply(e)
	m.epoch = proto.Epoch{Generation: e.Meta.Generation}
	m.uploads = map[proto.DatasetID][]*receiving{}
}

func (m *model) anyIndex() {
	m.apply(&ledger.RegisterHolder{Dataset: m.names[m.world.ds], Node: "node-a", Root: "/" + m.names[m.world.ds].Name, Index: fmt.Sprint(m.rng.IntN(3)), NowNs: m.tick()})
}

func (m *model) anyEvent() {
	m.apply(&ledger.AddEvent{Event: proto.Event{What: "x"}, Keep: 3})
}

// anyStream returns a stream that is being received.
func (m *model) anyStream() (id proto.UploadID, u ledger.UploadRow) {
	require.NoError(m.t, ledger.EachStream(m.led, func(i proto.UploadID, row ledger.UploadRow) (bool, error) {
		id, u = i, row
		return m.rng.IntN(2) == 0, nil
	}))
	return id, u
}

// anyStage lets a target have some of a stream, or lose some.
func (m *model) anyStage() {
	id, u := m.anyStream()
	if l := m.anyLink(); l != 0 && id != 0 {
		m.apply(&ledger.StageUpload{Link: l, Upload: id, Durable: m.rng.Int64N(u.Size + 1)})
		m.apply(&ledger.SettleHoles{Upload: id, Below: m.rng.Int64N(u.Size + 1)})
	}
}

// anyFreeStaged lets go of what targets have, as the relay does.
func (m *model) anyFreeStaged() {
	id, _ := m.anyStream()
	if id == 0 {
		return
	}
	e := &ledger.FreeStaged{Upload: id}
	if l := m.anyLink(); l != 0 && m.rng.IntN(2) == 0 {
		e.Without = append(e.Without, l)
	}
	if m.apply(e); e.Lost {
		m.apply(&ledger.AbandonUpload{Upload: id})
	}
}
