package ledger_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// noted returns what a rebuild would be told of a segment.
func (w *world) noted(seq uint64) (out []ledger.RefusedPiece) {
	w.t.Helper()
	require.NoError(w.t, ledger.EachRefused(w.led, func(at uint64, row ledger.RefusedRow) (bool, error) {
		if at == seq {
			out = row.Pieces
		}
		return true, nil
	}))
	return out
}

func (w *world) why(seq uint64) (out []proto.PieceState) {
	for _, p := range w.noted(seq) {
		out = append(out, p.State)
	}
	return out
}

// What made no version, and cannot be told from what did by parents, epochs and digests, is noted, for a rebuild (I18).
func TestRefusedPiecesAreNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("l1", true)
	w.put("x", small("one"))
	v := w.put("x", small("two"))
	w.put("keep", small("keep"))

	late := w.segment(w.a)
	late.Late = []segment.Piece{object("x", v, w.grant(), small("one")), object("x", v, w.grant(), small("three")), object("new", 0, w.grant(), small("one"))}
	w.do(late)
	require.True(t, late.Noted)
	require.Equal(t, []proto.PieceState{stale}, w.why(late.Seq), "an older content is noted also where its lease was gone")
	meta, err := ledger.ReadMeta(w.led)
	require.NoError(t, err)
	require.EqualValues(t, 300, meta.WastedBytes)

	again := w.segment(w.a, object("x", v, w.grant(), small("two")), object("other", w.follows("other"), w.grant(), small("one")))
	w.do(again)
	require.Equal(t, []proto.PieceState{equal}, w.why(again.Seq), "what was current already")

	c := large("big", 2)
	up := w.newUpload()
	other := w.segment(w.a, run("big", up, w.follows("big"), w.grant(), c, 0, 2), seal("big", up, w.follows("big"), w.grant(), large("else", 2)))
	w.do(other)
	require.Equal(t, []proto.PieceState{proto.PieceMismatch}, w.why(other.Seq), "a seal of another content than was received")
	plain := w.segment(w.a, object("plain", w.follows("plain"), w.grant(), small("p")))
	w.do(plain)
	require.False(t, plain.Noted)
}

// New metadata and the bytes that they are of lie in one segment: the copy has both.
func TestRepackCopiesWhatDescribesAVersionToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("l1", true)
	w.put("x", small("one"))
	ver := w.object("x").Current.Version
	e := w.segment(w.a, remeta("x", ver, w.grant(), small("one"), 3))
	w.do(e)
	ver = e.Results[0].Version
	for range 2 { // first into one segment, then on from there
		seqs := map[uint64]bool{}
		v, _ := w.version(ver)
		seqs[v.Home], seqs[v.Content.Segment] = true, true
		w.repack(seqs)
		v, _ = w.version(ver)
		require.Equal(t, w.seq, v.Home)
		require.Equal(t, w.seq, v.Content.Segment)
		require.Len(t, w.pieces[w.seq], 2)
	}
	w.free()
	require.Len(t, w.store, 1)
	for _, p := range w.pieces[w.seq] {
		if p.Kind == segment.PieceMeta {
			require.EqualValues(t, 3, p.Desc.Meta.Mode)
			return
		}
	}
	require.Fail(t, "nothing describes the version")
}

// repack writes what is needed of segments into a new one.
func (w *world) repack(from map[uint64]bool) {
	w.t.Helper()
	e := &ledger.Repack{Dataset: w.ds, NowNs: w.tick()}
	copied, at := map[uint32][]proto.Digest{}, uint32(0)
	var pieces []segment.Piece
	for seq := uint64(0); seq <= w.seq; seq++ {
		if !from[seq] {
			continue
		}
		residents, err := ledger.Residents(w.led, seq)
		require.NoError(w.t, err)
		for _, res := range residents {
			for _, c := range res.Copies(seq, w.pieces[seq]) {
				p := w.pieces[seq][c.Piece]
				if p.Length > 0 {
					copied[at] = w.store[seq][p.At]
				}
				p.At, c.Move.At = at, at
				at += p.Length
				e.Moves, pieces = append(e.Moves, c.Move), append(pieces, p)
			}
		}
	}
	w.seq++
	w.store[w.seq], w.pieces[w.seq] = copied, pieces
	e.Seq, e.Length, e.Stored = w.seq, int64(at), 2*int64(at)
	w.do(e)
}

// Two deletes of a path under one generation, owed by a link that does not coalesce, are told apart by what they follow.
func TestRepackTellsDeletesApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("l1", false)
	var gone []proto.VersionID
	var from = map[uint64]bool{}
	for range 2 {
		v := w.put("x", small("one"))
		gone = append(gone, w.send(0, remove("x", v))[0].Version)
		from[w.seq] = true
	}
	for range 2 {
		w.repack(from)
		from = map[uint64]bool{w.seq: true}
		require.Len(t, w.pieces[w.seq], 2)
		for i, ver := range gone {
			v, _ := w.version(ver)
			require.Equal(t, v.Parent, w.pieces[w.seq][i].Parent)
		}
	}
}
