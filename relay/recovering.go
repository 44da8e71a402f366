package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"forebay/ledger"
	"forebay/ledger/rebuild"
	"forebay/proto"
	"forebay/shard/store"
)

// rowsAtOnce bounds the paths and pieces of one entry of a rebuild.
const rowsAtOnce = 500

// maxNamed bounds the segments that a note names.
const maxNamed = 10

// segments reads all segments and keeps what their pieces say.
func (r *recovery) segments(ctx context.Context) error {
	if r.stores == nil {
		return nil
	}
	all, err := r.stores.Locate(ctx, r.report.Relay)
	if err != nil {
		return err
	}
	for i, l := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.segment(ctx, l); err != nil {
			return err
		}
		r.deps.Progress(StepSegments, int64(i+1), int64(len(all)))
	}
	if r.report.Unreadable > 0 {
		what := "what was in them is asked for again from the holders that have it, once these tell what they have"
		if len(r.missing) > 0 {
			what = "they are kept; with the stores that are away, rebuild again: until then, " + what
		}
		r.note(true, "%d segments cannot be read (%s): %s", r.report.Unreadable, strings.Join(r.unreadable, ", "), what)
	}
	if r.scanty > 0 {
		r.note(false, "%d segments have too few shards, and all stores are there: they were being written when the relay ended, and nothing in them was acknowledged, "+
			"unless a store was put back to an older copy of itself: what was in them then is asked for again from the holders that have it", r.scanty)
	}
	return nil
}

// segment reads one segment. One that cannot be read is counted: nothing says what was in it.
func (r *recovery) segment(ctx context.Context, l store.Located) error {
	// Shards are written to several stores at once, and acknowledged when they are in all of them. What the memo has as settled was.
	if !l.Readable() && r.entire && r.memo != nil && l.ID.Seq > r.memo.Settled {
		r.scanty++
		return nil
	}
	read, err := r.stores.Get(ctx, l.ID, l.Placement)
	var lost *store.LostError
	if errors.As(err, &lost) {
		switch r.report.Unreadable++; {
		case r.report.Unreadable <= maxNamed:
			r.unreadable = append(r.unreadable, l.ID.String())
		case r.report.Unreadable == maxNamed+1:
			r.unreadable = append(r.unreadable, "…")
		}
		return nil
	}
	if err != nil {
		return err
	}
	h, refused := read.Segment.Header, r.memo.refused(l.ID.Seq)
	entries := []ledger.Entry{&ledger.RecoverSegments{NowNs: r.deps.Now().UnixNano(), Segments: []ledger.RecoveredSegment{{
		Seq: l.ID.Seq, Dataset: h.Dataset, Length: l.Length, Stored: l.RawBytes(), Placement: proto.Marshal(l.Placement), Degraded: !l.Whole() || len(read.Bad) > 0, Refused: refused,
	}}}}
	g := &ledger.Gather{}
	for i := range h.Pieces {
		p := h.Pieces[i]
		r.number++
		e := ledger.Evidence{Dataset: h.Dataset, Path: p.Path, N: r.number, Segment: l.ID.Seq, Piece: &p}
		e.Refused, e.Told = refused.Says(&p)
		r.highest = max(r.highest, rebuild.Highest(e))
		g.Evidence = append(g.Evidence, e)
	}
	r.report.Segments++
	return r.ledger.Update(append(entries, g)...)
}

// journals reads what is on the targets of the links. One that cannot be read costs its link sending again what it has.
func (r *recovery) journals(ctx context.Context) error {
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return err
	}
	done := int64(0)
	for _, l := range r.cfg.Links {
		var row ledger.LinkRow
		for _, x := range rows {
			if x.Name == l.Name {
				row = x
			}
		}
		g := &ledger.Gather{}
		write := func() error {
			if len(g.Evidence) == 0 {
				return nil
			}
			err := r.ledger.Update(g)
			g.Evidence = g.Evidence[:0]
			return err
		}
		marked, err := r.deps.Journal(ctx, l, r.report.Relay, func(path string, on ledger.OnTarget) error {
			on.Link = row.ID
			r.number++
			e := ledger.Evidence{Dataset: l.From, Path: path, N: r.number, Target: &on}
			r.highest = max(r.highest, rebuild.Highest(e))
			g.Evidence = append(g.Evidence, e)
			if done++; len(g.Evidence) < rowsAtOnce {
				return ctx.Err()
			}
			r.deps.Progress(StepJournals, done, 0)
			return write()
		})
		if werr := write(); werr != nil {
			return werr
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && !marked && (r.deps.FromTargets || r.wasMarked(l)) {
			err = errors.New("the target has no mark of this link: is it mounted? If it never was the link's, resume the link")
		}
		found := RecoveredLink{Name: l.Name}
		if err != nil {
			found.Unread = err.Error()
			if err := r.leaveAside(row, err); err != nil {
				return err
			}
		}
		r.report.Links = append(r.report.Links, found)
	}
	r.deps.Progress(StepJournals, done, done)
	return nil
}

// wasMarked reports whether a link is known to have written to its target.
func (r *recovery) wasMarked(l Link) bool {
	return r.memo != nil && slices.ContainsFunc(r.memo.Links, func(m memoLink) bool {
		return m.Name == l.Name && m.From == l.From && m.Target == l.Target && m.Prefix == l.Prefix && m.Marked
	})
}

// leaveAside pauses a link of whose target nothing, or not everything, could be learnt. An empty mount point must not be
// taken for its target, and what is there need not be sent again: the operator decides.
func (r *recovery) leaveAside(row ledger.LinkRow, why error) error {
	r.unread[row.ID] = true
	r.note(true, "link %s is paused: the journal on its target could not be read whole (%v). Bring the target back, then either move the ledger away and rebuild again, or resume the link: it then sends all that is known once more",
		row.Name, why)
	yes := true
	return r.ledger.Update(&ledger.TuneLink{Link: row.ID, Paused: &yes})
}

// conclude turns the evidence into rows, path by path.
func (r *recovery) conclude(ctx context.Context) error {
	floor := max(proto.VersionID(r.report.Generation+1)<<32, r.highest) + gap
	if err := r.ledger.Update(&ledger.SetFloor{Floor: floor}); err != nil {
		return err
	}
	ds, err := ledger.Datasets(r.ledger)
	if err != nil {
		return err
	}
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return err
	}
	done := int64(0)
	for _, d := range ds {
		var links []rebuild.Link
		for _, row := range rows {
			if row.Dataset == d.ID {
				links = append(links, rebuild.Link{ID: row.ID, Unread: r.unread[row.ID]})
			}
		}
		e := &ledger.RecoverObjects{Dataset: d.ID, NowNs: r.deps.Now().UnixNano()}
		write := func() error {
			if len(e.Objects) == 0 {
				return nil
			}
			if err := r.ledger.Update(e); err != nil {
				return err
			}
			done += int64(len(e.Objects))
			e.Objects = e.Objects[:0]
			r.deps.Progress(StepRows, done, 0)
			return ctx.Err()
		}
		err := ledger.EachEvidence(r.ledger, d.ID, func(path string, all []ledger.Evidence) error {
			o := rebuild.Conclude(path, all, links)
			if o.Desc.Kind == proto.KindNone && len(o.Uploads) == 0 {
				return nil
			}
			r.count(o)
			e.Objects = append(e.Objects, o)
			if len(e.Objects) < rowsAtOnce {
				return nil
			}
			return write()
		})
		if err != nil {
			return err
		}
		if err := write(); err != nil {
			return err
		}
	}
	r.deps.Progress(StepRows, done, done)
	return nil
}

func (r *recovery) count(o ledger.Recovered) {
	switch o.Desc.Kind {
	case proto.KindNone:
	case proto.KindTombstone:
		r.report.Tombstones++
	default:
		r.report.Objects++
	}
	for _, u := range o.Uploads {
		if u.Sealed {
			continue
		}
		r.report.Uploads++
		for _, g := range u.Ranges {
			r.report.UploadBytes += int64(g.Row.Length)
		}
	}
}

// finish drops the evidence, and says what came of it.
func (r *recovery) finish(ctx context.Context) error {
	for {
		end := &ledger.EndRecovery{Limit: 4096, Kept: r.kept}
		if err := r.ledger.Update(end); err != nil {
			return err
		}
		if end.Done {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	ds, err := ledger.Datasets(r.ledger)
	if err != nil {
		return err
	}
	for _, d := range ds {
		r.report.Asked += d.Asked
	}
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return err
	}
	for i := range r.report.Links {
		l := &r.report.Links[i]
		for _, row := range rows {
			if row.Name != l.Name {
				continue
			}
			l.Confirmed, l.Owed, l.Released, l.OwedBytes, l.Deletes = row.ConfirmedObjects, row.OwedObjects, row.ReleasedObjects, row.OwedBytes, row.OwedDeletes
			l.Overrides, l.Paused = int64(len(row.Overrides)), row.Paused
		}
	}
	e := &ledger.AddEvent{Event: proto.Event{At: r.deps.Now().UTC(), Kind: "ledger-rebuilt", What: fmt.Sprintf("the ledger was rebuilt from %d segments and the journals of %d links: %d objects, %d deletes, %d uploads to go on with",
		r.report.Segments, len(r.report.Links), r.report.Objects, r.report.Tombstones, r.report.Uploads)}, Keep: eventsKept}
	return r.ledger.Update(e)
}
