package ledger

import (
	"fmt"

	"forebay/proto"
)

// A segment's Refs counts the pieces in it that are still needed (I2): ranges of uploads (while the upload has users), the
// descriptions of versions that some link owes from the cache (Home), and the inline bytes of versions whose content some link
// needs. At 0 the segment is put on the free list, and nothing refers to it ever again: a version's Home and Content are
// forgotten in the step in which they are let go.

// hasBytes reports whether the version has bytes of its own in the cache. Links, directories, tombstones, empty files and
// hard links live by their description alone.
func (v *VersionRow) hasBytes() bool { return v.Desc.Kind == proto.KindFile && v.Desc.Size > 0 }

// retention retains or lets go of what v refers to, at the edges of its needs. need and bytes are Need and NeedBytes before.
func retention(tx *txn, ds proto.DatasetID, ver proto.VersionID, v *VersionRow, need, bytes int) error {
	if need == 0 && v.Need > 0 {
		if err := retainHome(tx, ds, ver, v); err != nil {
			return err
		}
	}
	if bytes == 0 && v.NeedBytes > 0 && v.hasBytes() {
		if err := retainContent(tx, ds, ver, v); err != nil {
			return err
		}
	}
	if bytes > 0 && v.NeedBytes == 0 {
		if err := releaseContent(tx, ds, ver, v); err != nil {
			return err
		}
	}
	if need > 0 && v.Need == 0 {
		return releaseHome(tx, ds, ver, v)
	}
	return nil
}

func retainHome(tx *txn, ds proto.DatasetID, ver proto.VersionID, v *VersionRow) error {
	if v.Home == 0 {
		return nil
	}
	if err := tx.Set(key(pSegVer, v.Home, ds, ver), mark); err != nil {
		return err
	}
	return tx.addRef(v.Home, 1, 0)
}

// releaseHome lets go of the segment that describes v; the ledger's row lives on.
func releaseHome(tx *txn, ds proto.DatasetID, ver proto.VersionID, v *VersionRow) error {
	seq := v.Home
	v.Home = 0
	if seq == 0 {
		return nil
	}
	if v.Content.Segment != seq {
		if err := tx.Delete(key(pSegVer, seq, ds, ver)); err != nil {
			return err
		}
	}
	return tx.addRef(seq, -1, 0)
}

// retainContent marks v's bytes as needed, and registers v where they lie so that a lost segment names it.
func retainContent(tx *txn, ds proto.DatasetID, ver proto.VersionID, v *VersionRow) error {
	c := v.Content
	if c.Upload != 0 {
		if err := tx.Set(key(pUpVer, c.Upload, ds, ver), mark); err != nil {
			return err
		}
		return changeUsers(tx, c.Upload, 1)
	}
	if c.Segment == 0 {
		return fmt.Errorf("ledger: version %d of dataset %d (%q) is needed from the cache, which does not have it", ver, ds, v.Path)
	}
	if err := tx.Set(key(pSegVer, c.Segment, ds, ver), mark); err != nil {
		return err
	}
	return tx.addRef(c.Segment, 1, int64(c.Length))
}

func releaseContent(tx *txn, ds proto.DatasetID, ver proto.VersionID, v *VersionRow) error {
	c := v.Content
	v.setContent(Content{})
	if c.Upload != 0 {
		if err := tx.Delete(key(pUpVer, c.Upload, ds, ver)); err != nil {
			return err
		}
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
	return tx.addRef(c.Segment, -1, -int64(c.Length))
}

// setContent says where v's bytes are, without retaining them.
func (v *VersionRow) setContent(c Content) {
	if v.Content = c; c.Lacks == 0 {
		v.Bases = nil
	}
	v.Cached = !v.hasBytes() || c != Content{}
}

// changeUsers counts who needs an upload's ranges; with the last user they go.
func changeUsers(tx *txn, id proto.UploadID, n int) error {
	k := key(pUpload, id)
	var u UploadRow
	if ok, err := get(tx, k, &u); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("ledger: upload %d is gone and is needed still", id)
	}
	if u.Users += n; u.Users > 0 {
		return put(tx, k, u)
	}
	return dropUpload(tx, id)
}

// dropUpload removes an upload and lets go of the segments its ranges lie in.
func dropUpload(tx *txn, id proto.UploadID) error {
	var ranges []placed
	err := eachRange(tx, id, func(off int64, r RangeRow) (bool, error) {
		r.Blocks = nil
		ranges = append(ranges, placed{off, r})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if err := dropRange(tx, id, r); err != nil {
			return err
		}
	}
	if err := dropStaged(tx, id); err != nil {
		return err
	}
	if err := endStream(tx, id); err != nil {
		return err
	}
	return tx.Delete(key(pUpload, id))
}

// placed is a range and where it begins in its object.
type placed struct {
	off int64
	row RangeRow
}

// putRange writes a range of an upload and retains the segments that it needs.
func putRange(tx *txn, id proto.UploadID, p placed) error {
	if err := put(tx, key(pRange, id, p.off), p.row); err != nil {
		return err
	}
	return p.row.needs(func(seq uint64, live int64) error {
		if err := tx.Set(key(pSegRange, seq, id, p.off), mark); err != nil {
			return err
		}
		return tx.addRef(seq, 1, live)
	})
}

func dropRange(tx *txn, id proto.UploadID, p placed) error {
	if err := tx.Delete(key(pRange, id, p.off)); err != nil {
		return err
	}
	return p.row.needs(func(seq uint64, live int64) error {
		if err := tx.Delete(key(pSegRange, seq, id, p.off)); err != nil {
			return err
		}
		return tx.addRef(seq, -1, -live)
	})
}

// needs calls fn for the segments that a range needs, and what of their payload.
func (r *RangeRow) needs(fn func(seq uint64, live int64) error) error {
	if r.Segment != 0 { // else it was let go, or never there
		if err := fn(r.Segment, int64(r.Length)); err != nil {
			return err
		}
	}
	if r.Named != 0 {
		return fn(r.Named, 0)
	}
	return nil
}

// dropReceiving ends the upload of o that is being received, if there is one: what was acknowledged of it is waste.
func dropReceiving(tx *txn, o *ObjectRow) error {
	if o.Upload == 0 {
		return nil
	}
	var u UploadRow
	if _, err := get(tx, key(pUpload, o.Upload), &u); err != nil {
		return err
	}
	m, err := tx.meta()
	if err != nil {
		return err
	}
	m.WastedBytes += u.Acked - u.Same
	id := o.Upload
	o.Upload = 0
	return changeUsers(tx, id, -1)
}

// eachRange calls fn for an upload's ranges by offset.
func eachRange(r Rows, id proto.UploadID, fn func(off int64, r RangeRow) (bool, error)) error {
	return each(r, key(pRange, id), func(k []byte, row RangeRow) (bool, error) { return fn(int64(tail64(k)), row) })
}
