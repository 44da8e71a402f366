package ledger

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"forebay/proto"
)

// txn is one Apply under way. The rows that many parts of an entry touch (the ledger's own, datasets, links, segments) are
// read once, changed in place through the pointers it hands out, and written once at the end: no part of an entry can
// overwrite what another part changed. All other rows are read and written through the Tx.
type txn struct {
	Tx
	metas    cache[Meta]
	datasets cache[DatasetRow]
	linkRows cache[LinkRow]
	segments cache[SegmentRow]
	free     map[string]bool          // segments, by key, that were on the free list when they were read
	scanned  map[proto.DatasetID]bool // linkRows holds all links of these
}

func begin(tx Tx) *txn {
	return &txn{Tx: tx, metas: cache[Meta]{}, datasets: cache[DatasetRow]{}, linkRows: cache[LinkRow]{}, segments: cache[SegmentRow]{}, free: map[string]bool{}, scanned: map[proto.DatasetID]bool{}}
}

// cache holds rows of one type by key.
type cache[V any] map[string]*cached[V]

type cached[V any] struct {
	row V
	was []byte // as stored; nil: not stored yet
}

// load returns the row at k to be changed in place, nil when there is none.
func (c cache[V]) load(tx Tx, k []byte) (*V, error) {
	if e := c[string(k)]; e != nil {
		return &e.row, nil
	}
	b, err := tx.Get(k)
	if err != nil || b == nil {
		return nil, err
	}
	return c.decode(k, b)
}

func (c cache[V]) decode(k, b []byte) (*V, error) {
	e := &cached[V]{was: b}
	if err := proto.Unmarshal(b, &e.row); err != nil {
		return nil, err
	}
	c[string(k)] = e
	return &e.row, nil
}

// add makes a row that is not there yet.
func (c cache[V]) add(k []byte, row V) *V {
	e := &cached[V]{row: row}
	c[string(k)] = e
	return &e.row
}

func (c cache[V]) remove(tx Tx, k []byte) error {
	delete(c, string(k))
	return tx.Delete(k)
}

func (c cache[V]) flush(tx Tx) error {
	for _, k := range slices.Sorted(maps.Keys(c)) {
		b := proto.Marshal(&c[k].row)
		if bytes.Equal(b, c[k].was) {
			continue
		}
		if err := tx.Set([]byte(k), b); err != nil {
			return err
		}
	}
	return nil
}

// flush writes the rows that changed.
func (t *txn) flush() error {
	for _, k := range slices.Sorted(maps.Keys(t.segments)) {
		if err := t.freeList(k, t.segments[k].row.Refs == 0); err != nil {
			return err
		}
	}
	for _, c := range []interface{ flush(Tx) error }{t.metas, t.datasets, t.linkRows, t.segments} {
		if err := c.flush(t.Tx); err != nil {
			return err
		}
	}
	return nil
}

// freeList puts a segment on the free list or takes it off.
func (t *txn) freeList(k string, free bool) error {
	if t.free[k] == free {
		return nil
	}
	fk := append([]byte{pFree}, k[1:]...)
	if free {
		return t.Set(fk, mark)
	}
	return t.Delete(fk)
}

// meta returns the ledger's own row, which there always is once it has been started.
func (t *txn) meta() (*Meta, error) {
	k := key(pMeta)
	m, err := t.metas.load(t, k)
	if err == nil && m == nil {
		m = t.metas.add(k, Meta{})
	}
	return m, err
}

// dataset returns the row of a dataset that is known.
func (t *txn) dataset(id proto.DatasetID) (*DatasetRow, error) {
	d, err := t.datasets.load(t, key(pDataset, id))
	if err == nil && d == nil {
		err = fmt.Errorf("ledger: unknown dataset %d", id)
	}
	return d, err
}

// link returns the row of a link; a link that was dropped is a ClassConflict.
func (t *txn) link(id LinkID) (*LinkRow, error) {
	l, err := t.linkRows.load(t, key(pLink, id))
	if err == nil && l == nil {
		return nil, proto.Errorf(proto.ClassConflict, "link %d was dropped", id)
	}
	return l, err
}

// links returns the links of a dataset by id, orphaned ones too: they owe until they are dropped. Of other links no more is decoded than
// the dataset, and none of them is written: a segment must not cost as much as there are links.
func (t *txn) links(ds proto.DatasetID) ([]*LinkRow, error) {
	if !t.scanned[ds] {
		lo := key(pLink)
		err := t.Scan(lo, after(lo), func(k, b []byte) (bool, error) {
			if t.linkRows[string(k)] != nil {
				return true, nil
			}
			if of, ok := linkDataset(b); ok && of != ds {
				return true, nil
			}
			_, err := t.linkRows.decode(k, bytes.Clone(b))
			return err == nil, err
		})
		if err != nil {
			return nil, err
		}
		t.scanned[ds] = true
	}
	var out []*LinkRow
	for _, k := range slices.Sorted(maps.Keys(t.linkRows)) {
		if l := &t.linkRows[k].row; l.Dataset == ds {
			out = append(out, l)
		}
	}
	return out, nil
}

// segment returns the row of a segment, nil when it is not known.
func (t *txn) segment(seq uint64) (*SegmentRow, error) {
	k := key(pSegment, seq)
	known := t.segments[string(k)] != nil
	s, err := t.segments.load(t, k)
	if err == nil && s != nil && !known {
		t.free[string(k)] = s.Refs == 0
	}
	return s, err
}

// addSegment records a segment that nothing refers to yet. A sequence number that was used before is an error: its
// references would be lost.
func (t *txn) addSegment(seq uint64, row SegmentRow) error {
	old, err := t.segment(seq)
	if err == nil && old != nil {
		err = fmt.Errorf("ledger: segment %d is recorded already", seq)
	}
	if err != nil {
		return err
	}
	t.segments.add(key(pSegment, seq), row)
	return nil
}

// addRef changes the references to a segment by n pieces and live bytes. Segment 0 is none.
func (t *txn) addRef(seq uint64, n, live int64) error {
	if seq == 0 {
		return nil
	}
	s, err := t.segment(seq)
	if err != nil {
		return err
	}
	if s == nil {
		return fmt.Errorf("ledger: segment %d was freed and is needed still", seq)
	}
	s.Refs += n
	s.Live += live
	if s.Refs < 0 || s.Live < 0 {
		return fmt.Errorf("ledger: segment %d would be needed by %d pieces of %d bytes", seq, s.Refs, s.Live)
	}
	return nil
}

// removeSegment takes a segment that nothing refers to out of the ledger.
func (t *txn) removeSegment(seq uint64) error {
	k := key(pSegment, seq)
	delete(t.free, string(k))
	if err := t.Delete(key(pFree, seq)); err != nil {
		return err
	}
	if err := t.Delete(key(pRefused, seq)); err != nil {
		return err
	}
	return t.segments.remove(t, k)
}
