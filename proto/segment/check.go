package segment

import "forebay/proto"

// check holds a header against the rules of the format. A header that passes can be used without further bounds checks.
func check(h Header, payload []byte) error {
	if len(payload) > proto.MaxPayload {
		return proto.Errorf(proto.ClassPermanent, "segment payload of %d bytes, at most %d are allowed", len(payload), proto.MaxPayload)
	}
	if len(h.Pieces) == 0 || len(h.Pieces) > proto.MaxPieces {
		return proto.Errorf(proto.ClassPermanent, "segment with %d pieces, 1 to %d are allowed", len(h.Pieces), proto.MaxPieces)
	}
	if _, err := proto.ParseDataset(h.Dataset.String()); err != nil {
		return proto.Errorf(proto.ClassPermanent, "segment: %w", err)
	}
	next := uint32(0)
	for i := range h.Pieces {
		p := &h.Pieces[i]
		if err := checkPiece(p); err != nil {
			return proto.Errorf(proto.ClassPermanent, "segment piece %d: %w", i, err)
		}
		if p.At != next || uint64(p.At)+uint64(p.Length) > uint64(len(payload)) {
			return proto.Errorf(proto.ClassPermanent, "segment piece %d (%q): bytes %d+%d do not follow %d within a payload of %d", i, p.Path, p.At, p.Length, next, len(payload))
		}
		next += p.Length
	}
	if int(next) != len(payload) {
		return proto.Errorf(proto.ClassPermanent, "segment payload has %d bytes, its pieces cover %d", len(payload), next)
	}
	return nil
}

func checkPiece(p *Piece) error {
	if err := proto.CheckPath(p.Path); err != nil {
		return err
	}
	run := int64(p.Length)
	if p.Kind == PieceSame {
		run = p.Span
	}
	if n := proto.Blocks(run); int64(len(p.Blocks)) != n {
		return proto.Errorf(proto.ClassPermanent, "%q: %d block digests for %d bytes, want %d", p.Path, len(p.Blocks), run, n)
	}
	if p.Deleted != nil && p.Kind != PieceDelete {
		return proto.Errorf(proto.ClassPermanent, "%q: piece kind %d deletes nothing", p.Path, p.Kind)
	}
	if p.Span != 0 && p.Kind != PieceSame {
		return proto.Errorf(proto.ClassPermanent, "%q: piece kind %d stands for no bytes of another version", p.Path, p.Kind)
	}
	switch p.Kind {
	case PieceRange:
		return checkRange(p, int64(p.Length))
	case PieceSame:
		if p.Length != 0 {
			return proto.Errorf(proto.ClassPermanent, "%q: %d bytes with a run that is another version's", p.Path, p.Length)
		}
		return checkRange(p, p.Span)
	case PieceObject, PieceSeal, PieceMeta, PieceDelete:
		if p.Desc == nil {
			return proto.Errorf(proto.ClassPermanent, "%q: no description", p.Path)
		}
		if err := CheckDesc(*p.Desc); err != nil {
			return proto.Errorf(proto.ClassPermanent, "%q: %w", p.Path, err)
		}
		want := int64(0)
		if p.Kind == PieceObject && p.Desc.Kind == proto.KindFile {
			want = dataBytes(p.Desc)
		}
		if int64(p.Length) != want {
			return proto.Errorf(proto.ClassPermanent, "%q: %d bytes for a %s of %d", p.Path, p.Length, p.Desc.Kind, want)
		}
		if (p.Kind == PieceDelete) != (p.Desc.Kind == proto.KindTombstone) {
			return proto.Errorf(proto.ClassPermanent, "%q: piece kind %d describes a %s", p.Path, p.Kind, p.Desc.Kind)
		}
		return nil
	}
	return proto.Errorf(proto.ClassPermanent, "%q: unknown piece kind %d: use a newer release", p.Path, p.Kind)
}

// dataBytes is what a complete object of up to proto.MaxPayload carries: all its bytes, holes written out as zeros.
func dataBytes(d *proto.Desc) int64 { return d.Size }

// checkRange checks a run of n bytes of a large object.
func checkRange(p *Piece, n int64) error {
	switch {
	case p.Desc != nil:
		return proto.Errorf(proto.ClassPermanent, "%q: a range carries no description", p.Path)
	case p.Offset < 0 || p.Offset%proto.BlockSize != 0:
		return proto.Errorf(proto.ClassPermanent, "%q: range at %d is not at a block boundary", p.Path, p.Offset)
	case n <= 0 || n > p.ObjectSize-p.Offset:
		return proto.Errorf(proto.ClassPermanent, "%q: range %d+%d in an object of %d bytes", p.Path, p.Offset, n, p.ObjectSize)
	case p.Offset+n != p.ObjectSize && n%proto.BlockSize != 0:
		return proto.Errorf(proto.ClassPermanent, "%q: range %d+%d ends inside a block", p.Path, p.Offset, n)
	}
	return nil
}

// CheckDesc says what is wrong with a description: an unknown kind, a size or link that its kind does not have, extents
// that overlap or leave gaps, too many bytes of attributes.
func CheckDesc(d proto.Desc) error {
	switch d.Kind {
	case proto.KindFile:
	case proto.KindHardlink:
		if err := proto.CheckPath(d.LinkTo); err != nil {
			return proto.Errorf(proto.ClassPermanent, "hard link to: %w", err)
		}
	case proto.KindSymlink:
		if d.LinkTo == "" || len(d.LinkTo) > proto.MaxPath {
			return proto.Errorf(proto.ClassPermanent, "symlink text of %d bytes, 1 to %d are allowed", len(d.LinkTo), proto.MaxPath)
		}
	case proto.KindDir, proto.KindTombstone:
	default:
		return proto.Errorf(proto.ClassPermanent, "unknown %s: use a newer release", d.Kind)
	}
	if d.Size < 0 || d.Size != 0 && !d.Kind.HasContent() {
		return proto.Errorf(proto.ClassPermanent, "a %s of %d bytes", d.Kind, d.Size)
	}
	attrs := 0
	for _, x := range d.Meta.Xattrs {
		attrs += len(x.Name) + len(x.Value)
	}
	if attrs > proto.MaxXattrBytes {
		return proto.Errorf(proto.ClassPermanent, "%d bytes of extended attributes, at most %d are allowed", attrs, proto.MaxXattrBytes)
	}
	return checkExtents(d)
}

func checkExtents(d proto.Desc) error {
	if len(d.Extents) == 0 {
		return nil
	}
	next := int64(0)
	for _, e := range d.Extents {
		if e.Kind != proto.ExtentData && e.Kind != proto.ExtentHole {
			return proto.Errorf(proto.ClassPermanent, "unknown extent kind %d: use a newer release", e.Kind)
		}
		if e.Offset != next || e.Length <= 0 || e.Length > d.Size-next {
			return proto.Errorf(proto.ClassPermanent, "extent %d+%d does not follow %d in %d bytes", e.Offset, e.Length, next, d.Size)
		}
		next += e.Length
	}
	if next != d.Size {
		return proto.Errorf(proto.ClassPermanent, "extents cover %d of %d bytes", next, d.Size)
	}
	return nil
}
