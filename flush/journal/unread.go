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

// Unread is the record of what no holder could read at the source, so that who restores years later learns that the backup
// never had it, or had an older state of it. It is JSON, so that people can read it there.
type Unread struct {
	Format  int            `json:"format"`
	At      time.Time      `json:"at"`   // when it was written
	More    int64          `json:"more"` // that are not named
	Objects []UnreadObject `json:"objects"`
}

// UnreadObject is one of them.
type UnreadObject struct {
	Path   []byte `json:"path"` // bytes: a path need not be text
	Node   string `json:"node"`
	Reason string `json:"reason"`
	Since  string `json:"since"` // RFC 3339
}

// maxUnread bounds what is read of such a record.
const maxUnread = 16 << 20

func unreadName(prefix string) string { return target.UnreadDir + "/" + target.PrefixKey(prefix) }

// PutUnread writes the record of a prefix; one without objects removes it.
func PutUnread(ctx context.Context, rec target.Records, prefix string, u Unread) error {
	if len(u.Objects) == 0 {
		return rec.Remove(ctx, unreadName(prefix))
	}
	u.Format = Format
	data, err := json.MarshalIndent(u, "", " ")
	if err != nil {
		return fmt.Errorf("record what could not be read: %w", err)
	}
	return rec.Put(ctx, unreadName(prefix), append(data, '\n'))
}

// ReadUnread returns the record of a prefix, without objects where there is none.
func ReadUnread(ctx context.Context, rec target.Records, prefix string) (u Unread, err error) {
	name := unreadName(prefix)
	body, err := rec.Open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err != nil {
		return u, fmt.Errorf("read record %s: %w", name, err)
	}
	defer func() { _ = body.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(body, maxUnread))
	if err != nil {
		return u, fmt.Errorf("read record %s: %w", name, err)
	}
	if err := json.Unmarshal(data, &u); err != nil {
		return u, proto.Errorf(proto.ClassCorrupt, "record %s/%s is damaged: %w", proto.ReservedName, name, err)
	}
	if u.Format > Format {
		return u, proto.Errorf(proto.ClassPermanent, "record %s/%s has format %d, this program knows 1 to %d: use a newer release", proto.ReservedName, name, u.Format, Format)
	}
	return u, nil
}
