package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"forebay/flush/target"
	"forebay/proto"
)

// Owner is the mark that says whose mirror lies under a prefix of a target. It is JSON, so that people can read it there.
type Owner struct {
	Format  int           `json:"format"`
	Relay   string        `json:"relay"` // proto.RelayID in hex
	Link    string        `json:"link"`
	Dataset proto.Dataset `json:"dataset"`
	Prefix  []byte        `json:"prefix"` // bytes: a prefix need not be text
	MadeAt  time.Time     `json:"made_at"`
	// Rebuilt tells ledgers of the relay apart: it grows each time that the ledger is rebuilt. The one before, should it be used once
	// more, finds a higher one here and leaves the target alone.
	Rebuilt uint32 `json:"rebuilt,omitempty"`
	// Pending is set until whoever made the mark has seen that nobody else made one that overlaps with it.
	Pending bool `json:"pending,omitempty"`
}

// Same reports whether two marks are of one owner: the same dataset of the same relay at the same prefix. A link may be
// renamed.
func (o Owner) Same(p Owner) bool {
	return o.Relay == p.Relay && o.Dataset == p.Dataset && string(o.Prefix) == string(p.Prefix)
}

// maxMark bounds what is read as a mark.
const maxMark = 64 << 10

// Mark marks the prefix as o's and returns the mark in force: the earlier one when o's owner made it before. A mark of
// another relay or dataset at the prefix, or at one that lies in it or around it, is ClassConflict and stays, as does that of a later
// ledger of the same relay.
//
// Of several that mark overlapping places at once, at most one may go on: each makes its mark, as one that is pending, before it looks at
// those of the others, and withdraws it when there is any. So whoever looks later sees who went on. A mark that is pending still was left
// by a try that was cut short, and is judged as if it had just been made.
func Mark(ctx context.Context, rec target.Records, o Owner) (Owner, error) {
	o.Format = Format
	own, other, err := findOwners(ctx, rec, o)
	if err != nil {
		return Owner{}, err
	}
	if own != nil && !own.Pending {
		return *own, renew(ctx, rec, *own, o.Rebuilt)
	}
	if own == nil && other == nil {
		pending := o
		pending.Pending = true
		err := put(ctx, pending, func(ctx context.Context, name string, data []byte) error {
			err := target.Create(ctx, rec, name, data)
			if errors.Is(err, errors.ErrUnsupported) {
				err = rec.Put(ctx, name, data)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return Owner{}, err
		}
		if own, other, err = findOwners(ctx, rec, o); err != nil {
			return Owner{}, err
		}
	}
	switch {
	case other != nil && own != nil:
		return *other, errors.Join(taken(*other, o), rec.Remove(ctx, markName(string(o.Prefix))))
	case other != nil:
		return *other, taken(*other, o)
	case own == nil:
		return Owner{}, proto.Errorf(proto.ClassTransient, "mark target: the mark %s is gone again", markName(string(o.Prefix)))
	}
	now := *own
	now.Pending, now.Rebuilt = false, max(now.Rebuilt, o.Rebuilt)
	if err := put(ctx, now, rec.Put); err != nil {
		return Owner{}, err
	}
	return now, renew(ctx, rec, now, o.Rebuilt)
}

// findOwners looks for o's mark, and for one of somebody else's that overlaps with it.
func findOwners(ctx context.Context, rec target.Records, o Owner) (own, other *Owner, err error) {
	marks, err := Marks(ctx, rec)
	for _, m := range marks {
		switch {
		case m.Same(o):
			own = &m
		case target.PrefixesOverlap(string(m.Prefix), string(o.Prefix)):
			other = &m
		}
	}
	return own, other, err
}

func taken(m, o Owner) error {
	takeover := ""
	if m.Relay != o.Relay {
		takeover = " if that relay is lost, a new one that has taken in nothing yet can go on with its backup (relay --recover-ledger --from-targets);"
	}
	return proto.Errorf(proto.ClassConflict,
		"prefix %q of the target belongs to dataset %s of relay %s (link %s, since %s): give link %s another prefix;%s if that backup is given up, move its %s folder (with %s and the journal) away",
		m.Prefix, m.Dataset, m.Relay, m.Link, m.MadeAt.UTC().Format(time.RFC3339), o.Link, takeover,
		proto.ReservedName, markName(string(m.Prefix)))
}

// renew has a mark say which ledger of its relay has the target now.
func renew(ctx context.Context, rec target.Records, m Owner, rebuilt uint32) error {
	switch {
	case m.Rebuilt > rebuilt:
		return proto.Errorf(proto.ClassConflict, "the ledger of relay %s was rebuilt (%d), and the target belongs to that one: this is the one before it (%d); do not use it any more", m.Relay, m.Rebuilt, rebuilt)
	case m.Rebuilt < rebuilt:
		m.Rebuilt = rebuilt
		return put(ctx, m, rec.Put)
	}
	return nil
}

func put(ctx context.Context, o Owner, write func(ctx context.Context, name string, data []byte) error) error {
	data, err := json.MarshalIndent(o, "", "  ")
	if err == nil {
		err = write(ctx, markName(string(o.Prefix)), append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("mark target: %w", err)
	}
	return nil
}

// ReadMark returns the mark of a prefix. Never marked: fs.ErrNotExist.
func ReadMark(ctx context.Context, rec target.Records, prefix string) (Owner, error) {
	return readMark(ctx, rec, markName(prefix))
}

// Marks returns the marks of all prefixes of a target, sorted by their keys.
func Marks(ctx context.Context, rec target.Records) ([]Owner, error) {
	keys, err := rec.List(ctx, target.MarkDir)
	if err != nil {
		return nil, fmt.Errorf("list the target's marks: %w", err)
	}
	marks := make([]Owner, 0, len(keys))
	for _, key := range keys {
		m, err := readMark(ctx, rec, target.MarkDir+"/"+key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		marks = append(marks, m)
	}
	return marks, nil
}

func markName(prefix string) string { return target.MarkDir + "/" + target.PrefixKey(prefix) }

func readMark(ctx context.Context, rec target.Records, name string) (Owner, error) {
	body, err := rec.Open(ctx, name)
	if err != nil {
		return Owner{}, fmt.Errorf("read mark %s: %w", name, err)
	}
	defer func() { _ = body.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(body, maxMark))
	if err != nil {
		return Owner{}, fmt.Errorf("read mark %s: %w", name, err)
	}
	return decodeMark(name, data)
}

func decodeMark(name string, data []byte) (Owner, error) {
	var o Owner
	if err := json.Unmarshal(data, &o); err != nil {
		return Owner{}, proto.Errorf(proto.ClassCorrupt, "mark %s/%s is damaged: %w", proto.ReservedName, name, err)
	}
	if o.Format > Format {
		return Owner{}, proto.Errorf(proto.ClassPermanent, "mark %s/%s has format %d, this program knows 1 to %d: use a newer release", proto.ReservedName, name, o.Format, Format)
	}
	if o.Format < 1 || target.CheckPrefix(string(o.Prefix)) != nil {
		return Owner{}, proto.Errorf(proto.ClassCorrupt, "mark %s/%s is damaged: format %d, prefix %q", proto.ReservedName, name, o.Format, o.Prefix)
	}
	return o, nil
}
