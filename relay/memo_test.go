package relay

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// A memo tells of refused pieces only where it can know all of them: else a rebuild must not believe what it would have told.
func TestMemoKnowsOfWhichSegmentsItTells(t *testing.T) {
	t.Parallel()
	p := segment.Piece{Kind: segment.PieceObject, Path: "x", Epoch: proto.Epoch{Generation: 1, Counter: 1}}
	no := []ledger.RefusedPiece{{Path: "x", Kind: p.Kind, Epoch: p.Epoch, State: proto.PieceLags}}
	m := &memo{Settled: 1 << 40}
	for seq := range uint64(maxRefused + 2) {
		m.Refused = append(m.Refused, memoRefused{Segment: 10 + 2*seq, Pieces: no, Partly: seq == maxRefused})
	}
	m.keepRefused()
	require.Len(t, m.Refused, maxRefused)
	says := func(m *memo, seq uint64) (proto.PieceState, bool) {
		row := m.refused(seq)
		return row.Says(&p)
	}
	for _, c := range []struct {
		seq  uint64
		why  proto.PieceState
		told bool
		what string
	}{
		{12, 0, false, "there was no room for it"},
		{13, 0, true, "nothing was refused"},
		{14, proto.PieceLags, true, "it was refused"},
		{1 << 40, 0, true, "the last one that was settled"},
		{1<<40 + 1, 0, false, "it came after the memo"},
	} {
		why, told := says(m, c.seq)
		require.Equal(t, c.why, why, c.what)
		require.Equal(t, c.told, told, c.what)
	}
	other := p
	other.Path = "y"
	row := m.refused(10 + 2*maxRefused)
	_, told := row.Says(&other)
	require.False(t, told, "what an earlier rebuild did not know, the memo does not know")
	_, told = says(nil, 13)
	require.False(t, told, "there is none")
	_, told = says(&memo{}, 13)
	require.False(t, told, "it is of an older release")
}
