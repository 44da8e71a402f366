package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard"
	"forebay/shard/store"
)

const relay = proto.RelayID(0xf0e1)

// clock is a hand-moved clock.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// rig is a set of stores with everything around it, and what a ledger would remember.
type rig struct {
	*store.Set
	tb     testing.TB
	cfg    store.Config
	fs     vfs.FS
	clock  *clock
	mu     sync.Mutex
	events []store.Event
}

func newRig(tb testing.TB, fs vfs.FS, stores int, change ...func(*store.Config)) *rig {
	tb.Helper()
	r := &rig{tb: tb, fs: fs, clock: &clock{now: time.Unix(1e9, 0)}}
	r.cfg = store.Config{Relay: relay, Tend: -1, Deadline: 20 * time.Second}
	for i := range stores {
		r.cfg.Paths = append(r.cfg.Paths, fmt.Sprintf("/disk%d/forebay", i+1))
	}
	for _, f := range change {
		f(&r.cfg)
	}
	for _, p := range r.cfg.Paths { // the disks are mounted
		disk := fs.PathDir(p)
		_ = fs.MkdirAll(disk, 0o755) // a fault file system may not let it; what follows then shows it
		if d, err := fs.OpenDir(fs.PathDir(disk)); err == nil {
			_ = d.Sync()
			_ = d.Close()
		}
	}
	r.open()
	tb.Cleanup(func() {
		if r.Set != nil {
			_ = r.Close()
		}
	})
	return r
}

func (r *rig) open() {
	r.tb.Helper()
	set, err := store.Open(r.cfg, store.Deps{FS: r.fs, Now: r.clock.Now, Event: r.note})
	require.NoError(r.tb, err)
	r.Set = set
}

// reopen is a restart of the relay that remembers the stores, on the same or another file system.
func (r *rig) reopen(fs vfs.FS) {
	r.tb.Helper()
	r.cfg.Known = r.Identities()
	require.NoError(r.tb, r.Close())
	r.fs = fs
	r.open()
}

func (r *rig) note(e store.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// told returns the events of a kind so far.
func (r *rig) told(kind store.EventKind) []store.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.events), func(e store.Event) bool { return e.Kind != kind })
}

// revive lets the time pass after which failed stores are tried again.
func (r *rig) revive() {
	r.clock.Advance(2 * time.Minute)
	r.Tend()
}

func (r *rig) put(items ...store.Item) []store.Placement {
	r.tb.Helper()
	placements, err := r.Put(context.Background(), items)
	require.NoError(r.tb, err)
	require.Len(r.tb, placements, len(items))
	return placements
}

// wants reads a segment and holds it against what was put.
func (r *rig) wants(it store.Item, p store.Placement) store.Read {
	r.tb.Helper()
	got, err := r.Get(context.Background(), it.ID, p)
	require.NoError(r.tb, err, "segment %s", it.ID)
	require.Equal(r.tb, it.Raw, got.Segment.Raw, "segment %s", it.ID)
	return got
}

// ids lists the segments that any store holds, each once.
func (r *rig) ids() []proto.SegmentID {
	r.tb.Helper()
	seen := make(map[proto.SegmentID]bool)
	for _, s := range r.States() {
		if s.State == store.OK || s.State == store.Degraded {
			require.NoError(r.tb, r.Each(context.Background(), s.ID, func(f store.Found) error {
				seen[f.ID] = true
				return nil
			}))
		}
	}
	var out []proto.SegmentID
	for id := range seen {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b proto.SegmentID) int { return slices.Compare(a.Bytes(), b.Bytes()) })
	return out
}

// item makes a stamped segment with a payload of n random bytes that depend on seq alone.
func item(tb testing.TB, seq uint64, n int) store.Item {
	tb.Helper()
	payload := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seq), byte(seq >> 8), 3}).Read(payload)
	desc := proto.Desc{Kind: proto.KindFile, Size: int64(n), Digest: proto.ContentDigest(payload)}
	raw, err := segment.Encode(segment.Header{
		Dataset: proto.Dataset{Cluster: "primary", Name: "media"},
		Pieces: []segment.Piece{{
			Kind: segment.PieceObject, Path: fmt.Sprintf("dir/%d", seq), Length: uint32(n), Blocks: proto.BlockDigests(nil, payload), Desc: &desc,
		}},
	}, payload)
	require.NoError(tb, err)
	id := proto.SegmentID{Relay: relay, Seq: seq}
	segment.Stamp(raw, id)
	return store.Item{ID: id, Raw: raw}
}

func items(tb testing.TB, first uint64, count, n int) []store.Item {
	tb.Helper()
	var out []store.Item
	for i := range count {
		out = append(out, item(tb, first+uint64(i), n+i))
	}
	return out
}

// tables lists a store's table files.
func tables(tb testing.TB, fs vfs.FS, path string) []string {
	tb.Helper()
	dir := fs.PathJoin(path, "db")
	names, err := fs.List(dir)
	require.NoError(tb, err)
	var out []string
	for _, n := range names {
		if strings.HasSuffix(n, ".sst") {
			out = append(out, fs.PathJoin(dir, n))
		}
	}
	slices.Sort(out)
	return out
}

func coding(s string) func(*store.Config) {
	return func(c *store.Config) {
		g, err := shard.ParseGeometry(s)
		if err != nil {
			panic(err)
		}
		c.Coding = g
	}
}

func ballast(n int64) func(*store.Config) { return func(c *store.Config) { c.Ballast = n } }
