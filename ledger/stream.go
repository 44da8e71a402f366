package ledger

import (
	"slices"

	"forebay/proto"
)

// An upload that is larger than the cache's room streams: links stage its acknowledged beginning at their targets while the
// rest still comes, and what is durably staged is let go from the cache. Its range rows stay, without a segment: they are
// acknowledged, and their block digests are needed for the seal. The version that it becomes has in the cache only what
// comes after Content.From; links whose target has staged all before that can finish it, the others owe it as released.

// StagedRow is how much of an upload's beginning a link's target has durably in its stage.
type StagedRow struct {
	Durable int64 `cbor:"1,keyasint"`
}

// StageUpload records what a link's target has durably staged of an upload: less than before when the target lost it. It
// changes nothing once the upload is sealed or gone.
type StageUpload struct {
	Link    LinkID
	Upload  proto.UploadID
	Durable int64
}

func (e *StageUpload) apply(tx *txn) error {
	var u UploadRow
	if ok, err := get(tx, key(pUpload, e.Upload), &u); err != nil || !ok || !u.Stream || u.Sealed {
		return err
	}
	if _, err := tx.link(e.Link); err != nil {
		return err
	}
	return put(tx, key(pStaged, e.Upload, e.Link), StagedRow{Durable: e.Durable})
}

// FreeStaged lets go from the cache what every link that takes part in a stream has durably staged. Links of Without are not
// waited for: where the stream goes on without them, they owe the version as released.
type FreeStaged struct {
	Upload  proto.UploadID
	Without []LinkID

	Bytes int64 // result: let go by this entry
	// Lost is set when no link's target has any more what the cache let go: the upload can only be abandoned.
	Lost bool
}

func (e *FreeStaged) apply(tx *txn) error {
	e.Bytes, e.Lost = 0, false
	var u UploadRow
	if ok, err := get(tx, key(pUpload, e.Upload), &u); err != nil || !ok || !u.Stream || u.Sealed {
		return err
	}
	links, err := StreamLinks(tx, e.Upload, u)
	if err != nil {
		return err
	}
	upTo, able := int64(-1), false
	for _, l := range links {
		if l.Durable < u.Freed {
			continue // it fell out before
		}
		able = true
		if !slices.Contains(e.Without, l.Link) && (upTo < 0 || l.Durable < upTo) {
			upTo = l.Durable
		}
	}
	if !able {
		e.Lost = u.Freed > 0
		return nil
	}
	if upTo <= u.Freed {
		return nil
	}
	if err := e.free(tx, &u, upTo); err != nil {
		return err
	}
	return put(tx, key(pUpload, e.Upload), u)
}

// free lets go of the ranges that end at upTo at most.
func (e *FreeStaged) free(tx *txn, u *UploadRow, upTo int64) error {
	var ranges []placed
	err := rangesFrom(tx, e.Upload, u.Freed, func(off int64, r RangeRow) (bool, error) {
		if off+int64(r.Length) > upTo {
			return false, nil
		}
		ranges = append(ranges, placed{off, r})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, r := range ranges {
		u.Freed = max(u.Freed, r.off+int64(r.row.Length))
		seq := r.row.Segment
		if seq == 0 {
			continue
		}
		if err := tx.Delete(key(pSegRange, seq, e.Upload, r.off)); err != nil {
			return err
		}
		if err := tx.addRef(seq, -1, -int64(r.row.Length)); err != nil {
			return err
		}
		r.row.Segment, r.row.At = 0, 0
		if err := put(tx, key(pRange, e.Upload, r.off), r.row); err != nil {
			return err
		}
		u.Gone += int64(r.row.Length)
		e.Bytes += int64(r.row.Length)
	}
	return nil
}

// SettleHoles says that what is not acknowledged of a stream below an offset is holes: its uploader sends in order and is past
// it. Where that turns out wrong, the digest of what was staged does not prove, and the content is asked for again.
type SettleHoles struct {
	Upload proto.UploadID
	Below  int64
}

func (e *SettleHoles) apply(tx *txn) error {
	var u UploadRow
	if ok, err := get(tx, key(pUpload, e.Upload), &u); err != nil || !ok || !u.Stream || u.Sealed || e.Below <= u.Solid {
		return err
	}
	u.Solid = min(e.Below, u.Size)
	return put(tx, key(pUpload, e.Upload), u)
}

// beginStream makes u a stream; again is UploadRow.Again.
func beginStream(tx *txn, id proto.UploadID, u *UploadRow, again bool) error {
	u.Stream, u.Again = true, again
	return tx.Set(key(pStream, id), mark)
}

// endStream takes an upload off the list of streams; what targets have of it stays known as long as the upload.
func endStream(tx *txn, id proto.UploadID) error { return tx.Delete(key(pStream, id)) }

// dropStaged forgets what targets have of an upload that goes.
func dropStaged(tx *txn, id proto.UploadID) error {
	lo := key(pStaged, id)
	_, err := deleteRows(tx, lo, after(lo), 0)
	return err
}

// StreamLink is a link that takes part in a stream.
type StreamLink struct {
	Link    LinkID
	Durable int64 // staged at its target; less than UploadRow.Freed: it fell out
}

// StreamLinks returns the links for which an upload is streamed: those of its dataset that are configured; where it brings a
// content that is asked for again, those that lack it.
func StreamLinks(r Rows, id proto.UploadID, u UploadRow) (out []StreamLink, err error) {
	o, _, err := Object(r, u.Dataset, u.Path)
	if err != nil {
		return nil, err
	}
	links, err := Links(r)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Dataset != u.Dataset || l.Orphaned {
			continue
		}
		if u.Again {
			if q, owed, err := OwedAt(r, l.ID, o.Current.Version); err != nil {
				return nil, err
			} else if !owed || q.Parked || q.State != OwedReleased {
				continue
			}
		}
		d, err := Staged(r, id, l.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, StreamLink{Link: l.ID, Durable: d})
	}
	return out, nil
}

// Staged returns how much of an upload's beginning a link's target has durably.
func Staged(r Rows, id proto.UploadID, link LinkID) (int64, error) {
	var s StagedRow
	_, err := get(r, key(pStaged, id, link), &s)
	return s.Durable, err
}

// EachStream calls fn for the streams that are being received.
func EachStream(r Rows, fn func(id proto.UploadID, u UploadRow) (bool, error)) error {
	lo := key(pStream)
	return r.Scan(lo, after(lo), func(k, _ []byte) (bool, error) {
		id := proto.UploadID(tail64(k))
		u, ok, err := Upload(r, id)
		if err != nil || !ok {
			return err == nil, err
		}
		return fn(id, u)
	})
}

// UploadParts calls fn, in order, for the acknowledged parts of an upload that end after from. Those that were let go have no
// segment.
func UploadParts(r Rows, id proto.UploadID, from int64, fn func(Part) (bool, error)) error {
	return rangesFrom(r, id, from, func(off int64, row RangeRow) (bool, error) { return fn(row.part(off)) })
}

// rangesFrom is eachRange for those that end after from.
func rangesFrom(r Rows, id proto.UploadID, from int64, fn func(off int64, r RangeRow) (bool, error)) error {
	lo := key(pRange, id, max(from-proto.MaxPayload, 0))
	return r.Scan(lo, after(key(pRange, id)), func(k, b []byte) (bool, error) {
		var row RangeRow
		if err := proto.Unmarshal(b, &row); err != nil {
			return false, err
		}
		off := int64(tail64(k))
		if off+int64(row.Length) <= from {
			return true, nil
		}
		return fn(off, row)
	})
}
