package agenttest

import (
	"bytes"
	"slices"
	"time"

	"forebay/proto"
	"forebay/proto/segment"
)

func (r *Relay) claims(b proto.ClaimBatch) (a proto.ClaimReply, e *proto.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, e := r.known(b.Session)
	if e != nil {
		return a, e
	}
	d := r.datasetOf(s, b.Holder)
	if d == nil || len(b.Claims) == 0 || len(b.Claims) > proto.MaxClaims {
		return a, proto.Errorf(proto.ClassPermanent, "a batch of %d claims by holder %d", len(b.Claims), b.Holder)
	}
	r.tell(b.Holder, b.Told)
	for _, c := range b.Claims {
		r.stats.Claims++
		if c.Renewed {
			r.stats.Renewed[c.Path]++
		}
		answer := r.claim(s, d, b.Holder, c)
		r.stats.Verdicts[answer.Verdict]++
		a.Answers = append(a.Answers, answer)
	}
	return a, nil
}

func (r *Relay) claim(s *session, d *Dataset, h proto.HolderID, c proto.Claim) proto.ClaimAnswer {
	switch {
	case !r.Wanted:
		return proto.ClaimAnswer{Verdict: proto.VerdictUnwanted}
	case proto.CheckPath(c.Path) != nil:
		return proto.ClaimAnswer{Verdict: proto.VerdictInvalid, Reason: "path"}
	}
	row := d.Rows[c.Path]
	mine := proto.Desc{Kind: c.Kind, Size: c.Size, Digest: c.Digest, LinkTo: c.LinkTo}
	if row != nil && row.Desc.Kind != proto.KindTombstone {
		if !c.HasDigest && c.Parent != row.Version && (c.Size == row.Desc.Size || c.Parent == 0) {
			return proto.ClaimAnswer{Verdict: proto.VerdictHash, Version: row.Version, Size: row.Desc.Size, Digest: row.Desc.Digest}
		}
		if c.HasDigest && mine.SameContent(row.Desc) && !d.Asked[c.Path] {
			row.Holders[h] = row.Version
			if c.Changed != 0 && !row.Desc.Meta.Overlay(*c.Meta, c.Changed).Equal(row.Desc.Meta) {
				return r.grant(s, d, h, c, proto.VerdictSendMeta, row.Version)
			}
			return proto.ClaimAnswer{Verdict: proto.VerdictHave, Version: row.Version, WantMeta: r.wantsMeta(row, c.MetaSum)}
		}
	}
	if row != nil && !(d.Asked[c.Path] && mine.SameContent(row.Desc)) {
		if c.HasDigest && slices.ContainsFunc(row.Old, mine.SameContent) && (c.Parent != row.Version) {
			return proto.ClaimAnswer{Verdict: proto.VerdictLags, Version: row.Version}
		}
		if c.Parent != row.Version && row.Desc.Kind != proto.KindTombstone {
			return proto.ClaimAnswer{Verdict: proto.VerdictDivergent, Version: row.Version, Reason: "fork"}
		}
	}
	current := proto.VersionID(0)
	if row != nil {
		current = row.Version
	}
	return r.grant(s, d, h, c, proto.VerdictSend, current)
}

func (r *Relay) wantsMeta(row *Row, sum uint64) bool {
	return r.WantMeta && sum != 0 && sum != proto.MetaSum(row.Desc.Meta.Sums())
}

func (r *Relay) grant(s *session, d *Dataset, h proto.HolderID, c proto.Claim, v proto.Verdict, of proto.VersionID) proto.ClaimAnswer {
	if l := d.leases[c.Path]; l != nil && l.holder != h {
		return proto.ClaimAnswer{Verdict: proto.VerdictLeased, Node: "other", RetryAfter: r.Suspicion}
	}
	r.seq++
	l := &lease{
		upload: proto.UploadID(r.seq), epoch: proto.Epoch{Generation: r.run, Counter: r.seq}, holder: h, session: s.id, parent: of,
		size: c.Size, asked: d.Asked[c.Path],
	}
	d.leases[c.Path] = l
	a := proto.ClaimAnswer{Verdict: v, Upload: l.upload, Epoch: l.epoch, Version: of}
	p := d.partial[c.Path]
	if p != nil && p.size != c.Size {
		delete(d.partial, c.Path)
		p = nil
	}
	if p != nil {
		a.Have = p.ranges()
	}
	return a
}

func (p *partial) ranges() (out []proto.Range) {
	for i := range proto.Blocks(p.size) {
		b, ok := p.blocks[i]
		if !ok {
			continue
		}
		off := i * proto.BlockSize
		if n := len(out); n > 0 && out[n-1].Offset+out[n-1].Length == off {
			out[n-1].Length += int64(len(b))
		} else {
			out = append(out, proto.Range{Offset: off, Length: int64(len(b))})
		}
	}
	return out
}

func (r *Relay) segment(id proto.SessionID, raw []byte) (a proto.SegmentReply, e *proto.Error) {
	seg, err := segment.Decode(raw)
	if err != nil {
		return a, proto.Errorf(proto.ClassOf(err), "%w", err)
	}
	r.mu.Lock()
	hook := r.OnSegment
	r.mu.Unlock()
	if hook != nil {
		if e := hook(seg); e != nil {
			return a, e
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s, e := r.known(id)
	if e != nil {
		return a, e
	}
	r.stats.Segments++
	d := r.dataset(seg.Header.Dataset.Name)
	head := d.Head
	for i := range seg.Header.Pieces {
		a.Pieces = append(a.Pieces, r.piece(s, d, &seg.Header.Pieces[i], seg.Bytes(i)))
	}
	if d.Head != head {
		r.nudge(d, proto.Nudge{Head: d.Head})
	}
	return a, nil
}

func (r *Relay) piece(s *session, d *Dataset, p *segment.Piece, content []byte) proto.PieceResult {
	l := d.leases[p.Path]
	if l == nil || l.upload != p.Upload || l.epoch != p.Epoch || l.session != s.id {
		return proto.PieceResult{State: proto.PieceStale}
	}
	switch p.Kind {
	case segment.PieceRange:
		return r.keep(d, p, content)
	case segment.PieceObject:
		r.stats.Payload += int64(len(content))
		return r.complete(d, p, l, bytes.Clone(content))
	case segment.PieceMeta:
		delete(d.leases, p.Path)
		r.stats.Metas[p.Path]++
		return proto.PieceResult{State: proto.PieceAccepted, Version: r.seal(d, p.Path, *p.Desc, d.Rows[p.Path].Content, l.holder)}
	case segment.PieceSeal:
		content, state := d.whole(p)
		if state != proto.PieceAccepted {
			delete(d.leases, p.Path)
			return proto.PieceResult{State: state}
		}
		return r.complete(d, p, l, content)
	}
	return proto.PieceResult{State: proto.PieceStale}
}

// keep stores the blocks of a range.
func (r *Relay) keep(d *Dataset, p *segment.Piece, content []byte) proto.PieceResult {
	part := d.partial[p.Path]
	if part == nil {
		part = &partial{size: p.ObjectSize, blocks: map[int64][]byte{}}
		d.partial[p.Path] = part
	}
	state := proto.PieceDuplicate
	for i := p.Offset / proto.BlockSize; len(content) > 0; i++ {
		n := min(len(content), proto.BlockSize)
		if _, ok := part.blocks[i]; ok {
			r.stats.Duplicate += int64(n)
		} else {
			part.blocks[i] = bytes.Clone(content[:n])
			r.stats.Payload += int64(n)
			state = proto.PieceAccepted
		}
		content = content[n:]
	}
	return proto.PieceResult{State: state}
}

// whole puts an object together from its blocks and holes, and proves it.
func (d *Dataset) whole(p *segment.Piece) ([]byte, proto.PieceState) {
	part := d.partial[p.Path]
	if part == nil {
		part = &partial{size: p.Desc.Size}
	}
	out := make([]byte, p.Desc.Size)
	covered := make([]bool, proto.Blocks(p.Desc.Size))
	for i, b := range part.blocks {
		copy(out[i*proto.BlockSize:], b)
		covered[i] = true
	}
	for _, x := range p.Desc.Extents {
		if x.Kind != proto.ExtentHole {
			continue
		}
		for i := (x.Offset + proto.BlockSize - 1) / proto.BlockSize; i < int64(len(covered)) && min((i+1)*proto.BlockSize, p.Desc.Size) <= x.Offset+x.Length; i++ {
			covered[i] = true
		}
	}
	if slices.Contains(covered, false) {
		return nil, proto.PieceMissing
	}
	if proto.ContentDigest(out) != p.Desc.Digest {
		delete(d.partial, p.Path)
		return nil, proto.PieceMismatch
	}
	return out, proto.PieceAccepted
}

func (r *Relay) complete(d *Dataset, p *segment.Piece, l *lease, content []byte) proto.PieceResult {
	delete(d.leases, p.Path)
	delete(d.partial, p.Path)
	row := d.Rows[p.Path]
	if row != nil && row.Desc.SameContent(*p.Desc) {
		row.Holders[l.holder] = row.Version
		if l.asked {
			row.Content = content
			delete(d.Asked, p.Path)
		}
		return proto.PieceResult{State: proto.PieceEqual, Version: row.Version}
	}
	r.stats.Objects[p.Path]++
	return proto.PieceResult{State: proto.PieceAccepted, Version: r.seal(d, p.Path, *p.Desc, content, l.holder)}
}

// seal makes a version.
func (r *Relay) seal(d *Dataset, path string, desc proto.Desc, content []byte, by proto.HolderID) proto.VersionID {
	d.Head++
	row := d.Rows[path]
	if row == nil {
		row = &Row{}
		d.Rows[path] = row
	} else {
		row.Old = append(row.Old, row.Desc)
	}
	d.byVersion[d.Head] = row
	row.Version, row.Desc, row.Content, row.Node = d.Head, desc, content, by
	row.Holders, row.Gone = map[proto.HolderID]proto.VersionID{}, map[proto.HolderID]bool{}
	if by != 0 {
		row.Holders[by] = d.Head
	}
	return d.Head
}

func (r *Relay) feed(q proto.FeedRequest) (a proto.FeedReply, e *proto.Error) {
	return r.list(q, func(*Dataset, string) bool { return true })
}

func (r *Relay) asked(q proto.FeedRequest) (a proto.FeedReply, e *proto.Error) {
	return r.list(q, func(d *Dataset, path string) bool { return d.Asked[path] })
}

func (r *Relay) list(q proto.FeedRequest, want func(d *Dataset, path string) bool) (a proto.FeedReply, e *proto.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, e := r.known(q.Session); e != nil {
		return a, e
	}
	d := r.dataset(q.Dataset)
	for path, row := range d.Rows {
		if row.Version > q.After && want(d, path) {
			a.Items = append(a.Items, proto.FeedItem{
				Version: row.Version, Path: path, Kind: row.Desc.Kind, Size: row.Desc.Size, Digest: row.Desc.Digest, LinkTo: row.Desc.LinkTo,
			})
		}
	}
	slices.SortFunc(a.Items, func(x, y proto.FeedItem) int { return int(x.Version) - int(y.Version) })
	a.Next, a.Head = d.Head, d.Head
	if len(a.Items) > q.Limit {
		a.Items = a.Items[:q.Limit]
		a.Next = a.Items[q.Limit-1].Version
	}
	return a, nil
}

// Look runs fn with a dataset, the counters and nobody else looking.
func (r *Relay) Look(dataset string, fn func(d *Dataset, s *Stats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(r.dataset(dataset), &r.stats)
}

// Set changes fields while the relay serves.
func (r *Relay) Set(fn func(r *Relay)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(r)
}

// Status returns what the live agent of a node said of its roots in its last poll; nil when there is none.
func (r *Relay) Status(node string) []proto.RootStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		if !s.over && s.hello.Node == node {
			return s.statuses
		}
	}
	return nil
}

// ForgetSessions makes every agent say hello again.
func (r *Relay) ForgetSessions() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		r.end(s, "forgotten")
	}
}

// Wait is how long tests wait for what must come: less than the two minutes that a test of a planted bug has in all.
const Wait = 90 * time.Second

// Lease returns the holder that may upload a path now, 0 when there is none.
func (d *Dataset) Lease(path string) proto.HolderID {
	if l := d.leases[path]; l != nil {
		return l.holder
	}
	return 0
}
