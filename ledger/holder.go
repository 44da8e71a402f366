package ledger

import (
	"encoding/binary"

	"forebay/proto"
)

// editMeta changes the ledger's own row.
func editMeta(tx Tx, fn func(m *Meta)) error {
	var m Meta
	if _, err := get(tx, key(pMeta), &m); err != nil {
		return err
	}
	fn(&m)
	return put(tx, key(pMeta), m)
}

func (e *Start) apply(tx Tx) error {
	var m Meta
	known, err := get(tx, key(pMeta), &m)
	if err != nil {
		return err
	}
	if !known {
		m = Meta{Format: Format, Relay: e.Relay}
	}
	m.Name = e.Name
	m.Generation = max(m.Generation, e.AtLeast) + 1
	e.Meta = m
	return put(tx, key(pMeta), m)
}

// dataset returns the row of a dataset, making one at its first mention.
func dataset(tx Tx, name proto.Dataset) (DatasetRow, error) {
	var d DatasetRow
	b, err := tx.Get(key(pDSName, name.String()))
	if err != nil {
		return d, err
	}
	if b != nil {
		_, err := get(tx, key(pDataset, proto.DatasetID(binary.BigEndian.Uint32(b))), &d)
		return d, err
	}
	err = editMeta(tx, func(m *Meta) {
		m.LastDataset++
		d = DatasetRow{ID: m.LastDataset, Name: name}
	})
	if err != nil {
		return d, err
	}
	if err := tx.Set(key(pDSName, name.String()), u32(uint32(d.ID))); err != nil {
		return d, err
	}
	return d, put(tx, key(pDataset, d.ID), d)
}

func (e *RegisterHolder) apply(tx Tx) error {
	d, err := dataset(tx, e.Dataset)
	if err != nil {
		return err
	}
	nk := key(pNode, e.Dataset.Cluster+"/"+e.Node)
	n := NodeRow{Cluster: e.Dataset.Cluster, Node: e.Node}
	if _, err := get(tx, nk, &n); err != nil {
		return err
	}
	n.Instance, n.Software, n.SeenNs = e.Instance, e.Software, e.NowNs
	if err := put(tx, nk, n); err != nil {
		return err
	}
	hk := key(pHoldName, d.ID, e.Dataset.Cluster+"/"+e.Node, byte(0), e.Root)
	b, err := tx.Get(hk)
	if err != nil {
		return err
	}
	var h HolderRow
	if b == nil {
		if err := editMeta(tx, func(m *Meta) { m.LastHolder++; h.ID = m.LastHolder }); err != nil {
			return err
		}
		h = HolderRow{ID: h.ID, Dataset: d.ID, Cluster: e.Dataset.Cluster, Node: e.Node, Root: e.Root}
		if err := tx.Set(hk, u32(uint32(h.ID))); err != nil {
			return err
		}
	} else if _, err := get(tx, key(pHolder, proto.HolderID(binary.BigEndian.Uint32(b))), &h); err != nil {
		return err
	}
	if h.Index != e.Index {
		h.Index, h.IndexGen, h.Cursor = e.Index, h.IndexGen+1, 0
	}
	e.Holder = h
	return put(tx, key(pHolder, h.ID), h)
}

func (e *ForgetNode) apply(tx Tx) error {
	hs, err := Holders(tx)
	if err != nil {
		return err
	}
	for _, h := range hs {
		if h.Cluster != e.Cluster || h.Node != e.Node {
			continue
		}
		if err := tx.Delete(key(pHolder, h.ID)); err != nil {
			return err
		}
		if err := tx.Delete(key(pHoldName, h.Dataset, h.Cluster+"/"+h.Node, byte(0), h.Root)); err != nil {
			return err
		}
	}
	return tx.Delete(key(pNode, e.Cluster+"/"+e.Node))
}

func (e *UpdateNode) apply(tx Tx) error {
	k := key(pNode, e.Cluster+"/"+e.Node)
	var n NodeRow
	if ok, err := get(tx, k, &n); err != nil || !ok {
		return err
	}
	n.SeenNs = max(n.SeenNs, e.SeenNs)
	n.Takeovers += e.Takeovers
	if e.Cordoned != nil {
		n.Cordoned = *e.Cordoned
	}
	for id, cursor := range e.Cursors {
		var h HolderRow
		if ok, err := get(tx, key(pHolder, id), &h); err != nil {
			return err
		} else if ok && h.Cursor < cursor {
			h.Cursor = cursor
			if err := put(tx, key(pHolder, id), h); err != nil {
				return err
			}
		}
	}
	return put(tx, k, n)
}

func (e *AbandonUpload) apply(tx Tx) error {
	var u UploadRow
	if ok, err := get(tx, key(pUpload, e.Upload), &u); err != nil || !ok || u.Sealed {
		return err
	}
	ok := key(pObject, u.Dataset, u.Path)
	var o ObjectRow
	if _, err := get(tx, ok, &o); err != nil {
		return err
	}
	if o.Upload == e.Upload {
		o.Upload = 0
		if err := put(tx, ok, o); err != nil {
			return err
		}
	}
	if err := editMeta(tx, func(m *Meta) { m.WastedBytes += u.Acked }); err != nil {
		return err
	}
	return changeUsers(tx, e.Upload, -1)
}

func (e *ReportHoldings) apply(tx Tx) error {
	var h HolderRow
	if ok, err := get(tx, key(pHolder, e.Holder), &h); err != nil || !ok {
		return err
	}
	for _, have := range e.Have {
		if err := e.have(tx, h, have); err != nil {
			return err
		}
	}
	for _, g := range e.Gone {
		err := editObject(tx, h.Dataset, g.Path, func(o *ObjectRow) error {
			o.SetHolding(Holding{Holder: h.ID, State: HoldingGone, Version: g.Version, IndexGen: h.IndexGen})
			return e.markGone(tx, h.Dataset, g.Path, o)
		})
		if err != nil {
			return err
		}
	}
	for _, c := range e.Claims {
		err := editObject(tx, h.Dataset, c.Path, func(o *ObjectRow) error {
			c.Holding.Holder, c.Holding.IndexGen = h.ID, h.IndexGen
			o.SetHolding(c.Holding)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if !e.ScanDone {
		return nil
	}
	h.ScannedGen, h.ScannedNs = h.IndexGen, e.NowNs
	return put(tx, key(pHolder, h.ID), h)
}

// have records a proved copy. While no link has confirmed the version, the newest mtime among its holders is the one that is
// published, so that what a target shows does not depend on which replica came first.
func (e *ReportHoldings) have(tx Tx, h HolderRow, have proto.HaveEntry) error {
	vk := key(pVersion, h.Dataset, have.Version)
	var v VersionRow
	if ok, err := get(tx, vk, &v); err != nil || !ok {
		return err
	}
	return editObject(tx, h.Dataset, v.Path, func(o *ObjectRow) error {
		st := HoldingHas
		if o.Current.Version != have.Version {
			st = HoldingLags
		}
		o.SetHolding(Holding{Holder: h.ID, State: st, Version: have.Version, IndexGen: h.IndexGen})
		if st == HoldingLags || v.Desc.Kind != proto.KindFile || have.MtimeNs <= v.Desc.Meta.MtimeNs {
			return nil
		}
		ls, err := links(tx, h.Dataset)
		if err != nil || v.Owed < len(ls) {
			return err
		}
		v.Desc.Meta.MtimeNs, o.MtimeNs = have.MtimeNs, have.MtimeNs
		return put(tx, vk, v)
	})
}

// markGone puts a path on the list of those gone from some holder, for the relay to judge.
func (e *ReportHoldings) markGone(tx Tx, ds proto.DatasetID, path string, o *ObjectRow) error {
	if o.Current.Version == 0 || o.Current.Kind == proto.KindTombstone {
		return nil
	}
	k := key(pGone, ds, path)
	old, err := tx.Get(k)
	if err != nil || old != nil {
		return err
	}
	if err := editDataset(tx, ds, func(d *DatasetRow) { d.Gone++ }); err != nil {
		return err
	}
	return tx.Set(k, u64(uint64(e.NowNs)))
}

func (e *UnmarkGone) apply(tx Tx) error {
	n := int64(0)
	for _, p := range e.Paths {
		k := key(pGone, e.Dataset, p)
		old, err := tx.Get(k)
		if err != nil {
			return err
		}
		if old == nil {
			continue
		}
		n++
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	return editDataset(tx, e.Dataset, func(d *DatasetRow) { d.Gone -= n })
}

func (e *DropTombstones) apply(tx Tx) error {
	for _, p := range e.Paths {
		k := key(pObject, e.Dataset, p)
		var o ObjectRow
		if ok, err := get(tx, k, &o); err != nil {
			return err
		} else if !ok || o.Current.Kind != proto.KindTombstone || o.Upload != 0 {
			continue
		}
		vk := key(pVersion, e.Dataset, o.Current.Version)
		var v VersionRow
		if ok, err := get(tx, vk, &v); err != nil {
			return err
		} else if ok && v.Owed > 0 {
			continue
		}
		if err := tx.Delete(vk); err != nil {
			return err
		}
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

func editObject(tx Tx, ds proto.DatasetID, path string, fn func(o *ObjectRow) error) error {
	k := key(pObject, ds, path)
	var o ObjectRow
	if ok, err := get(tx, k, &o); err != nil || !ok {
		return err
	}
	if err := fn(&o); err != nil {
		return err
	}
	return put(tx, k, o)
}

func editDataset(tx Tx, ds proto.DatasetID, fn func(d *DatasetRow)) error {
	var d DatasetRow
	if _, err := get(tx, key(pDataset, ds), &d); err != nil {
		return err
	}
	fn(&d)
	return put(tx, key(pDataset, ds), d)
}
