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
	"forebay/proto"
)

// BeginAnew has a link fill its target, of which an operator says that it was wiped or exchanged, as a new one. It must be there and must
// not have the link's mark, else nothing was wiped.
func (f flusher) BeginAnew(ctx context.Context, name string) error {
	f.d.mu.Lock()
	cfg := f.d.cfg
	f.d.mu.Unlock()
	l, err := linkNamed(cfg, name)
	if err != nil {
		return err
	}
	_, err = patiently(ctx, lookPatience, "target "+l.To, func(ctx context.Context) (struct{}, error) { return struct{}{}, f.wiped(ctx, cfg, l) })
	if err != nil {
		return err
	}
	f.d.mu.Lock() // until the flush has the new link, nobody may read the configuration anew
	defer f.d.mu.Unlock()
	if f.d.cfg != cfg {
		return proto.Errorf(proto.ClassTransient, "the configuration was read anew meanwhile: try again")
	}
	if err := f.d.relay.LinkAnew(l.Name); err != nil {
		return err
	}
	return f.d.setLinks(cfg)
}

// wiped opens a link's target and refuses one that still is what it was. What came to it between its wipe and the moment when the link saw
// that is sent again with all else, so the journal of that goes: it would be taken for the new link's, which knows nothing of it.
func (f flusher) wiped(ctx context.Context, cfg *config.Relay, l config.Link) error {
	target, _ := cfg.Target(l.To)
	t, err := f.open(target, Opening{Prefix: l.Prefix})
	if err != nil {
		return fmt.Errorf("open target %s: %w", l.To, err)
	}
	left, err := unmarked(ctx, t, l)
	if err == nil {
		if err = left.Remove(ctx); err != nil {
			err = fmt.Errorf("target %s cannot be filled now: %w", l.To, err)
		}
	}
	return errors.Join(err, t.Close())
}

// unmarked refuses a target that cannot be read, that has the mark of a link, or a journal from its beginning. It returns what it has of one.
func unmarked(ctx context.Context, t target.Target, l config.Link) (left journal.Remains, err error) {
	if _, err := t.Probe(ctx); err != nil {
		return left, fmt.Errorf("target %s cannot be filled now: %w", l.To, err)
	}
	mark, err := journal.ReadMark(ctx, t.Records(), l.Prefix)
	if err == nil {
		return left, proto.Errorf(proto.ClassConflict, "target %s was not wiped: it has the mark of link %s, dataset %s, of relay %s since %s: forebay verify %s --repair sends what is missing or differs",
			l.To, mark.Link, mark.Dataset, mark.Relay, mark.MadeAt.UTC().Format(time.RFC3339), l.Name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		left, err = journal.Left(ctx, t.Records(), target.PrefixKey(l.Prefix))
	}
	switch {
	case err != nil:
		return left, fmt.Errorf("look whether target %s was wiped: %w", l.To, err)
	case left.Whole:
		return left, proto.Errorf(proto.ClassConflict, "target %s was not wiped: the owner mark of link %s is gone, but its journal is there: put the mark back from a copy, or, if that backup is given up, move its %s folder away",
			l.To, l.Name, proto.ReservedName)
	}
	return left, nil
}
