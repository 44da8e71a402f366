package ledger

import (
	"fmt"

	"forebay/proto"
)

// A segment's Refs counts the pieces in it that are still needed: ranges of uploads (while the upload has users) and, for
// each version some link needs from the cache, its description and its inline bytes. At 0 the segment is put on the free list.

// addRef changes the references to a segment by n pieces and live bytes.
func addRef(tx Tx, seq uint64, n, live int64) error {
	if seq == 0 {
		return nil
	}
	var s SegmentRow
	ok, err := get(tx, key(pSegment, seq), &s)
	if err != nil {
		return err
	}
	if !ok {
		return nil // lost or freed before: nothing to count
	}
	s.Refs += n
	s.Live += live
	if s.Refs < 0 {
		return fmt.Errorf("ledger: segment %d would be needed by %d pieces", seq, s.Refs)
	}
	if s.Refs == 0 {
		if err := tx.Set(key(pFree, seq), nil2); err != nil {
			return err
		}
	} else if s.Refs == n && n > 0 {
		if err := tx.Delete(key(pFree, seq)); err != nil {
			return err
		}
	}
	return put(tx, key(pSegment, seq), s)
}

// nil2 is the value of rows that are all key: storage tells an empty value from an absent row only if it is not nil.
var nil2 = []byte{0}

// retain marks the segments of v as needed, and registers it there so that a lost segment names it.
func retain(tx Tx, ds proto.DatasetID, ver proto.VersionID, v *VersionRow) error {
	if err := addRef(tx, v.Home, 1, 0); err != nil {
		return err
	}
	if err := tx.Set(key(pSegVer, v.Home, ds, ver), nil2); err != nil {
		return err
	}
	c := v.Content
	if c.Upload != 0 {
		return changeUsers(tx, c.Upload, 1)
	}
	if c.Segment != 0 && c.Segment != v.Home {
		if err := tx.Set(key(pSegVer, c.Segment, ds, ver), nil2); err != nil {
			return err
		}
	}
	if c.Segment == 0 {
		return nil
	}
	return addRef(tx, c.Segment, 1, int64(c.Length))
}

// release is the reverse of retain. The version stays known.
func release(tx Tx, ds proto.DatasetID, ver proto.VersionID, v *VersionRow) error {
	if err := tx.Delete(key(pSegVer, v.Home, ds, ver)); err != nil {
		return err
	}
	if err := addRef(tx, v.Home, -1, 0); err != nil {
		return err
	}
	c := v.Content
	v.Cached, v.Content = false, Content{}
	if c.Upload != 0 {
		return changeUsers(tx, c.Upload, -1)
	}
	if c.Segment == 0 {
		return nil
	}
	if c.Segment != v.Home {
		if err := tx.Delete(key(pSegVer, c.Segment, ds, ver)); err != nil {
			return err
		}
	}
	return addRef(tx, c.Segment, -1, -int64(c.Length))
}

// changeUsers counts who needs an upload's ranges; with the last user they go.
func changeUsers(tx Tx, id proto.UploadID, n int) error {
	var u UploadRow
	ok, err := get(tx, key(pUpload, id), &u)
	if err != nil || !ok {
		return err
	}
	u.Users += n
	if u.Users > 0 {
		return put(tx, key(pUpload, id), u)
	}
	return dropUpload(tx, id)
}

// dropUpload removes an upload and lets go of the segments its ranges lie in.
func dropUpload(tx Tx, id proto.UploadID) error {
	type rng struct {
		off uint64
		row RangeRow
	}
	var ranges []rng
	err := eachRange(tx, id, func(off int64, r RangeRow) (bool, error) {
		r.Blocks = nil
		ranges = append(ranges, rng{uint64(off), r})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if err := tx.Delete(key(pSegRange, r.row.Segment, id, r.off)); err != nil {
			return err
		}
		if err := addRef(tx, r.row.Segment, -1, -int64(r.row.Length)); err != nil {
			return err
		}
	}
	lo := key(pRange, id)
	if err := tx.DeleteRange(lo, after(lo)); err != nil {
		return err
	}
	return tx.Delete(key(pUpload, id))
}

// eachRange calls fn for an upload's ranges by offset.
func eachRange(r Rows, id proto.UploadID, fn func(off int64, r RangeRow) (bool, error)) error {
	lo := key(pRange, id)
	return r.Scan(lo, after(lo), func(k, v []byte) (bool, error) {
		var row RangeRow
		if err := proto.Unmarshal(v, &row); err != nil {
			return false, err
		}
		return fn(int64(tail64(k)), row)
	})
}

// need changes how many links need a version from the cache, retaining or letting go at the edges. The caller writes v back.
func need(tx Tx, ds proto.DatasetID, ver proto.VersionID, v *VersionRow, n int) error {
	was := v.Need
	v.Need += n
	switch {
	case v.Need < 0:
		return fmt.Errorf("ledger: version %d of dataset %d would be needed by %d links", ver, ds, v.Need)
	case was == 0 && v.Need > 0:
		return retain(tx, ds, ver, v)
	case was > 0 && v.Need == 0:
		return release(tx, ds, ver, v)
	}
	return nil
}
