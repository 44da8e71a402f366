package ledger_test

import (
	"fmt"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/ledger/ledgertest"
	"forebay/proto"
	"forebay/proto/segment"
)

const block = proto.BlockSize

var files = proto.Dataset{Cluster: "primary", Name: "files"}

// world is a ledger under test with a model of the stores: the block digests of every segment that is there. Its content is
// made up: block i of content c has the digest of its name, so that objects of many MiB cost nothing.
type world struct {
	t      *testing.T
	led    *ledgertest.Mem
	ds     proto.DatasetID
	seq    uint64
	epoch  proto.Epoch
	upload proto.UploadID
	now    int64
	a, b   proto.HolderID
	alive  []proto.HolderID
	store  map[uint64]map[uint32][]proto.Digest // by segment, then place in the payload
	pieces map[uint64][]segment.Piece           // of segments that are or were there
	log    []ledger.Entry
	read   map[string]bool // rows of versions whose bytes were compared, with the segments they were in
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, led: ledgertest.New(), store: map[uint64]map[uint32][]proto.Digest{}, pieces: map[uint64][]segment.Piece{}, read: map[string]bool{}}
	w.do(&ledger.Start{Relay: 7, Name: "relay-1"})
	w.epoch.Generation = 1
	w.a, w.b = w.holder("node-a"), w.holder("node-b")
	w.alive = []proto.HolderID{w.a, w.b}
	return w
}

func (w *world) holder(node string) proto.HolderID {
	e := &ledger.RegisterHolder{Dataset: files, Node: node, Root: "/srv", Index: "i1", NowNs: w.tick()}
	w.do(e)
	w.ds = e.Holder.Dataset
	return e.Holder.ID
}

func (w *world) tick() int64 { w.now++; return w.now }

// do applies entries and checks every invariant after them.
func (w *world) do(es ...ledger.Entry) {
	w.t.Helper()
	require.NoError(w.t, w.led.Update(es...))
	w.log = append(w.log, es...)
	w.check()
}

func (w *world) check() {
	w.t.Helper()
	require.NoError(w.t, ledgertest.Check(w.led))
	require.NoError(w.t, w.readable())
}

// readable reads everything that is in the cache and compares digests (I1, I8).
func (w *world) readable() error {
	ds, err := ledger.Datasets(w.led)
	for _, d := range ds {
		err = w.led.Scan(verKey(d.ID, 0), verKey(d.ID+1, 0), func(k, b []byte) (bool, error) {
			var v ledger.VersionRow
			if err := proto.Unmarshal(b, &v); err != nil {
				return false, err
			}
			if v.Content == (ledger.Content{}) {
				return true, nil
			}
			where, err := w.where(v)
			if seen := string(b) + where; err == nil && !w.read[seen] && v.Content.From == 0 && v.Content.Lacks == 0 {
				w.read[seen] = true
				var got proto.Digest
				if got, err = w.digest(v); err == nil && got != v.Desc.Digest {
					err = fmt.Errorf("version at %x of %q reads with another digest", k, v.Path)
				}
			}
			return err == nil, err
		})
		if err != nil {
			return err
		}
	}
	return err
}

func verKey(ds proto.DatasetID, ver proto.VersionID) []byte {
	k := []byte{'V'}
	for s := 24; s >= 0; s -= 8 {
		k = append(k, byte(ds>>s))
	}
	for s := 56; s >= 0; s -= 8 {
		k = append(k, byte(ver>>s))
	}
	return k
}

// where lists the parts of a version, all of which must be in the stores.
func (w *world) where(v ledger.VersionRow) (out string, err error) {
	err = ledger.EachPart(w.led, v, func(p ledger.Part) (bool, error) {
		out += fmt.Sprintf(" %+v", p)
		if p.Segment == 0 { // targets have it staged
			return true, nil
		}
		if w.store[p.Segment] == nil {
			return false, fmt.Errorf("%q: segment %d is not in the stores", v.Path, p.Segment)
		}
		return true, nil
	})
	return out, err
}

func (w *world) digest(v ledger.VersionRow) (proto.Digest, error) {
	h := proto.NewContentHasher()
	next := int64(0)
	fill := func(to int64) {
		for ; next < to; next += block {
			h.Add(proto.ZeroBlockDigest(min(block, v.Desc.Size-next)))
		}
	}
	err := ledger.EachPart(w.led, v, func(p ledger.Part) (bool, error) {
		fill(p.Offset)
		blocks := w.store[p.Segment][p.At]
		if int64(len(blocks)) != proto.Blocks(int64(p.Length)) {
			return false, fmt.Errorf("%q: segment %d has %d blocks at %d for %d bytes", v.Path, p.Segment, len(blocks), p.At, p.Length)
		}
		for _, d := range blocks {
			h.Add(d)
		}
		next = p.Offset + int64(p.Length)
		return true, nil
	})
	fill(v.Desc.Size)
	return h.Sum(), err
}

// A content is a name, a size, and which of its blocks are holes, or changed.
type content struct {
	name  string
	size  int64
	holes map[int64]bool
	patch map[int64]string
}

// changed is the content with another block.
func (c content) changed(i int64, to string) content {
	c.patch = maps.Clone(c.patch)
	if c.patch == nil {
		c.patch = map[int64]string{}
	}
	c.patch[i] = to
	return c
}

func small(name string) content { return content{name: name, size: 100} }

func large(name string, blocks int64, holes ...int64) content {
	c := content{name: name, size: blocks*block - 10, holes: map[int64]bool{}}
	for _, h := range holes {
		c.holes[h] = true
	}
	return c
}

func (c content) block(i int64) proto.Digest {
	n := min(block, c.size-i*block)
	if c.holes[i] {
		return proto.ZeroBlockDigest(n)
	}
	return proto.BlockDigest(fmt.Appendf(nil, "%s/%d%s", c.name, i, c.patch[i]))
}

func (c content) blocks(from, to int64) (out []proto.Digest) {
	for i := from; i < to; i++ {
		out = append(out, c.block(i))
	}
	return out
}

func (c content) digest() proto.Digest {
	h := proto.NewContentHasher()
	for _, d := range c.blocks(0, proto.Blocks(c.size)) {
		h.Add(d)
	}
	return h.Sum()
}

func (c content) desc() *proto.Desc {
	d := &proto.Desc{Kind: proto.KindFile, Size: c.size, Digest: c.digest(), Meta: proto.Meta{Mode: 0o644, MtimeNs: 1000}}
	for i := int64(0); len(c.holes) > 0 && i*block < c.size; i++ {
		kind := proto.ExtentData
		if c.holes[i] {
			kind = proto.ExtentHole
		}
		d.Extents = append(d.Extents, proto.Extent{Kind: kind, Offset: i * block, Length: min(block, c.size-i*block)})
	}
	return d
}

// grant is a new epoch.
func (w *world) grant() proto.Epoch {
	w.epoch.Counter++
	return w.epoch
}

func (w *world) newUpload() proto.UploadID { w.upload++; return w.upload }

func object(path string, parent proto.VersionID, ep proto.Epoch, c content) segment.Piece {
	return segment.Piece{Kind: segment.PieceObject, Path: path, Parent: parent, Epoch: ep, Length: uint32(c.size), Blocks: c.blocks(0, proto.Blocks(c.size)), Desc: c.desc()}
}

func bare(path string, parent proto.VersionID, ep proto.Epoch, d proto.Desc) segment.Piece {
	return segment.Piece{Kind: segment.PieceObject, Path: path, Parent: parent, Epoch: ep, Desc: &d}
}

func run(path string, up proto.UploadID, parent proto.VersionID, ep proto.Epoch, c content, from, to int64) segment.Piece {
	end := min(to*block, c.size)
	return segment.Piece{Kind: segment.PieceRange, Path: path, Upload: up, Parent: parent, Epoch: ep, Offset: from * block, Length: uint32(end - from*block), Blocks: c.blocks(from, to), ObjectSize: c.size}
}

// same names a run of blocks that the current version has.
func same(path string, up proto.UploadID, parent proto.VersionID, ep proto.Epoch, c content, from, to int64) segment.Piece {
	p := run(path, up, parent, ep, c, from, to)
	p.Kind, p.Span, p.Length = segment.PieceSame, int64(p.Length), 0
	return p
}

func seal(path string, up proto.UploadID, parent proto.VersionID, ep proto.Epoch, c content) segment.Piece {
	return segment.Piece{Kind: segment.PieceSeal, Path: path, Upload: up, Parent: parent, Epoch: ep, Desc: c.desc()}
}

func remeta(path string, parent proto.VersionID, ep proto.Epoch, c content, mode uint32) segment.Piece {
	d := c.desc()
	d.Meta.Mode = mode
	return segment.Piece{Kind: segment.PieceMeta, Path: path, Parent: parent, Epoch: ep, Desc: d}
}

func remove(path string, parent proto.VersionID) segment.Piece {
	return segment.Piece{Kind: segment.PieceDelete, Path: path, Parent: parent, Desc: &proto.Desc{Kind: proto.KindTombstone}}
}

// segment makes the entry of a segment whose pieces are as given, laid out in its payload, and puts them into the stores. Nobody
// holds up the relay's own, the deletes, unless the test says who.
func (w *world) segment(h proto.HolderID, pieces ...segment.Piece) *ledger.StoreSegment {
	w.seq++
	at := uint32(0)
	w.store[w.seq] = map[uint32][]proto.Digest{}
	for i := range pieces {
		pieces[i].At = at
		if pieces[i].Length > 0 {
			w.store[w.seq][at] = pieces[i].Blocks
		}
		at += pieces[i].Length
	}
	w.pieces[w.seq] = pieces
	alive := w.alive
	if h == 0 {
		alive = nil
	}
	return &ledger.StoreSegment{Seq: w.seq, Dataset: w.ds, Length: int64(at) + 500, Stored: 2 * int64(at), NowNs: w.tick(), Holder: h, Alive: alive, Pieces: pieces}
}

// send stores a segment and returns the states of its pieces.
func (w *world) send(h proto.HolderID, pieces ...segment.Piece) []ledger.Result {
	w.t.Helper()
	e := w.segment(h, pieces...)
	w.do(e)
	return e.Results
}

// put publishes a small object and returns its version.
func (w *world) put(path string, c content) proto.VersionID {
	w.t.Helper()
	r := w.send(w.a, object(path, w.follows(path), w.grant(), c))
	require.Equal(w.t, proto.PieceAccepted, r[0].State)
	return r[0].Version
}

func (w *world) link(name string, coalesce bool) ledger.LinkID {
	w.t.Helper()
	e := &ledger.SetLink{Name: name, From: files, Target: "dir:/" + name, Coalesce: coalesce, NowNs: w.tick()}
	w.do(e)
	return e.Link.ID
}

func (w *world) row(id ledger.LinkID) ledger.LinkRow {
	w.t.Helper()
	l, err := ledger.Link(w.led, id)
	require.NoError(w.t, err)
	return l
}

func (w *world) object(path string) ledger.ObjectRow {
	w.t.Helper()
	o, _, err := ledger.Object(w.led, w.ds, path)
	require.NoError(w.t, err)
	return o
}

// follows is the parent that a grant for a path names.
func (w *world) follows(path string) proto.VersionID {
	w.t.Helper()
	if cur := w.object(path).Current.Version; cur != 0 {
		return cur
	}
	d, err := ledger.Dataset(w.led, w.ds)
	require.NoError(w.t, err)
	return d.Head
}

func (w *world) version(ver proto.VersionID) (ledger.VersionRow, bool) {
	w.t.Helper()
	v, ok, err := ledger.Version(w.led, w.ds, ver)
	require.NoError(w.t, err)
	return v, ok
}

func (w *world) owed(id ledger.LinkID) (out []proto.VersionID) {
	w.t.Helper()
	qs, err := ledger.Owed(w.led, id, 0, 1000)
	require.NoError(w.t, err)
	for _, q := range qs {
		out = append(out, q.Version)
	}
	return out
}

func (w *world) debt(id ledger.LinkID, ver proto.VersionID) ledger.OwedRow {
	w.t.Helper()
	q, ok, err := ledger.OwedAt(w.led, id, ver)
	require.NoError(w.t, err)
	require.True(w.t, ok, "link %d does not owe version %d", id, ver)
	return q
}

func (w *world) asked() (out []string) {
	w.t.Helper()
	rep, err := ledger.Asked(w.led, w.ds, 0, 1000)
	require.NoError(w.t, err)
	for _, it := range rep.Items {
		out = append(out, it.Path)
	}
	return out
}

func (w *world) freeable() []uint64 {
	w.t.Helper()
	seqs, err := ledger.FreeList(w.led, 1000)
	require.NoError(w.t, err)
	return seqs
}

// free does what the relay does with the free list: the stores first, then the ledger.
func (w *world) free() {
	w.t.Helper()
	seqs := w.freeable()
	for _, s := range seqs {
		delete(w.store, s)
	}
	w.do(&ledger.FreeSegments{Seqs: seqs})
}

func (w *world) confirm(id ledger.LinkID, vers ...proto.VersionID) *ledger.Confirm {
	w.t.Helper()
	e := &ledger.Confirm{Link: id, Versions: vers, NowNs: w.tick()}
	w.do(e)
	return e
}

// lose makes a segment unreadable.
func (w *world) lose(seq uint64) []string {
	w.t.Helper()
	delete(w.store, seq)
	e := &ledger.LoseSegment{Seq: seq}
	w.do(e)
	return e.Lost
}

func states(rs []ledger.Result) (out []proto.PieceState) {
	for _, r := range rs {
		out = append(out, r.State)
	}
	return out
}

func (w *world) holding(path string, h proto.HolderID) ledger.Holding {
	w.t.Helper()
	o := w.object(path)
	require.NotNil(w.t, o.Holding(h))
	return *o.Holding(h)
}
