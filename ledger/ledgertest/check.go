package ledgertest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"forebay/ledger"
	"forebay/proto"
)

// Check recounts everything that the ledger counts, from the rows alone, and returns what does not agree: references and live
// bytes of segments, the free list, needs and debts of versions, counters of links and datasets, rows that nothing leads to.
// It also holds that every byte a link owes from the cache is covered by segments that are there (I1, I2).
func Check(r ledger.Rows) error {
	c := checker{r: r, refs: map[uint64]ref{}, want: map[string]bool{}, debts: map[verKey]debt{}, datasets: map[proto.DatasetID]ledger.DatasetRow{}, links: map[ledger.LinkID]ledger.LinkRow{}, users: map[proto.UploadID]int{}}
	for _, step := range []func(){c.loadTop, c.owed, c.versions, c.uploads, c.objects, c.segments, c.registers, c.counts} {
		step()
	}
	return errors.Join(c.wrong...)
}

type verKey struct {
	ds  proto.DatasetID
	ver proto.VersionID
}

type ref struct{ n, live int64 }

// debt is a recount of the Q rows of a version.
type debt struct{ owed, need, bytes, asking int }

type checker struct {
	r        ledger.Rows
	wrong    []error
	refs     map[uint64]ref
	want     map[string]bool // register rows (R, r, W, F, A, X) that must be there, and no others
	debts    map[verKey]debt
	datasets map[proto.DatasetID]ledger.DatasetRow
	links    map[ledger.LinkID]ledger.LinkRow
	users    map[proto.UploadID]int
}

func (c *checker) fail(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Errorf(format, args...))
}

func (c *checker) no(err error) {
	if err != nil {
		c.wrong = append(c.wrong, err)
	}
}

// rows decodes the rows of a prefix; the key is given without it.
func rows[T any](c *checker, prefix byte, fn func(key []byte, v T)) {
	c.no(c.r.Scan([]byte{prefix}, []byte{prefix + 1}, func(k, b []byte) (bool, error) {
		var v T
		if err := proto.Unmarshal(b, &v); err != nil {
			return false, fmt.Errorf("row %q: %w", k, err)
		}
		fn(k[1:], v)
		return true, nil
	}))
}

func u32(k []byte) uint32 { return binary.BigEndian.Uint32(k) }
func u64(k []byte) uint64 { return binary.BigEndian.Uint64(k) }

func reg(prefix byte, parts ...uint64) string {
	k := []byte{prefix}
	for i, p := range parts {
		if (prefix == 'R' || prefix == 'W') && i == 1 || prefix == 'A' && i == 0 {
			k = binary.BigEndian.AppendUint32(k, uint32(p))
			continue
		}
		k = binary.BigEndian.AppendUint64(k, p)
	}
	return string(k)
}

func (c *checker) loadTop() {
	rows(c, 'D', func(_ []byte, d ledger.DatasetRow) { c.datasets[d.ID] = d })
	rows(c, 'L', func(_ []byte, l ledger.LinkRow) { c.links[l.ID] = l })
	c.no(c.r.Scan([]byte{'l'}, []byte{'l' + 1}, func(k, b []byte) (bool, error) {
		if l := c.links[ledger.LinkID(u32(b))]; l.Name != string(k[1:]) {
			c.fail("name %q leads to link %d named %q", k[1:], u32(b), l.Name)
		}
		return true, nil
	}))
}

// owed recounts the links' counters.
func (c *checker) owed() {
	count := map[ledger.LinkID]*ledger.LinkRow{}
	for id := range c.links {
		count[id] = &ledger.LinkRow{}
	}
	rows(c, 'Q', func(k []byte, q ledger.OwedRow) {
		id, ver := ledger.LinkID(u32(k)), proto.VersionID(u64(k[4:]))
		n := count[id]
		if n == nil {
			c.fail("link %d is not known and owes version %d", id, ver)
			return
		}
		d := c.debts[verKey{c.links[id].Dataset, ver}]
		d.owed++
		cached := q.State == ledger.OwedCached
		if cached {
			n.CachedBytes += q.Bytes - q.Staged
			d.need++
			if !q.MetaOnly {
				d.bytes++
			}
		}
		switch {
		case q.Parked:
			n.ParkedObjects++
		default:
			n.OwedObjects++
			n.OwedBytes += q.Bytes
			if q.Kind == proto.KindTombstone {
				n.OwedDeletes++
			}
			if !cached {
				n.ReleasedObjects++
				n.ReleasedBytes += q.Bytes
				d.asking++
			}
		}
		if !cached && (q.MetaOnly || q.Bytes == 0) {
			c.fail("link %d owes version %d, which has no bytes, as released", id, ver)
		}
		c.debts[verKey{c.links[id].Dataset, ver}] = d
		c.staged(id, ver, q)
	})
	for id, n := range count {
		l := c.links[id]
		got := [...]int64{l.OwedObjects, l.OwedBytes, l.ReleasedObjects, l.ReleasedBytes, l.ParkedObjects, l.OwedDeletes, l.CachedBytes}
		want := [...]int64{n.OwedObjects, n.OwedBytes, n.ReleasedObjects, n.ReleasedBytes, n.ParkedObjects, n.OwedDeletes, n.CachedBytes}
		if got != want {
			c.fail("link %d counts %v (owed, bytes, released, bytes, parked, deletes, cached bytes), has %v", id, got, want)
		}
	}
}

// staged holds that what the cache let go of a stream is staged for every link that owes the version from the cache (I1).
func (c *checker) staged(id ledger.LinkID, ver proto.VersionID, q ledger.OwedRow) {
	want := int64(0)
	if q.State == ledger.OwedCached && !q.MetaOnly {
		v, _, err := ledger.Version(c.r, c.links[id].Dataset, ver)
		c.no(err)
		want = v.Content.From
		if d, err := ledger.Staged(c.r, v.Content.Upload, id); err != nil || d < want {
			c.fail("link %d owes version %d from the cache, which let go of %d bytes, %d are staged: %v", id, ver, want, d, err)
		}
		want += v.Content.Lacks
	}
	if q.Staged != want {
		c.fail("link %d counts %d bytes of version %d as staged, want %d", id, q.Staged, ver, want)
	}
}

func (c *checker) pin(seq uint64, n, live int64) {
	x := c.refs[seq]
	c.refs[seq] = ref{x.n + n, x.live + live}
}

func (c *checker) versions() {
	rows(c, 'V', func(k []byte, v ledger.VersionRow) {
		at := verKey{proto.DatasetID(u32(k)), proto.VersionID(u64(k[4:]))}
		d := c.debts[at]
		delete(c.debts, at)
		if got := (debt{v.Owed, v.Need, v.NeedBytes, v.Asking}); got != d {
			c.fail("version %v counts %+v, has %+v", at, got, d)
		}
		if v.Superseded && v.Owed == 0 {
			c.fail("version %v is superseded, owed by nobody and still there", at)
		}
		if v.Superseded && v.Asking > 0 {
			c.fail("version %v is superseded and waits for holders that cannot be asked", at)
		}
		c.retained(at, v)
		if asked := v.Asking > 0 && (!v.Cached || v.Content.Lacks > 0) && !v.Superseded; asked != v.Asked {
			c.fail("version %v: asked %v, want %v", at, v.Asked, asked)
		}
		if v.Asked {
			c.want[reg('A', uint64(at.ds), uint64(at.ver))] = true
		}
	})
	for at := range c.debts {
		c.fail("version %v is owed and not known", at)
	}
}

// retained counts what a version refers to and holds that its bytes are all there.
func (c *checker) retained(at verKey, v ledger.VersionRow) {
	hasBytes := v.Desc.Kind == proto.KindFile && v.Desc.Size > 0
	have := v.Content != ledger.Content{}
	if v.Home != 0 {
		c.pin(v.Home, 1, 0)
		c.want[reg('R', v.Home, uint64(at.ds), uint64(at.ver))] = true
		if v.Need == 0 {
			c.fail("version %v is needed by nobody and keeps its description in segment %d", at, v.Home)
		}
	}
	if have != (hasBytes && v.NeedBytes > 0) {
		c.fail("version %v: content %+v while %d links need its bytes", at, v.Content, v.NeedBytes)
	}
	if v.Cached != (have || !hasBytes) {
		c.fail("version %v: cached %v with content %+v", at, v.Cached, v.Content)
	}
	if s := v.Content.Segment; s != 0 {
		c.pin(s, 1, int64(v.Content.Length))
		c.want[reg('R', s, uint64(at.ds), uint64(at.ver))] = true
	}
	if u := v.Content.Upload; u != 0 {
		c.users[u]++
		c.want[reg('W', uint64(u), uint64(at.ds), uint64(at.ver))] = true
	}
	if have {
		c.covered(at, v)
	}
}

// covered holds that what is not a hole of a version lies in segments that are there.
func (c *checker) covered(at verKey, v ledger.VersionRow) {
	next, lacks := int64(0), int64(0)
	gap := func(to int64) {
		if next < to && !inHoles(v.Desc.Extents, next, to) {
			c.fail("version %v: bytes %d to %d of %d are nowhere", at, next, to, v.Desc.Size)
		}
	}
	c.no(ledger.EachPart(c.r, v, func(p ledger.Part) (bool, error) {
		gap(p.Offset)
		if next = p.Offset + int64(p.Length); p.Same {
			lacks += int64(p.Length)
			return true, nil
		}
		if p.Segment == 0 {
			if next > v.Content.From {
				c.fail("version %v: bytes %d to %d were let go, above %d", at, p.Offset, next, v.Content.From)
			}
			return true, nil
		}
		if _, ok, err := ledger.Segment(c.r, p.Segment); err != nil || !ok {
			c.fail("version %v: segment %d is gone: %w", at, p.Segment, err)
		}
		return true, nil
	}))
	gap(v.Desc.Size)
	if (len(v.Bases) > 0) != (v.Content.Lacks > 0) {
		c.fail("version %v lacks %d bytes, which %d contents are said to have", at, v.Content.Lacks, len(v.Bases))
	}
	if lacks != v.Content.Lacks {
		c.fail("version %v lacks %d bytes, counts %d", at, lacks, v.Content.Lacks)
	}
}

func inHoles(extents []proto.Extent, from, to int64) bool {
	for _, e := range extents {
		if e.Kind == proto.ExtentHole && e.Offset <= from && from < e.Offset+e.Length {
			from = e.Offset + e.Length
		}
	}
	return from >= to
}

func (c *checker) uploads() {
	acked, gone, freed, same := map[proto.UploadID]int64{}, map[proto.UploadID]int64{}, map[proto.UploadID]int64{}, map[proto.UploadID]int64{}
	rows(c, 'P', func(k []byte, p ledger.RangeRow) {
		id, off := proto.UploadID(u64(k)), u64(k[8:])
		acked[id] += int64(p.Length)
		if p.Same {
			same[id] += int64(p.Length)
		}
		if p.Named != 0 {
			c.pin(p.Named, 1, 0)
			c.want[reg('r', p.Named, uint64(id), off)] = true
		}
		if p.Segment == 0 && p.Same {
			return
		}
		if p.Segment == 0 {
			gone[id] += int64(p.Length)
			freed[id] = max(freed[id], int64(off)+int64(p.Length))
			return
		}
		c.pin(p.Segment, 1, int64(p.Length))
		c.want[reg('r', p.Segment, uint64(id), off)] = true
	})
	rows(c, 'U', func(k []byte, u ledger.UploadRow) {
		id := proto.UploadID(u64(k))
		users := c.users[id]
		delete(c.users, id)
		if !u.Sealed {
			users++
			o, _, err := ledger.Object(c.r, u.Dataset, u.Path)
			c.no(err)
			if o.Upload != id {
				c.fail("upload %d is being received, its path %q is at upload %d", id, u.Path, o.Upload)
			}
		}
		if u.Users != users || users == 0 {
			c.fail("upload %d counts %d users, has %d", id, u.Users, users)
		}
		if u.Acked != acked[id] {
			c.fail("upload %d counts %d bytes, has %d", id, u.Acked, acked[id])
		}
		if u.Same != same[id] {
			c.fail("upload %d counts %d bytes that were not sent, has %d", id, u.Same, same[id])
		}
		if u.Gone != gone[id] || u.Freed != freed[id] || u.Freed > 0 && !u.Stream {
			c.fail("upload %d counts %d bytes let go up to %d, has %d up to %d (stream: %v)", id, u.Gone, u.Freed, gone[id], freed[id], u.Stream)
		}
		if u.Stream && !u.Sealed {
			c.want[reg('X', uint64(id))] = true
		}
		delete(acked, id)
	})
	rows(c, 'T', func(k []byte, _ ledger.StagedRow) {
		if _, ok, err := ledger.Upload(c.r, proto.UploadID(u64(k))); err != nil || !ok {
			c.fail("stages of upload %d, which is gone", u64(k))
		}
	})
	for id := range acked {
		c.fail("ranges of upload %d, which is gone", id)
	}
	for id := range c.users {
		c.fail("versions retain upload %d, which is gone", id)
	}
}

func (c *checker) objects() {
	current := map[verKey]string{}
	for id, d := range c.datasets {
		var objects, bytes int64
		c.no(ledger.EachObject(c.r, id, "", func(path string, o ledger.ObjectRow) (bool, error) {
			if o.Current.Version == 0 && o.Upload == 0 {
				c.fail("%q has neither a version nor an upload", path)
			}
			if o.Upload != 0 {
				if u, ok, err := ledger.Upload(c.r, o.Upload); err != nil || !ok || u.Sealed {
					c.fail("%q receives upload %d, which is not there", path, o.Upload)
				}
			}
			if o.Current.Version != 0 {
				current[verKey{id, o.Current.Version}] = path
				if o.Current.Kind != proto.KindTombstone {
					objects++
					bytes += o.Current.Size
				}
			}
			return true, nil
		}))
		if d.Objects != objects || d.Bytes != bytes {
			c.fail("dataset %d counts %d objects of %d bytes, has %d of %d", id, d.Objects, d.Bytes, objects, bytes)
		}
	}
	rows(c, 'V', func(k []byte, v ledger.VersionRow) {
		at := verKey{proto.DatasetID(u32(k)), proto.VersionID(u64(k[4:]))}
		path, ok := current[at]
		delete(current, at)
		if ok == v.Superseded || ok && path != v.Path {
			c.fail("version %v of %q: superseded %v, current of %q", at, v.Path, v.Superseded, path)
		}
		if at.ver > c.datasets[at.ds].Head {
			c.fail("version %v is above the head %d", at, c.datasets[at.ds].Head)
		}
	})
	rows(c, 'b', func(k []byte, s ledger.SumsRow) {
		ds, path := proto.DatasetID(u32(k)), string(k[4:len(k)-9])
		o, ok, err := ledger.Object(c.r, ds, path)
		c.no(err)
		if !ok || o.Current.Digest != s.Digest || o.Current.Kind != proto.KindFile {
			c.fail("digests of blocks of %q, whose content is another by now", path)
		}
	})
	for at, path := range current {
		c.fail("the current version %v of %q is not known", at, path)
	}
}

func (c *checker) segments() {
	var m ledger.Meta
	m, err := ledger.ReadMeta(c.r)
	c.no(err)
	var n, stored int64
	c.no(ledger.EachSegment(c.r, func(seq uint64, s ledger.SegmentRow) (bool, error) {
		n++
		stored += s.Stored
		want := c.refs[seq]
		delete(c.refs, seq)
		if s.Refs != want.n || s.Live != want.live {
			c.fail("segment %d counts %d pieces of %d bytes, has %d of %d", seq, s.Refs, s.Live, want.n, want.live)
		}
		if want.n == 0 {
			c.want[reg('F', seq)] = true
		}
		return true, nil
	}))
	for seq := range c.refs {
		c.fail("segment %d is gone and is needed", seq)
	}
	if m.Segments != n || m.StoredBytes != stored {
		c.fail("%d segments of %d bytes are counted, there are %d of %d", m.Segments, m.StoredBytes, n, stored)
	}
}

// registers holds that the rows that are all key are those that must be there.
func (c *checker) registers() {
	for _, p := range []byte("RrWFAX") {
		c.no(c.r.Scan([]byte{p}, []byte{p + 1}, func(k, _ []byte) (bool, error) {
			if !c.want[string(k)] {
				c.fail("row %q leads nowhere", k)
			}
			delete(c.want, string(k))
			return true, nil
		}))
	}
	for k := range c.want {
		c.fail("row %q is missing", k)
	}
}

func (c *checker) counts() {
	asked, gone := map[proto.DatasetID]int64{}, map[proto.DatasetID]int64{}
	for p, n := range map[byte]map[proto.DatasetID]int64{'A': asked, 'G': gone} {
		c.no(c.r.Scan([]byte{p}, []byte{p + 1}, func(k, _ []byte) (bool, error) {
			n[proto.DatasetID(u32(k[1:]))]++
			return true, nil
		}))
	}
	for id, d := range c.datasets {
		if d.Asked != asked[id] || d.Gone != gone[id] {
			c.fail("dataset %d counts %d asked and %d gone, has %d and %d", id, d.Asked, d.Gone, asked[id], gone[id])
		}
	}
}
