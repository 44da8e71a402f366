// Package rebuild concludes what the state of a path was from what pieces of segments and journals on targets say of it: the
// pure part of rebuilding a lost ledger (I5). It reads no store and no target; package relay gathers the evidence and writes
// what is concluded. It imports ledger and proto only.
//
// What orders the versions of a path is their parents: a lease is granted for what follows the version that is current at
// that moment, and each piece names it. Of a path that is not known, it names the dataset's head instead, which is above every
// tombstone that the path had and that was dropped. Of two pieces with different parents, the one with the higher parent is newer; of
// those with equal parents at most one made a version, and once it had, no other could be granted with that parent: it is the
// one with the highest epoch that can have made one. Whatever is on a target at version v was sealed, and pieces whose
// parent is below v are no newer. So the newest version of each path that a segment or a target has is known, although not
// its number: rebuilt versions get new numbers, above all that the lost ledger can have given (I18).
//
// What segments cannot tell is whether the newest piece was accepted. One that was durable and not acknowledged counts: it is
// what a holder had. Three are not believed: an upload whose ranges have another digest than its seal says, which the ledger
// had abandoned; one that lacks ranges, which goes on instead; and one that is known to have been refused (ledger.RefusedRow).
// The stores' memos know that of all segments but the last ones. Where they do not, a content that the path is known to have
// had before another, with no delete after that, is not believed either, for it would put targets back (I18): a holder that has
// it still is heard again, and then it counts if no live holder has the newer one.
package rebuild

import (
	"cmp"
	"maps"
	"slices"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// Link is a link of the dataset.
type Link struct {
	ID ledger.LinkID
	// Unread is set when nothing could be learnt of what its target has.
	Unread bool
}

// candidate is a version that a path had, or may have had.
type candidate struct {
	desc proto.Desc
	// after is the number of the lost ledger above which it, or what followed it unseen, was; since is the lowest that it can
	// have had itself.
	after, since proto.VersionID
	epoch        proto.Epoch
	seq          uint64         // segment that describes it, 0: a target
	piece        *segment.Piece // nil: a target
	sure         bool           // a target has it, or something followed it
	told         bool           // it would be known if the ledger had refused it as an older content
}

// Conclude returns the state of a path. Evidence may come in any order. With no sealed version and no upload to go on with,
// the result has KindNone and no Uploads, and nothing is to be written.
func Conclude(path string, all []ledger.Evidence, links []Link) ledger.Recovered {
	p := gather(all)
	out := ledger.Recovered{Path: path, Epoch: p.epoch}
	cur := p.newest()
	if cur != nil {
		p.widen(cur)
		out.Desc, out.Since = cur.desc, cur.since
		p.describe(cur, &out)
		p.recent(cur, &out)
	}
	if up := p.receiving(cur, out.Uploads); up != nil {
		out.Uploads = append(out.Uploads, *up)
	}
	if cur != nil {
		p.debts(cur, links, &out)
	}
	return out
}

// Highest returns the highest version number that evidence names.
func Highest(e ledger.Evidence) (v proto.VersionID) {
	if e.Piece != nil {
		v = max(e.Piece.Parent, e.Piece.Version)
	}
	if e.Target != nil {
		v = max(v, e.Target.Version, e.Target.Holds, e.Target.Begun)
	}
	return v
}

// path is the evidence of one path, sorted out.
type path struct {
	versions []*candidate // oldest first
	ranges   map[proto.UploadID][]ranged
	named    []ledger.Evidence           // runs that were not sent, because the version before had them
	same     map[proto.UploadID][]ranged // ranges that stand for those
	sent     map[int64][]ranged          // those that were sent, by offset, of whatever upload
	objects  []ledger.Evidence           // pieces with a whole object's bytes
	older    []*candidate                // contents that were refused as older ones, and that deletes say they deleted
	ended    map[proto.UploadID]bool     // uploads that ended without making a version
	targets  map[ledger.LinkID]*ledger.OnTarget
	epoch    proto.Epoch
}

func gather(all []ledger.Evidence) *path {
	p := &path{ranges: map[proto.UploadID][]ranged{}, same: map[proto.UploadID][]ranged{}, sent: map[int64][]ranged{}, targets: map[ledger.LinkID]*ledger.OnTarget{}, ended: map[proto.UploadID]bool{}}
	for _, e := range all {
		if e.Piece != nil {
			p.piece(e)
		}
		if t := e.Target; t != nil {
			p.targets[t.Link] = t
			p.target(t)
		}
	}
	if len(p.named) > 0 {
		for _, id := range slices.Sorted(maps.Keys(p.ranges)) {
			for _, r := range p.ranges[id] {
				p.sent[r.piece.Offset] = append(p.sent[r.piece.Offset], r)
			}
		}
	}
	for _, e := range p.named {
		p.standIn(e)
	}
	slices.SortStableFunc(p.versions, order)
	slices.SortFunc(p.objects, func(a, b ledger.Evidence) int { // newest first: most likely in the segment that describes it
		return cmp.Or(cmp.Compare(b.Segment, a.Segment), cmp.Compare(b.Piece.At, a.Piece.At))
	})
	for i, c := range p.versions {
		for _, later := range p.versions[i+1:] {
			c.sure = c.sure || later.after > c.after
		}
	}
	return p
}

func (p *path) piece(e ledger.Evidence) {
	q := e.Piece
	if p.epoch.Less(q.Epoch) {
		p.epoch = q.Epoch
	}
	if q.Kind == segment.PieceRange {
		p.ranges[q.Upload] = append(p.ranges[q.Upload], ranged{seq: e.Segment, piece: q})
		return
	}
	if q.Kind == segment.PieceSame {
		p.named = append(p.named, e)
		return
	}
	if q.Desc == nil {
		return
	}
	if q.Kind == segment.PieceObject && q.Length > 0 {
		p.objects = append(p.objects, e)
	}
	c := &candidate{desc: *q.Desc, after: q.Parent, since: q.Parent + 1, epoch: q.Epoch, seq: e.Segment, piece: q, told: e.Told}
	if q.Kind == segment.PieceMeta {
		c.since = q.Parent // which has the same content
	}
	switch e.Refused {
	case proto.PieceLags:
		c.since = 0
		p.older, p.ended[q.Upload] = append(p.older, c), true
		return
	case proto.PieceMismatch, proto.PieceEqual:
		p.ended[q.Upload] = true
		return
	case proto.PieceMissing, proto.PieceStale:
		return
	}
	p.versions = append(p.versions, c)
	if q.Deleted != nil {
		p.older = append(p.older, &candidate{desc: *q.Deleted, after: q.Parent, since: q.Parent})
	}
}

// target adds what was sealed because a target has or had it.
func (p *path) target(t *ledger.OnTarget) {
	if t.Holds != 0 && t.Desc.Kind != proto.KindNone {
		p.versions = append(p.versions, &candidate{desc: t.Desc, after: t.Holds, since: t.Holds, sure: true})
	}
	if t.Begun != 0 {
		d := t.NextDesc
		if d.Kind == proto.KindNone {
			d = proto.Desc{Kind: proto.KindTombstone}
		}
		p.versions = append(p.versions, &candidate{desc: d, after: t.Begun, since: t.Begun, sure: true})
	}
	if t.Gone {
		p.versions = append(p.versions, &candidate{desc: proto.Desc{Kind: proto.KindTombstone}, after: t.Version, since: t.Version, sure: true})
	}
}

// order sorts by the versions' place in the path's life. What a target has at version v stands before pieces that follow v.
// Among pieces that follow the same version, a delete comes last when it is known that it was not refused. Else deletes come
// first: what was not deleted is found gone again.
func order(a, b *candidate) int {
	return cmp.Or(
		cmp.Compare(a.after, b.after),
		cmp.Compare(rank(a), rank(b)),
		a.epoch.Compare(b.epoch),
		cmp.Compare(a.seq, b.seq),
	)
}

func rank(c *candidate) int {
	switch {
	case c.piece == nil:
		return 0
	case c.piece.Kind != segment.PieceDelete:
		return 2
	case c.told:
		return 3
	}
	return 1
}

// newest returns the version that was current, nil when there was none.
func (p *path) newest() *candidate {
	for i := len(p.versions) - 1; i >= 0; i-- {
		c := p.versions[i]
		if c.refills(p.versions[:i]) {
			continue
		}
		if c.sure || p.believed(c, p.versions[:i]) {
			return c
		}
	}
	return nil
}

// refills reports whether a piece brought the bytes of before again: equal content makes no version, and the metadata stay
// those of before, whatever those of its holder's copy are. What has no bytes is never sent again. What a target has is what
// was before only if its number says so: else something unseen was in between, and the copy's metadata are the newer ones. So
// they are where the ledger did not refuse the piece, and what was before it is one of two.
func (c *candidate) refills(older []*candidate) bool {
	if c.piece == nil || c.piece.Kind != segment.PieceSeal && (c.piece.Kind != segment.PieceObject || c.piece.Length == 0) {
		return false
	}
	for _, o := range slices.Backward(older) {
		if c.instead(o) {
			if c.told && !o.desc.SameContent(c.desc) {
				return false
			}
			continue
		}
		if o.piece == nil && o.after != c.after {
			return false
		}
		return c.desc.SameContent(o.desc) && (o.desc.Kind != proto.KindHardlink || c.desc.Kind != proto.KindFile)
	}
	return false
}

// instead reports whether at most one of two pieces counts: both follow the same version. New metadata are granted over equal
// content only, so they tell the content of that version whether they count or not.
func (c *candidate) instead(o *candidate) bool {
	return o.after == c.after && o.piece != nil && o.piece.Kind != segment.PieceMeta
}

// widen takes numbers of versions with the same content, one after the other up to cur, for numbers of cur: what was sent again
// to fill the cache made no version.
func (p *path) widen(cur *candidate) {
	i := slices.Index(p.versions, cur)
	for i--; i >= 0 && p.versions[i].desc.SameContent(cur.desc); i-- {
		cur.since = min(cur.since, p.versions[i].since)
	}
}

// believed reports whether a piece that nothing followed can have made a version.
func (p *path) believed(c *candidate, older []*candidate) bool {
	switch c.piece.Kind {
	case segment.PieceDelete, segment.PieceMeta: // metadata is granted only over equal content
		return true
	case segment.PieceSeal:
		if _, v := p.proved(c.piece.Upload, &c.desc); v != proved {
			return false // refuted; or lacking, then the upload is gone on with
		}
	}
	if c.told {
		return true
	}
	newer := false // something else came between c's content and c
	for i := len(older) - 1; i >= 0; i-- {
		o := older[i]
		if c.instead(o) {
			continue
		}
		if !o.desc.SameContent(c.desc) {
			if o.desc.Kind == proto.KindTombstone && !newer {
				return true // made again: with the delete, what was before it is past
			}
			newer = true
			continue
		}
		return !newer
	}
	return true
}

// describe finds where the current version is described and where its bytes are: any piece with the same content will do.
func (p *path) describe(cur *candidate, out *ledger.Recovered) {
	out.Home = cur.seq
	if cur.piece != nil && cur.piece.Kind == segment.PieceMeta { // kind and extents stay those of the version before
		for _, c := range slices.Backward(p.versions) {
			if c != cur && (c.piece == nil || c.piece.Kind != segment.PieceMeta) && c.desc.SameContent(cur.desc) {
				out.Desc = c.desc
				out.Desc.Meta = cur.desc.Meta
				break
			}
		}
	}
	if out.Desc.Kind != proto.KindFile || out.Desc.Size == 0 {
		return
	}
	for _, e := range p.objects {
		if q := e.Piece; q.Desc.SameContent(out.Desc) && q.Desc.Kind == proto.KindFile {
			out.At = ledger.Content{Segment: e.Segment, At: q.At, Length: q.Length}
			out.Desc.Extents = q.Desc.Extents
			return
		}
	}
	for _, c := range slices.Backward(p.versions) { // the seal has the extents
		if c.piece != nil && c.piece.Kind == segment.PieceSeal && c.desc.SameContent(out.Desc) && p.take(c.piece.Upload, &c.desc, out) {
			return
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.ranges)) { // the seal went with the version that it made, the bytes are needed still
		if p.ranges[id][0].piece.ObjectSize == out.Desc.Size && p.take(id, &out.Desc, out) {
			return
		}
	}
}

// take makes the ranges of an upload the bytes of the version, if they are those of d.
func (p *path) take(id proto.UploadID, d *proto.Desc, out *ledger.Recovered) bool {
	ranges, v := p.proved(id, d)
	if v != proved {
		return false
	}
	out.Desc.Extents = d.Extents
	if _, whole := ledger.RecoveredDigest(ranges, d); !whole { // new metadata do not repeat where the holes are
		out.Desc.Extents = extents(ranges, d.Size)
	}
	out.At = ledger.Content{Upload: id, Lacks: lacks(ranges)}
	out.Uploads = append(out.Uploads, ledger.RecoveredUpload{ID: id, Size: d.Size, Sealed: true, Epoch: p.epoch, Ranges: ranges})
	return true
}

// recent lists the other contents that the path had, newest first.
func (p *path) recent(cur *candidate, out *ledger.Recovered) {
	slices.SortStableFunc(p.older, order)
	for _, c := range slices.Backward(append(slices.Clip(p.older), p.versions...)) {
		d := c.desc
		known := slices.ContainsFunc(out.Recent, func(k ledger.Known) bool { return k.Desc().SameContent(d) })
		if c == cur || known || d.SameContent(cur.desc) || len(out.Recent) == ledger.MaxRecent || c.since > 0 && order(c, cur) > 0 {
			continue
		}
		out.Recent = append(out.Recent, ledger.Known{Version: c.since, Kind: d.Kind, Size: d.Size, Digest: d.Digest, LinkTo: d.LinkTo})
	}
}

// receiving returns the upload of the version after cur that had begun and not ended: of several, the last one granted.
func (p *path) receiving(cur *candidate, taken []ledger.RecoveredUpload) *ledger.RecoveredUpload {
	var best *ledger.RecoveredUpload
	after := proto.VersionID(0) // what best follows
	for _, id := range slices.Sorted(maps.Keys(p.ranges)) {
		rs := p.ranges[id]
		if slices.ContainsFunc(taken, func(u ledger.RecoveredUpload) bool { return u.ID == id }) {
			continue // its bytes are the current version's
		}
		if p.ended[id] {
			continue
		}
		q, follows, epoch := rs[0].piece, proto.VersionID(0), proto.Epoch{}
		for _, r := range slices.Concat(rs, p.same[id]) { // new metadata may have come while it was sent, and others have carried it on
			follows = max(follows, r.piece.Parent)
			if epoch.Less(r.piece.Epoch) {
				epoch = r.piece.Epoch
			}
		}
		if cur != nil && follows < cur.since {
			continue // superseded; with nothing known of the path, any is gone on with
		}
		sealed := slices.ContainsFunc(p.versions, func(c *candidate) bool {
			if c.piece == nil || c.piece.Kind != segment.PieceSeal || c.piece.Upload != id {
				return false
			}
			_, v := p.proved(id, &c.desc)
			return c.sure || v != lacking
		})
		if sealed {
			continue
		}
		u := &ledger.RecoveredUpload{ID: id, Size: q.ObjectSize, Epoch: epoch, Ranges: p.accepted(id)}
		if best == nil || cmp.Or(u.Epoch.Compare(best.Epoch), cmp.Compare(follows, after)) >= 0 {
			best, after = u, follows
		}
	}
	return best
}

// debts says which links have the version and which owe it.
func (p *path) debts(cur *candidate, links []Link, out *ledger.Recovered) {
	for _, l := range links {
		t := p.targets[l.ID]
		switch {
		case t == nil && !l.Unread && out.Desc.Kind == proto.KindTombstone: // it never had it
		case t == nil || t.Begun != 0:
			out.Owe = append(out.Owe, ledger.RecoveredDebt{Link: l.ID})
		case out.Desc.Kind == proto.KindTombstone:
			if t.Gone && t.Version >= cur.since || t.Desc.Kind == proto.KindNone && !t.Gone {
				out.Have = append(out.Have, l.ID)
			} else {
				out.Owe = append(out.Owe, ledger.RecoveredDebt{Link: l.ID})
			}
		case t.Gone || t.Desc.Kind != out.Desc.Kind || !t.Desc.SameContent(out.Desc):
			out.Owe = append(out.Owe, ledger.RecoveredDebt{Link: l.ID})
		case t.Desc.Meta.Equal(out.Desc.Meta):
			out.Have = append(out.Have, l.ID)
		default:
			out.Owe = append(out.Owe, ledger.RecoveredDebt{Link: l.ID, MetaOnly: out.Desc.Kind.HasContent()})
		}
	}
}
