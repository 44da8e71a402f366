package ledger_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/ledger/ledgertest"
	"forebay/proto"
	"forebay/proto/segment"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run the model tests with this seed only")
	seedsFlag = flag.Uint64("seeds", 1, "run the model tests with this many seeds, from -seed or a random one on")
	stepsFlag = flag.Int("steps", 800, "entries a run of the model test applies")
)

// TestModel applies random entries and checks every invariant after each one. In the end the faults stop: everything must
// drain without anything left behind (I16), and the same entries must give the same rows.
func TestModel(t *testing.T) {
	t.Parallel()
	for _, seed := range modelSeeds(1, 2, 1156, 278997924008781527) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, seed)
			for range *stepsFlag {
				m.step()
			}
			m.drain()
			m.replay()
		})
	}
}

// modelSeeds are those of the flags, else some that once failed, and a random one.
func modelSeeds(failed ...uint64) []uint64 {
	first := *seedFlag
	if first == 0 {
		first = rand.Uint64()
	} else {
		failed = nil
	}
	for i := range *seedsFlag {
		failed = append(failed, first+i)
	}
	return failed
}

// receiving is an upload as its holders know it.
type receiving struct {
	id      proto.UploadID
	path    string
	content content
	epoch   proto.Epoch
	was     proto.Epoch // of the grant before
}

type model struct {
	*world
	rng      *rand.Rand
	sets     []proto.DatasetID
	names    map[proto.DatasetID]proto.Dataset
	holders  map[proto.DatasetID][]proto.HolderID
	uploads  map[proto.DatasetID][]*receiving
	begun    map[proto.UploadID]content
	contents map[string]content // by digest: what holders can send again
	newest   map[string]proto.VersionID
	lastHead map[proto.DatasetID]proto.VersionID
	what     string
	mirrors  map[ledger.LinkID]map[string]atTarget
	builds   int  // versions that were built on what a target had
	rebuilt  bool // for a rebuild: sends what the relay would admit only, and TestModel holds the invariants after each entry
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		world: newWorld(t), rng: rand.New(rand.NewPCG(seed, 17)), names: map[proto.DatasetID]proto.Dataset{}, holders: map[proto.DatasetID][]proto.HolderID{},
		uploads: map[proto.DatasetID][]*receiving{}, begun: map[proto.UploadID]content{}, contents: map[string]content{}, newest: map[string]proto.VersionID{}, lastHead: map[proto.DatasetID]proto.VersionID{},
		mirrors: map[ledger.LinkID]map[string]atTarget{},
	}
	for _, name := range []string{"files", "media"} {
		for _, node := range []string{"node-a", "node-b", "node-c"} {
			e := &ledger.RegisterHolder{Dataset: proto.Dataset{Cluster: "primary", Name: name}, Node: node, Root: "/" + name, Index: "i"}
			m.apply(e)
			ds := e.Holder.Dataset
			m.names[ds] = e.Dataset
			m.holders[ds] = append(m.holders[ds], e.Holder.ID)
		}
	}
	m.sets = slices.Sorted(maps.Keys(m.names))
	m.setLink()
	m.setLink()
	return m
}

func (m *model) apply(es ...ledger.Entry) {
	m.t.Helper()
	require.NoError(m.t, m.led.Update(es...), "%s: %+v", m.what, es)
	m.log = append(m.log, es...)
	if m.rebuilt {
		return
	}
	if err := ledgertest.Check(m.led); err != nil {
		require.NoError(m.t, err, "after step %d: %s %+v", len(m.log), m.what, es)
	}
	require.NoError(m.t, m.readable(), "after step %d: %s", len(m.log), m.what)
	m.forward()
}

// forward holds that the versions of a path, and the heads, only go forward (I18).
func (m *model) forward() {
	m.t.Helper()
	for _, ds := range m.sets {
		d, err := ledger.Dataset(m.led, ds)
		require.NoError(m.t, err)
		require.GreaterOrEqual(m.t, d.Head, m.lastHead[ds])
		m.lastHead[ds] = d.Head
		require.NoError(m.t, ledger.EachObject(m.led, ds, "", func(path string, o ledger.ObjectRow) (bool, error) {
			k := fmt.Sprint(ds, path)
			if o.Current.Version != 0 {
				require.GreaterOrEqual(m.t, o.Current.Version, m.newest[k], path)
				m.newest[k] = o.Current.Version
			}
			return true, nil
		}))
	}
}

func (m *model) step() {
	m.world.ds = m.sets[m.rng.IntN(len(m.sets))]
	m.alive = nil
	for _, h := range m.holders[m.world.ds] {
		if m.rng.IntN(4) > 0 {
			m.alive = append(m.alive, h)
		}
	}
	steps := []struct {
		weight int
		name   string
		do     func()
	}{
		{40, "segment", m.anySegment}, {20, "confirm", m.anyConfirm}, {8, "release", m.anyRelease}, {6, "asked", m.anyAsked}, {4, "park", m.anyPark},
		{3, "retry", m.anyRetry}, {6, "free", m.anyFree}, {5, "lose", m.anyLose}, {3, "abandon", m.anyAbandon}, {3, "reowe", m.anyReowe}, {6, "seed", m.anySeed},
		{2, "set link", m.setLink}, {1, "orphan", m.anyOrphan}, {2, "drop link", m.anyDrop}, {5, "holdings", m.anyHoldings}, {5, "deletes", m.anyDeletes},
		{5, "tombstones", m.anyTombstones}, {1, "start", m.anyStart}, {1, "move", m.anyMove}, {1, "index", m.anyIndex}, {1, "event", m.anyEvent},
		{5, "repack", m.anyRepack}, {8, "stage", m.anyStage}, {6, "free staged", m.anyFreeStaged},
	}
	sum := 0
	for _, s := range steps {
		sum += s.weight
	}
	n := m.rng.IntN(sum)
	for _, s := range steps {
		if n -= s.weight; n < 0 {
			m.what = s.name
			s.do()
			return
		}
	}
}

// path is one of few: those called big mostly have large objects.
func (m *model) path() string {
	if m.rng.IntN(8) == 0 {
		return m.bigPath()
	}
	return fmt.Sprintf("p%d", m.rng.IntN(7))
}

func (m *model) bigPath() string { return fmt.Sprintf("big%d", m.rng.IntN(3)) }

func (m *model) anyHolder() proto.HolderID {
	hs := m.holders[m.world.ds]
	return hs[m.rng.IntN(len(hs))]
}

func (m *model) know(c content) content {
	m.contents[c.digest().String()] = c
	return c
}

func (m *model) smallContent() content { return m.know(small(fmt.Sprintf("s%d", m.rng.IntN(6)))) }

func (m *model) largeContent() content {
	n := int64(2 + m.rng.IntN(4))
	var holes []int64
	for i := range n {
		if m.rng.IntN(5) == 0 {
			holes = append(holes, i)
		}
	}
	c := large(fmt.Sprintf("l%d", m.rng.IntN(3)), n, holes...)
	for i := range n {
		if m.rng.IntN(6) == 0 {
			c = c.changed(i, fmt.Sprint("+", m.rng.IntN(3)))
		}
	}
	return m.know(c)
}

// parent is mostly the current version of a path.
func (m *model) parent(path string) proto.VersionID {
	cur := m.follows(path)
	if m.rng.IntN(12) == 0 && cur > 0 {
		return cur - 1
	}
	return cur
}

// anyEpoch is mostly a new one.
func (m *model) anyEpoch() proto.Epoch {
	if m.rng.IntN(15) == 0 {
		return proto.Epoch{Generation: m.epoch.Generation - uint32(m.rng.IntN(2)), Counter: m.epoch.Counter / 2}
	}
	return m.grant()
}

func (m *model) anySegment() {
	h := m.anyHolder()
	var pieces []segment.Piece
	for range 1 + m.rng.IntN(5) {
		p := m.piece()
		again := func(q segment.Piece) bool {
			if m.rebuilt && p.Upload != 0 && q.Upload == p.Upload && q.Kind == segment.PieceSeal {
				return true // the seal ended the lease
			}
			return p.Kind != segment.PieceRange && q.Kind == p.Kind && q.Path == p.Path && q.Epoch == p.Epoch && q.Upload == p.Upload
		}
		if !slices.ContainsFunc(pieces, again) { // a holder sends each piece that it was granted once in a segment
			pieces = append(pieces, p)
		}
	}
	e := m.segment(h, pieces...)
	e.Stream, e.Again = m.rng.IntN(3) == 0, m.rng.IntN(2) == 0
	m.apply(e)
	for i, r := range e.Results {
		if r.Abandoned {
			m.abandoned(e.Pieces[i].Upload)
		}
	}
}

func (m *model) piece() segment.Piece {
	if m.rng.IntN(10) < 4 {
		return m.large()
	}
	path := m.path()
	parent := m.parent(path)
	switch m.rng.IntN(6) {
	case 0:
		return m.bare(path, parent)
	case 1, 2:
		return m.metaOf(path, parent)
	}
	return object(path, parent, m.anyEpoch(), m.smallContent())
}

func (m *model) bare(path string, parent proto.VersionID) segment.Piece {
	d := proto.Desc{Kind: proto.KindDir}
	switch m.rng.IntN(4) {
	case 0:
		d = proto.Desc{Kind: proto.KindSymlink, LinkTo: "to"}
	case 1:
		d = *m.smallContent().desc()
		d.Kind, d.LinkTo = proto.KindHardlink, "p0"
	case 2:
		d = proto.Desc{Kind: proto.KindFile, Digest: proto.ContentDigest(nil)}
	}
	return bare(path, parent, m.anyEpoch(), d)
}

// metaOf gives what is current new metadata, or now and then what is not.
func (m *model) metaOf(path string, parent proto.VersionID) segment.Piece {
	cur := m.object(path).Current
	d := cur.Desc()
	if m.rng.IntN(8) == 0 {
		d = *m.smallContent().desc()
	}
	d.Meta.Mode = uint32(m.rng.IntN(4))
	return segment.Piece{Kind: segment.PieceMeta, Path: path, Parent: parent, Epoch: m.anyEpoch(), Desc: &d}
}

// large sends a range of an upload that is being received, or begins one, or seals one.
func (m *model) large() segment.Piece {
	ups := m.uploads[m.world.ds]
	if len(ups) == 0 || m.rng.IntN(10) == 0 {
		u := &receiving{id: m.newUpload(), path: m.bigPath(), content: m.largeContent(), epoch: m.grant()}
		ups, m.begun[u.id] = append(ups, u), u.content
		if len(ups) > 3 {
			ups = ups[1:]
		}
		m.uploads[m.world.ds] = ups
	}
	u := ups[m.rng.IntN(len(ups))]
	parent := m.parent(u.path)
	if m.rng.IntN(5) == 0 {
		u.was, u.epoch = u.epoch, m.grant() // a takeover
	}
	ep := u.epoch
	if m.rng.IntN(12) == 0 && u.was != (proto.Epoch{}) {
		ep = u.was // late
	}
	n := proto.Blocks(u.content.size)
	whole := true
	for i := range n {
		whole = whole && (u.content.holes[i] || m.has(u.id, i))
	}
	if whole || m.rng.IntN(12) == 0 {
		c := u.content
		if m.rng.IntN(10) == 0 {
			c = m.largeContent()
		}
		return seal(u.path, u.id, parent, ep, c)
	}
	from := m.rng.Int64N(n)
	for range 6 { // mostly what is missing
		if !m.has(u.id, from) {
			break
		}
		from = m.rng.Int64N(n)
	}
	to := from + 1
	for to < n && m.rng.IntN(2) == 0 && !m.has(u.id, to) {
		to++
	}
	if !u.content.holes[from] && (m.rng.IntN(20) == 0 || m.likely(u, from, to)) {
		return same(u.path, u.id, parent, ep, u.content, from, to)
	}
	return run(u.path, u.id, parent, ep, u.content, from, to)
}

// likely reports whether the current version of an upload's path has some of its blocks.
func (m *model) likely(u *receiving, from, to int64) bool {
	sums, err := ledger.Sums(m.led, m.world.ds, u.path, m.object(u.path).Current.Digest, from, int(to-from))
	require.NoError(m.t, err)
	return slices.Equal(sums, u.content.blocks(from, to)) && m.rng.IntN(4) > 0
}

func (m *model) has(id proto.UploadID, i int64) bool {
	rs, err := ledger.Ranges(m.led, id)
	require.NoError(m.t, err)
	return slices.ContainsFunc(rs, func(r proto.Range) bool { return r.Offset <= i*block && i*block < r.Offset+r.Length })
}

// anyAsked sends again what is asked for, as the holders would.
func (m *model) anyAsked() {
	rep, err := ledger.Asked(m.led, m.world.ds, 0, 3)
	require.NoError(m.t, err)
	for _, it := range rep.Items {
		m.refill(it)
	}
}

func (m *model) refill(it proto.FeedItem) {
	c, ok := m.contents[it.Digest.String()]
	require.True(m.t, ok, "%q is asked for, and no holder could send it", it.Path)
	ep := m.grant()
	if c.size <= block {
		e := m.segment(m.anyHolder(), object(it.Path, it.Version, ep, c))
		m.apply(e)
		require.Equal(m.t, proto.PieceAccepted, e.Results[0].State)
		return
	}
	up := m.newUpload()
	var pieces []segment.Piece
	for i := range proto.Blocks(c.size) {
		if !c.holes[i] {
			pieces = append(pieces, run(it.Path, up, it.Version, ep, c, i, i+1))
		}
	}
	e := m.segment(m.anyHolder(), append(pieces, seal(it.Path, up, it.Version, ep, c))...)
	m.apply(e)
	require.Equal(m.t, proto.PieceAccepted, e.Results[len(e.Results)-1].State)
}

// drain lets the links do their work without faults: nothing may be left over.
func (m *model) drain() {
	m.t.Helper()
	m.what = "drain"
	ls, err := ledger.Links(m.led)
	require.NoError(m.t, err)
	for _, l := range ls {
		m.apply(&ledger.Retry{Link: l.ID})
		for s := (&ledger.Seed{Link: l.ID, Limit: 3}); !s.Done; {
			m.apply(s)
		}
	}
	for range 4 { // what one link lacks of a stream comes again when those that have it are done
		m.drainOnce(ls)
	}
	for _, l := range ls {
		row := m.row(l.ID)
		require.Zero(m.t, row.OwedObjects+row.OwedBytes+row.ParkedObjects+row.ReleasedObjects+row.CachedBytes+row.OwedDeletes)
	}
	var open []proto.UploadID
	require.NoError(m.t, ledger.EachUpload(m.led, func(id proto.UploadID, _ ledger.UploadRow) (bool, error) {
		open = append(open, id)
		return true, nil
	}))
	for _, id := range open {
		m.apply(&ledger.AbandonUpload{Upload: id})
	}
	m.anyFree()
	require.Empty(m.t, m.store, "nothing is owed and something is kept (I2)")
	meta, err := ledger.ReadMeta(m.led)
	require.NoError(m.t, err)
	require.Zero(m.t, meta.Segments)
	require.Zero(m.t, meta.StoredBytes)
	require.GreaterOrEqual(m.t, meta.WastedBytes, int64(0))
}

// drainOnce sends again what is asked for and confirms what can be.
func (m *model) drainOnce(ls []ledger.LinkRow) {
	m.t.Helper()
	for _, l := range ls {
		m.apply(&ledger.Reowe{Link: l.ID, Versions: m.owed(l.ID)}) // what another link kept in the cache
	}
	for _, ds := range m.sets {
		m.world.ds = ds
		for range 1000 {
			rep, err := ledger.Asked(m.led, ds, 0, 1)
			require.NoError(m.t, err)
			if len(rep.Items) == 0 {
				break
			}
			m.refill(rep.Items[0])
		}
	}
	for _, l := range ls {
		var done []proto.VersionID
		for _, v := range m.owed(l.ID) {
			if m.debt(l.ID, v).State == ledger.OwedCached {
				done = append(done, v)
			}
		}
		m.flush(l.ID, done)
		m.apply(&ledger.Confirm{Link: l.ID, Versions: done, NowNs: m.tick()})
	}
}

// atTarget is what a link's target has at a path.
type atTarget struct {
	ver    proto.VersionID
	blocks []proto.Digest
}

// flush holds that a link's target has what the cache lacks of versions that are about to be confirmed, and does as the flush would.
func (m *model) flush(id ledger.LinkID, vers []proto.VersionID) {
	m.t.Helper()
	if m.mirrors[id] == nil {
		m.mirrors[id] = map[string]atTarget{}
	}
	mirror, row := m.mirrors[id], m.row(id)
	if row.Name == "" {
		return // nothing is flushed for what is on its way out
	}
	ds := row.Dataset
	for _, ver := range vers {
		v, ok, err := ledger.Version(m.led, ds, ver)
		require.NoError(m.t, err)
		q, owed, err := ledger.OwedAt(m.led, id, ver)
		require.NoError(m.t, err)
		was := mirror[v.Path]
		if !ok || !owed || was.ver > ver {
			continue
		}
		now := atTarget{ver: ver}
		switch {
		case q.MetaOnly:
			now.blocks = was.blocks
		case v.Desc.Kind == proto.KindFile && v.Desc.Size > 0:
			c := m.contents[v.Desc.Digest.String()]
			now.blocks = c.blocks(0, proto.Blocks(c.size))
			if q.State == ledger.OwedCached && v.Content.Lacks > 0 {
				m.builds++
				require.NoError(m.t, ledger.EachPart(m.led, v, func(p ledger.Part) (bool, error) {
					for i := p.Offset / block; p.Same && i*block < p.Offset+int64(p.Length); i++ {
						require.Less(m.t, i, int64(len(was.blocks)), "link %d is to build version %d of %q on %d", id, ver, v.Path, was.ver)
						require.Equal(m.t, now.blocks[i], was.blocks[i], "link %d is to build version %d of %q on %d", id, ver, v.Path, was.ver)
					}
					return true, nil
				}))
			}
		}
		mirror[v.Path] = now
	}
}

// replay applies the log to an empty ledger.
func (m *model) replay() {
	m.t.Helper()
	again := ledgertest.New()
	require.NoError(m.t, again.Update(m.log...))
	require.Equal(m.t, m.led.Hash(), again.Hash(), "equal entries in equal order give equal rows")
}
