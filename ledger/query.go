package ledger

import (
	"encoding/binary"

	"forebay/proto"
)

// each decodes every row below a key prefix.
func each[T any](r Rows, lo []byte, fn func(key []byte, v T) (bool, error)) error {
	return r.Scan(lo, after(lo), func(k, b []byte) (bool, error) {
		var v T
		if err := proto.Unmarshal(b, &v); err != nil {
			return false, err
		}
		return fn(k, v)
	})
}

func all[T any](r Rows, lo []byte) (out []T, err error) {
	err = each(r, lo, func(_ []byte, v T) (bool, error) { out = append(out, v); return true, nil })
	return out, err
}

// ReadMeta returns the ledger's own row; Format 0 when the ledger is new.
func ReadMeta(r Rows) (m Meta, err error) {
	_, err = get(r, key(pMeta), &m)
	return m, err
}

// Datasets returns all datasets by id.
func Datasets(r Rows) ([]DatasetRow, error) { return all[DatasetRow](r, key(pDataset)) }

// Dataset returns one dataset; ID 0 when there is none of that id.
func Dataset(r Rows, id proto.DatasetID) (d DatasetRow, err error) {
	_, err = get(r, key(pDataset, id), &d)
	return d, err
}

// DatasetByName returns one dataset; ID 0 when nobody has announced it.
func DatasetByName(r Rows, name proto.Dataset) (d DatasetRow, err error) {
	b, err := r.Get(key(pDSName, name.String()))
	if err != nil || b == nil {
		return d, err
	}
	return Dataset(r, proto.DatasetID(binary.BigEndian.Uint32(b)))
}

// Holders returns all holders by id.
func Holders(r Rows) ([]HolderRow, error) { return all[HolderRow](r, key(pHolder)) }

// Holder returns one holder; ID 0 when it is not known.
func Holder(r Rows, id proto.HolderID) (h HolderRow, err error) {
	_, err = get(r, key(pHolder, id), &h)
	return h, err
}

// Nodes returns all nodes by name.
func Nodes(r Rows) ([]NodeRow, error) { return all[NodeRow](r, key(pNode)) }

// Links returns all links by id, orphaned ones too.
func Links(r Rows) ([]LinkRow, error) { return all[LinkRow](r, key(pLink)) }

// Link returns one link; ID 0 when it was dropped.
func Link(r Rows, id LinkID) (l LinkRow, err error) {
	_, err = get(r, key(pLink, id), &l)
	return l, err
}

// Object returns the state of a path and whether it is known.
func Object(r Rows, ds proto.DatasetID, path string) (o ObjectRow, ok bool, err error) {
	ok, err = get(r, key(pObject, ds, path), &o)
	return o, ok, err
}

// Version returns a version and whether it is (still) known.
func Version(r Rows, ds proto.DatasetID, ver proto.VersionID) (v VersionRow, ok bool, err error) {
	ok, err = get(r, key(pVersion, ds, ver), &v)
	return v, ok, err
}

// EachCurrent calls fn for the current versions of a dataset from one on, in order.
func EachCurrent(r Rows, ds proto.DatasetID, from proto.VersionID, fn func(ver proto.VersionID, v VersionRow) (bool, error)) error {
	return r.Scan(key(pVersion, ds, from), after(key(pVersion, ds)), func(k, b []byte) (bool, error) {
		var v VersionRow
		if err := proto.Unmarshal(b, &v); err != nil {
			return false, err
		}
		if v.Superseded {
			return true, nil
		}
		return fn(proto.VersionID(tail64(k)), v)
	})
}

// FirstSince returns the first version of a dataset that is known and was acknowledged at a moment or after it, 0 when there is none.
// Where the clock was set back meanwhile it may be a later one.
func FirstSince(r Rows, ds proto.DatasetID, ns int64) (proto.VersionID, error) {
	d, err := Dataset(r, ds)
	if err != nil {
		return 0, err
	}
	lo, hi, found := proto.VersionID(1), d.Head+1, proto.VersionID(0)
	for lo < hi {
		mid := lo + (hi-lo)/2
		var at proto.VersionID
		var v VersionRow
		err := r.Scan(key(pVersion, ds, mid), key(pVersion, ds, hi), func(k, b []byte) (bool, error) {
			at = proto.VersionID(tail64(k))
			return false, proto.Unmarshal(b, &v)
		})
		switch {
		case err != nil:
			return 0, err
		case at == 0: // none is known from here on
			hi = mid
		case v.SealedNs >= ns:
			found, hi = at, mid
		default:
			lo = at + 1
		}
	}
	return found, nil
}

// Upload returns an upload and whether it is known.
func Upload(r Rows, id proto.UploadID) (u UploadRow, ok bool, err error) {
	ok, err = get(r, key(pUpload, id), &u)
	return u, ok, err
}

// Segment returns a segment and whether it is known.
func Segment(r Rows, seq uint64) (s SegmentRow, ok bool, err error) {
	ok, err = get(r, key(pSegment, seq), &s)
	return s, ok, err
}

// EachSegment calls fn for all segments by sequence.
func EachSegment(r Rows, fn func(seq uint64, s SegmentRow) (bool, error)) error {
	return each(r, key(pSegment), func(k []byte, s SegmentRow) (bool, error) { return fn(tail64(k), s) })
}

// EachSegmentFrom is EachSegment beginning after a sequence.
func EachSegmentFrom(r Rows, above uint64, fn func(seq uint64, s SegmentRow) (bool, error)) error {
	return r.Scan(key(pSegment, above+1), after(key(pSegment)), func(k, b []byte) (bool, error) {
		var s SegmentRow
		if err := proto.Unmarshal(b, &s); err != nil {
			return false, err
		}
		return fn(tail64(k), s)
	})
}

// Note returns what SetNote kept under a name, nil when there is nothing.
func Note(r Rows, name string) ([]byte, error) { return r.Get(key(pNote, name)) }

// OwedVersion is a version that a link owes, with everything a flush needs to know of it.
type OwedVersion struct {
	Version proto.VersionID
	Owed    OwedRow
	Row     VersionRow
}

// Owed returns up to limit versions that a link owes, parked and released ones too, oldest first, beginning
// after above.
func Owed(r Rows, link LinkID, above proto.VersionID, limit int) (out []OwedVersion, err error) {
	l, err := Link(r, link)
	if err != nil || l.ID == 0 || limit <= 0 {
		return nil, err
	}
	err = eachOwed(r, link, l.Dataset, above, func(q OwedVersion) (bool, error) {
		out = append(out, q)
		return len(out) < limit, nil
	})
	return out, err
}

// EachOwed is Owed without a limit: fn says when to stop.
func EachOwed(r Rows, l LinkRow, above proto.VersionID, fn func(OwedVersion) (bool, error)) error {
	return eachOwed(r, l.ID, l.Dataset, above, fn)
}

func eachOwed(r Rows, link LinkID, ds proto.DatasetID, above proto.VersionID, fn func(OwedVersion) (bool, error)) error {
	return r.Scan(key(pOwed, link, above+1), after(key(pOwed, link)), func(k, b []byte) (bool, error) {
		q := OwedVersion{Version: proto.VersionID(tail64(k))}
		if err := proto.Unmarshal(b, &q.Owed); err != nil {
			return false, err
		}
		if _, err := get(r, key(pVersion, ds, q.Version), &q.Row); err != nil {
			return false, err
		}
		return fn(q)
	})
}

// OwedAt returns what a link owes of one version.
func OwedAt(r Rows, link LinkID, ver proto.VersionID) (q OwedRow, ok bool, err error) {
	ok, err = get(r, key(pOwed, link, ver), &q)
	return q, ok, err
}

// OldestOwed returns the oldest version of a link that is neither parked nor held back by skip; ok is false when there is
// none. It looks at no more than limit rows.
func OldestOwed(r Rows, l LinkRow, limit int, skip func(OwedVersion) bool) (q OwedVersion, ok bool, err error) {
	err = eachOwed(r, l.ID, l.Dataset, 0, func(v OwedVersion) (bool, error) {
		limit--
		if !v.Owed.Parked && (skip == nil || !skip(v)) {
			q, ok = v, true
		}
		return !ok && limit > 0, nil
	})
	return q, ok, err
}

// feedPage fills a FeedReply up to a number of items and the size of a message.
type feedPage struct {
	rep   *proto.FeedReply
	limit int
	bytes int
}

// add adds an item and reports whether there was room; where not, the next page begins with it.
func (p *feedPage) add(it proto.FeedItem) bool {
	if n := len(p.rep.Items); n > 0 && (n >= p.limit || p.bytes > proto.MaxBusMessage) {
		p.rep.Next = p.rep.Items[n-1].Version
		return false
	}
	p.rep.Items = append(p.rep.Items, it)
	p.bytes += len(it.Path) + len(it.LinkTo) + 64
	return true
}

// Feed returns up to limit current versions after above in order (at least one, when there is one), and where to go on.
func Feed(r Rows, ds proto.DatasetID, above proto.VersionID, limit int) (rep proto.FeedReply, err error) {
	d, err := Dataset(r, ds)
	if err != nil {
		return rep, err
	}
	rep.Head, rep.Next = d.Head, d.Head
	page := feedPage{rep: &rep, limit: limit}
	err = r.Scan(key(pVersion, ds, above+1), after(key(pVersion, ds)), func(k, b []byte) (bool, error) {
		var v VersionRow
		if err := proto.Unmarshal(b, &v); err != nil {
			return false, err
		}
		ver := proto.VersionID(tail64(k))
		if v.Superseded {
			return true, nil
		}
		return page.add(v.feedItem(ver)), nil
	})
	return rep, err
}

func (v *VersionRow) feedItem(ver proto.VersionID) proto.FeedItem {
	return proto.FeedItem{Version: ver, Path: v.Path, Kind: v.Desc.Kind, Size: v.Desc.Size, Digest: v.Desc.Digest, LinkTo: v.Desc.LinkTo, Parent: v.Parent}
}

// Asked returns up to limit current versions above after that some link owes and the cache no longer has.
func Asked(r Rows, ds proto.DatasetID, above proto.VersionID, limit int) (rep proto.FeedReply, err error) {
	d, err := Dataset(r, ds)
	if err != nil {
		return rep, err
	}
	rep.Head, rep.Next = d.Head, d.Head
	page := feedPage{rep: &rep, limit: limit}
	err = r.Scan(key(pAsked, ds, above+1), after(key(pAsked, ds)), func(k, _ []byte) (bool, error) {
		ver := proto.VersionID(tail64(k))
		v, ok, err := Version(r, ds, ver)
		if err != nil || !ok { // settled while this looked
			return err == nil, err
		}
		return page.add(v.feedItem(ver)), nil
	})
	return rep, err
}

// IsAsked reports whether a version is to be asked for again.
func IsAsked(r Rows, ds proto.DatasetID, ver proto.VersionID) (bool, error) {
	b, err := r.Get(key(pAsked, ds, ver))
	return b != nil, err
}

// Part is a run of a version's bytes in a segment's payload. What lies between parts is zeros.
type Part struct {
	Offset  int64  // in the object
	Segment uint64 // 0: no longer in the cache, the targets that need it have it staged, or in what they have of the path when Same
	At      uint32
	Length  uint32
	Same    bool
	Blocks  []proto.Digest // of a Same
}

// part is the range as readers see it.
func (r *RangeRow) part(off int64) Part {
	p := Part{Offset: off, Segment: r.Segment, At: r.At, Length: r.Length}
	if r.lacks() > 0 {
		p.Same, p.Blocks = true, r.Blocks
	}
	return p
}

// EachPart calls fn for the parts of a cached version in order.
func EachPart(r Rows, v VersionRow, fn func(Part) (bool, error)) error {
	c := v.Content
	if c.Upload == 0 {
		if c.Segment == 0 || c.Length == 0 {
			return nil
		}
		_, err := fn(Part{Segment: c.Segment, At: c.At, Length: c.Length})
		return err
	}
	return eachRange(r, c.Upload, func(off int64, row RangeRow) (bool, error) { return fn(row.part(off)) })
}

// EachDigest calls fn for the digests of a version's blocks in order, with the offset of the first of them: of what is acknowledged,
// let go or not. Blocks between are zeros. ok is false where the segments alone have them; it stops when fn returns false.
func EachDigest(r Rows, v VersionRow, fn func(off int64, blocks []proto.Digest) bool) (ok bool, err error) {
	if v.Content.Upload == 0 {
		return false, nil
	}
	err = eachRange(r, v.Content.Upload, func(off int64, row RangeRow) (bool, error) {
		return fn(off, row.Blocks), nil
	})
	return err == nil, err
}

// Ranges returns what is acknowledged of an upload, merged and sorted.
func Ranges(r Rows, id proto.UploadID) (out []proto.Range, err error) {
	err = eachRange(r, id, func(off int64, row RangeRow) (bool, error) {
		if n := len(out); n > 0 && out[n-1].Offset+out[n-1].Length == off {
			out[n-1].Length += int64(row.Length)
		} else {
			out = append(out, proto.Range{Offset: off, Length: int64(row.Length)})
		}
		return true, nil
	})
	return out, err
}

// FreeList returns up to limit segments that nothing needs.
func FreeList(r Rows, limit int) (seqs []uint64, err error) {
	lo := key(pFree)
	err = r.Scan(lo, after(lo), func(k, _ []byte) (bool, error) {
		seqs = append(seqs, tail64(k))
		return len(seqs) < limit, nil
	})
	return seqs, err
}

// GonePath is a path that is gone from some holder.
type GonePath struct {
	Path    string
	SinceNs int64 // the running time at which the first holder reported it gone
	LastNs  int64 // and the last one
	Object  ObjectRow
}

// GoneList returns up to limit paths above after that are gone from some holder and not yet tombstones.
func GoneList(r Rows, ds proto.DatasetID, above string, limit int) (out []GonePath, err error) {
	lo := key(pGone, ds, above)
	if above != "" {
		lo = append(lo, 0)
	}
	err = r.Scan(lo, after(key(pGone, ds)), func(k, v []byte) (bool, error) {
		g := GonePath{Path: string(k[5:]), SinceNs: int64(binary.BigEndian.Uint64(v))}
		g.LastNs = g.SinceNs
		if len(v) > 8 { // else it was written when only the first was noted
			g.LastNs = int64(binary.BigEndian.Uint64(v[8:]))
		}
		if _, err := get(r, key(pObject, ds, g.Path), &g.Object); err != nil {
			return false, err
		}
		out = append(out, g)
		return len(out) < limit, nil
	})
	return out, err
}

// EachObject calls fn for the paths of a dataset in order, from the first one above after.
func EachObject(r Rows, ds proto.DatasetID, above string, fn func(path string, o ObjectRow) (bool, error)) error {
	lo := key(pObject, ds, above)
	if above != "" {
		lo = append(lo, 0)
	}
	return r.Scan(lo, after(key(pObject, ds)), func(k, b []byte) (bool, error) {
		var o ObjectRow
		if err := proto.Unmarshal(b, &o); err != nil {
			return false, err
		}
		return fn(string(k[5:]), o)
	})
}

// EachUpload calls fn for all uploads that are being received.
func EachUpload(r Rows, fn func(id proto.UploadID, u UploadRow) (bool, error)) error {
	return each(r, key(pUpload), func(k []byte, u UploadRow) (bool, error) {
		if u.Sealed {
			return true, nil
		}
		return fn(proto.UploadID(tail64(k)), u)
	})
}

// Events returns up to limit events after seq.
func Events(r Rows, seq uint64, limit int) (out []proto.Event, err error) {
	err = r.Scan(key(pEvent, seq+1), after(key(pEvent)), func(_, b []byte) (bool, error) {
		var e proto.Event
		if err := proto.Unmarshal(b, &e); err != nil {
			return false, err
		}
		out = append(out, e)
		return len(out) < limit, nil
	})
	return out, err
}

// Loose reports whether k is a hard link whose leader has another content by now, or is gone: nothing that links owe or
// targets have can stand for its bytes any more.
func Loose(r Rows, ds proto.DatasetID, k Known) (bool, error) {
	if k.Kind != proto.KindHardlink {
		return false, nil
	}
	leader, _, err := Object(r, ds, k.LinkTo)
	return err == nil && (leader.Current.Kind != proto.KindFile || !leader.Current.Desc().SameContent(k.Desc())), err
}
