package flush

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"forebay/flush/journal"
	"forebay/flush/policy"
	"forebay/ledger"
	"forebay/proto"
	"forebay/units"
)

// Versions tells all versions that a link's target has of a path.
func (e *Engine) Versions(ctx context.Context, name, path string) (proto.PathVersions, error) {
	l, err := e.known(name)
	if err == nil {
		if perr := proto.CheckPath(path); perr != nil {
			err = proto.Errorf(proto.ClassPermanent, "%w", perr)
		}
	}
	if err != nil {
		return proto.PathVersions{}, err
	}
	m, done, err := l.openMirror(ctx)
	if err != nil {
		return proto.PathVersions{}, fmt.Errorf("versions at link %s: %w", name, err)
	}
	defer done()
	meta, err := ledger.ReadMeta(e.deps.Ledger)
	if err != nil {
		return proto.PathVersions{}, err
	}
	return ListVersions(ctx, m.journal, path, e.deps.Clock.Now(), meta.UpNs)
}

// ListVersions reads the versions of a path out of a target's journal. now and the running time up say until when each is kept; up 0
// is for who has no relay: it is not said then. Nothing there: ClassPermanent.
func ListVersions(ctx context.Context, j *journal.Journal, path string, now time.Time, up int64) (proto.PathVersions, error) {
	out := proto.PathVersions{Path: path, Versions: []proto.KeptVersion{}}
	if !utf8.ValidString(path) {
		out.Raw = []byte(path)
	}
	v, ok, err := j.GetVersions(ctx, path)
	if err != nil {
		return out, err
	}
	h, _ := j.History()
	if v.Now.InMirror() {
		out.Versions = append(out.Versions, describeVersion(v.Now))
	}
	for _, e := range slices.Backward(v.Past) {
		if e.Ended.Up <= h.Horizon || v.Now.InMirror() && e.Version == v.Now.Holds { // else a batch that ended it was cut short
			continue
		}
		d := describeVersion(e)
		d.EndedAt, d.EndedBy = stampNano(e.Ended.Ns), e.Ended.By
		if e.Ended.Lost {
			d.State = "lost"
		}
		if up != 0 {
			left := e.Ended.Up - cutoff(h, up)
			d.KeptUntil = stamp(now.Add(time.Duration(max(left, 0))))
		}
		out.Versions = append(out.Versions, d)
	}
	if !ok || len(out.Versions) == 0 {
		return out, proto.Errorf(proto.ClassPermanent, "the target has no version of %q", path)
	}
	return out, nil
}

func describeVersion(e journal.Entry) proto.KeptVersion {
	d := proto.KeptVersion{Version: e.Holds, State: e.State.String(), Kind: e.Desc.Kind.String(), Size: e.Desc.Size, LinkTo: e.Desc.LinkTo,
		Mode: strconv.FormatUint(uint64(e.Desc.Meta.Mode), 8), Mtime: time.Unix(0, e.Desc.Meta.MtimeNs).UTC().Format(time.RFC3339Nano), AckedAt: stampNano(e.HoldsNs())}
	if !e.Desc.Digest.IsZero() {
		d.Digest = e.Desc.Digest.String()
	}
	return d
}

func stampNano(ns int64) string {
	if ns == 0 {
		return ""
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339Nano)
}

// History tells what a link's target keeps of the past, and what would go if the policy's history.keep were approved.
func (e *Engine) History(ctx context.Context, name string) (proto.HistoryReport, error) {
	l, err := e.known(name)
	if err != nil {
		return proto.HistoryReport{}, err
	}
	m, done, err := l.openMirror(ctx)
	if err != nil {
		return proto.HistoryReport{}, fmt.Errorf("history of link %s: %w", name, err)
	}
	defer done()
	return l.reportHistory(ctx, m)
}

// PruneHistory approves the policy's history.keep where that is shorter than what the target goes by: what it does not keep goes, step
// by step. It returns what that is.
func (e *Engine) PruneHistory(ctx context.Context, name string) (proto.HistoryReport, error) {
	l, err := e.known(name)
	if err != nil {
		return proto.HistoryReport{}, err
	}
	l.keeping.Lock()
	defer l.keeping.Unlock()
	l.mu.Lock()
	m := l.mirror
	l.mu.Unlock()
	if m.tgt == nil {
		return proto.HistoryReport{}, proto.Errorf(proto.ClassTransient, "history of link %s: its target is not there, or was not needed yet: look at forebay status, then try again", name)
	}
	r, err := l.reportHistory(ctx, m)
	if err != nil {
		return r, err
	}
	h, ok := m.journal.History()
	p, err := l.present()
	if err != nil {
		return r, err
	}
	if want := p.Keep.Std(); ok && want < h.Keep {
		h.Keep = want
		if err := m.journal.SetHistory(ctx, h); err != nil {
			return r, fmt.Errorf("history of link %s: %w", name, err)
		}
		r.Keep, r.Held = r.PolicyKeep, ""
	}
	l.recount.Store(true)
	l.poke()
	return r, nil
}

// present is the policy in force at this moment.
func (l *link) present() (policy.Policy, error) {
	row, err := ledger.Link(l.e.deps.Ledger, l.id)
	if err != nil {
		return policy.Policy{}, err
	}
	p, _ := Effective(l.config().Policy, row.Overrides) // what does not go together is told by the loop
	return p, nil
}

func (l *link) reportHistory(ctx context.Context, m mirror) (proto.HistoryReport, error) {
	r := proto.HistoryReport{Link: l.config().Name, Keep: "none", PolicyKeep: "none", DuePaths: []string{}}
	meta, err := ledger.ReadMeta(l.e.deps.Ledger)
	if err != nil {
		return r, err
	}
	p, err := l.present()
	if err != nil {
		return r, err
	}
	if p.Keep > 0 {
		r.PolicyKeep = p.Keep.String()
	}
	h, ok := m.journal.History()
	if !ok {
		return r, nil
	}
	if r.On = h.On; h.On {
		r.Reaches = h.Reach.UTC().Format(time.RFC3339Nano)
	}
	if h.Keep > 0 {
		r.Keep = units.Duration(h.Keep).String()
	}
	c, err := count(ctx, m.journal, h, h.Horizon)
	if err != nil {
		return r, err
	}
	r.Versions, r.Bytes, r.Held = c.left.versions, c.left.bytes, heldPast(p.Keep, h, c.left.versions)
	asked := h
	asked.Keep = min(h.Keep, p.Keep.Std())
	err = reportDue(ctx, m, &r, h, cutoff(asked, meta.UpNs))
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Locked, r.LockedUntil = l.past.locked, stamp(l.past.until)
	return r, err
}

// reportDue adds what ended up to a running time.
func reportDue(ctx context.Context, m mirror, r *proto.HistoryReport, h journal.History, upTo int64) error {
	return m.journal.EachPast(ctx, "", func(path string, past []journal.Entry) error {
		n := int64(0)
		for _, e := range past {
			if e.Ended.Up > h.Horizon && e.Ended.Up <= upTo {
				n++
			}
		}
		if n == 0 {
			return nil
		}
		r.DueVersions += n
		after := h
		after.Horizon = upTo
		sizes := map[proto.Digest]int64{}
		for _, e := range past {
			sizes[e.Desc.Digest] = e.Desc.Size
		}
		for digest := range goneContents(past, after) {
			r.DueBytes += sizes[digest]
		}
		if len(r.DuePaths) < proto.MaxDuePaths {
			r.DuePaths = append(r.DuePaths, path)
		}
		return nil
	})
}
