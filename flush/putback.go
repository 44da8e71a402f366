package flush

import (
	"context"
	"errors"
	"fmt"

	"forebay/flush/journal"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// A target that was put back to an older copy of itself has its mark and a sound journal: only that the journal ends before the last
// batch that the ledger has confirmed tells (ledger.LinkRow.Batch). What it lacks is owed again, what it has again is deleted again. The same
// comparison makes up for what a damaged file of the journal said.

// numbersApart is how far the numbers of a copy's batches go on above the last confirmed one: more than batches can have been begun since.
const numbersApart = 1 << 20

// putBackStep bounds the objects that are read, and made owed, at once.
const putBackStep = 1000

// still looks whether the target has a file of its journal, and is this ledger's, still. If not, the session is prepared anew.
func (l *link) still(ctx context.Context, file journal.Witness) bool {
	if l.sess == nil || !l.sess.there || !l.sess.prepared {
		return true
	}
	there, err := l.sess.journal.There(ctx, file)
	if err != nil { // the probe's to judge
		return true
	}
	if !there {
		// Durably, for what is written to it from now on hides that it was put back.
		if err := l.noteBatch(l.sess.journal.Last() + 1); err != nil {
			l.ledgerTrouble(err)
		}
		l.closeSession()
		return false
	}
	if err := l.owned(ctx); err != nil {
		l.stall(err)
		return false
	}
	return true
}

// noteBatch has the ledger know that the journal has got as far as a batch.
func (l *link) noteBatch(n uint64) error {
	return l.e.deps.Ledger.Update(&ledger.Confirm{Link: l.id, NowNs: l.now().UnixNano(), Batch: n})
}

// owned refuses a target that another ledger has taken over since it was made ready.
func (l *link) owned(ctx context.Context) error {
	m, err := ledger.ReadMeta(l.e.deps.Ledger)
	if err != nil {
		return err
	}
	mark, err := journal.ReadMark(ctx, l.sess.tgt.Records(), l.config().Prefix)
	if err != nil {
		return nil //nolint:nilerr // the probe's to judge
	}
	if mark.Relay != l.e.cfg.Relay.String() || mark.Rebuilt > m.Rebuilt {
		return proto.Errorf(proto.ClassConflict, "the target was taken over meanwhile, by relay %s (rebuilt %d); this is relay %s (rebuilt %d): do not use both", mark.Relay, mark.Rebuilt, l.e.cfg.Relay, m.Rebuilt)
	}
	return nil
}

// settleJournal makes the link owe what its target, or a damaged journal, lacks by the ledger. It may be cut short: what ends it is
// written last. That of an older copy is a number above all that were ever given, so that the target itself, should it be what comes
// back then, is known to lack what went to the copy.
func (l *link) settleJournal(ctx context.Context, k *look) error {
	row, err := ledger.Link(l.e.deps.Ledger, l.id) // what the look saw may be of before the last batch
	if err != nil {
		return err
	}
	j := l.sess.journal
	last := j.Last()
	damaged := l.damaged.Swap(false)
	if last >= row.Batch && !damaged {
		if last > row.Batch { // done, and never confirmed; or the ledger was rebuilt
			return l.noteBatch(last)
		}
		return nil
	}
	b := &putBack{l: l, ds: k.row.Dataset, keeps: !k.policy.Delete.Propagate, bad: map[string]bool{}, entry: ledger.Reowe{Link: l.id, NowNs: l.now().UnixNano()}}
	if err := b.settle(ctx, j, damaged, row.Batch); err != nil {
		if damaged {
			l.damaged.Store(true)
		}
		return fmt.Errorf("look what the target lacks: %w", err)
	}
	if b.damage != nil {
		l.tell(Event{Kind: JournalMended, Objects: b.owed, Reason: b.damage.Error() + b.remains()})
	}
	if last < row.Batch {
		l.tell(Event{Kind: TargetPutBack, Objects: b.owed, Reason: fmt.Sprintf("its journal ends with batch %d, before one that was confirmed or under way (%d): what it lacks is sent again%s", last, row.Batch, b.remains())})
	}
	return nil
}

// settle compares, and then makes the journal one that needs no comparison.
func (b *putBack) settle(ctx context.Context, j *journal.Journal, damaged bool, confirmed uint64) error {
	err := j.EachReadable(ctx, "", func(e journal.Entry, _ *journal.Entry) error { return b.path(e) }, func(err error) {
		var c *journal.CorruptError
		if errors.As(err, &c) {
			b.bad[c.File] = true
		}
		if b.damage == nil {
			b.damage = err
		}
	})
	if err == nil {
		err = b.rest()
	}
	if err != nil {
		return err
	}
	if damaged || b.damage != nil { // of the former, the past may be what is
		b.l.keeping.Lock()
		damage, err := j.Mend(ctx, b.bad)
		b.l.keeping.Unlock()
		if err != nil {
			return err
		}
		if b.damage == nil {
			b.damage = damage
		}
	}
	if j.Last() < confirmed {
		return j.Raise(ctx, confirmed+numbersApart)
	}
	return nil
}

// putBack compares the paths of a journal with those of the ledger, both in the order of their bytes.
type putBack struct {
	l         *link
	ds        proto.DatasetID
	page      []pathVersion // read ahead from the ledger
	above     string        // where the next page begins
	end       bool
	entry     ledger.Reowe
	owed      int64
	strange   int64 // objects on the target that the ledger does not know
	first     string
	damage    error           // the first that was met
	bad       map[string]bool // files that are damaged
	keeps     bool            // what is deleted at the source stays on the target
	kept      int64           // deleted objects that the journal does not name, and should where they are kept
	firstKept string
}

type pathVersion struct {
	path string
	ver  proto.VersionID
	kind proto.Kind
}

// path takes the next entry of the journal.
func (b *putBack) path(e journal.Entry) error {
	for {
		o, ok, err := b.peek()
		if err != nil {
			return err
		}
		if !ok || o.path > e.Path {
			if e.InMirror() {
				if b.strange++; b.strange == 1 {
					b.first = e.Path
				}
			}
			return nil
		}
		b.page = b.page[1:]
		if o.path == e.Path {
			if o.ver <= e.Version || o.kind == proto.KindTombstone && !e.InMirror() {
				return nil
			}
			if same, err := b.same(o.ver, e); err != nil || same {
				return err
			}
			return b.owe(o.ver)
		}
		if err := b.missing(o); err != nil {
			return err
		}
	}
}

// rest takes what the ledger has after the journal's last path.
func (b *putBack) rest() error {
	for {
		o, ok, err := b.peek()
		if err != nil {
			return err
		}
		if !ok {
			return b.write()
		}
		b.page = b.page[1:]
		if err := b.missing(o); err != nil {
			return err
		}
	}
}

func (b *putBack) missing(o pathVersion) error {
	if o.kind == proto.KindTombstone && b.keeps {
		if b.kept++; b.kept == 1 {
			b.firstKept = o.path
		}
	}
	if o.kind == proto.KindTombstone || o.ver == 0 { // of the latter nothing is whole yet
		return nil
	}
	return b.owe(o.ver)
}

// same reports whether an entry says that the target has a version, under another number: that from before a rebuild of the ledger.
func (b *putBack) same(ver proto.VersionID, e journal.Entry) (bool, error) {
	if e.State != journal.StatePresent {
		return false, nil
	}
	v, ok, err := ledger.Version(b.l.e.deps.Ledger, b.ds, ver)
	return ok && v.Desc.Kind == e.Desc.Kind && v.Desc.SameContent(e.Desc) && v.Desc.LinkTo == e.Desc.LinkTo && v.Desc.Meta.MtimeNs == e.Desc.Meta.MtimeNs &&
		proto.MetaSum(v.Desc.Meta.Sums()) == proto.MetaSum(e.Desc.Meta.Sums()), err
}

// peek returns the next object of the ledger.
func (b *putBack) peek() (o pathVersion, ok bool, err error) {
	if len(b.page) == 0 && !b.end {
		err = b.l.e.deps.Ledger.View(func(r ledger.Rows) error {
			return ledger.EachObject(r, b.ds, b.above, func(path string, o ledger.ObjectRow) (bool, error) {
				b.page = append(b.page, pathVersion{path, o.Current.Version, o.Current.Kind})
				return len(b.page) < putBackStep, nil
			})
		})
		if err != nil {
			return o, false, err
		}
		if b.end = len(b.page) < putBackStep; len(b.page) > 0 {
			b.above = b.page[len(b.page)-1].path
		}
	}
	if len(b.page) == 0 {
		return o, false, nil
	}
	return b.page[0], true, nil
}

func (b *putBack) owe(ver proto.VersionID) error {
	if b.entry.Versions = append(b.entry.Versions, ver); len(b.entry.Versions) < putBackStep {
		return nil
	}
	return b.write()
}

func (b *putBack) write() error {
	if len(b.entry.Versions) == 0 {
		return nil
	}
	if err := b.l.e.deps.Ledger.Update(&b.entry); err != nil {
		return err
	}
	b.l.at(faultpoint.FlushReowed)
	b.owed += b.entry.Objects
	b.entry.Versions = b.entry.Versions[:0]
	return nil
}

// remains says what is not owed again.
func (b *putBack) remains() (s string) {
	if b.strange > 0 {
		s = fmt.Sprintf("; %d objects on it, the first %q, were deleted at the source so long ago that this is not known any more: they stay", b.strange, b.first)
	}
	if b.kept > 0 {
		s += fmt.Sprintf("; of %d objects that are deleted at the source, the first %q, it does not say any more whether the target keeps them: restore leaves them out", b.kept, b.firstKept)
	}
	return s
}
