package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"

	"forebay/proto"
)

func (e *Start) apply(tx *txn) error {
	m, err := tx.meta()
	if err != nil {
		return err
	}
	if m.Format == 0 {
		m.Format, m.Relay = Format, e.Relay
		m.Generation = e.AtLeast // nothing is older than the stores in a ledger that begins
	}
	m.Name = e.Name
	outdated := e.Outdated || e.AtLeast > m.Generation
	m.Generation = max(m.Generation, e.AtLeast) + 1
	if outdated {
		m.Outdated, m.Kept = true, max(m.Kept, uint64(m.Generation)<<40) // in one with the generation, which hides it from the next start
	}
	e.Meta = *m
	return nil
}

// makeDataset returns the row of a dataset, making one at its first mention.
func makeDataset(tx *txn, name proto.Dataset) (*DatasetRow, error) {
	nk := key(pDSName, name.String())
	b, err := tx.Get(nk)
	if err != nil {
		return nil, err
	}
	if b != nil {
		return tx.dataset(proto.DatasetID(binary.BigEndian.Uint32(b)))
	}
	m, err := tx.meta()
	if err != nil {
		return nil, err
	}
	m.LastDataset++
	d := tx.datasets.add(key(pDataset, m.LastDataset), DatasetRow{ID: m.LastDataset, Name: name, Head: m.Floor})
	return d, tx.Set(nk, u32(uint32(d.ID)))
}

func (e *RegisterHolder) apply(tx *txn) error {
	d, err := makeDataset(tx, e.Dataset)
	if err != nil {
		return err
	}
	nk := key(pNode, e.Dataset.Cluster+"/"+e.Node)
	n := NodeRow{Cluster: e.Dataset.Cluster, Node: e.Node}
	if _, err := get(tx, nk, &n); err != nil {
		return err
	}
	n.Instance, n.Software = e.Instance, e.Software
	n.seen(e.NowNs, e.UpNs)
	if err := tx.ran(e.UpNs); err != nil {
		return err
	}
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
		m, err := tx.meta()
		if err != nil {
			return err
		}
		m.LastHolder++
		h = HolderRow{ID: m.LastHolder, Dataset: d.ID, Cluster: e.Dataset.Cluster, Node: e.Node, Root: e.Root}
		if err := tx.Set(hk, u32(uint32(h.ID))); err != nil {
			return err
		}
	} else if _, err := get(tx, key(pHolder, proto.HolderID(binary.BigEndian.Uint32(b))), &h); err != nil {
		return err
	}
	switch {
	case h.Index != e.Index:
		h.Index, h.IndexGen, h.Cursor, h.Told, h.BareNs = e.Index, h.IndexGen+1, 0, 0, 0
		if e.Told != 0 { // it is not fresh: it was here before another one, or the node was forgotten meanwhile
			h.Told, e.PutBack = e.Told+putBackStep, true
		}
	case e.Told < h.Told: // also 0: the copy may be from before it had told of anything
		h.IndexGen, h.Cursor, h.Told, h.BareNs, e.PutBack = h.IndexGen+1, 0, h.Told+putBackStep, 0, true
	default:
		h.Told = max(h.Told, e.Told)
	}
	e.Holder = h
	return put(tx, key(pHolder, h.ID), h)
}

// putBackStep is how far HolderRow.Told goes ahead when an index has to be settled anew. An agent counts up to there only by doing so:
// one that never saw the answer, as when its hello came late and it had said hello again since, is asked again, however much it has
// told meanwhile. What it said of the generation before counts for nothing (I13).
const putBackStep = 1 << 32

func (e *ForgetNode) apply(tx *txn) error {
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

// seen notes a sign of life. The running time tells which is the latest: the clock may have been set back meanwhile.
func (n *NodeRow) seen(ns, up int64) {
	if up > n.SeenUp || up == n.SeenUp && ns > n.SeenNs {
		n.SeenNs, n.SeenUp = ns, up
	}
}

// ran notes the running time. Every entry that stores a stamp of it does so: after a crash the running time goes on from what is
// written, and were that before a stamp, what was stamped before the crash would compare as later than what came after it.
func (t *txn) ran(up int64) error {
	m, err := t.meta()
	if err != nil {
		return err
	}
	m.UpNs = max(m.UpNs, up)
	return nil
}

func (e *Tick) apply(tx *txn) error { return tx.ran(e.UpNs) }

func (e *UpdateNode) apply(tx *txn) error {
	k := key(pNode, e.Cluster+"/"+e.Node)
	var n NodeRow
	if ok, err := get(tx, k, &n); err != nil || !ok {
		return err
	}
	n.seen(e.SeenNs, e.SeenUp)
	if err := tx.ran(e.SeenUp); err != nil {
		return err
	}
	n.Takeovers += e.Takeovers
	if e.Cordoned != nil {
		n.Cordoned = *e.Cordoned
	}
	for id, f := range e.Cursors {
		var h HolderRow
		if ok, err := get(tx, key(pHolder, id), &h); err != nil {
			return err
		} else if ok && h.IndexGen == f.IndexGen && h.Cursor < f.Cursor {
			h.Cursor = f.Cursor
			if err := put(tx, key(pHolder, id), h); err != nil {
				return err
			}
		}
	}
	return put(tx, k, n)
}

func (e *AbandonUpload) apply(tx *txn) error {
	var u UploadRow
	if ok, err := get(tx, key(pUpload, e.Upload), &u); err != nil || !ok || u.Sealed {
		return err
	}
	return editObject(tx, u.Dataset, u.Path, func(o *ObjectRow) error {
		if o.Upload != e.Upload {
			return fmt.Errorf("ledger: upload %d is being received and %q does not know it", e.Upload, u.Path)
		}
		return dropReceiving(tx, o)
	})
}

func (e *ReportHoldings) apply(tx *txn) error {
	var h HolderRow
	ok, err := get(tx, key(pHolder, e.Holder), &h)
	if e.Stale = ok && e.IndexGen != 0 && e.IndexGen != h.IndexGen; err != nil || !ok || e.Stale {
		return err
	}
	if len(e.Gone) > 0 || e.ScanDone { // what bears the time
		if err := tx.ran(e.UpNs); err != nil {
			return err
		}
	}
	e.WantMeta = nil
	for i, have := range e.Have {
		wanted, err := e.have(tx, h, have)
		if err != nil {
			return err
		}
		if wanted {
			e.WantMeta = append(e.WantMeta, i)
		}
	}
	for _, g := range e.Gone {
		err := editObject(tx, h.Dataset, g.Path, func(o *ObjectRow) error {
			was, now := o.Holding(h.ID), Holding{Holder: h.ID, State: HoldingGone, Version: g.Version, IndexGen: h.IndexGen}
			again := was != nil && *was == now
			o.SetHolding(now)
			return e.markGone(tx, h.Dataset, g.Path, o, again)
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
	was := h
	switch {
	case e.ScanDone && !e.Bare:
		h.BareNs = 0
	case e.ScanDone && h.BareNs == 0 && h.Told == 0:
		h.BareNs = max(e.UpNs, 1)
	}
	h.Told = max(h.Told, e.Told)
	if e.ScanDone && e.ScanUp != 0 {
		h.ScannedGen, h.ScannedNs = h.IndexGen, max(h.ScannedNs, e.ScanUp)
	}
	if h == was {
		return nil
	}
	return put(tx, key(pHolder, h.ID), h)
}

// have records a proved copy. While no link has confirmed the version, the newest mtime among its holders is the one that is
// published, so that what a target shows does not depend on which replica came first.
func (e *ReportHoldings) have(tx *txn, h HolderRow, have proto.HaveEntry) (wanted bool, err error) {
	vk := key(pVersion, h.Dataset, have.Version)
	var v VersionRow
	if ok, err := get(tx, vk, &v); err != nil || !ok {
		return false, err
	}
	err = editObject(tx, h.Dataset, v.Path, func(o *ObjectRow) error {
		now := Holding{Holder: h.ID, State: HoldingHas, Version: have.Version, IndexGen: h.IndexGen}
		if o.Current.Version != have.Version {
			now.State = HoldingLags
			if o.Current.Desc().SameContent(v.Desc) { // only metadata is newer, of which this one is still to hear
				now.State, now.Version, now.Odd = HoldingHas, o.Current.Version, true
			}
			o.SetHolding(now)
			return nil
		}
		if v.Desc.Kind == proto.KindFile && have.MtimeNs > v.Desc.Meta.MtimeNs {
			ls, err := tx.links(h.Dataset)
			if err != nil {
				return err
			}
			if v.Owed >= len(ls) {
				v.Desc.Meta.MtimeNs, o.MtimeNs = have.MtimeNs, have.MtimeNs
				if err := put(tx, vk, v); err != nil {
					return err
				}
			}
		}
		now.Odd, wanted = MetaWanted(o, h.ID, v.Holder, v.Desc.Meta, have, e.Alive)
		o.SetHolding(now)
		return nil
	})
	return wanted, err
}

// MetaWanted looks at the metadata of a holder that has proved to have the current version. odd says that it is not what is published;
// wanted that it is to be published in its place: the one who published it (author) has changed it since, without knowing that it had
// been taken, or no holder that is there has what is published. Replicas may differ in metadata for good, and one of them has to be
// followed; but it must be one that is there. One that has kept what it had agreed on before may only lack a change that others have
// made, be they there or not, and is followed once none of them has it any more: author too, who may have been put back to before its
// change, or has undone it itself.
func MetaWanted(o *ObjectRow, holder, author proto.HolderID, published proto.Meta, mine proto.HaveEntry, alive []proto.HolderID) (odd, wanted bool) {
	if k := o.Current.Kind; mine.MetaSum == 0 || k == proto.KindHardlink || k == proto.KindTombstone {
		return false, false
	}
	odd = mine.MetaSum != proto.MetaSum(published.Sums())
	if holder == author && o.Current.Kind == proto.KindFile && mine.MtimeNs > published.MtimeNs {
		odd = true
	}
	if !odd || !slices.Contains(alive, holder) {
		return odd, false
	}
	if holder == author && !mine.Kept {
		return true, true
	}
	return true, !slices.ContainsFunc(o.Holders, func(h Holding) bool {
		has := h.Holder != holder && h.State == HoldingHas && h.Version == o.Current.Version && !h.Odd
		return has && (mine.Kept || slices.Contains(alive, h.Holder))
	})
}

// markGone puts a path on the list of those gone from some holder, for the relay to judge; again is when this one had said so before.
func (e *ReportHoldings) markGone(tx *txn, ds proto.DatasetID, path string, o *ObjectRow, again bool) error {
	if o.Current.Version == 0 || o.Current.Kind == proto.KindTombstone {
		return nil
	}
	k := key(pGone, ds, path)
	old, err := tx.Get(k)
	if err != nil || old != nil && again {
		return err
	}
	now := u64(uint64(e.UpNs))
	if old != nil {
		return tx.Set(k, append(old[:8:8], now...))
	}
	d, err := tx.dataset(ds)
	if err != nil {
		return err
	}
	d.Gone++
	return tx.Set(k, append(now, now...))
}

// goneAnew takes a path off the list of those that are gone from some holder: there is a new version, and nobody has reported that
// one gone. Who does puts it on the list again, with the time from then.
func goneAnew(tx *txn, ds proto.DatasetID, path string) error {
	k := key(pGone, ds, path)
	if old, err := tx.Get(k); err != nil || old == nil {
		return err
	}
	d, err := tx.dataset(ds)
	if err != nil {
		return err
	}
	d.Gone--
	return tx.Delete(k)
}

func (e *UnmarkGone) apply(tx *txn) error {
	d, err := tx.dataset(e.Dataset)
	if err != nil {
		return err
	}
	for _, p := range e.Paths {
		k := key(pGone, e.Dataset, p)
		if old, err := tx.Get(k); err != nil {
			return err
		} else if old == nil {
			continue
		}
		d.Gone--
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

func (e *DropTombstones) apply(tx *txn) error {
	d, err := tx.dataset(e.Dataset)
	if err != nil {
		return err
	}
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
		d.Dropped = max(d.Dropped, o.Current.Version)
	}
	return nil
}

// editObject changes the row of a path; one that is not known is passed over.
func editObject(tx *txn, ds proto.DatasetID, path string, fn func(o *ObjectRow) error) error {
	k := key(pObject, ds, path)
	var o ObjectRow
	if ok, err := get(tx, k, &o); err != nil || !ok {
		return err
	}
	if err := fn(&o); err != nil {
		return err
	}
	return putObject(tx, k, &o)
}

// putObject writes the row of a path, or takes it out when nothing was ever sealed there and nothing is being received.
func putObject(tx *txn, k []byte, o *ObjectRow) error {
	if o.Current.Version == 0 && o.Upload == 0 {
		return tx.Delete(k)
	}
	return put(tx, k, o)
}
