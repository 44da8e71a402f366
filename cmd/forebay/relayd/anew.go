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
	"forebay/relay"
)

// BeginAnew has a link fill its target, of which an operator says that it was wiped or exchanged, as a new one. It must be there and must
// not have the link's mark, else nothing was wiped.
func (f flusher) BeginAnew(ctx context.Context, name string) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	var known []string
	for _, l := range f.d.cfg.Links {
		if l.Name == name {
			return f.beginAnew(ctx, l)
		}
		known = append(known, l.Name)
	}
	return &relay.NotFoundError{What: "link", Name: name, Known: known}
}

// beginAnew is BeginAnew with d.mu held: until the flush has the new link, nobody may read the configuration anew.
func (f flusher) beginAnew(ctx context.Context, l config.Link) error {
	cfg, _ := f.d.cfg.Target(l.To)
	t, err := OpenTarget(cfg, Opening{Prefix: l.Prefix, Now: f.d.deps.Now, Getenv: f.d.deps.Getenv, Log: f.d.deps.Log, Software: f.d.deps.Software})
	if err != nil {
		return fmt.Errorf("open target %s: %w", l.To, err)
	}
	defer func() { _ = t.Close() }() // only read from
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	if err := unmarked(ctx, t, l); err != nil {
		return err
	}
	if err := f.d.relay.LinkAnew(l.Name); err != nil {
		return err
	}
	return f.d.setLinks(f.d.cfg)
}

// unmarked refuses a target that cannot be read, or that has the mark of a link.
func unmarked(ctx context.Context, t target.Target, l config.Link) error {
	if _, err := t.Probe(ctx); err != nil {
		return fmt.Errorf("target %s cannot be filled now: %w", l.To, err)
	}
	mark, err := journal.ReadMark(ctx, t.Records(), l.Prefix)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look whether target %s was wiped: %w", l.To, err)
	}
	return proto.Errorf(proto.ClassConflict, "target %s was not wiped: it has the mark of link %s, dataset %s, of relay %s since %s: forebay verify %s --repair sends what is missing or differs",
		l.To, mark.Link, mark.Dataset, mark.Relay, mark.MadeAt.UTC().Format(time.RFC3339), l.Name)
}
