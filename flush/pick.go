package flush

import (
	"slices"
	"sync/atomic"

	"forebay/flush/target"
	"forebay/ledger"
	"forebay/proto"
)

// batch is what one round carries.
type batch struct {
	look  *look
	items []*item // oldest first, one a path
	bytes int64   // of content to be staged
	holds int64   // of these, those that the target keeps in memory until they are committed
	// moot are versions whose debt ends without anything being done: the target has a newer one.
	moot     []proto.VersionID
	ask      []*item      // cannot be flushed from the cache: to be asked for from holders
	left     atomic.Int64 // of bytes: not sent yet, about
	verdict  verdict
	number   uint64 // in the journal, once it is done there
	progress bool   // the ledger changed for it
	counted  bool   // bytes outside the window are in the ledger
}

// item is a version on its way.
type item struct {
	ver  proto.VersionID
	owed ledger.OwedRow
	row  ledger.VersionRow
	desc proto.Desc // what the target is to have
	// older are earlier versions of the path that are still owed: their debt ends with this one's.
	older []proto.VersionID
	was   []proto.Digest // contents one of which the target has at the path, where this one builds on it

	op       target.Op // 0: nothing is done at the target, the journal alone changes (kept)
	stage    target.StageID
	state    itemState
	err      error           // why it failed
	cache    bool            // it failed at the cache, not at the target
	late     bool            // it failed in the commit: the target takes contents and records
	park     bool            // it is set aside for good
	promised int64           // of the budget, see purse
	lacks    proto.VersionID // what has to be at the target first and is not
}

// empty reports whether there is nothing to do.
func (b *batch) empty() bool { return len(b.items) == 0 && len(b.moot) == 0 && len(b.ask) == 0 }

// parks reports whether something is set aside for good.
func (b *batch) parks() bool {
	return slices.ContainsFunc(b.items, func(it *item) bool { return it.park })
}

// cut reports whether the policy stopped the batch after some of it was sent.
func (b *batch) cut() bool {
	return b.left.Load() < b.bytes && slices.ContainsFunc(b.items, func(it *item) bool { return it.state == itemHalted })
}

// itemState is how far an item is.
type itemState uint8

const (
	itemPicked    itemState = iota
	itemStaged              // its content is whole in the target's stage
	itemHalted              // not begun or not finished because the policy no longer lets it
	itemMoot                // no longer owed
	itemFailed              // err says why
	itemCommitted           // at the target, durably
)

// maxBatchMeta bounds the bytes of metadata of a batch in memory.
const maxBatchMeta = 64 << 20

// pick chooses the next batch: what is owed, oldest first, as the plan allows.
func (l *link) pick(k *look) (*batch, error) {
	b := &batch{look: k}
	err := l.e.deps.Ledger.View(func(r ledger.Rows) error { return l.fill(r, b) })
	return b, err
}

func (l *link) fill(r ledger.Rows, b *batch) error {
	k := b.look
	if err := l.judgeAnew(r, k); err != nil {
		return err
	}
	upTo, seen, meta := k.plan.AckedUpTo, map[string]bool{}, 0
	if err := l.forgive(r, k.now); err != nil {
		return err
	}
	for v, f := range l.deferred { // what waits for its next try is not overtaken by a newer version of its path
		if l.waits(v, k.now) {
			seen[f.path] = true
		}
	}
	byPath := map[string]*item{}
	err := ledger.EachDebt(r, l.id, l.floor.at, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
		if !k.flushable(ver, q) || l.waits(ver, k.now) || !upTo.IsZero() && k.acked(q.AckedNs).After(upTo) {
			return true, nil
		}
		holds := b.holds + l.sess.info.Held(q.Bytes)
		if len(b.items) > 0 && (b.bytes+q.Bytes > k.plan.MaxBytes || holds > l.sess.info.Holds) {
			return false, nil
		}
		row, ok, err := ledger.Version(r, k.row.Dataset, ver)
		if err != nil || !ok || seen[row.Path] {
			return err == nil, err
		}
		seen[row.Path] = true
		it := &item{ver: ver, owed: q, row: row, desc: row.Desc}
		if moot, err := l.outdated(r, k, it); err != nil || moot {
			b.moot = append(b.moot, ver)
			return err == nil, err
		}
		if it.older, err = l.olderOwed(r, k.row.Dataset, row); err != nil {
			return false, err
		}
		if row.Content.Lacks > 0 { // or it was committed before the process ended
			it.was = append(slices.Clip(row.Bases), row.Desc.Digest)
		}
		b.items = append(b.items, it)
		b.bytes += q.Bytes
		b.holds = holds
		byPath[row.Path] = it
		for _, x := range row.Desc.Meta.Xattrs {
			meta += len(x.Value)
		}
		return len(b.items) < l.e.cfg.BatchObjects && meta < maxBatchMeta, nil
	})
	if err != nil {
		return err
	}
	return l.chooseOps(r, b, byPath)
}

// outdated reports whether the target has a newer version of the path already (I18). Debts of older versions end with
// their successors', so this is for ledgers that were put together otherwise.
func (l *link) outdated(r ledger.Rows, k *look, it *item) (bool, error) {
	if !it.row.Superseded {
		return false, nil
	}
	o, ok, err := ledger.Object(r, k.row.Dataset, it.row.Path)
	if err != nil || !ok {
		return false, err
	}
	_, owed, err := ledger.OwedAt(r, l.id, o.Current.Version)
	return err == nil && !owed && o.Current.Version > it.ver, err
}

// olderOwed follows the versions before row and returns those that the link still owes, parked ones too.
func (l *link) olderOwed(r ledger.Rows, ds proto.DatasetID, row ledger.VersionRow) (out []proto.VersionID, err error) {
	for ver := row.Parent; ver != 0; {
		_, owed, err := ledger.OwedAt(r, l.id, ver)
		if err != nil {
			return nil, err
		}
		if owed {
			out = append(out, ver)
		}
		before, known, err := ledger.Version(r, ds, ver)
		if err != nil || !known {
			return out, err
		}
		ver = before.Parent
	}
	return out, nil
}

// chooseOps decides what is done with each item.
func (l *link) chooseOps(r ledger.Rows, b *batch, byPath map[string]*item) error {
	kept := b.items[:0]
	for _, it := range b.items {
		fate, err := l.chooseOp(r, b, it, byPath)
		if err != nil {
			return err
		}
		switch fate {
		case goes:
			kept = append(kept, it)
		case asks:
			b.bytes -= it.owed.Bytes
			b.ask = append(b.ask, it)
		case waitsForLeader:
			b.bytes -= it.owed.Bytes
		}
	}
	b.items = kept
	return nil
}

type fate uint8

const (
	goes fate = iota
	asks
	waitsForLeader
)

func (l *link) chooseOp(r ledger.Rows, b *batch, it *item, byPath map[string]*item) (fate, error) {
	switch it.row.Desc.Kind {
	case proto.KindDir:
		it.op = target.OpMkdir
	case proto.KindSymlink:
		it.op = target.OpSymlink
	case proto.KindTombstone:
		if b.look.policy.Delete.Propagate {
			it.op = target.OpDelete
		}
	case proto.KindHardlink:
		if !it.owed.MetaOnly {
			return l.chooseLink(r, b, it, byPath)
		}
		it.op = target.OpMeta
	case proto.KindFile:
		if it.owed.MetaOnly {
			it.op = target.OpMeta
			break
		}
		it.op = target.OpPut
		if it.row.Desc.Size > 0 && !it.row.Cached {
			it.err = proto.Errorf(proto.ClassTransient, "%q: the cache does not have its content", it.row.Path)
			return asks, nil
		}
	default:
		it.state, it.late = itemFailed, true
		it.err = proto.Errorf(proto.ClassPermanent, "%q is a %s: use a newer release", it.row.Path, it.row.Desc.Kind)
	}
	it.stage = l.stageOf(it.ver, it.row, it.desc)
	return goes, nil
}

// chooseLink decides about a hard link. Its leader's content must be what the link's is: a leader that moved on at the
// source, by being replaced, left the link its old inode, and no bytes of that are in the cache: the link waits for a newer
// version of its path.
func (l *link) chooseLink(r ledger.Rows, b *batch, it *item, byPath map[string]*item) (fate, error) {
	leader, _, err := ledger.Object(r, b.look.row.Dataset, it.row.Desc.LinkTo)
	if err != nil {
		return goes, err
	}
	cur := leader.Current
	if cur.Kind.HasContent() && cur.Digest == it.row.Desc.Digest && cur.Size == it.row.Desc.Size {
		q, owed, err := ledger.OwedAt(r, l.id, cur.Version)
		if err != nil {
			return goes, err
		}
		with := byPath[it.row.Desc.LinkTo]
		switch {
		case !owed || q.MetaOnly && !q.Parked, with != nil && with.ver == cur.Version:
			it.op = target.OpLink
			return goes, nil
		case !q.Parked:
			return waitsForLeader, nil
		}
	}
	l.e.deps.Loose(b.look.row.Dataset, it.row.Path, it.ver)
	it.state, it.cache = itemFailed, true
	it.err = proto.Errorf(proto.ClassTransient, "hard link to %q, which has another content now: its own has to come from a holder as a change of %q", it.row.Desc.LinkTo, it.row.Path)
	return goes, nil
}
