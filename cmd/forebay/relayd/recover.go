package relayd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"forebay/config"
	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/internal/openfiles"
	"forebay/ledger"
	"forebay/proto"
	"forebay/relay"
)

// RecoverDeps are what Recover is given to work with.
type RecoverDeps struct {
	Now      func() time.Time
	Software string
	Progress func(step string, done, total int64)
	Getenv   func(string) string // as Deps.Getenv
	// FromTargets is as relay.RecoverDeps has it.
	FromTargets bool
}

// RecoverReport is what a rebuild came to.
type RecoverReport = relay.RecoverReport

// Recover rebuilds the ledger of a relay that is not running from its stores and the journals on its targets. See
// relay.Recover for what it refuses and what it leaves when it is cut short.
func Recover(ctx context.Context, cfg *config.Relay, deps RecoverDeps) (RecoverReport, error) {
	d := &Daemon{deps: Deps{Now: deps.Now, Software: deps.Software, Getenv: deps.Getenv}, started: cfg, cfg: cfg}
	files, err := openfiles.Limit()
	if err != nil {
		return RecoverReport{}, err
	}
	return relay.Recover(ctx, d.relayConfig(cfg, files), relay.RecoverDeps{Now: deps.Now, Progress: deps.Progress, Journal: d.readJournal, FromTargets: deps.FromTargets, Owner: d.readOwner})
}

// marked opens a link's target and reads its mark; ok is false where it was never written to.
func (d *Daemon) marked(ctx context.Context, l relay.Link) (tg target.Target, owner journal.Owner, ok bool, err error) {
	t, ok := d.cfg.Target(l.To)
	if !ok {
		return nil, owner, false, fmt.Errorf("target %s is not configured", l.To)
	}
	if tg, err = OpenTarget(t, Opening{Prefix: l.Prefix, Now: d.deps.Now, Getenv: d.deps.Getenv, Software: d.deps.Software}); err != nil {
		return nil, owner, false, err
	}
	if _, err := tg.Probe(ctx); err != nil {
		return nil, owner, false, errors.Join(err, tg.Close())
	}
	owner, err = journal.ReadMark(ctx, tg.Records(), l.Prefix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, owner, false, errors.Join(err, tg.Close())
	}
	return tg, owner, err == nil, nil
}

// readOwner reads whose a link's target is.
func (d *Daemon) readOwner(ctx context.Context, l relay.Link) (proto.RelayID, uint32, error) {
	tg, owner, ok, err := d.marked(ctx, l)
	if err != nil {
		return 0, 0, err
	}
	if err := tg.Close(); err != nil || !ok {
		return 0, 0, err
	}
	id, err := proto.ParseRelayID(owner.Relay)
	return id, owner.Rebuilt, err
}

// readJournal reads the journal on a link's target. What can be read of a damaged one is told all the same: it is true.
func (d *Daemon) readJournal(ctx context.Context, l relay.Link, id proto.RelayID, fn func(string, ledger.OnTarget) error) (marked bool, err error) {
	tg, owner, ok, err := d.marked(ctx, l)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, tg.Close()) }()
	if !ok {
		return false, nil
	}
	if owner.Relay != id.String() || owner.Dataset != l.From {
		return false, proto.Errorf(proto.ClassConflict, "the target belongs to dataset %s of relay %s (link %s)", owner.Dataset, owner.Relay, owner.Link)
	}
	j, err := journal.Open(ctx, tg.Records(), target.PrefixKey(l.Prefix))
	if err != nil {
		return true, err
	}
	var damage error
	err = j.EachReadable(ctx, "", func(e journal.Entry, pending *journal.Entry) error {
		return fn(e.Path, onTarget(e, pending))
	}, func(err error) { damage = errors.Join(damage, err) })
	return true, errors.Join(err, damage)
}

// onTarget is an entry of a journal as the ledger's rebuild sees it.
func onTarget(e journal.Entry, pending *journal.Entry) ledger.OnTarget {
	on := ledger.OnTarget{Version: e.Version}
	if e.State == journal.StateNone { // only begun
		pending = &e
	} else {
		on.Gone = e.State == journal.StateDeleted || e.State == journal.StateKept
		if e.InMirror() {
			on.Holds, on.Desc = e.Holds, e.Desc
		}
	}
	if pending != nil {
		on.Begun = pending.Version
		if pending.Desc.Kind != proto.KindTombstone {
			on.NextDesc = pending.Desc
		}
	}
	return on
}
