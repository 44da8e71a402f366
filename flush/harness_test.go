package flush_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/policy"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/ledger"
	"forebay/ledger/disk"
	"forebay/proto"
	"forebay/proto/segment"
)

// world is a ledger with segments, targets in temporary directories, and an engine that can be killed and started again.
type world struct {
	t     *testing.T
	clock *fakeClock
	led   *disk.Ledger
	cfg   flush.Config

	mu       sync.Mutex
	segments map[uint64]*segment.Segment
	lost     []uint64
	loose    map[string]int // how often the flush told of a hard link without a leader
	events   []flush.Event
	reads    int
	wrote    map[string]int64
	high     bool
	unread   flush.Unread
	wrap     func(flush.LinkConfig, target.Target) target.Target
	door     func(flush.Ledger) flush.Ledger
	forgets  atomic.Bool // the ledger's disk takes nothing durably any more

	stream bool // what is stored is larger than the cache
	asked  bool // and was asked for again
	seq    uint64
	upload proto.UploadID
	hs     map[proto.Dataset]ledger.HolderRow
	dirs   map[string]string // by target name
	links  []flush.LinkConfig

	engine *flush.Engine
	stop   func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, clock: newClock(), segments: map[uint64]*segment.Segment{}, hs: map[proto.Dataset]ledger.HolderRow{}, dirs: map[string]string{}, wrote: map[string]int64{}}
	w.cfg = flush.Config{Relay: 7}
	led, err := disk.Open(disk.Config{Dir: "ledger", FS: w.forgetful(vfs.NewMem())})
	require.NoError(t, err)
	w.led = led
	t.TempDir() // so that it is removed after the engine has ended
	t.Cleanup(func() {
		w.kill()
		if err := led.Close(); !w.forgets.Load() {
			require.NoError(t, err)
		}
	})
	w.apply(&ledger.Start{Relay: 7, Name: "relay-1"})
	return w
}

func (w *world) forgetful(fs vfs.FS) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if w.forgets.Load() && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo) {
			return errorfs.ErrInjected
		}
		return nil
	}))
}

func (w *world) apply(es ...ledger.Entry) {
	w.t.Helper()
	err := w.led.Update(es...)
	if w.forgets.Load() {
		require.Error(w.t, err)
		return
	}
	require.NoError(w.t, err)
}

// dataset returns the holder that all objects of a dataset come from.
func (w *world) dataset(name string) ledger.HolderRow {
	w.t.Helper()
	ds := proto.Dataset{Cluster: "primary", Name: name}
	if h, ok := w.hs[ds]; ok {
		return h
	}
	e := &ledger.RegisterHolder{Dataset: ds, Node: "node-a", Root: "/srv/" + name, Index: "i1", NowNs: w.clock.Now().UnixNano()}
	w.apply(e)
	w.hs[ds] = e.Holder
	return e.Holder
}

// link adds a link from a dataset to a target of its own.
func (w *world) link(name, dataset string, settings ...string) string {
	w.t.Helper()
	h := w.dataset(dataset)
	at := w.dir(name)
	e := &ledger.SetLink{Name: name, From: proto.Dataset{Cluster: "primary", Name: dataset}, Target: "dir:" + at, Coalesce: true, NowNs: w.clock.Now().UnixNano()}
	p := policy.Default()
	for _, s := range settings {
		k, v, _ := strings.Cut(s, "=")
		require.NoError(w.t, policy.Set(&p, k, v))
	}
	e.Coalesce = p.Coalesce
	w.apply(e)
	w.links = append(w.links, flush.LinkConfig{ID: e.Link.ID, Name: name, Target: name, Policy: p})
	require.Equal(w.t, h.Dataset, e.Link.Dataset)
	if w.engine != nil {
		w.engine.SetLinks(w.links)
	}
	return at
}

// dir returns where a link's target is, making it at the first call.
func (w *world) dir(name string) string {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dirs[name] == "" {
		w.dirs[name] = filepath.Join(w.t.TempDir(), name)
		require.NoError(w.t, os.Mkdir(w.dirs[name], 0o755))
	}
	return w.dirs[name]
}

// set changes a link's policy live.
func (w *world) set(name string, settings ...string) {
	w.t.Helper()
	for i := range w.links {
		if w.links[i].Name != name {
			continue
		}
		p := w.links[i].Policy
		for _, s := range settings {
			k, v, _ := strings.Cut(s, "=")
			require.NoError(w.t, policy.Set(&p, k, v))
		}
		w.links[i].Policy = p
	}
	if w.engine != nil {
		w.engine.SetLinks(w.links)
	}
}

func (w *world) open(l flush.LinkConfig) (target.Target, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, err := dir.Open(dir.Config{Path: w.dirs[l.Target], Prefix: l.Prefix}, dir.Deps{})
	if err != nil {
		return nil, err
	}
	if w.wrap != nil {
		return w.wrap(l, counting{d, w, l.Name}), nil
	}
	return counting{d, w, l.Name}, nil
}

// Read implements flush.Cache.
func (w *world) Read(_ context.Context, seq uint64) (*segment.Segment, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads++
	if s := w.segments[seq]; s != nil {
		return s, nil
	}
	return nil, proto.Errorf(proto.ClassCorrupt, "segment %d: no shard is left", seq)
}

// start runs an engine.
func (w *world) start() {
	w.t.Helper()
	var led flush.Ledger = w.led
	if w.door != nil {
		led = w.door(led)
	}
	e, err := flush.New(w.cfg, flush.Deps{
		Ledger: led, Cache: w, Clock: w.clock, OpenTarget: w.open,
		HighWater:   func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.high },
		Unread:      func(string) flush.Unread { w.mu.Lock(); defer w.mu.Unlock(); return w.unread },
		LostSegment: func(seq uint64, _ error) { w.mu.Lock(); defer w.mu.Unlock(); w.lost = append(w.lost, seq) },
		Loose: func(_ proto.DatasetID, path string, _ proto.VersionID) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.loose == nil {
				w.loose = map[string]int{}
			}
			w.loose[path]++
		},
		Events: func(ev flush.Event) { w.mu.Lock(); defer w.mu.Unlock(); w.events = append(w.events, ev) },
	})
	require.NoError(w.t, err)
	e.SetLinks(w.links)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }() // ends with stop
	w.engine = e
	w.stop = func() {
		cancel()
		require.NoError(w.t, <-done)
		w.engine, w.stop = nil, nil
	}
}

// kill ends the engine wherever it is.
func (w *world) kill() {
	if w.stop != nil {
		w.stop()
	}
}

// pause pauses a link, or resumes it. Nobody wakes its loop.
func (w *world) pause(name string, on bool) {
	w.t.Helper()
	w.apply(&ledger.TuneLink{Link: w.row(name).ID, Paused: &on})
}

// keepsAll has the cache keep all of a dataset: for a link that is paused.
func (w *world) keepsAll(dataset string) {
	w.t.Helper()
	w.link("keeps", dataset)
	w.pause("keeps", true)
}

func (w *world) wake() {
	if w.engine == nil {
		return
	}
	for _, l := range w.links {
		w.engine.Wake(l.Name)
	}
}

// eventually waits for a condition, while the clock stands.
func (w *world) eventually(cond func() bool, what string, args ...any) {
	w.t.Helper()
	if !assert.Eventually(w.t, cond, time.Minute, 2*time.Millisecond) {
		w.dump()
		w.t.Fatalf(what, args...)
	}
}

// dump shows how the links are.
func (w *world) dump() {
	for _, l := range w.links {
		w.t.Logf("row %+v", w.row(l.Name))
		if w.engine != nil {
			w.t.Logf("state %+v", w.state(l.Name))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		w.t.Logf("event %s %s %q %v", e.Kind, e.Link, e.Path, e.Err)
	}
}

// passing waits for a condition while time passes in steps.
func (w *world) passing(step time.Duration, cond func() bool, what string) {
	w.t.Helper()
	w.eventually(func() bool {
		if cond() {
			return true
		}
		w.clock.advance(step)
		return false
	}, "%s", what)
}

func (w *world) row(name string) ledger.LinkRow {
	w.t.Helper()
	for _, l := range w.links {
		if l.Name == name {
			r, err := ledger.Link(w.led, l.ID)
			require.NoError(w.t, err)
			return r
		}
	}
	w.t.Fatalf("no link %s", name)
	return ledger.LinkRow{}
}

func (w *world) owed(name string) int64 { return w.row(name).OwedObjects }

// drained waits until a link owes nothing but what is parked.
func (w *world) drained(names ...string) {
	w.t.Helper()
	for _, n := range names {
		w.eventually(func() bool { r := w.row(n); return r.OwedObjects == 0 && r.SeedCursor >= r.SeedHead }, "link %s is not drained: %+v", n, w.state(n))
	}
}

func (w *world) state(name string) flush.State {
	s, _ := w.engine.State(name)
	return s
}

func (w *world) happened(kind flush.EventKind) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// obj is an object to be stored.
type obj struct {
	path    string
	kind    proto.Kind
	content []byte
	linkTo  string
	mode    uint32
	extents []proto.Extent
}

func file(path, content string) obj {
	return obj{path: path, kind: proto.KindFile, content: []byte(content)}
}
func folder(path string) obj      { return obj{path: path, kind: proto.KindDir} }
func deleted(path string) obj     { return obj{path: path, kind: proto.KindTombstone} }
func symlink(path, to string) obj { return obj{path: path, kind: proto.KindSymlink, linkTo: to} }
func hardlink(path, to string, content string) obj {
	return obj{path: path, kind: proto.KindHardlink, linkTo: to, content: []byte(content)}
}

func (o obj) desc() *proto.Desc {
	d := &proto.Desc{Kind: o.kind, LinkTo: o.linkTo, Extents: o.extents}
	d.Meta = proto.Meta{Mode: 0o644, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MtimeNs: 1_700_000_000_000_000_000}
	if o.mode != 0 {
		d.Meta.Mode = o.mode
	}
	switch o.kind {
	case proto.KindDir:
		d.Meta.Mode = 0o755
	case proto.KindSymlink:
		d.Digest, d.Meta.Mode = proto.BlockDigest([]byte(o.linkTo)), 0o777
	case proto.KindTombstone:
		d.Meta = proto.Meta{}
	case proto.KindFile, proto.KindHardlink:
		d.Size, d.Digest = int64(len(o.content)), proto.ContentDigest(o.content)
	}
	return d
}

func (w *world) current(ds proto.DatasetID, path string) proto.VersionID {
	o, _, err := ledger.Object(w.led, ds, path)
	require.NoError(w.t, err)
	return o.Current.Version
}

// put stores objects of a dataset in one segment and returns its number.
func (w *world) put(dataset string, objs ...obj) uint64 {
	w.t.Helper()
	h := w.dataset(dataset)
	var payload []byte
	var pieces []segment.Piece
	sender := h.ID
	for _, o := range objs {
		w.upload++
		p := segment.Piece{Kind: segment.PieceObject, Path: o.path, Upload: w.upload, Epoch: proto.Epoch{Generation: 1, Counter: uint64(w.upload)}, Parent: w.current(h.Dataset, o.path), At: uint32(len(payload)), Desc: o.desc()}
		if o.kind == proto.KindTombstone {
			p.Kind, sender = segment.PieceDelete, 0
		}
		if o.kind == proto.KindFile {
			p.Length, p.Blocks = uint32(len(o.content)), proto.BlockDigests(nil, o.content)
			payload = append(payload, o.content...)
		}
		pieces = append(pieces, p)
	}
	return w.store(h, sender, pieces, payload)
}

func (w *world) store(h ledger.HolderRow, sender proto.HolderID, pieces []segment.Piece, payload []byte) uint64 {
	w.t.Helper()
	var ds proto.Dataset
	for d, row := range w.hs {
		if row.ID == h.ID {
			ds = d
		}
	}
	raw, err := segment.Encode(segment.Header{Dataset: ds, Pieces: pieces}, payload)
	require.NoError(w.t, err)
	w.seq++
	segment.Stamp(raw, proto.SegmentID{Relay: 7, Seq: w.seq})
	s, err := segment.DecodeHeader(raw)
	require.NoError(w.t, err)
	w.mu.Lock()
	w.segments[w.seq] = s
	w.mu.Unlock()
	alive := []proto.HolderID{h.ID}
	if sender == 0 {
		alive = nil // nobody holds the relay's own up: deletes
	}
	e := &ledger.StoreSegment{Seq: w.seq, Dataset: h.Dataset, Length: int64(len(raw)), Stored: int64(len(raw)), NowNs: w.clock.Now().UnixNano(), Holder: sender, Alive: alive, Pieces: s.Header.Pieces, Stream: w.stream, Again: w.asked}
	w.apply(e)
	for i, r := range e.Results {
		require.Equal(w.t, proto.PieceAccepted, r.State, "piece %d %q", i, pieces[i].Path)
	}
	w.wake()
	return w.seq
}

// large stores an object in ranges of n bytes each and a seal; holes of the description are left out.
func (w *world) large(dataset, path string, content []byte, n int, holes ...proto.Extent) {
	w.t.Helper()
	h := w.dataset(dataset)
	w.upload++
	base := segment.Piece{Path: path, Upload: w.upload, Epoch: proto.Epoch{Generation: 1, Counter: uint64(w.upload)}, Parent: w.current(h.Dataset, path)}
	for off := 0; off < len(content); off += n {
		run := content[off:min(off+n, len(content))]
		if len(holes) > 0 && bytes.Count(run, []byte{0}) == len(run) {
			continue
		}
		p := base
		p.Kind, p.Offset, p.Length, p.ObjectSize, p.Blocks = segment.PieceRange, int64(off), uint32(len(run)), int64(len(content)), proto.BlockDigests(nil, run)
		w.store(h, h.ID, []segment.Piece{p}, run)
	}
	p := base
	p.Kind = segment.PieceSeal
	p.Desc = obj{path: path, kind: proto.KindFile, content: content, extents: holes}.desc()
	w.store(h, h.ID, []segment.Piece{p}, nil)
}

// meta gives a path a new mode.
func (w *world) meta(dataset string, o obj) {
	w.t.Helper()
	h := w.dataset(dataset)
	w.upload++
	w.store(h, h.ID, []segment.Piece{{Kind: segment.PieceMeta, Path: o.path, Upload: w.upload, Epoch: proto.Epoch{Generation: 1, Counter: uint64(w.upload)}, Parent: w.current(h.Dataset, o.path), Desc: o.desc()}}, nil)
}

// tree reads what a mirror shows: files by content, "dir", "-> text".
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		rel, err := filepath.Rel(root, p)
		require.NoError(t, err)
		switch {
		case rel == ".":
		case rel == proto.ReservedName:
			return fs.SkipDir
		case d.IsDir():
			out[rel] = "dir"
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			require.NoError(t, err)
			out[rel] = "-> " + to
		default:
			b, err := os.ReadFile(p)
			require.NoError(t, err)
			out[rel] = string(b)
		}
		return nil
	})
	require.NoError(t, err)
	return out
}

// stagedFiles lists what is left staged on a target.
func stagedFiles(t *testing.T, root string) (out []string) {
	t.Helper()
	_ = filepath.WalkDir(filepath.Join(root, proto.ReservedName, target.StageDir), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name()[0] != '.' { // dot files are the driver's own
			out = append(out, filepath.Base(p))
		}
		return nil
	})
	return out
}
