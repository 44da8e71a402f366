package relayd

import (
	"context"
	"fmt"
	"slices"
	"time"

	"forebay/config"
	"forebay/flush"
	"forebay/flush/journal"
	"forebay/flush/policy"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/relay"
	"forebay/units"
)

func fraction(p int64) float64 { return float64(p) / float64(units.Hundred) }

// cache is the relay as the flush reads from it.
type cache struct{ r *relay.Relay }

func (c cache) Read(ctx context.Context, seq uint64) (*segment.Segment, error) {
	return c.r.ReadSegment(ctx, seq)
}

// flushEvent turns what the flush tells into the relay's event log. Batches are counted in status; only what an operator may
// want to know later is kept.
func (d *Daemon) flushEvent(e flush.Event) {
	fields := map[string]string{"link": e.Link}
	what := fmt.Sprintf("link %s: %s", e.Link, e.Kind)
	if e.Path != "" {
		fields["object"] = e.Path
		what += fmt.Sprintf(" %q", e.Path)
	}
	if e.Reason != "" {
		what += ": " + e.Reason
	}
	if e.Err != nil {
		fields["error"] = e.Err.Error()
		what += ": " + e.Err.Error()
	}
	if e.Kind == flush.BatchDone {
		d.deps.Log.Debug().Str("link", e.Link).Int64("objects", e.Objects).Int64("bytes", e.Bytes).Dur("took", e.Took).Msg("batch confirmed")
		return
	}
	for k, v := range map[string]int64{"objects": e.Objects, "bytes": e.Bytes, "deletes": e.Deletes, "forced": e.Forced} {
		if v != 0 {
			fields[k] = fmt.Sprint(v)
		}
	}
	d.relay.Event(string(e.Kind), what, fields)
}

// flusher is the flush as the relay's API asks it.
type flusher struct{ d *Daemon }

var _ relay.Flusher = flusher{}

func (f flusher) Wake(link string) { f.d.engine.Wake(link) }

func (f flusher) Stalled(link string) bool {
	s, ok := f.d.engine.State(link)
	return ok && s.State == flush.StateStalled
}

func (f flusher) CanStage(link string) bool { return f.d.engine.CanStage(link) }

func (f flusher) Status(link string, out *proto.LinkStatus) {
	s, ok := f.d.engine.State(link)
	if !ok {
		return
	}
	out.State, out.Reason, out.NextTry, out.LastError = s.State, s.Reason, stamp(s.NextTry), s.LastError
	out.LastErrorAt, out.StagedBytes = stamp(s.LastErrorAt), s.StagedBytes
	out.RateBytesPerSecond, out.ETASeconds = s.RateBytesPerSecond, s.ETA.Seconds()
	out.WindowOpensAt, out.WindowClosesAt, out.Forced = stamp(s.WindowOpens), stamp(s.WindowCloses), s.Forced
	out.BudgetSpentBytes = s.BudgetSpent
	if s.Budget > 0 {
		out.BudgetBytes, out.BudgetLeftBytes, out.BudgetRenewsAt = s.Budget, max(s.Budget-s.BudgetSpent, 0), stamp(s.BudgetRenews)
	}
	out.HeldDeletes, out.Confirm, out.Notes = s.HeldDeletes, string(s.Confirm), s.Notes
	out.KeptVersions, out.KeptBytes, out.HistoryReaches, out.HistoryHeld = s.KeptVersions, s.KeptBytes, stamp(s.HistoryReaches), s.HistoryHeld
}

func (f flusher) Bandwidth() proto.BandwidthStatus {
	b, limit := f.d.engine.Bandwidth()
	return proto.BandwidthStatus{Setting: b.Table.String(), Timezone: b.Zone.String(), LimitBytesPerSecond: int64(limit)}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func (f flusher) Plan(link string) (proto.PlanReport, error) { return f.d.engine.Plan(link) }

func (f flusher) Flush(link string, ignoreWindow bool) (proto.FlushReply, error) {
	return f.d.engine.FlushNow(link, ignoreWindow)
}

func (f flusher) Deletes(link string) (proto.HeldDeletes, error) { return f.d.engine.Deletes(link) }

func (f flusher) Failures(link string, limit int) ([]proto.FailureInfo, error) {
	return f.d.engine.Failures(link, limit)
}

func (f flusher) ApproveDeletes(link string) (proto.HeldDeletes, error) {
	return f.d.engine.ApproveDeletes(link)
}

func (f flusher) Versions(ctx context.Context, link, path string) (proto.PathVersions, error) {
	return f.d.engine.Versions(ctx, link, path)
}

func (f flusher) History(ctx context.Context, link string) (proto.HistoryReport, error) {
	return f.d.engine.History(ctx, link)
}

func (f flusher) PruneHistory(ctx context.Context, link string) (proto.HistoryReport, error) {
	r, err := f.d.engine.PruneHistory(ctx, link)
	if err == nil {
		f.d.relay.Event("history-approved", fmt.Sprintf("an operator let go of what history.keep %s of link %s does not keep: %d versions", r.Keep, link, r.DueVersions), map[string]string{"link": link})
	}
	return r, err
}

// Verify is the flush's, with what never came as far as the target because no holder can read it.
func (f flusher) Verify(ctx context.Context, link string, deep, repair bool, line func(proto.VerifyLine) error) error {
	return f.d.engine.Verify(ctx, link, deep, repair, func(v proto.VerifyLine) error {
		if !v.Done {
			return line(v)
		}
		list, more, _, err := f.d.relay.Unread(link)
		if err != nil {
			return err
		}
		told := map[string]bool{} // several nodes may have tried
		for _, x := range list {
			if told[x.Path] {
				continue
			}
			told[x.Path] = true
			if err := line(proto.VerifyLine{Path: x.Path, Problem: string(x.Kind), Detail: fmt.Sprintf("at its source, on %s: %s: what is there now is not backed up", x.Node, x.Reason)}); err != nil {
				return err
			}
		}
		v.Differences += int64(len(told)) + more
		return line(v)
	})
}

// unread is what targets are told of objects that no holder can read.
func (d *Daemon) unread(link string) (u flush.Unread) {
	list, more, away, err := d.relay.Unread(link)
	if err != nil {
		return u // the link was dropped, or the ledger failed: Run ends with it
	}
	u.More, u.Away = more, away
	for _, x := range list {
		u.Objects = append(u.Objects, journal.UnreadObject{Path: []byte(x.Path), Node: x.Node, Reason: x.Reason, Since: x.Since})
	}
	return u
}

// linkNamed finds a link in a configuration.
func linkNamed(cfg *config.Relay, name string) (config.Link, error) {
	i := slices.IndexFunc(cfg.Links, func(l config.Link) bool { return l.Name == name })
	if i < 0 {
		var known []string
		for _, l := range cfg.Links {
			known = append(known, l.Name)
		}
		return config.Link{}, &relay.NotFoundError{What: "link", Name: name, Known: known}
	}
	return cfg.Links[i], nil
}

// linkOf finds a configured link and its row.
func (d *Daemon) linkOf(name string) (config.Link, ledger.LinkRow, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, err := linkNamed(d.cfg, name)
	if err != nil {
		return l, ledger.LinkRow{}, err
	}
	rows, err := ledger.Links(d.relay.Ledger())
	if err != nil {
		return config.Link{}, ledger.LinkRow{}, err
	}
	for _, row := range rows {
		if row.Name == name {
			return l, row, nil
		}
	}
	return config.Link{}, ledger.LinkRow{}, &relay.NotFoundError{What: "link", Name: name}
}

// Policy gives each effective value and where it comes from.
func (f flusher) Policy(link string) ([]proto.PolicyValue, error) {
	l, row, err := f.d.linkOf(link)
	if err != nil {
		return nil, err
	}
	p := effective(l, row)
	var out []proto.PolicyValue
	for _, kv := range policy.Canonical(&p) {
		v := proto.PolicyValue{Key: kv.Key, Value: kv.Value, Origin: "default"}
		if slices.Contains(l.Given, kv.Key) {
			v.Origin = "file"
		}
		if o, ok := row.Overrides[kv.Key]; ok {
			v.Origin, v.SetAt = "set", stamp(time.Unix(0, o.SetNs))
		}
		out = append(out, v)
	}
	return out, nil
}

// effective is the policy in force, as the flush sees it; what does not go together is told by it.
func effective(l config.Link, row ledger.LinkRow) policy.Policy {
	p, _ := flush.Effective(l.Policy, row.Overrides) // as above
	return p
}

// SetPolicy changes a link's policy: all of it is in force and durable, or none.
func (f flusher) SetPolicy(link string, c proto.PolicyChange) ([]proto.PolicyValue, error) {
	l, row, err := f.d.linkOf(link)
	if err != nil {
		return nil, err
	}
	e := &ledger.TuneLink{Link: row.ID, Set: map[string]ledger.Override{}}
	over := map[string]string{}
	for k, o := range row.Overrides {
		over[k] = o.Value
	}
	for _, k := range c.Reset {
		if k == "*" {
			clear(over)
			e.Reset = append(e.Reset, k)
			continue
		}
		full, err := policy.FullKey(k)
		if err != nil {
			return nil, proto.Errorf(proto.ClassPermanent, "%w", err)
		}
		delete(over, full)
		e.Reset = append(e.Reset, full)
	}
	now := f.d.deps.Now().UnixNano()
	for _, kv := range c.Set {
		key, value, err := splitKeyValue(kv)
		if err != nil {
			return nil, err
		}
		over[key] = value
		e.Set[key] = ledger.Override{Value: value, SetNs: now}
	}
	p := l.Policy
	for k, v := range over {
		if err := policy.Set(&p, k, v); err != nil {
			return nil, proto.Errorf(proto.ClassPermanent, "%w", err)
		}
	}
	if err := policy.Validate(&p); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "the policy would not hold together: %w", err)
	}
	f.d.mu.Lock()
	found := f.d.cfg.CheckPolicy(&p)
	f.d.mu.Unlock()
	if found != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "the policy would not go together with the configuration: %w", found)
	}
	if err := f.d.relay.Ledger().Update(e); err != nil {
		return nil, err
	}
	f.d.mu.Lock()
	err = f.d.setLinks(f.d.cfg)
	f.d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f.d.relay.Event("policy-set", fmt.Sprintf("an operator changed the policy of link %s: set %q, reset %q", link, c.Set, c.Reset), map[string]string{"link": link})
	f.d.engine.Wake(link)
	return f.Policy(link)
}

// Targets lists the targets as the links' flushes last saw them.
func (f flusher) Targets(ctx context.Context) []proto.TargetInfo {
	f.d.mu.Lock()
	targets := slices.Clone(f.d.cfg.Targets)
	f.d.mu.Unlock()
	out := []proto.TargetInfo{}
	for _, t := range targets {
		info, err := f.CheckTarget(ctx, t.Name, false)
		if err != nil {
			info = proto.TargetInfo{Name: t.Name, Type: t.Type, Where: t.Where(), Error: err.Error()}
		}
		out = append(out, info)
	}
	return out
}
