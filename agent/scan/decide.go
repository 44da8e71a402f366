package scan

import (
	"time"

	"forebay/agent/index"
	"forebay/fsmeta"
	"forebay/proto"
)

// patience is how long an object that keeps changing may put off its turn before it is offered anyway, so that what never
// holds still is tried, listed and not forgotten.
const patience = 15 * proto.SettleTime

// finding is what the walk saw at a path.
type finding struct {
	path   string
	kind   proto.Kind // KindNone: skipped, for reason
	stat   index.Stat
	linkTo string // a symlink's text, or a hard link's leader
	reason string
}

func toStat(s fsmeta.Stat) index.Stat {
	return index.Stat{Size: s.Size, MtimeNs: s.MtimeNs, CtimeNs: s.CtimeNs, Ino: s.Ino, Dev: s.Dev, Mode: s.Mode, UID: s.UID, GID: s.GID, Nlink: s.Nlink}
}

// decide returns the entry of a path after a finding, and whether the finding is news that the relay should hear. It is
// pure. What it returns equals cur when there is nothing to write.
func decide(cur index.Entry, had bool, f finding, now time.Time) (next index.Entry, changed bool) {
	if f.kind == proto.KindNone {
		return skip(cur, had, f, now), false
	}
	here := had && cur.Present() && cur.State != index.StateSkipped
	contentSame := here || had && cur.State == index.StateGone // an object that came back unchanged keeps its digest
	contentSame = contentSame && sameContent(cur, f)
	next = cur
	next.Path, next.Kind, next.LinkTo, next.Stat = f.path, f.kind, f.linkTo, f.stat
	if here && contentSame && cur.Kind == f.kind && cur.LinkTo == f.linkTo && sameMeta(cur.Stat, f.stat) {
		return next, false
	}
	if f.kind != proto.KindDir {
		next.Unlisted = ""
	}
	if !contentSame {
		next.Digest, next.HasDigest, next.Renewed = proto.Digest{}, false, false
	}
	if here && cur.State == index.StateUnsettled && cur.Kind == f.kind {
		// It goes on changing: its back-off and reason stay. Once it is left alone for long, it need not wait that out.
		next.Due = min(cur.Due, min(f.stat.CtimeNs, now.UnixNano())+int64(patience))
		return next, true
	}
	queued := here && cur.State.Queued()
	if !queued || cur.State != index.StatePending || cur.Kind != f.kind { // else the tries that its changes spoilt count on
		next.Attempts, next.Reason = 0, ""
	}
	next.State = index.StatePending
	if !queued {
		next.FirstSeen, next.Waited = now.UnixNano(), false
	}
	next.Due = due(f.stat.CtimeNs, now)
	if queued && cur.State == index.StatePending && now.UnixNano()-cur.FirstSeen > int64(patience) {
		next.Due = min(next.Due, cur.Due)
	}
	return next, true
}

// due is when an object that last changed at ctime may be read: once it has been still for the settle time. A ctime in the
// future is a clock that was set, not a reason to wait for it.
func due(ctimeNs int64, now time.Time) int64 {
	n, settle := now.UnixNano(), int64(proto.SettleTime)
	return max(n, min(ctimeNs, n)+settle)
}

func skip(cur index.Entry, had bool, f finding, now time.Time) index.Entry {
	if had && cur.State == index.StateSkipped && cur.Reason == f.reason {
		return cur // its times are nobody's business
	}
	next := cur
	next.Path, next.Kind, next.LinkTo, next.Stat = f.path, proto.KindNone, "", f.stat
	next.State, next.Reason, next.FirstSeen = index.StateSkipped, f.reason, now.UnixNano()
	next.Digest, next.HasDigest, next.Due, next.Attempts, next.Waited, next.Unlisted = proto.Digest{}, false, 0, 0, false, ""
	return next
}

// sameContent reports whether f's content is surely that of cur. The device is left out: its number may change when the
// machine starts.
func sameContent(cur index.Entry, f finding) bool {
	if cur.Kind.HasContent() && f.kind.HasContent() {
		a, b := cur.Stat, f.stat
		return a.Size == b.Size && a.MtimeNs == b.MtimeNs && a.CtimeNs == b.CtimeNs && a.Ino == b.Ino
	}
	return cur.Kind == f.kind && cur.LinkTo == f.linkTo
}

// sameMeta compares what tells of any change; every one but those made by mounting sets ctime.
func sameMeta(a, b index.Stat) bool {
	return a.CtimeNs == b.CtimeNs && a.MtimeNs == b.MtimeNs && a.Ino == b.Ino && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID
}

// Decide returns the entry of a path after a look at it that found an object of a kind (not KindNone) with a fingerprint: what
// a scan writes. linkTo is a symlink's text or a hard link's leader. changed says that it is news for the relay. It is pure.
func Decide(cur index.Entry, had bool, path string, kind proto.Kind, st index.Stat, linkTo string, now time.Time) (next index.Entry, changed bool) {
	return decide(cur, had, finding{path: path, kind: kind, stat: st, linkTo: linkTo}, now)
}
