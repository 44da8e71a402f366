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
// batch that the ledger has confirmed tells (ledger.LinkRow.Batch). What it lacks is owed again, what it has again is deleted again.

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

// settlePutBack makes the link owe what an older copy of its target lacks. It may be cut short: the journal's number, which is written
// last, ends it. The number is above all that were ever given, so that the target itself, should it be what comes back then, is known
// to lack what went to the copy.
func (l *link) settlePutBack(ctx context.Context, k *look) error {
	row, err := ledger.Link(l.e.deps.Ledger, l.id) // what the look saw may be of before the last batch
	if err != nil {
		return err
	}
	j := l.sess.journal
	last := j.Last()
	if last >= row.Batch {
		return nil
	}
	b := &putBack{l: l, ds: k.row.Dataset, entry: ledger.Reowe{Link: l.id, NowNs: l.now().UnixNano()}}
	err = j.EachReadable(ctx, "", func(e journal.Entry, _ *journal.Entry) error { return b.path(e) }, func(error) { b.damaged = true })
	if err == nil {
		err = b.rest()
	}
	if err != nil {
		return err
	}
	if err := j.Raise(ctx, row.Batch+1); err != nil {
		return err
	}
	l.tell(Event{Kind: TargetPutBack, Objects: b.owed, Reason: b.reason(last, row.Batch)})
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
	damaged bool
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

func (b *putBack) reason(last, confirmed uint64) string {
	s := fmt.Sprintf("its journal ends with batch %d, batch %d was confirmed: what it lacks is sent again", last, confirmed)
	if b.strange > 0 {
		s += fmt.Sprintf("; %d objects on it, the first %q, were deleted at the source so long ago that this is not known any more: they stay", b.strange, b.first)
	}
	if b.damaged {
		s += "; its journal is damaged, what could not be read of it counts as lacking"
	}
	return s
}
