package flush

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"forebay/flush/target"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// Limits of patience.
const (
	parkTries = 3 // of a permanent failure that may be the whole target's
	dirTries  = 6 // of deleting a directory that is not empty: what is in it may be on its way
	linkTries = 8 // of waiting for a newer version of a hard link whose leader moved on
	askTries  = 3 // of asking holders for a content that then cannot be used
	manyFail  = 8 // so many failures at once and no success are the target's, not the objects'
)

// sentence decides which failed items are parked: those that will fail again, as far as the failure is theirs.
func (l *link) sentence(ctx context.Context, b *batch) {
	success, failed := 0, 0
	for _, it := range b.items {
		switch it.state {
		case itemCommitted:
			success++
		case itemFailed:
			failed++
		}
	}
	for _, it := range b.items {
		again := l.tries(it.ver) + 1
		if it.state == itemFailed && it.cache && it.row.Desc.Kind == proto.KindHardlink {
			it.park = again >= linkTries
		}
		if it.state != itemFailed || it.cache || it.park {
			continue
		}
		if it.late && l.lacking(ctx, b, it) {
			continue
		}
		switch class := proto.ClassOf(it.err); {
		case class == proto.ClassPermanent || class == proto.ClassConflict && it.late:
			it.park = success > 0 || again >= parkTries || it.late && failed < manyFail
		case class == proto.ClassTransient && it.late:
			l.sentenceBlocked(ctx, b, it, again)
		}
	}
}

// sentenceBlocked looks whether something that nothing will remove is in the way of an item.
func (l *link) sentenceBlocked(ctx context.Context, b *batch, it *item, tries int) {
	switch it.op {
	case target.OpDelete:
		if tries >= dirTries {
			it.park, it.err = true, fmt.Errorf("it is tried no more after %d times: %w (the target may have something in it that is not from the dataset, or was kept: remove it, then retry)", tries, it.err)
		}
	case target.OpPut, target.OpSymlink, target.OpLink:
		if b.look.policy.Delete.Propagate {
			return
		}
		if e, err := l.sess.tgt.Stat(ctx, it.row.Path); err == nil && e.Desc.Kind == proto.KindDir {
			it.park = true
			it.err = proto.Errorf(proto.ClassPermanent, "the target has a directory in its place, whose entries were deleted at the source and are kept (delete.propagate is false): remove it at the target or set delete.propagate, then retry: %w", it.err)
		}
	}
}

// conclude writes to the ledger what became of a batch, and decides what its failures mean.
func (l *link) conclude(ctx context.Context, b *batch, started time.Time) {
	r := l.sum(b)
	r.speed(b, l.sentBytes(), l.now().Sub(started))
	if err := l.e.deps.Ledger.Update(append(r.entries(), l.settleUp()...)...); err != nil {
		l.ledgerTrouble(err)
		return
	}
	l.at(faultpoint.FlushConfirmed)
	b.counted = true
	b.progress = r.confirm.Objects > 0 || len(r.park.Versions)+len(r.release.Versions)+len(r.reowe.Versions) > 0
	for _, it := range r.committed {
		delete(l.deferred, it.ver)
	}
	for _, it := range r.parked {
		delete(l.deferred, it.ver)
		l.note(fmt.Errorf("%q parked: %w", it.row.Path, it.err))
		l.tell(Event{Kind: ObjectParked, Path: it.row.Path, Version: it.ver, Err: it.err})
	}
	if n := len(r.release.Versions) + len(r.reowe.Versions); n > 0 {
		l.tell(Event{Kind: ContentAsked, Objects: int64(n), Reason: r.why})
	}
	if len(r.committed) > 0 {
		l.recovered()
		l.tell(Event{Kind: BatchDone, Objects: int64(len(r.committed)), Bytes: r.bytes, Deletes: r.confirm.Deletes, Forced: r.confirm.Forced, Took: l.now().Sub(started)})
	}
	l.tidy(ctx, b, r)
	l.settleFailures(ctx, r)
}

// result is what became of a batch.
type result struct {
	confirm           ledger.Confirm
	park              ledger.Park
	release           ledger.Release
	reowe             ledger.Reowe
	committed, parked []*item
	failed            []*item // to be tried again
	why               string
	bytes             int64
}

func (r *result) entries() []ledger.Entry {
	es := []ledger.Entry{&r.confirm}
	if len(r.park.Versions) > 0 {
		es = append(es, &r.park)
	}
	if len(r.release.Versions) > 0 {
		es = append(es, &r.release)
	}
	if len(r.reowe.Versions) > 0 {
		es = append(es, &r.reowe)
	}
	return es
}

func (l *link) sum(b *batch) *result {
	now := l.now().UnixNano()
	r := &result{
		confirm: ledger.Confirm{Link: l.id, Versions: b.moot, NowNs: now, Forced: b.verdict.forcedBytes(), Batch: b.number},
		park:    ledger.Park{Link: l.id, NowNs: now},
		release: ledger.Release{Link: l.id},
		reowe:   ledger.Reowe{Link: l.id, NowNs: now},
	}
	for _, it := range b.ask {
		l.sumAsk(r, it)
	}
	for _, it := range b.items {
		switch {
		case it.park:
			r.addPark(it)
		case it.state == itemCommitted:
			l.sumCommitted(r, b, it)
		case it.state == itemFailed && (errors.Is(it.err, errWrongContent) || errors.Is(it.err, errLetGo) || errors.Is(it.err, target.ErrNotReusable)):
			l.sumAsk(r, it)
		case it.state == itemFailed:
			if it.lacks != it.ver { // else it is owed as something else now
				r.failed = append(r.failed, it)
			}
			if it.lacks != 0 {
				r.reowe.Versions = append(r.reowe.Versions, it.lacks)
				r.why = fmt.Sprintf("the target lacks the content that %q builds on", it.row.Path)
			}
		}
	}
	return r
}

// speedFrom is from how many bytes on a batch tells how fast the target takes them.
const speedFrom = 8 << 20

func (r *result) speed(b *batch, sent int64, took time.Duration) {
	if sent >= speedFrom && took > 0 {
		r.confirm.Speed, r.confirm.Paced = int64(float64(sent)/took.Seconds()), b.look.plan.Rate > 0
	}
}

func (r *result) addPark(it *item) {
	r.parked = append(r.parked, it)
	r.park.Versions = append(r.park.Versions, it.ver)
	r.park.Reasons = append(r.park.Reasons, it.err.Error())
}

func (l *link) sumCommitted(r *result, b *batch, it *item) {
	r.committed = append(r.committed, it)
	r.confirm.Versions = append(append(r.confirm.Versions, it.ver), it.older...)
	switch it.op {
	case target.OpPut:
		r.bytes += it.desc.Size
	case target.OpDelete:
		// Approved ones are not held against those that come later, nor are those of what is at another path.
		if it.ver > b.look.row.ApprovedTo && !b.look.guard.moved[it.ver] {
			r.confirm.Deletes++
		}
	}
}

// sumAsk has the content of an item asked for from its holders, a few times.
func (l *link) sumAsk(r *result, it *item) {
	f := l.deferred[it.ver]
	f.path, f.err, f.tries = it.row.Path, it.err, f.tries+1
	l.deferred[it.ver] = f
	if f.tries > askTries {
		it.err = fmt.Errorf("holders were asked %d times: %w", askTries, it.err)
		r.addPark(it)
		return
	}
	r.release.Versions = append(r.release.Versions, it.ver)
	r.why = it.err.Error()
}

// lacking finds out whether an item failed because the target lacks what it builds on: the content that gets new metadata, or
// the leader of a hard link. Then that is owed again, and the item is not to blame.
func (l *link) lacking(ctx context.Context, b *batch, it *item) bool {
	path := it.row.Path
	switch it.op {
	case target.OpMeta:
		it.lacks = it.ver
	case target.OpLink:
		path = it.desc.LinkTo
		o, ok, err := ledger.Object(l.e.deps.Ledger, b.look.row.Dataset, path)
		if err != nil || !ok || !o.Current.Kind.HasContent() {
			return false
		}
		it.lacks = o.Current.Version
	default:
		return false
	}
	if e, err := l.sess.tgt.Stat(ctx, path); !gone(e, err, it.row.Desc) {
		it.lacks = 0
	}
	return it.lacks != 0
}

// gone reports whether a target surely does not have a file of d's size.
func gone(e target.Entry, err error, d proto.Desc) bool {
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return !e.Desc.Kind.HasContent() || e.Desc.Size != d.Size
}

// tidy removes staged contents that nothing will use, and keeps the journal short. Neither failing harms what was confirmed.
func (l *link) tidy(ctx context.Context, b *batch, r *result) {
	var ids []target.StageID
	for _, it := range b.items {
		if it.op == target.OpPut && (it.state == itemMoot || it.park) {
			ids = append(ids, it.stage)
		}
	}
	if err := l.unstage(ctx, ids); err != nil && !ended(ctx, err) {
		l.note(fmt.Errorf("remove staged contents: %w", err))
	}
	if len(r.committed) == 0 || ctx.Err() != nil {
		return
	}
	err := l.shorten(ctx, b)
	if err != nil && !ended(ctx, err) {
		l.note(err)
	}
	l.at(faultpoint.FlushTidied)
}

// shorten merges what is worth it in the journal.
func (l *link) shorten(ctx context.Context, b *batch) error {
	below, err := l.seenByAll(b.look.row.Dataset)
	if err != nil {
		return err
	}
	l.keeping.Lock() // who looks at what is kept reads the journal from the target
	defer l.keeping.Unlock()
	if err := l.sess.journal.Compact(ctx, below); err != nil {
		return err
	}
	return l.sess.journal.CompactPast(ctx)
}

// seenByAll is the version up to which every holder of the dataset has followed.
func (l *link) seenByAll(ds proto.DatasetID) (proto.VersionID, error) {
	holders, err := ledger.Holders(l.e.deps.Ledger)
	if err != nil {
		return 0, err
	}
	least, any := proto.VersionID(0), false
	for _, h := range holders {
		if h.Dataset == ds && (!any || h.Cursor < least) {
			least, any = h.Cursor, true
		}
	}
	return least, nil
}

// settleFailures tells failures of objects from those of the target: the former wait for themselves, the latter stall the
// link.
func (l *link) settleFailures(ctx context.Context, r *result) {
	if ctx.Err() != nil {
		return
	}
	var whole error
	atTarget := 0
	for _, it := range r.failed {
		l.postpone(it, it.err)
		if it.cache {
			continue
		}
		atTarget++
		if proto.ClassOf(it.err) == proto.ClassOverload {
			whole = it.err
		}
	}
	if whole == nil && atTarget > 1 && len(r.committed)+len(r.parked) == 0 {
		whole = r.firstAtTarget()
	}
	if whole != nil {
		for _, it := range r.failed { // the link's own wait is theirs
			f := l.deferred[it.ver]
			f.notBefore = time.Time{}
			l.deferred[it.ver] = f
		}
		l.stall(whole)
		return
	}
	if atTarget > 0 && len(r.committed) == 0 {
		l.closeSession() // look at the target before the next try
	}
}

func (r *result) firstAtTarget() error {
	for _, it := range r.failed {
		if !it.cache {
			return fmt.Errorf("%q: %w", it.row.Path, it.err)
		}
	}
	return nil
}
