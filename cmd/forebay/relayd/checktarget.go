package relayd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"forebay/config"
	"forebay/flush/target"
	"forebay/flush/target/trial"
	"forebay/ledger"
	"forebay/proto"
	"forebay/relay"
)

// How long a target has to answer, and for a trial to be done with.
const (
	lookPatience  = 10 * time.Second
	trialPatience = 2 * time.Minute
)

// CheckTarget looks at a target now; with try it writes there, below a prefix of its own, and cleans up.
func (f flusher) CheckTarget(ctx context.Context, name string, try bool) (proto.TargetInfo, error) {
	f.d.mu.Lock()
	t, ok := f.d.cfg.Target(name)
	links := slices.Clone(f.d.cfg.Links)
	known := f.d.cfg.TargetNames()
	f.d.mu.Unlock()
	if !ok {
		return proto.TargetInfo{}, &relay.NotFoundError{What: "target", Name: name, Known: known}
	}
	info := proto.TargetInfo{Name: t.Name, Type: t.Type, Where: t.Where(), Links: []string{}}
	links = slices.DeleteFunc(links, func(l config.Link) bool { return l.To != name })
	for _, l := range links {
		info.Links = append(info.Links, l.Name)
	}
	patience := lookPatience
	if try {
		patience = trialPatience
		if !f.d.trying.TryLock() {
			return info, proto.Errorf(proto.ClassConflict, "a target is being tried: one at a time")
		}
	}
	type answer struct {
		info  target.Info
		trial *proto.TargetTrial
	}
	a, err := patiently(ctx, patience, "it", func(ctx context.Context) (a answer, err error) {
		if try {
			defer f.d.trying.Unlock()
			a.info, a.trial, err = f.tryTarget(ctx, t, links)
		} else {
			a.info, err = f.probe(ctx, t, Opening{})
		}
		return a, err
	})
	info.Trial = a.trial
	if err != nil {
		info.Error = err.Error()
		return info, nil
	}
	info.OK, info.Confirm, info.Free, info.Notes = true, string(a.info.Confirm), a.info.FreeBytes, a.info.Notes
	return info, nil
}

// patiently asks a target something for so long. A hung mount does not hold the answer up: what asks goes on until the driver's own deadline.
func patiently[T any](ctx context.Context, patience time.Duration, who string, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type answer struct {
		v   T
		err error
	}
	found := make(chan answer, 1)
	go func() { // ends with ask
		v, err := ask(ctx)
		found <- answer{v, err}
	}()
	select {
	case a := <-found:
		return a.v, a.err
	case <-ctx.Done():
		var none T
		return none, proto.Errorf(proto.ClassTransient, "%s does not answer (a mount that hangs?)", who)
	}
}

// open fills in what holds for every opening of a target.
func (f flusher) open(t config.Target, o Opening) (target.Target, error) {
	o.Now, o.Getenv, o.Log, o.Software = f.d.deps.Now, f.d.deps.Getenv, f.d.deps.Log, f.d.deps.Software
	return OpenTarget(t, o)
}

func (f flusher) probe(ctx context.Context, t config.Target, o Opening) (target.Info, error) {
	tg, err := f.open(t, o)
	if err != nil {
		return target.Info{}, err
	}
	info, err := tg.Probe(ctx)
	return info, errors.Join(err, tg.Close())
}

// tryTarget tries a target. Where links have put something, it must be what they know: else a disk that is not mounted, say, would be
// written beside.
func (f flusher) tryTarget(ctx context.Context, t config.Target, links []config.Link) (target.Info, *proto.TargetTrial, error) {
	rows, err := ledger.Links(f.d.relay.Ledger())
	if err != nil {
		return target.Info{}, nil, err
	}
	for _, l := range links {
		marked := slices.ContainsFunc(rows, func(r ledger.LinkRow) bool { return r.Name == l.Name && r.ConfirmedObjects > 0 })
		if _, err := f.probe(ctx, t, Opening{Prefix: l.Prefix, Marked: marked}); err != nil {
			return target.Info{}, nil, fmt.Errorf("not tried: for link %s: %w", l.Name, err)
		}
	}
	tg, err := f.open(t, Opening{Prefix: trial.Prefix, Write: true})
	if err != nil {
		return target.Info{}, nil, err
	}
	r := trial.Run(ctx, tg, trial.Options{Now: f.d.deps.Now})
	out := &proto.TargetTrial{Confirm: string(r.Class), Steps: []proto.TargetStep{}, WriteBytesPerSecond: r.Write, ReadBytesPerSecond: r.Read, SmallObjectsPerSecond: r.Small}
	var failed error
	for _, s := range r.Steps {
		step := proto.TargetStep{Name: s.Name, OK: s.Err == nil, What: s.Detail, Seconds: s.Took.Seconds()}
		if s.Err != nil {
			step.What = s.Err.Error()
			if r.Class == "" && failed == nil {
				failed = fmt.Errorf("%s: %w", s.Name, s.Err)
			}
		}
		out.Steps = append(out.Steps, step)
	}
	return r.Info, out, errors.Join(failed, tg.Close())
}
