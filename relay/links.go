package relay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/units/nearest"
)

// Flusher is what the relay asks of the flush: package flush, connected by whoever starts both.
type Flusher interface {
	// Wake tells a link that there may be something new.
	Wake(link string)
	// Stalled reports whether a link's target cannot be reached.
	Stalled(link string) bool
	// CanStage reports whether a link's target is there and keeps staged contents durably before they are whole, so that
	// objects larger than the cache can be streamed to it.
	CanStage(link string) bool
	// Status fills in what the flush knows of a link.
	Status(link string, s *proto.LinkStatus)
	// Bandwidth is what all links together may send.
	Bandwidth() proto.BandwidthStatus
	Plan(link string) (proto.PlanReport, error)
	Flush(link string, ignoreWindow bool) (proto.FlushReply, error)
	Policy(link string) ([]proto.PolicyValue, error)
	// SetPolicy changes a link's policy; it is validated whole before any of it is in force.
	SetPolicy(link string, c proto.PolicyChange) ([]proto.PolicyValue, error)
	Deletes(link string) (proto.HeldDeletes, error)
	// Failures lists up to limit parked objects and held deletes.
	Failures(link string, limit int) ([]proto.FailureInfo, error)
	ApproveDeletes(link string) (proto.HeldDeletes, error)
	// Versions tells all versions that a link's target has of a path.
	Versions(ctx context.Context, link, path string) (proto.PathVersions, error)
	// History tells what a link's target keeps of the past. PruneHistory lets go of what a shorter history.keep does not keep.
	History(ctx context.Context, link string) (proto.HistoryReport, error)
	PruneHistory(ctx context.Context, link string) (proto.HistoryReport, error)
	Verify(ctx context.Context, link string, deep, repair bool, line func(proto.VerifyLine) error) error
	// BeginAnew has a link fill its target, which was wiped or exchanged, as a new one.
	BeginAnew(ctx context.Context, link string) error
	Targets(ctx context.Context) []proto.TargetInfo
	// CheckTarget looks at a target now; with try it is tried, too: written to, read and cleaned.
	CheckTarget(ctx context.Context, name string, try bool) (proto.TargetInfo, error)
}

// SetLinks brings the ledger in line with the configuration: new links begin, missing ones are orphaned, those whose source,
// target or prefix changed begin anew while the old one is given up.
func (r *Relay) SetLinks(links []Link) error {
	r.linkMu.Lock()
	r.links = links
	r.linkMu.Unlock()
	return r.setLinks(links)
}

func (r *Relay) setLinks(links []Link) error {
	named := map[string]bool{}
	var entries []ledger.Entry
	for _, l := range links {
		named[l.Name] = true
		entries = append(entries, &ledger.SetLink{Name: l.Name, From: l.From, Target: l.Target, Prefix: l.Prefix, Coalesce: l.Coalesce, NowNs: r.now().UnixNano()})
	}
	if len(entries) > 0 {
		if err := r.ledger.Update(entries...); err != nil {
			return err
		}
	}
	r.deps.Fault.At(faultpoint.RelayLinksSet)
	if err := r.dropReplaced(); err != nil {
		return err
	}
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return err
	}
	for _, l := range rows {
		if !named[l.Name] && !l.Orphaned {
			if err := r.ledger.Update(&ledger.OrphanLink{Link: l.ID}); err != nil {
				return err
			}
			r.event("link-orphaned", fmt.Sprintf("link %s is no longer configured; it owes %d objects: forebay link drop %s gives them up", l.Name, l.OwedObjects, l.Name), map[string]string{"link": l.Name})
		}
		if !named[l.Name] && l.OwedObjects == 0 && l.ParkedObjects == 0 {
			if err := r.dropLink(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// LinkAnew has a link owe everything to its target, which has nothing of it any more, by an operator's word. SetLinks has to follow: the
// link is another one to the ledger.
func (r *Relay) LinkAnew(name string) error {
	l, ok := r.link(name)
	if !ok {
		return &NotFoundError{What: "link", Name: name, Known: r.linkNames()}
	}
	r.event("link-anew", fmt.Sprintf("an operator said that the target of link %s was wiped or exchanged: it is filled again", name), map[string]string{"link": name})
	return r.ledger.Update(&ledger.SetLink{Name: l.Name, From: l.From, Target: l.Target, Prefix: l.Prefix, Coalesce: l.Coalesce, Anew: true, NowNs: r.now().UnixNano()})
}

// dropReplaced drops links whose name went to another one elsewhere, once that one owes all that was there before it: what the cache has
// goes with the last link that owes it, and nobody else may have it.
func (r *Relay) dropReplaced() error {
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return err
	}
	for _, old := range rows {
		if old.Name != "" {
			continue
		}
		heirs := 0
		for _, l := range rows {
			if l.Dataset != old.Dataset || l.Name == "" {
				continue
			}
			heirs++
			if l.SeedCursor < l.SeedHead {
				if err := r.seedAll(l.ID); err != nil {
					return err
				}
			}
		}
		if heirs == 0 && old.OwedObjects > 0 {
			r.event("link-dropped", fmt.Sprintf("a link of dataset %s was dropped, or is for another dataset now, and no other link has that one: %d objects (%d bytes) that it owed are given up", old.From, old.OwedObjects, old.OwedBytes), nil)
		}
		if err := r.dropLink(old); err != nil {
			return err
		}
	}
	return nil
}

func (r *Relay) seedAll(link ledger.LinkID) error {
	for step := (&ledger.Seed{Link: link, Limit: 4096}); !step.Done; {
		if err := r.ledger.Update(step); err != nil {
			return err
		}
	}
	return nil
}

// dropLink gives up what a link owes, step by step. An operator's drop and a reload may both be at it.
func (r *Relay) dropLink(l ledger.LinkRow) error {
	for {
		e := &ledger.DropLink{Link: l.ID, Limit: 4096}
		if err := r.ledger.Update(e); err != nil {
			return err
		}
		r.deps.Fault.At(faultpoint.RelayLinkDropping)
		if e.Done {
			return nil
		}
	}
}

// DropLink gives up an orphaned link's debt, by an operator's word.
func (r *Relay) DropLink(name string) error {
	l, err := r.linkRow(name)
	if err != nil {
		return err
	}
	if !l.Orphaned {
		return proto.Errorf(proto.ClassPermanent, "link %s is in the configuration: take it out and reload first, then drop it", name)
	}
	r.event("link-dropped", fmt.Sprintf("an operator dropped link %s: %d objects (%d bytes) that it owed are given up", name, l.OwedObjects, l.OwedBytes), map[string]string{"link": name})
	return r.dropLink(l)
}

// linkRow finds a link by name.
func (r *Relay) linkRow(name string) (ledger.LinkRow, error) {
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return ledger.LinkRow{}, err
	}
	for _, l := range rows {
		if l.Name == name {
			return l, nil
		}
	}
	return ledger.LinkRow{}, &NotFoundError{What: "link", Name: name, Known: r.linkNames()}
}

// NotFoundError says that an operator named something that is not there.
type NotFoundError struct {
	What, Name string
	Known      []string // what there is instead
	Hint       string   // for what is not counted up
}

// Error names what there is instead, and the nearest of it.
func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("there is no %s %q", e.What, e.Name)
	if near := nearest.Name(e.Name, e.Known); near != "" {
		return text + fmt.Sprintf(", did you mean %s? there are: %s", near, strings.Join(e.Known, ", "))
	}
	switch {
	case e.Hint != "":
		return text + ": " + e.Hint
	case len(e.Known) == 0 && e.What == "node":
		return text + ": no agent has announced itself yet"
	case len(e.Known) == 0:
		return text + ": there are none"
	}
	return text + "; there are: " + strings.Join(e.Known, ", ")
}

func (r *Relay) linkNames() (out []string) {
	r.linkMu.RLock()
	defer r.linkMu.RUnlock()
	for _, l := range r.links {
		out = append(out, l.Name)
	}
	return out
}

func (r *Relay) link(name string) (Link, bool) {
	r.linkMu.RLock()
	defer r.linkMu.RUnlock()
	for _, l := range r.links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// linksOf names the links of a dataset.
func (r *Relay) linksOf(ds proto.DatasetID) (out []string) {
	d, err := ledger.Dataset(r.ledger, ds)
	if err != nil {
		return nil
	}
	r.linkMu.RLock()
	defer r.linkMu.RUnlock()
	for _, l := range r.links {
		if l.From == d.Name {
			out = append(out, l.Name)
		}
	}
	return out
}

// wanted reports whether some link names a dataset.
func (r *Relay) wanted(name proto.Dataset) bool {
	r.linkMu.RLock()
	defer r.linkMu.RUnlock()
	for _, l := range r.links {
		if l.From == name {
			return true
		}
	}
	return false
}

// grace is how long a holder that is away holds up deletes of a dataset: the longest that one of its links asks for.
func (r *Relay) grace(name proto.Dataset) time.Duration {
	r.linkMu.RLock()
	defer r.linkMu.RUnlock()
	g := time.Duration(0)
	for _, l := range r.links {
		if l.From == name {
			g = max(g, l.Grace)
		}
	}
	return g
}

// stalled reports whether a link's target is not there; without a flush none is.
func (r *Relay) stalled(link string) bool { return r.flush != nil && r.flush.Stalled(link) }

// share is a link's part of the cache, in raw bytes: its own, or an equal part of what the others leave.
func (r *Relay) share(name string) int64 {
	r.linkMu.RLock()
	defer r.linkMu.RUnlock()
	taken, unset, mine := 0.0, 0, 0.0
	for _, l := range r.links {
		taken += l.Share
		if l.Share == 0 {
			unset++
		}
		if l.Name == name {
			mine = l.Share
		}
	}
	if mine == 0 && unset > 0 {
		mine = max(1-taken, 0) / float64(unset)
	}
	return int64(float64(r.stores.Capacity()) * mine)
}
