package journal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"forebay/proto"
)

// historyFile is the name of the record of what is kept of the past. It lies among the journal's files, so that a release that does
// not know of it refuses the journal rather than replace what would have to be kept.
const historyFile = "history"

// HistoryFormat is the version of that record.
const HistoryFormat = 1

// History says what a target keeps of the past. It is JSON, so that people can read it there.
type History struct {
	Format int `json:"format"`
	// On is set while batches keep what they replace and delete.
	On bool `json:"on"`
	// Reach is from when on the tree can be had as it was at any moment, by the stamps of versions.
	Reach time.Time `json:"reach"`
	// Keep is how long a version is kept after its end: what the policy last asked for, but that it becomes shorter only by an
	// operator's word.
	Keep time.Duration `json:"keep_ns"`
	// Horizon is a running time of the relay: versions that ended up to then are given up, and counted no more. The contents of
	// those that ended up to Swept are removed.
	Horizon int64 `json:"horizon_up"`
	Swept   int64 `json:"swept_up"`
}

// End says how a version's time at its path ended.
type End struct {
	// Ns is the stamp of what came after it: from then on the path had that.
	Ns int64 `cbor:"1,keyasint"`
	// Up is the relay's running time when it ended at the target.
	Up int64 `cbor:"2,keyasint"`
	// Stored is set where its content was kept then; else the version after it had the same, or it has none.
	Stored bool `cbor:"3,keyasint,omitempty"`
	// Lost is set where the target did not have the content any more when it was to be kept.
	Lost bool `cbor:"4,keyasint,omitempty"`
	// By is the version that came after it.
	By proto.VersionID `cbor:"5,keyasint"`
}

// ended is what the End of an entry of the past is; such entries always have one.
func (e Entry) ended() End {
	if e.Ended == nil {
		return End{}
	}
	return *e.Ended
}

// HoldsNs is since when, by its stamp, the path has had what the mirror has there; 0: since before versions were kept.
func (e Entry) HoldsNs() int64 {
	if e.State == StateKept || e.State == StateParked {
		return e.HeldNs
	}
	return e.AckedNs
}

// End returns the entry of the past that what the mirror has at e's path becomes when by, of stamp ns, takes its place.
func (e Entry) End(by proto.VersionID, ns, up int64) Entry {
	if e.State == StateKept { // at the source it ended when it was deleted
		by, ns = e.Version, e.AckedNs
	}
	return Entry{Path: e.Path, Version: e.Holds, State: StatePast, Holds: e.Holds, Desc: e.Desc, AckedNs: e.HoldsNs(), Ended: &End{Ns: ns, Up: up, By: by}}
}

// readHistory reads the record, if there is one.
func (j *Journal) readHistory(ctx context.Context) error {
	body, err := j.rec.Open(ctx, j.dir+"/"+historyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the journal's %s: %w", historyFile, err)
	}
	defer func() { _ = body.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(body, maxMark))
	if err != nil {
		return fmt.Errorf("read the journal's %s: %w", historyFile, err)
	}
	var h History
	if err := json.Unmarshal(data, &h); err != nil {
		return proto.Errorf(proto.ClassCorrupt, "the journal's %s is damaged: %w", historyFile, err)
	}
	if h.Format > HistoryFormat {
		return proto.Errorf(proto.ClassPermanent, "the journal's %s has format %d, this program knows 1 to %d: use a newer release", historyFile, h.Format, HistoryFormat)
	}
	if h.Format < 1 {
		return proto.Errorf(proto.ClassCorrupt, "the journal's %s is damaged: format %d", historyFile, h.Format)
	}
	j.history = &h
	return nil
}

// History returns what the target keeps of the past; ok false where it never did, or no longer does.
func (j *Journal) History() (h History, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.history == nil {
		return h, false
	}
	return *j.history, true
}

// SetHistory writes what the target keeps, durably.
func (j *Journal) SetHistory(ctx context.Context, h History) error {
	h.Format = HistoryFormat
	data, err := json.MarshalIndent(h, "", "  ")
	if err == nil {
		err = j.rec.Put(ctx, j.dir+"/"+historyFile, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the journal's %s: %w", historyFile, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.history = &h
	return nil
}

// DropHistory forgets that anything was kept, once nothing is.
func (j *Journal) DropHistory(ctx context.Context) error {
	if err := j.rec.Remove(ctx, j.dir+"/"+historyFile); err != nil {
		return fmt.Errorf("remove the journal's %s: %w", historyFile, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.history = nil
	return nil
}

// PastEntries returns how many versions the files list that have ended: at least those that are kept.
func (j *Journal) PastEntries() (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.l.past {
		n += r.count()
	}
	return n
}

// Past writes, durably, which versions a batch ended: between its commit and Done. Entries are as Entry.End makes them. Of several
// for one version of a path the one that ended last counts.
func (b *Batch) Past(ctx context.Context, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	if err := check(entries); err != nil {
		return err
	}
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, byVersion)
	j := b.j
	r, err := j.write(ctx, kindPast, b.number, b.number, all(sorted))
	if err != nil {
		return fmt.Errorf("write what batch %d ended: %w", b.number, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.l.past = slices.DeleteFunc(slices.Clone(j.l.past), func(o run) bool { return o.lo == r.lo && o.hi == r.hi })
	j.l.past = insert(j.l.past, r)
	return nil
}

func byVersion(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version))
}

// pastOf folds the past entries of a path into one for each version, oldest first.
func pastOf(group []Entry) []Entry {
	slices.SortStableFunc(group, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(b.ended().Up, a.ended().Up))
	})
	return slices.CompactFunc(group, func(a, b Entry) bool { return a.Version == b.Version })
}

// Versions are all that a target has of a path.
type Versions struct {
	Path    string
	Now     Entry   // as from Each: what counts now
	Pending *Entry  // as from Each
	Past    []Entry // oldest first; those that were given up too
}

// EachVersions calls fn for every path at or below prefix that the journal knows anything of, past or present, in byte order of the
// paths. damaged is as in EachReadable.
func (j *Journal) EachVersions(ctx context.Context, prefix string, fn func(Versions) error, damaged func(error)) error {
	return j.walk(ctx, selection{prefix: prefix}, damaged, func(g group) error { return fn(g.versions()) }, true, true)
}

// GetVersions returns all that the journal knows of a path; ok false when nothing.
func (j *Journal) GetVersions(ctx context.Context, path string) (v Versions, ok bool, err error) {
	err = j.walk(ctx, selection{paths: []string{path}}, nil, func(g group) error {
		v, ok = g.versions(), true
		return nil
	}, true, true)
	return v, ok, err
}

// CheckAt says why the tree cannot be had as it was at a moment (ClassPermanent).
func (j *Journal) CheckAt(at time.Time) error {
	h, ok := j.History()
	switch {
	case !ok:
		return proto.Errorf(proto.ClassPermanent, "this backup has the newest versions only: its link has no history.keep")
	case !h.On:
		return proto.Errorf(proto.ClassPermanent, "this backup no longer keeps what is replaced, so it cannot tell how the tree was: history.keep was taken away from its link (versions still has what is left)")
	case at.Before(h.Reach):
		return proto.Errorf(proto.ClassPermanent, "at %s the tree is not known whole any more, or not yet: the history of this backup reaches back to %s", at.UTC().Format(time.RFC3339Nano), h.Reach.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

// EachPast calls fn for every path at or below prefix of which a version has ended, with those versions, oldest first.
func (j *Journal) EachPast(ctx context.Context, prefix string, fn func(path string, past []Entry) error) error {
	return j.walk(ctx, selection{prefix: prefix}, nil, func(g group) error { return fn(g.path, pastOf(g.past)) }, false, true)
}

// Found is what the journal knows of a path.
type Found struct {
	Entry
	Pending *Entry
}

// Lookup returns what the journal knows of paths, which are sorted; those that it does not know are missing. It reads the files that
// can have one of them.
func (j *Journal) Lookup(ctx context.Context, paths []string) (map[string]Found, error) {
	out := map[string]Found{}
	if len(paths) == 0 {
		return out, nil
	}
	err := j.walk(ctx, selection{paths: paths}, nil, func(g group) error {
		e, pending := g.present()
		out[g.path] = Found{e, pending}
		return nil
	}, true, false)
	return out, err
}

// At returns what a path had at a moment, by the stamps of its versions: of those that had begun and not ended, the highest. pending is
// what an interrupted batch may have put there by then. Both may be the zero Entry and nil: then it had nothing.
func (v Versions) At(ns, horizon int64) (e Entry, pending *Entry) {
	for _, p := range v.Past {
		if end := p.ended(); p.AckedNs <= ns && ns < end.Ns && end.Up > horizon {
			e = p
		}
	}
	now := v.Now
	if now.InMirror() && now.Holds > e.Version && now.HoldsNs() <= ns {
		e = now
		if now.State != StatePresent && ns < now.AckedNs { // it was neither deleted nor had a newer version by then
			e.State, e.Version = StatePresent, now.Holds
		}
	}
	if p := v.Pending; p != nil && p.AckedNs <= ns {
		pending = p
	}
	return e, pending
}

// CompactPast merges what the journal lists of the past when that is worth it, and leaves out what is swept.
func (j *Journal) CompactPast(ctx context.Context) error { return j.compactPast(ctx, false) }

// SweepPast merges all that the journal lists of the past into one run, without what is swept.
func (j *Journal) SweepPast(ctx context.Context) error { return j.compactPast(ctx, true) }

func (j *Journal) compactPast(ctx context.Context, all bool) error {
	j.compacting.Lock()
	defer j.compacting.Unlock()
	h, ok := j.History()
	if !ok {
		return nil
	}
	if err := j.mergePast(ctx, h.Swept, all, nil); err != nil {
		return fmt.Errorf("merge journal: %w", err)
	}
	return j.sweep(ctx)
}

func (j *Journal) mergePast(ctx context.Context, swept int64, all bool, damaged func(error)) error {
	past := j.holdPast()
	defer j.release()
	if m := j.mergeable(past); all && len(m) < len(past) {
		return nil // a batch is under way, the next sweep does it
	} else {
		past = m
	}
	from, ok := plan(counts(past))
	if all {
		from, ok = 0, len(past) > 0
	}
	if !ok {
		return nil
	}
	in := past[from:]
	hi := in[len(in)-1].hi
	if all { // a number of its own: one run alone would else be written over itself
		hi = j.number()
	}
	merged, err := j.write(ctx, kindPast, in[0].lo, hi, func(yield func(Entry, error) bool) {
		for g, err := range j.groups(ctx, in, selection{}, damaged) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range pastOf(g.past) {
				if e.ended().Up > swept && !yield(e, nil) {
					return
				}
			}
		}
	})
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.l.past = j.substitute(j.l.past, merged, in)
	if all && merged.count() == 0 { // after its inputs, which it stands for
		j.l.past = nil
		j.obsolete = append(j.obsolete, merged.files...)
	}
	return nil
}

func (j *Journal) holdPast() []run {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.readers++
	return slices.Clone(j.l.past)
}
