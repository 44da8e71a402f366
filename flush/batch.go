package flush

import (
	"context"
	"fmt"
	"slices"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// execute carries a batch through all its steps. It may end after any of them, by failure or with the process: nothing is
// confirmed before it is durable at the target and in the target's journal, and everything before that may be repeated.
func (l *link) execute(ctx context.Context, b *batch) {
	if err := l.checkClass(b.look); err != nil {
		l.stall(err)
		return
	}
	started := l.now()
	l.setAside(b)
	l.stageAll(ctx, b)
	if ctx.Err() != nil {
		return
	}
	l.at(faultpoint.FlushStaged)
	if err := l.dropMoot(b); err != nil {
		l.ledgerTrouble(err)
		return
	}
	// What the batch was picked from need not be durable yet. Nothing of it may show at the target before it is: after a power cut
	// the target would be ahead of the ledger, with versions whose numbers are given again to other contents (I18).
	if err := l.e.deps.Ledger.Update(); err != nil {
		l.ledgerTrouble(err)
		return
	}
	if !l.makeDurable(ctx, b) || !l.commit(ctx, b) {
		return
	}
	l.conclude(ctx, b, started)
}

// setAside parks what has a name that the target cannot hold, before any of it is sent.
func (l *link) setAside(b *batch) {
	for _, it := range b.items {
		if it.state != itemPicked || it.op == 0 || it.op == target.OpDelete || l.sess.info.Holdable(it.row.Path) {
			continue
		}
		it.state, it.park = itemFailed, true
		it.err = proto.Errorf(proto.ClassPermanent,
			"%s cannot hold it: a name in its path is longer than %d bytes: give it a shorter one at the source", l.sess.info.Where, l.sess.info.MaxName)
	}
}

// dropMoot takes out what was superseded while it was staged.
func (l *link) dropMoot(b *batch) error {
	return l.e.deps.Ledger.View(func(r ledger.Rows) error {
		for _, it := range b.items {
			if it.state != itemStaged && it.state != itemPicked {
				continue
			}
			_, owed, err := ledger.OwedAt(r, l.id, it.ver)
			if err != nil {
				return err
			}
			if !owed {
				it.state = itemMoot
			}
		}
		return nil
	})
}

// makeDurable is the first barrier, with the reading back that confirm class reread asks for.
func (l *link) makeDurable(ctx context.Context, b *batch) bool {
	var ids []target.StageID
	for _, it := range b.items {
		if it.state == itemStaged {
			ids = append(ids, it.stage)
		}
	}
	if len(ids) == 0 {
		return true
	}
	if err := l.sess.tgt.Barrier(ctx, ids); err != nil {
		if !ended(ctx, err) {
			// Nothing is known of any of them. Where they cannot be removed now, the next run proves them before it uses them.
			_ = l.unstage(ctx, ids)
			l.stall(fmt.Errorf("make staged contents durable: %w", err))
		}
		return false
	}
	l.at(faultpoint.FlushDurable)
	if l.confirmClass(b.look) != target.ConfirmReread {
		return true
	}
	var bad []target.StageID
	for _, it := range b.items {
		if it.state != itemStaged {
			continue
		}
		if err := l.readBack(ctx, it); ended(ctx, err) {
			return false
		} else if err != nil {
			it.state, it.err = itemFailed, err
			bad = append(bad, it.stage)
		}
	}
	if err := l.unstage(ctx, bad); err != nil && !ended(ctx, err) {
		l.stall(fmt.Errorf("remove staged contents that did not read back: %w", err))
		return false
	}
	return ctx.Err() == nil
}

// readBack compares what the target gives back with what was sealed.
func (l *link) readBack(ctx context.Context, it *item) error {
	in, err := l.sess.tgt.Reread(ctx, it.stage)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer func() { _ = in.Close() }() // only read from
	sum, size, err := proto.ReadDigest(ctx, in)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if size != it.desc.Size || sum != it.desc.Digest {
		return proto.Errorf(proto.ClassTransient, "the target read back %d bytes with another digest than the %d that were staged: it does not keep what it is given", size, it.desc.Size)
	}
	return nil
}

// commit writes the intent, commits, and writes what became of it. It returns false when the target failed as a whole.
func (l *link) commit(ctx context.Context, b *batch) bool {
	o := order(b, l.sess.info.CaseFolds)
	intent := make([]journal.Entry, 0, len(o.first)+len(o.links))
	for _, it := range o.touched() {
		intent = append(intent, journal.Entry{Path: it.row.Path, Version: it.ver, Desc: it.desc, Stage: it.stage})
	}
	if len(intent) == 0 && len(o.kept) == 0 {
		if l.sentence(ctx, b); !b.parks() {
			return true
		}
	}
	l.touch(o.touched())
	l.keeping.Lock()
	defer l.keeping.Unlock()
	past, err := l.foresee(ctx, o.touched())
	if err != nil {
		if !ended(ctx, err) {
			l.stall(err)
		}
		return false
	}
	for i, it := range o.touched() {
		intent[i].AckedNs = past.stamp(it)
	}
	// A journal that somebody emptied with its target is not begun again: it would pass for all that was ever there.
	before := l.sess.journal.Newest()
	if !l.probe(ctx) || !l.still(ctx, before) {
		return false
	}
	run, err := l.sess.journal.Begin(ctx, intent)
	if err != nil {
		if !ended(ctx, err) {
			l.stall(err)
		}
		return false
	}
	l.at(faultpoint.FlushIntent)
	past.keep(ctx)
	l.carryOut(ctx, o.first)
	l.carryOut(ctx, o.withLeaders(b))
	if err := l.prune(ctx, b); err != nil || ctx.Err() != nil { // an error is the ledger's, with which the relay ends
		run.Abandon()
		return false
	}
	for _, it := range o.kept {
		it.state = itemCommitted
	}
	l.at(faultpoint.FlushCommitted)
	if err := past.end(ctx, run); err != nil {
		run.Abandon()
		if !ended(ctx, err) {
			l.stall(err)
		}
		return false
	}
	l.sentence(ctx, b)
	if err := l.writeDone(ctx, run, b, past); err != nil {
		if !ended(ctx, err) {
			l.stall(err)
		}
		return false
	}
	l.at(faultpoint.FlushJournalDone)
	return l.still(ctx, before) // not put back amid the batch, of which the next would see no more
}

// carryOut commits items in order.
func (l *link) carryOut(ctx context.Context, items []*item) {
	items = slices.DeleteFunc(slices.Clone(items), func(it *item) bool {
		if it.op == target.OpDelete && !l.sess.info.Holdable(it.row.Path) {
			it.state = itemCommitted // it never came there
		}
		return it.state == itemFailed || it.state == itemCommitted // of the former, what it replaces could not be kept
	})
	if len(items) == 0 || ctx.Err() != nil {
		return
	}
	changes := make([]target.Change, len(items))
	for i, it := range items {
		changes[i] = target.Change{Op: it.op, Path: it.row.Path, Desc: it.desc, NoDir: it.row.Parent == 0}
		if it.op == target.OpPut {
			changes[i].Stage = it.stage
		}
	}
	for i, err := range l.sess.tgt.Commit(ctx, changes) {
		if err == nil {
			items[i].state = itemCommitted
			delete(l.doubted, items[i].row.Path)
		} else {
			l.doubted[items[i].row.Path] = true // the change may have been made all the same
			items[i].state, items[i].err, items[i].late = itemFailed, err, true
		}
	}
}

// writeDone ends the batch in the journal.
func (l *link) writeDone(ctx context.Context, run *journal.Batch, b *batch, past *passing) error {
	var done []journal.Entry
	for _, it := range b.items {
		e := journal.Entry{Path: it.row.Path, Version: it.ver, AckedNs: past.stamp(it)}
		switch {
		case it.park:
			e.State = journal.StateParked
		case it.state != itemCommitted:
			continue
		case it.op == 0:
			e.State = journal.StateKept
		case it.op == target.OpDelete:
			e.State = journal.StateDeleted
		default:
			e.State, e.Desc = journal.StatePresent, it.desc
		}
		done = append(done, e)
	}
	err := run.Done(ctx, done)
	if err != nil && ctx.Err() == nil {
		err = run.Done(ctx, done) // what was committed would be sent again
	}
	if err != nil {
		run.Abandon()
		return err
	}
	b.number = run.Number()
	return nil
}
