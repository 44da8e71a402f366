package flush

import (
	"context"
	"fmt"

	"forebay/flush/journal"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// A target that was put back to an older copy of itself has its mark and a sound journal: only that the journal ends before the last
// batch that the ledger has confirmed tells (ledger.LinkRow.Batch). What it lacks is owed again, what it has again is deleted again. The same
// comparison makes up for what a damaged file of the journal said.

// putBackStep bounds the objects that are read, and made owed, at once.
const putBackStep = 1000

// still has a session prepared anew when the target has lost the newest file of its journal.
func (l *link) still(ctx context.Context) {
	if l.sess == nil || !l.sess.there || !l.sess.prepared {
		return
	}
	if there, err := l.sess.journal.There(ctx); err == nil && !there { // an error is the probe's to judge
		l.closeSession()
	}
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
		return nil
	}
	b := &putBack{l: l, ds: k.row.Dataset, entry: ledger.Reowe{Link: l.id, NowNs: l.now().UnixNano()}}
	if err := b.settle(ctx, j, damaged, row.Batch); err != nil {
		l.damaged.Store(damaged)
		return fmt.Errorf("look what the target lacks: %w", err)
	}
	if b.damage != nil {
		l.tell(Event{Kind: JournalMended, Objects: b.owed, Reason: b.damage.Error() + b.remains()})
	}
	if last < row.Batch {
		l.tell(Event{Kind: TargetPutBack, Objects: b.owed, Reason: fmt.Sprintf("its journal ends with batch %d, batch %d was confirmed: what it lacks is sent again%s", last, row.Batch, b.remains())})
	}
	return nil
}

// settle compares, and then makes the journal one that needs no comparison.
func (b *putBack) settle(ctx context.Context, j *journal.Journal, damaged bool, confirmed uint64) error {
	err := j.EachReadable(ctx, "", func(e journal.Entry, _ *journal.Entry) error { return b.path(e) }, func(err error) {
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
		damage, err := j.Mend(ctx)
		b.l.keeping.Unlock()
		if err != nil {
			return err
		}
		if b.damage == nil {
			b.damage = damage
		}
	}
	if j.Last() < confirmed {
		return j.Raise(ctx, confirmed+1)
	}
	return nil
}

// putBack compares the paths of a journal with those of the ledger, both in the order of their bytes.
type putBack struct {
	l       *link
	ds      proto.DatasetID
	page    []pathVersion // read ahead from the ledger
	above   string        // where the next page begins
	end     bool
	entry   ledger.Reowe
	owed    int64
	strange int64 // objects on the target that the ledger does not know
	first   string
	damage  error // the first that was met
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
			if o.ver > e.Version && (o.kind != proto.KindTombstone || e.InMirror()) {
				return b.owe(o.ver)
			}
			return nil
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
	if o.kind == proto.KindTombstone || o.ver == 0 { // of the latter nothing is whole yet
		return nil
	}
	return b.owe(o.ver)
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
func (b *putBack) remains() string {
	if b.strange == 0 {
		return ""
	}
	return fmt.Sprintf("; %d objects on it, the first %q, were deleted at the source so long ago that this is not known any more: they stay", b.strange, b.first)
}
