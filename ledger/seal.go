package ledger

import (
	"fmt"
	"slices"

	"forebay/proto"
	"forebay/proto/segment"
)

// seal makes a description and its bytes the path's current version, unless the path moved on since the grant, the content
// is what is current already, or it is an older content that live holders have left behind (I18).
func (s *sealer) seal(p *segment.Piece, o *ObjectRow, c Content) (Result, error) {
	d := *p.Desc
	cur := o.Current
	if !s.follows(p, o) {
		return result(proto.PieceStale, 0), nil
	}
	if p.Kind == segment.PieceDelete {
		if cur.Version == 0 || cur.Kind == proto.KindTombstone || p.Version != 0 && p.Version != s.ds.Head+1 {
			return result(proto.PieceStale, 0), nil
		}
		if back, err := s.held(o); err != nil || back {
			return result(proto.PieceStale, 0), err
		}
		return s.publish(p, o, c, false)
	}
	freed := cur.Kind == proto.KindHardlink && d.Kind == proto.KindFile // a link that became a file of its own brings its bytes
	if cur.Version != 0 && cur.Desc().SameContent(d) && !freed {
		return s.equal(p, o, c)
	}
	if older := o.Older(d); older != nil && s.currentAlive(o) {
		s.setHolding(o, Holding{State: HoldingLags, Version: older.Version})
		return result(proto.PieceLags, older.Version), nil
	}
	return s.publish(p, o, c, false)
}

// follows reports whether a piece was granted for what comes after the current version of its path. Of a path that is not
// known, the grant names the dataset's head of that moment: then it must be no older than any tombstone that was dropped, of
// which this path's may have been one (I7).
func (s *sealer) follows(p *segment.Piece, o *ObjectRow) bool {
	if o.Current.Version == 0 {
		return p.Parent >= s.ds.Dropped && p.Parent <= s.ds.Head
	}
	return p.Parent == o.Current.Version
}

// currentAlive reports whether a live holder other than the sender still has the current version: then an older content is
// that of a holder that lags. When none has, the older content was put back on purpose and is a new version.
func (s *sealer) currentAlive(o *ObjectRow) bool {
	return CurrentAlive(o, s.e.Holder, s.e.Alive)
}

// CurrentAlive reports whether one of alive, except holder but, agrees with o's current version.
func CurrentAlive(o *ObjectRow, but proto.HolderID, alive []proto.HolderID) bool {
	for _, h := range o.Holders {
		agrees := h.State == HoldingHas && h.Version == o.Current.Version ||
			h.State == HoldingGone && o.Current.Kind == proto.KindTombstone
		if agrees && h.Holder != but && slices.Contains(alive, h.Holder) {
			return true
		}
	}
	return false
}

// held reports whether one of the entry's Alive has something at the path, by what it told of its present index: it came back
// after the delete was judged, and may have been told already that it agrees (I13).
func (s *sealer) held(o *ObjectRow) (bool, error) {
	for _, had := range o.Holders {
		if had.State == HoldingGone || !slices.Contains(s.e.Alive, had.Holder) {
			continue
		}
		var h HolderRow
		ok, err := get(s.tx, key(pHolder, had.Holder), &h)
		if err != nil || ok && h.IndexGen == had.IndexGen {
			return err == nil, err
		}
	}
	return false, nil
}

// setHolding records what the sender has.
func (s *sealer) setHolding(o *ObjectRow, h Holding) {
	if s.sender.ID == 0 {
		return
	}
	h.Holder, h.IndexGen = s.sender.ID, s.sender.IndexGen
	o.SetHolding(h)
}

// equal takes bytes that the current version has too: they fill the cache again where links ask for them, else they are waste.
func (s *sealer) equal(p *segment.Piece, o *ObjectRow, c Content) (Result, error) {
	ver := o.Current.Version
	var v VersionRow
	ok, err := get(s.tx, key(pVersion, s.e.Dataset, ver), &v)
	s.setHolding(o, Holding{State: HoldingHas, Version: ver, Odd: ok && v.Desc.Meta.Diff(p.Desc.Meta)&^proto.FieldMtime != 0})
	if err != nil || !ok {
		return result(proto.PieceEqual, ver), err
	}
	if !v.Asked || c == (Content{}) {
		return result(proto.PieceEqual, ver), nil
	}
	if c.Lacks > 0 { // no link that asks could do with it
		return result(proto.PieceEqual, ver), nil
	}
	if v.Content.Lacks > 0 {
		if c.From > 0 {
			return result(proto.PieceEqual, ver), nil
		}
		if err := s.complete(ver, &v, c); err != nil {
			return Result{}, err
		}
	}
	v.setContent(c)
	if v.Need == 0 {
		v.Home = s.e.Seq
	}
	for _, l := range s.links {
		var q OwedRow
		ok, err := get(s.tx, key(pOwed, l.ID, ver), &q)
		if err != nil {
			return Result{}, err
		}
		if !ok || q.State != OwedReleased || q.Parked {
			continue
		}
		able, err := v.able(s.tx, l)
		if err != nil {
			return Result{}, err
		}
		if !able {
			continue
		}
		back := q
		back.State, back.Staged = OwedCached, c.From
		if err := change(s.tx, l, ver, &v, &q, &back); err != nil {
			return Result{}, err
		}
	}
	if v.NeedBytes == 0 { // a stream that none of them staged
		v.setContent(Content{})
	}
	if v.Need == 0 {
		v.Home = 0
	}
	return result(proto.PieceAccepted, ver), settle(s.tx, s.e.Dataset, ver, &v)
}

// sealMeta gives the current version new metadata: a new version with the same content.
func (s *sealer) sealMeta(p *segment.Piece, o *ObjectRow) (Result, error) {
	cur := o.Current
	if p.Parent != cur.Version || cur.Version == 0 || !cur.Desc().SameContent(*p.Desc) {
		return result(proto.PieceStale, 0), nil
	}
	var v VersionRow
	if ok, err := get(s.tx, key(pVersion, s.e.Dataset, cur.Version), &v); err != nil || !ok {
		return result(proto.PieceStale, 0), err
	}
	if v.Desc.Meta.Equal(p.Desc.Meta) {
		s.setHolding(o, Holding{State: HoldingHas, Version: cur.Version})
		return result(proto.PieceEqual, cur.Version), nil
	}
	d := v.Desc // kind and extents stay: another holder may have a hard link where this one has a file
	d.Meta = p.Desc.Meta
	whole := *p
	whole.Desc = &d
	return s.publish(&whole, o, v.Content, true)
}

// publish writes the new version, makes the links owe it, and supersedes the one before.
func (s *sealer) publish(p *segment.Piece, o *ObjectRow, c Content, metaOnly bool) (Result, error) {
	old := o.Current
	if !metaOnly && old.Size > proto.BlockSize {
		if err := dropSums(s.tx, s.e.Dataset, p.Path); err != nil {
			return Result{}, err
		}
	}
	var before VersionRow
	if old.Version != 0 {
		if ok, err := get(s.tx, key(pVersion, s.e.Dataset, old.Version), &before); err != nil {
			return Result{}, err
		} else if !ok {
			return Result{}, fmt.Errorf("the current version %d is not known", old.Version)
		}
	}
	s.ds.Head++
	ver := s.ds.Head
	s.countObject(old, p.Desc)
	s.remember(o, ver, p.Desc)
	if !metaOnly {
		if err := goneAnew(s.tx, s.e.Dataset, p.Path); err != nil {
			return Result{}, err
		}
	}
	v := VersionRow{Path: p.Path, Desc: *p.Desc, Parent: old.Version, SealedNs: s.e.NowNs, Epoch: p.Epoch, Holder: s.e.Holder, Home: s.e.Seq}
	v.setContent(c)
	if c.Lacks > 0 {
		var u UploadRow
		if _, err := get(s.tx, key(pUpload, c.Upload), &u); err != nil {
			return Result{}, err
		}
		v.Bases = u.Bases
	}
	for _, l := range s.links {
		if err := s.oweNew(l, ver, &v, old.Version, metaOnly); err != nil {
			return Result{}, err
		}
	}
	if v.Need == 0 { // retained by nobody, so not to be found later
		v.Home = 0
	}
	if v.NeedBytes == 0 {
		v.setContent(Content{})
	}
	if err := settle(s.tx, s.e.Dataset, ver, &v); err != nil {
		return Result{}, err
	}
	if old.Version != 0 {
		if err := s.supersede(old.Version, &before); err != nil {
			return Result{}, err
		}
	}
	if !metaOnly { // what was being received is of a version that is past
		if err := dropReceiving(s.tx, o); err != nil {
			return Result{}, err
		}
	}
	return result(proto.PieceAccepted, ver), nil
}

// remember moves the current content to the older ones and notes who has the new one.
func (s *sealer) remember(o *ObjectRow, ver proto.VersionID, d *proto.Desc) {
	if o.Current.Version != 0 && !o.Current.Desc().SameContent(*d) {
		recent := []Known{o.Current}
		for _, k := range o.Recent { // a content that comes back is current, not older
			if len(recent) < MaxRecent && !k.Desc().SameContent(*d) && !k.Desc().SameContent(o.Current.Desc()) {
				recent = append(recent, k)
			}
		}
		o.Recent = recent
	}
	same := o.Current.Version != 0 && o.Current.Desc().SameContent(*d)
	prev := o.Current.Version
	o.Current = Known{Version: ver, Kind: d.Kind, Size: d.Size, Digest: d.Digest, LinkTo: d.LinkTo}
	o.MtimeNs = d.Meta.MtimeNs
	if !same {
		o.Since = 0
	}
	if same { // new metadata: whoever had the content has it still, with the metadata from before until it tells
		for i := range o.Holders {
			if h := &o.Holders[i]; h.State == HoldingHas && h.Version == prev {
				h.Version, h.Odd = ver, true
			}
		}
	}
	for i := range o.Holders { // a fork that won is no fork
		h := &o.Holders[i]
		if h.State == HoldingDivergent && d.Kind.HasContent() && h.Digest == d.Digest && h.Size == d.Size {
			*h = Holding{Holder: h.Holder, State: HoldingHas, Version: ver, IndexGen: h.IndexGen}
		}
	}
	if d.Kind != proto.KindTombstone {
		s.setHolding(o, Holding{State: HoldingHas, Version: ver})
	}
}

// countObject keeps the dataset's live objects and bytes.
func (s *sealer) countObject(old Known, d *proto.Desc) {
	if old.Version != 0 && old.Kind != proto.KindTombstone {
		s.ds.Objects--
		s.ds.Bytes -= old.Size
	}
	if d.Kind != proto.KindTombstone {
		s.ds.Objects++
		s.ds.Bytes += d.Size
	}
}

// oweNew makes a link owe a new version. Where the link had not yet confirmed the content of the version before, a version
// of new metadata brings the content with it.
func (s *sealer) oweNew(l *LinkRow, ver proto.VersionID, v *VersionRow, old proto.VersionID, metaOnly bool) error {
	if l.Name == "" { // on its way out
		return nil
	}
	q, err := v.debt(s.tx, l, s.e.NowNs)
	if err != nil {
		return err
	}
	if metaOnly && v.Desc.Kind.HasContent() || v.Content.Lacks > 0 {
		if err := s.build(l, v, old, metaOnly, &q); err != nil {
			return err
		}
	}
	return change(s.tx, l, ver, v, nil, &q)
}

// build settles what a link owes of a version that builds on what its target has of the version before.
func (s *sealer) build(l *LinkRow, v *VersionRow, old proto.VersionID, metaOnly bool, q *OwedRow) error {
	var before OwedRow
	owed, err := get(s.tx, key(pOwed, l.ID, old), &before)
	if err != nil {
		return err
	}
	has := !l.mustSend(old, owed, before)
	if metaOnly && has {
		q.State, q.Bytes, q.Staged, q.MetaOnly = OwedCached, 0, 0, true
		return nil
	}
	// What v lacks, the version before has at the target, or lacked as well.
	able, err := v.ableWith(s.tx, l, has || before.State == OwedCached)
	if able {
		q.State, q.Staged = OwedCached, v.Content.From+v.Content.Lacks
	}
	return err
}

// mustSend reports whether a link still needs the content of version old.
func (l *LinkRow) mustSend(old proto.VersionID, owed bool, q OwedRow) bool {
	if owed {
		return !q.MetaOnly
	}
	return old > l.SeedCursor && old <= l.SeedHead // not reached by the seeding yet
}

// supersede takes a version off the links that coalesce, and off those that wait for it to come back to the cache, which it
// never will: holders are asked for what is current. It leaves the ledger once nobody owes it.
func (s *sealer) supersede(old proto.VersionID, v *VersionRow) error {
	v.Superseded = true
	for _, l := range s.links {
		var q OwedRow
		ok, err := get(s.tx, key(pOwed, l.ID, old), &q)
		if err != nil {
			return err
		}
		if !ok || !l.Coalesce && q.State != OwedReleased {
			continue
		}
		if err := change(s.tx, l, old, v, &q, nil); err != nil {
			return err
		}
	}
	return settle(s.tx, s.e.Dataset, old, v)
}
