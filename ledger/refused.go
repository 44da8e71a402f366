package ledger

import (
	"forebay/proto"
	"forebay/proto/segment"
)

// RefusedRow names pieces of a segment that describe a version and made none, for as long as the segment is in the stores. A
// rebuild of a lost ledger cannot tell them from accepted ones; the relay keeps them in the stores' memos for that (I18).
type RefusedRow struct {
	Pieces []RefusedPiece `cbor:"1,keyasint"`
	// Partly: the segment was found by a rebuild of the ledger that could not tell what had become of its other pieces.
	Partly bool `cbor:"2,keyasint,omitempty"`
}

// RefusedPiece is one of them.
type RefusedPiece struct {
	Path   string            `cbor:"1,keyasint"`
	Kind   segment.PieceKind `cbor:"2,keyasint"`
	Epoch  proto.Epoch       `cbor:"3,keyasint"`
	Upload proto.UploadID    `cbor:"4,keyasint,omitempty"`
	// State is why: it is PieceLags, an older content, PieceMissing, a seal that came before all of its ranges, PieceMismatch, a
	// seal of another content than was received, PieceEqual, what was current already, or PieceStale, a delete, or an older content that came too
	// late. Other stale pieces are told by their parents and epochs.
	State proto.PieceState `cbor:"5,keyasint"`
}

// Is reports whether p is the piece that r names.
func (r RefusedPiece) Is(p *segment.Piece) bool {
	return r.Path == p.Path && r.Kind == p.Kind && r.Epoch == p.Epoch && r.Upload == p.Upload
}

// Says returns why a piece was refused, 0 where nothing is known of that; told means that it was not, or for what needs no note.
func (r *RefusedRow) Says(p *segment.Piece) (why proto.PieceState, told bool) {
	for _, no := range r.Pieces {
		if no.Is(p) {
			return no.State, true
		}
	}
	return 0, !r.Partly
}

// note adds a piece if what became of it cannot be told from the stores.
func (r *RefusedRow) note(p *segment.Piece, got Result) {
	no := got.State == proto.PieceLags || got.State == proto.PieceMissing || got.State == proto.PieceMismatch || got.State == proto.PieceEqual && p.Kind != segment.PieceMeta
	gone := got.State == proto.PieceStale && p.Kind == segment.PieceDelete
	if p.Desc != nil && (no || gone || got.Older) {
		r.Pieces = append(r.Pieces, RefusedPiece{Path: p.Path, Kind: p.Kind, Epoch: p.Epoch, Upload: p.Upload, State: got.State})
	}
}

// EachRefused calls fn for the segments with pieces that a rebuild would have to be told about, by sequence.
func EachRefused(r Rows, fn func(seq uint64, row RefusedRow) (bool, error)) error {
	return each(r, key(pRefused), func(k []byte, row RefusedRow) (bool, error) { return fn(tail64(k), row) })
}
