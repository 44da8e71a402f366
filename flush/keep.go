package flush

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// passing is what a batch makes past: the versions that its changes replace or delete, where the target keeps them.
//
// What the mirror has at a path is asked of the journal, once the batch is known and before its intent is written. It is kept before
// the first change of the batch, under a name that says of which content it is; then the batch commits, and the journal gets the
// versions that ended before it gets those that are there now. So a batch that was cut short anywhere finds, when it is done again,
// either the old version in its place or its content kept already, and never takes the new one for it.
type passing struct {
	l     *link
	found map[string]journal.Found
	nowNs int64
	ends  []*ending
}

// ending is the end of what the mirror has at an item's path.
type ending struct {
	it    *item
	entry journal.Entry
	unsure,
	keep bool // its content goes with the change; unsure: a batch that was cut short may have replaced it already
}

// foresee finds out what the items of a batch will make past; nil where nothing is kept.
func (l *link) foresee(ctx context.Context, items []*item) (*passing, error) {
	if h, ok := l.sess.journal.History(); !ok || !h.On {
		return nil, nil
	}
	p := &passing{l: l, nowNs: l.now().UnixNano()}
	paths := make([]string, len(items))
	for i, it := range items {
		paths[i] = it.row.Path
	}
	slices.Sort(paths)
	var err error
	if p.found, err = l.sess.journal.Lookup(ctx, paths); err != nil {
		return nil, fmt.Errorf("look for what is to be kept: %w", err)
	}
	for _, it := range items {
		f, ok := p.found[it.row.Path]
		if !ok || !f.InMirror() || f.Holds >= it.ver {
			continue
		}
		stays := it.op != target.OpDelete && it.desc.Kind.HasContent() && it.desc.Digest == f.Desc.Digest
		p.ends = append(p.ends, &ending{it: it, entry: f.End(it.ver, p.stamp(it), 0), unsure: f.Pending != nil || l.doubted[it.row.Path], keep: f.Desc.Kind.HasContent() && !stays})
	}
	return p, nil
}

// stamp is when an item's version was acknowledged: what the journal has of it already, and never later than now.
func (p *passing) stamp(it *item) int64 {
	if p == nil {
		return 0
	}
	if f, ok := p.found[it.row.Path]; ok && f.Version == it.ver && f.AckedNs != 0 {
		return f.AckedNs
	}
	return min(it.row.SealedNs, p.nowNs)
}

// keep has the target keep what is about to go. Items whose old version cannot be kept fail: it stays where it is.
func (p *passing) keep(ctx context.Context) {
	if p == nil || ctx.Err() != nil {
		return
	}
	var keeps []target.Keep
	var of []*ending
	for _, e := range p.ends {
		if !e.keep {
			continue
		}
		d := e.entry.Desc
		k := target.Keep{Path: e.entry.Path, Name: target.NameKept(e.entry.Path, d.Digest), Size: d.Size, Digest: d.Digest}
		if e.unsure {
			if there, err := p.there(ctx, k); err != nil || !there {
				p.settle(e, err, !there)
				continue
			}
		}
		keeps, of = append(keeps, k), append(of, e)
	}
	for i, err := range p.l.sess.tgt.History().Keep(ctx, keeps) {
		p.settle(of[i], err, errors.Is(err, target.ErrNotThere))
	}
	p.l.at(faultpoint.FlushKept)
}

// settle notes what became of a keep.
func (p *passing) settle(e *ending, err error, lost bool) {
	switch {
	case lost && (err == nil || errors.Is(err, target.ErrNotThere)):
		e.entry.Ended.Lost = true
		p.l.tell(Event{Kind: VersionLost, Path: e.entry.Path, Version: e.entry.Version, Err: err})
	case err != nil:
		e.it.state, e.it.err, e.it.late = itemFailed, fmt.Errorf("keep the version that it replaces: %w", err), true
	default:
		e.entry.Ended.Stored = true
	}
}

// there finds out whether a content is kept already or is the one in the mirror, by its digest: a batch that was cut short leaves it
// open which version the path has.
func (p *passing) there(ctx context.Context, k target.Keep) (bool, error) {
	tgt := p.l.sess.tgt
	in, err := tgt.History().Open(ctx, k.Name)
	if err == nil {
		return true, in.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	if in, err = tgt.Open(ctx, k.Path); err != nil {
		if e, serr := tgt.Stat(ctx, k.Path); errors.Is(serr, fs.ErrNotExist) || serr == nil && e.Desc.Kind != proto.KindFile {
			return false, nil
		}
		return true, err
	}
	defer func() { _ = in.Close() }() // only read from
	sum, _, err := proto.ReadDigest(ctx, in)
	return err != nil || sum == k.Digest, err
}

// end writes what a batch has made past.
func (p *passing) end(ctx context.Context, run *journal.Batch) error {
	if p == nil || len(p.ends) == 0 {
		return nil
	}
	m, err := ledger.ReadMeta(p.l.e.deps.Ledger)
	if err != nil {
		return err
	}
	var past []journal.Entry
	for _, e := range p.ends {
		if e.it.state == itemCommitted {
			e.entry.Ended.Up = max(m.UpNs, 1) // 0 is before any horizon
			past = append(past, e.entry)
		}
	}
	if err := run.Past(ctx, past); err != nil {
		return err
	}
	p.l.ended(past)
	p.l.at(faultpoint.FlushEnded)
	return nil
}
