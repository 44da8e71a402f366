package flush

import (
	"context"
	"slices"
	"time"

	"forebay/flush/journal"
	"forebay/proto"
)

// unreadEvery is how often what could not be read is compared with what the target's record says.
const unreadEvery = 5 * time.Second

// unread is what a link knows of the target's record. The loop's own.
type unread struct {
	looked time.Time
	known  bool // said is what the record says
	said   []journal.UnreadObject
	more   int64
}

// noteUnread brings the target's record of what could not be read at the source up to date. It is written beside batches and
// as seldom as it changes; a failure of it fails nothing else. It returns when to look again, zero for when there is news.
func (l *link) noteUnread(ctx context.Context, k *look) time.Time {
	s := l.sess
	if l.e.deps.Unread == nil || s == nil || !s.there || l.troubled() {
		return time.Time{}
	}
	now := l.now()
	if next := l.unread.looked.Add(unreadEvery); now.Before(next) {
		return next
	}
	l.unread.looked = now
	if !s.prepared && (k.row.ConfirmedObjects == 0 || !l.prepare(ctx, k)) {
		return time.Time{} // a target that was never written to has nothing to be told of
	}
	l.writeUnread(ctx, s, now)
	return time.Time{}
}

func (l *link) writeUnread(ctx context.Context, s *session, now time.Time) {
	cfg := l.config()
	if !l.unread.known {
		u, err := journal.ReadUnread(ctx, s.tgt.Records(), cfg.Prefix)
		if err != nil && proto.ClassOf(err) != proto.ClassCorrupt {
			return
		}
		l.unread.known, l.unread.said, l.unread.more = true, u.Objects, u.More
	}
	seen := l.e.deps.Unread(cfg.Name)
	list := seen.Objects
	for _, x := range l.unread.said {
		if slices.Contains(seen.Away, x.Node) {
			list = append(list, x)
		}
	}
	if seen.More == l.unread.more && slices.EqualFunc(list, l.unread.said, sameUnread) {
		return
	}
	if err := journal.PutUnread(ctx, s.tgt.Records(), cfg.Prefix, journal.Unread{At: now.UTC(), More: seen.More, Objects: list}); err == nil {
		l.unread.said, l.unread.more = list, seen.More
	}
}

func sameUnread(a, b journal.UnreadObject) bool {
	return string(a.Path) == string(b.Path) && a.Node == b.Node && a.Reason == b.Reason
}
