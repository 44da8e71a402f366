package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"forebay/cmd/forebay/bench/advice"
	"forebay/cmd/forebay/relayd"
	"forebay/config"
	"forebay/flush/journal"
	"forebay/flush/target/trial"
	"forebay/internal/show"
	"forebay/proto"
)

// What a second trial writes, once a first one has told how fast the target is.
const (
	firstTrial = 4 << 20 // enough to tell, and not too much for a slow line
	firstSmall = 64
	maxTrial   = 128 << 20 // it is held in memory, some times over
	maxSmall   = 1000
	// leastGain is how many times the first trial the second one has to be to be worth it.
	leastGain = 2
)

// targets tries targets, one after the other.
func (b *Bench) targets(ctx context.Context, span time.Duration) error {
	if b.o.Relay == nil {
		return errors.New("targets are those of a relay's configuration: name it with --config")
	}
	var try []config.Target
	for _, t := range b.o.Relay.Targets {
		// A serial line is for one at a time, and slow: it is tried when it is named.
		if len(b.o.Targets) == 0 && t.Type != config.TypeSerial || slices.Contains(b.o.Targets, t.Name) {
			try = append(try, t)
		}
	}
	for _, t := range try {
		if err := b.target(ctx, t, span/time.Duration(len(try))); err != nil && ctx.Err() == nil {
			b.skip("target "+t.Name, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// target tries a target as targets check does, and once more with as much as fits into the time.
func (b *Bench) target(ctx context.Context, t config.Target, span time.Duration) error {
	bar := b.d.Progress.Start("target "+t.Name, show.InBytes)
	defer bar.Stop()
	bounded, cancel := context.WithTimeout(ctx, span+trialPatience)
	defer cancel()
	out := advice.Target{Name: t.Name, Type: t.Type, Where: t.Where()}
	if t.Type == config.TypeDir {
		if err := b.mounted(bounded, t); err != nil {
			return err
		}
		device, err := deviceOf(t.Path)
		if err != nil {
			return err
		}
		out.Device = device
	}
	sizes := trial.Options{Now: b.d.Now, Large: firstTrial, Small: firstSmall}
	r, err := b.try(bounded, t, sizes)
	if err != nil {
		return err
	}
	bar.Add(sizes.Large)
	if next, ok := larger(sizes, r, span); ok {
		if again, err := b.try(bounded, t, next); err == nil {
			r, sizes = again, next
			bar.Add(next.Large)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	out.Confirm, out.Write, out.Read, out.Small, out.Bytes = string(r.Class), r.Write, r.Read, r.Small, sizes.Large
	b.out.Targets = append(b.out.Targets, out)
	bar.Stop()
	b.d.Progress.Say("target %s: %s tried", t.Name, show.Bytes(sizes.Large))
	return nil
}

// mounted refuses a directory that is probably the empty place of a disk that is away: what is written there would be on another disk,
// and the figures those of that one.
func (b *Bench) mounted(ctx context.Context, t config.Target) error {
	var here, above unix.Stat_t
	if err := unix.Stat(t.Path, &here); err != nil {
		return denied(fmt.Errorf("%s: %w: is it mounted, and may this user look at it?", t.Path, err))
	}
	linked := slices.ContainsFunc(b.o.Relay.Links, func(l config.Link) bool { return l.To == t.Name })
	began, err := b.began()
	if err != nil || !linked || !began || unix.Stat(filepath.Dir(t.Path), &above) != nil || above.Dev != here.Dev {
		return nil // nothing is known that would have to be there, or it is a mount
	}
	tg, err := relayd.OpenTarget(t, relayd.Opening{Now: b.d.Now, Getenv: b.d.Getenv, Software: b.o.Software})
	if err != nil {
		return err
	}
	marks, err := journal.Marks(ctx, tg.Records())
	if err = errors.Join(err, tg.Close()); err != nil || len(marks) > 0 {
		return err
	}
	return fmt.Errorf("nothing of a link is in %s, the relay has run before, and it is no mount of its own: is the disk mounted? if it "+
		"is to lie there, forebay targets check %s tries it", t.Path, t.Name)
}

// trialPatience is what a trial may take over its time: the first one writes a fixed amount.
const trialPatience = 30 * time.Second

// larger is what may be tried in the rest of the time.
func larger(first trial.Options, r trial.Report, span time.Duration) (next trial.Options, ok bool) {
	next = first
	const mib = 1 << 20
	third := span.Seconds() / 3
	next.Large = min(max(int64(third*min(r.Write, r.Read))/mib*mib, first.Large), maxTrial)
	next.Small = min(max(int(third*r.Small), first.Small), maxSmall)
	return next, next.Large >= leastGain*first.Large
}

// try is one trial.
func (b *Bench) try(ctx context.Context, t config.Target, o trial.Options) (trial.Report, error) {
	tg, err := relayd.OpenTarget(t, relayd.Opening{Prefix: trial.Prefix, Write: true, Now: b.d.Now, Getenv: b.d.Getenv,
		Software: b.o.Software})
	if err != nil {
		return trial.Report{}, err
	}
	r := trial.Run(ctx, tg, o)
	if err := tg.Close(); err != nil {
		return r, err
	}
	if ctx.Err() != nil {
		return r, proto.Errorf(proto.ClassTransient, "it took longer than the time that it had")
	}
	for _, s := range r.Steps {
		if s.Err != nil && r.Class == "" {
			return r, fmt.Errorf("%s: %w: forebay targets check %s shows each step", s.Name, s.Err, t.Name)
		}
	}
	return r, nil
}
