package flush

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/flush/verify"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// mirror is a target and its journal, for those who read them beside the loop.
type mirror struct {
	tgt     target.Target
	journal *journal.Journal
}

// touched are the paths that the loop has changed while somebody verifies.
type touched struct {
	users int
	paths map[string]bool
	over  bool // too many to remember
}

const maxTouched = 200_000

// touch notes paths that a batch is about to change.
func (l *link) touch(items []*item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.touched.users == 0 {
		return
	}
	for _, it := range items {
		if len(l.touched.paths) >= maxTouched {
			l.touched.over = true
			return
		}
		l.touched.paths[it.row.Path] = true
	}
}

func (l *link) watch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.touched.users == 0 {
		l.touched = touched{paths: map[string]bool{}}
	}
	l.touched.users++
}

func (l *link) unwatch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.touched.users--
	if l.touched.users == 0 {
		l.touched = touched{}
	}
}

func (l *link) wasTouched(path string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.touched.over || l.touched.paths[path]
}

// Verify compares a link's target with its journal and, when deep, with its content, and calls fn for each difference, now
// and then with how far it is, and at the end with Done. With repair, what differs is owed again. Flushes go on meanwhile:
// what they change is compared again at the end. It stops with fn's error.
func (e *Engine) Verify(ctx context.Context, name string, deep, repair bool, fn func(proto.VerifyLine) error) error {
	l, err := e.known(name)
	if err != nil {
		return err
	}
	l.watch()
	defer l.unwatch()
	m, done, err := l.openMirror(ctx)
	if err != nil {
		return fmt.Errorf("verify link %s: %w", name, err)
	}
	defer done()
	v := &verifying{ctx: ctx, l: l, m: m, repair: repair, fn: fn, entry: ledger.Reowe{Link: l.id}}
	if err := v.run(ctx, deep); err != nil {
		return fmt.Errorf("verify link %s: %w", name, err)
	}
	return nil
}

// openMirror takes the loop's target and journal, or opens them when the loop has not.
func (l *link) openMirror(ctx context.Context) (mirror, func(), error) {
	l.mu.Lock()
	m, cfg := l.mirror, l.cfg
	l.mu.Unlock()
	if m.tgt != nil {
		return m, func() {}, nil
	}
	tgt, err := l.e.deps.OpenTarget(cfg)
	if err != nil {
		return m, nil, fmt.Errorf("open target %s: %w", cfg.Target, err)
	}
	done := func() { _ = tgt.Close() } // only read from
	if _, err := tgt.Probe(ctx); err != nil {
		done()
		return m, nil, err
	}
	j, err := journal.Open(ctx, tgt.Records(), target.PrefixKey(cfg.Prefix))
	if err != nil {
		done()
		return m, nil, err
	}
	return mirror{tgt, j}, done, nil
}

// verifying is one call of Verify.
type verifying struct {
	ctx    context.Context // of the call
	l      *link
	m      mirror
	repair bool
	fn     func(proto.VerifyLine) error

	stop        error // fn's
	damaged     bool  // a file of the journal is, and is to be mended
	later       []string
	skipped     int64
	differences int64
	entry       ledger.Reowe
}

// recheckMax bounds the paths that are compared again, each with a read of the journal.
const recheckMax = 200

// reoweStep bounds the versions of one repair entry.
const reoweStep = 1000

func (v *verifying) run(ctx context.Context, deep bool) error {
	total := int64(v.m.journal.Entries())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	report, err := verify.Verify(ctx, v.m.tgt, v.m.journal, verify.Options{Deep: deep, Progress: func(objects, bytes int64) {
		if v.stop = v.fn(proto.VerifyLine{Objects: objects, Bytes: bytes, Total: total, Differences: v.differences}); v.stop != nil {
			cancel()
		}
	}}, func(d verify.Difference) error {
		if v.l.wasTouched(d.Path) {
			v.later = append(v.later, d.Path)
			return nil
		}
		return v.tell(d)
	})
	if v.stop != nil {
		return v.stop
	}
	if err != nil {
		return err
	}
	if err := v.recheck(ctx, deep); err != nil {
		return err
	}
	if err := v.reowe(); err != nil {
		return err
	}
	past, err := v.kept(ctx, deep)
	if err != nil {
		return err
	}
	if v.damaged { // not before: it is read no more
		v.l.damaged.Store(true)
		v.l.poke()
	}
	report.Objects, report.Bytes = report.Objects+past.Objects, report.Bytes+past.Bytes
	last := proto.VerifyLine{Done: true, Objects: report.Objects, Total: report.Objects, Bytes: report.Bytes, Differences: v.differences}
	if v.skipped > 0 {
		last.Detail = fmt.Sprintf("%d objects were changed by flushes meanwhile and not compared: verify again", v.skipped)
	}
	return v.fn(last)
}

// recheck compares what a flush changed meanwhile once more.
func (v *verifying) recheck(ctx context.Context, deep bool) error {
	if n := len(v.later) - recheckMax; n > 0 {
		v.skipped, v.later = int64(n), v.later[:recheckMax]
	}
	for _, path := range v.later {
		_, err := verify.Verify(ctx, v.m.tgt, v.m.journal, verify.Options{Deep: deep, Path: path}, func(d verify.Difference) error {
			if d.Path != path {
				return nil
			}
			return v.tell(d)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *verifying) tell(d verify.Difference) error {
	v.differences++
	line := proto.VerifyLine{Path: d.Path, Problem: string(d.Kind), Detail: d.What}
	if v.repair {
		var err error
		switch d.Kind {
		case verify.Journal:
			v.damaged = true
			line.Repair = "the link writes it anew and sends what it no longer names: verify again after that"
		case verify.KeptMissing, verify.KeptSize, verify.KeptContent, verify.Stray:
			line.Repair, err = v.mendKept(v.ctx, d)
		default:
			line.Repair, err = v.mend(d.Path)
		}
		if err != nil {
			return err
		}
	}
	return v.fn(line)
}

// kept compares what is kept of the past. What batches and the pruning change meanwhile may look like a difference: so where there is
// one, it is looked for again with both held up.
func (v *verifying) kept(ctx context.Context, deep bool) (verify.Report, error) {
	key := target.PrefixKey(v.l.config().Prefix)
	again := false
	report, err := verify.Kept(ctx, v.m.tgt, v.m.journal, key, verify.Options{Deep: deep}, func(d verify.Difference) error {
		if d.Kind == verify.KeptContent {
			return v.tell(d)
		}
		again = true
		return nil
	})
	if err != nil || !again {
		return report, err
	}
	v.l.keeping.Lock()
	defer v.l.keeping.Unlock()
	j, err := journal.Open(ctx, v.m.tgt.Records(), key) // as it is now, whoever had opened it before
	if err == nil {
		_, err = verify.Kept(ctx, v.m.tgt, j, key, verify.Options{}, v.tell)
	}
	return report, err
}

// mendKept removes a stray, with keeping held. A kept content that is lost is nowhere else.
func (v *verifying) mendKept(ctx context.Context, d verify.Difference) (string, error) {
	if d.Kind != verify.Stray {
		return "none: it is nowhere else; restore and versions say that it is lost", nil
	}
	if len(v.l.doubted) > 0 {
		return "none: changes of this link failed and may have been made, and this may be what one of them kept; repair again when they are done", nil
	}
	name := strings.TrimPrefix(d.Path, proto.ReservedName+"/"+target.KeptRecord(target.PrefixKey(v.l.config().Prefix), ""))
	err := errors.Join(v.m.tgt.History().Remove(ctx, []target.KeptName{target.KeptName(name)})...)
	var locked *target.LockedError
	if errors.As(err, &locked) {
		return "none: " + locked.Error(), nil
	}
	return "removed", err
}

// mend has the current version of a path owed again, and says so.
func (v *verifying) mend(path string) (string, error) {
	r := v.l.e.deps.Ledger
	row, err := ledger.Link(r, v.l.id)
	if err != nil {
		return "", err
	}
	o, known, err := ledger.Object(r, row.Dataset, path)
	switch {
	case err != nil:
		return "", err
	case !known || o.Current.Version == 0:
		return "none: it is not of the dataset; look at it, and remove it if it is of no use", nil
	}
	if o.Current.Kind == proto.KindTombstone && !v.l.config().Policy.Delete.Propagate {
		return "none: it was deleted at the source, and what is kept of such objects is not sent again", nil
	}
	v.entry.Versions = append(v.entry.Versions, o.Current.Version)
	if len(v.entry.Versions) >= reoweStep {
		err = v.reowe()
	}
	return "owed again", err
}

func (v *verifying) reowe() error {
	if len(v.entry.Versions) == 0 {
		return nil
	}
	v.entry.NowNs = v.l.now().UnixNano()
	if err := v.l.e.deps.Ledger.Update(&v.entry); err != nil {
		return fmt.Errorf("have what differs owed again: %w", err)
	}
	v.l.at(faultpoint.FlushReowed)
	v.entry = ledger.Reowe{Link: v.l.id}
	v.l.poke()
	return nil
}
