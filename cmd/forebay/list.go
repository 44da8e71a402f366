package main

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"forebay/flush/journal"
	"forebay/internal/show"
	"forebay/proto"
)

func newList(c *cli) *cobra.Command {
	var f sourceFlags
	return f.add(c.verb("list --from F [--path PREFIX] [--at TIME]", "What a backup has, from the target alone", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		s, err := f.open(ctx, c)
		if err != nil {
			return err
		}
		err = c.list(ctx, s, f.path, f.json)
		return errors.Join(err, s.target.Close())
	}))
}

// listed is one object of a list in JSON.
type listed struct {
	Path    string `json:"path"`
	Raw     []byte `json:"raw_path,omitempty"` // base64, where path is no UTF-8
	Kind    string `json:"kind"`
	Size    int64  `json:"size"`
	Mode    string `json:"mode"`
	Mtime   string `json:"mtime"`
	Digest  string `json:"digest,omitempty"`
	LinkTo  string `json:"link_to,omitempty"`
	Version uint64 `json:"version"`
	State   string `json:"state"`
}

// list prints one object a line. Damaged parts of the journal are told at the end: what was in them is not in the list.
func (c *cli) list(ctx context.Context, s *source, path string, asJSON bool) error {
	var damaged []error
	err := s.each(ctx, path, func(e journal.Entry) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		mtime := time.Unix(0, e.Desc.Meta.MtimeNs).UTC()
		if !asJSON {
			c.printf("%04o %10s  %s  %s%s\n", e.Desc.Meta.Mode, show.Bytes(e.Desc.Size), mtime.Format(time.RFC3339), show.Name(e.Path), suffix(e))
			return nil
		}
		l := listed{Path: e.Path, Kind: e.Desc.Kind.String(), Size: e.Desc.Size, Mode: strconv.FormatUint(uint64(e.Desc.Meta.Mode), 8),
			Mtime: mtime.Format(time.RFC3339Nano), LinkTo: e.Desc.LinkTo, Version: uint64(e.Holds), State: e.State.String()}
		if show.Name(e.Path) != e.Path {
			l.Raw = []byte(e.Path)
		}
		if !e.Desc.Digest.IsZero() {
			l.Digest = e.Desc.Digest.String()
		}
		return json.NewEncoder(c.out).Encode(l)
	}, func(err error) { damaged = append(damaged, err) })
	if err != nil {
		return err
	}
	if len(damaged) > 0 {
		return partly("parts of the target's journal are damaged, the list may lack objects: %w", errors.Join(damaged...))
	}
	return nil
}

// each calls fn for what the source has, or had, at or below a path.
func (s *source) each(ctx context.Context, path string, fn func(journal.Entry) error, damaged func(error)) error {
	if s.at.IsZero() {
		return s.journal.EachReadable(ctx, path, func(e journal.Entry, _ *journal.Entry) error {
			if !e.InMirror() {
				return nil
			}
			return fn(e)
		}, damaged)
	}
	if err := s.journal.CheckAt(s.at); err != nil {
		return err
	}
	h, _ := s.journal.History()
	return s.journal.EachVersions(ctx, path, func(v journal.Versions) error {
		e, _ := v.At(s.at.UnixNano(), h.Horizon)
		if e.Desc.Kind == proto.KindNone {
			return nil
		}
		return fn(e)
	}, damaged)
}

// suffix says what a name alone does not.
func suffix(e journal.Entry) string {
	text := ""
	if e.Desc.LinkTo != "" {
		text = " -> " + show.Name(e.Desc.LinkTo)
	}
	if e.State == journal.StateKept {
		text += "  (deleted at the source)"
	}
	return text
}
