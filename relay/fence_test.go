package relay

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard/store"
)

// A grant comes after the group whose rows are being written, or a piece of the lease before could be written after it (I7).
func TestGrantWaitsForTheGroupThatIsBeingWritten(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	ingest := guard{g.relay}
	ingest.Enter()
	leave := sync.OnceFunc(ingest.Leave)
	defer leave()
	granted := make(chan proto.ClaimReply, 1)
	go func() { // ends when the claim is answered
		rep, err := g.relay.Claim(context.Background(), proto.ClaimBatch{Session: a.s, Holder: a.holder, Claims: []proto.Claim{{Path: "x", Kind: proto.KindFile, Size: 1}}})
		if err != nil {
			t.Errorf("claim: %v", err)
		}
		granted <- rep
	}()
	g.eventually("the claim is answered, or waits for its turn", func() bool {
		if len(granted) > 0 {
			return true
		}
		if g.relay.fence.TryRLock() { // nobody waits for all of it
			g.relay.fence.RUnlock()
			return false
		}
		return true
	})
	require.Empty(t, granted, "it was granted beside a group that is being written")
	leave()
	require.Equal(t, proto.VerdictSend, (<-granted).Answers[0].Verdict)
}

// A ledger from an older copy of the data directory knows a lower generation than the stores. What is granted then must be
// above everything that was ever granted (I7).
func TestALedgerThatWasPutBackStartsAboveItsStores(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	g.down()
	old := filepath.Join(t.TempDir(), "old")
	require.NoError(t, os.CopyFS(old, os.DirFS(g.cfg.Data)))
	for range 3 {
		g.up()
		g.down()
	}
	g.up()
	highest := g.join("a").claim(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 1}).Epoch
	g.down()
	require.NoError(t, os.RemoveAll(g.cfg.Data))
	require.NoError(t, os.CopyFS(g.cfg.Data, os.DirFS(old)))
	g.up()
	after := g.join("a").claim(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 1}).Epoch
	require.True(t, highest.Less(after), "%s was granted, and then %s", highest, after)
}

// forgetful is a relay of which only the ingest runs, on a disk whose part for the ledger can be made to take nothing durably any
// more. after opens it anew as a power cut leaves it.
func forgetful(t *testing.T) (g *rig, lost *atomic.Bool, after func() *rig) {
	t.Helper()
	cfg := testConfig(t, 1)
	cfg.Stores = []string{"/store"}
	cfg.Ballast = 1
	mem := vfs.NewCrashableMem()
	for _, dir := range []string{"/store", filepath.Join(cfg.Data, "ledger")} { // there before the relay, as on a real disk
		require.NoError(t, mem.MkdirAll(dir, 0o700))
		for ; dir != "/"; dir = filepath.Dir(dir) {
			d, err := mem.OpenDir(filepath.Dir(dir))
			require.NoError(t, err)
			require.NoError(t, d.Sync())
			require.NoError(t, d.Close())
		}
	}
	lost = new(atomic.Bool)
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if lost.Load() && sync && strings.Contains(op.Path, "ledger") {
			return errorfs.ErrInjected
		}
		return nil
	}))
	open := func(fs vfs.FS) *rig {
		r, err := Open(cfg, Deps{Log: zerolog.Nop(), Now: time.Now, FS: fs})
		require.NoError(t, err)
		return &rig{t: t, cfg: cfg, clock: &clock{}, relay: r}
	}
	g = open(fs)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.relay.ingest.Run(ctx) }() // ends with ctx
	return g, lost, func() *rig {
		cancel()
		<-done
		mem := mem.CrashClone(vfs.CrashCloneCfg{})
		_ = g.relay.close() // what cannot be written any more cannot be closed properly either
		g := open(mem)
		t.Cleanup(func() { require.NoError(t, g.relay.close()) })
		return g
	}
}

// What let go of a segment must be durable before its shards go: after a power cut in between, the debt is there again and so
// must its bytes be (I1, I2).
func TestSpaceIsFreedOnlyAfterTheLedgerIsDurable(t *testing.T) {
	t.Parallel()
	g, lost, after := forgetful(t)
	v := g.join("a").put("x", "hello", 0)
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)

	lost.Store(true)
	require.Error(t, g.relay.ledger.Update(&ledger.Confirm{Link: l.ID, Versions: []proto.VersionID{v}, NowNs: 1}), "it is applied and not durable")
	free, err := ledger.FreeList(g.relay.ledger, 10)
	require.NoError(t, err)
	require.NotEmpty(t, free, "the segment waits to be freed")
	require.Error(t, g.relay.freeSegments(t.Context()))

	g = after()
	_, owed, err := ledger.OwedAt(g.relay.ledger, l.ID, v)
	require.NoError(t, err)
	require.True(t, owed)
	row, _, err := ledger.Version(g.relay.ledger, l.Dataset, v)
	require.NoError(t, err)
	seg, err := g.relay.ReadSegment(t.Context(), row.Content.Segment)
	require.NoError(t, err)
	require.Equal(t, "hello", string(seg.Payload))
}

// The same of shards that no row names: the row may be back after a power cut.
func TestShardsWithoutRowsAreFreedOnlyAfterTheLedgerIsDurable(t *testing.T) {
	t.Parallel()
	g, lost, after := forgetful(t)
	v := g.join("a").put("x", "hello", 0)
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	row, _, err := ledger.Version(g.relay.ledger, l.Dataset, v)
	require.NoError(t, err)
	seq := row.Content.Segment
	require.NoError(t, g.relay.ledger.Apply(&ledger.Confirm{Link: l.ID, Versions: []proto.VersionID{v}, NowNs: 1}, &ledger.FreeSegments{Seqs: []uint64{seq}}))
	var shards []store.At
	for _, st := range g.relay.stores.States() {
		require.NoError(t, g.relay.stores.Each(t.Context(), st.ID, func(f store.Found) error {
			shards = append(shards, store.At{Store: st.ID, Found: f})
			return nil
		}))
	}
	require.NotEmpty(t, shards)
	lost.Store(true)
	_, err = g.relay.freeUnnamed(t.Context(), shards)
	require.Error(t, err)

	g = after()
	seg, err := g.relay.ReadSegment(t.Context(), seq)
	require.NoError(t, err)
	require.Equal(t, "hello", string(seg.Payload))
}

// A memo that is ahead of the ledger after a power cut would pass for that of a ledger that was put back from an old copy.
func TestMemoIsNotAheadOfADurableLedger(t *testing.T) {
	t.Parallel()
	g, lost, after := forgetful(t)
	g.join("a").put("x", "hello", 0)
	g.relay.keepMemo()
	require.NoError(t, g.relay.ledger.Apply(&ledger.Tick{UpNs: g.relay.up() + int64(time.Hour)}))
	lost.Store(true)
	g.relay.memo.again.Store(true)
	g.relay.keepMemo()
	require.False(t, after().relay.meta.Outdated)
}

// A version whose row is not durable may be gone after a power cut, and its number given to another content. A holder that had
// heard of it would pass that over for ever (I18).
func TestHoldersHearOnlyOfWhatIsDurable(t *testing.T) {
	t.Parallel()
	g, lost, after := forgetful(t)
	a, b := g.join("a"), g.join("b")
	x := a.put("x", "hello", 0)
	c := a.claim(proto.Claim{Path: "y", Kind: proto.KindFile, Size: 3})
	feed := func(p *peer) (proto.FeedReply, error) {
		return g.relay.Feed(t.Context(), proto.FeedRequest{Session: p.s, Dataset: "media", Limit: 10}, false)
	}
	rep, err := feed(b)
	require.NoError(t, err)
	require.Len(t, rep.Items, 1)
	b.have(x)

	lost.Store(true)
	_, err = a.send([]byte("one"), object("y", "one", c))
	require.Error(t, err)
	y := g.object("y").Current.Version
	require.NotZero(t, y, "it is there to be read and not durable")
	_, err = feed(b)
	require.Error(t, err, "the feed")
	_, err = g.relay.Claim(t.Context(), proto.ClaimBatch{Session: b.s, Holder: b.holder, Claims: []proto.Claim{{Path: "y", Kind: proto.KindFile, Size: 3}}})
	require.Error(t, err, "an answer to a claim")

	g = after()
	require.Zero(t, g.object("y").Current.Version)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.relay.ingest.Run(ctx) }() // ends with ctx
	require.Equal(t, y, g.join("b").put("z", "another", 0), "its number is given again")
	cancel()
	require.NoError(t, <-done)
}

// A holder that has followed the feed past a delete may still have the path, as one that was away for longer than the grace:
// without the tombstone its old content would be taken for new (I13, I18).
func TestATombstoneStaysWhileAHolderStillHasThePath(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	b.have(v)
	g.relay.EndSession(b.s, "silent")
	g.clock.advance(25 * time.Hour)
	a.hello()
	a.poll(proto.RootStatus{})
	a.gone("x", v)
	g.eventually("deleted after the grace", func() bool { return g.object("x").Current.Kind == proto.KindTombstone })
	dead := g.object("x").Current.Version

	b.hello()
	old := proto.Claim{Path: "x", Kind: proto.KindFile, Size: 3, Digest: proto.ContentDigest([]byte("one")), HasDigest: true, Parent: v}
	require.Equal(t, proto.VerdictLags, b.claim(old).Verdict)
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	for _, p := range []*peer{a, b} {
		require.NoError(t, g.relay.ledger.Update(&ledger.UpdateNode{Cluster: "primary", Node: p.node, SeenNs: g.clock.now().UnixNano(),
			Cursors: g.followed(p.holder, dead)}))
	}
	require.NoError(t, g.relay.ledger.Update(&ledger.Confirm{Link: l.ID, Versions: []proto.VersionID{v, dead}, NowNs: 1}))
	g.relay.dropTombstones(burialLook)
	require.Equal(t, dead, g.object("x").Current.Version, "b still has it")
	require.Equal(t, proto.VerdictLags, b.claim(old).Verdict)

	b.gone("x", dead)
	g.eventually("b has followed", func() bool { g.relay.dropTombstones(burialLook); return g.object("x").Current.Version == 0 })
	a.put("y", "new", 0) // what nobody remembers holds up no new path (I16)
	a.put("x", "new", 0)
}

// What a stalled link may let go of is what a live holder has; the last copy stays (I1).
func TestTheLastCopyIsNotReleased(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "hello", 0)
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	state := func() ledger.OwedState {
		q, owed, err := ledger.OwedAt(g.relay.ledger, l.ID, v)
		require.NoError(t, err)
		require.True(t, owed)
		return q.State
	}
	g.relay.EndSession(a.s, "its disk is gone")
	require.NoError(t, g.relay.releaseLink(l, 1<<20, false))
	require.Equal(t, ledger.OwedCached, state(), "no live holder has it")
	b.have(v)
	require.NoError(t, g.relay.releaseLink(l, 1<<20, false))
	require.Equal(t, ledger.OwedReleased, state(), "b has it")
}

// A holder whose index was made anew is there again, often with a new disk: what it had is hearsay until it says so again, and is
// neither let go nor counted as held elsewhere (I1).
func TestWhatAnOlderIndexHadIsNotReleased(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	v := a.put("x", "hello", 0)
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	state := func() ledger.OwedState {
		q, owed, err := ledger.OwedAt(g.relay.ledger, l.ID, v)
		require.NoError(t, err)
		require.True(t, owed)
		return q.State
	}
	require.Zero(t, g.relay.onlyCopies())
	a.index = "made anew"
	a.hello()
	a.poll(proto.RootStatus{})
	require.EqualValues(t, 5, g.relay.onlyCopies())
	require.NoError(t, g.relay.releaseLink(l, 1<<20, false))
	require.Equal(t, ledger.OwedCached, state(), "the holder is there, and has not said that it still has it")
	a.have(v)
	require.Zero(t, g.relay.onlyCopies())
	require.NoError(t, g.relay.releaseLink(l, 1<<20, false))
	require.Equal(t, ledger.OwedReleased, state(), "it has said so")
}

// Segments that the ledger does not know are left over from a run before. Those of this run may be on their way
// into the ledger (I1).
func TestWhatThisRunWritesIsNoLeftover(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	now, before := uint64(g.relay.meta.Generation)<<40|77, uint64(g.relay.meta.Generation-1)<<40|77
	g.leave(now, before)
	left := func() (left []uint64) {
		for _, st := range g.relay.stores.States() {
			require.NoError(t, g.relay.stores.Each(t.Context(), st.ID, func(f store.Found) error {
				left = append(left, f.ID.Seq)
				return nil
			}))
		}
		return left
	}
	g.relay.sweepAll()
	g.eventually("the leftover is freed, by whoever took the sweep", func() bool { return !slices.Contains(left(), before) })
	require.Equal(t, []uint64{now}, left())
}

// leave writes segments that nothing names into the stores.
func (g *rig) leave(seqs ...uint64) {
	g.t.Helper()
	a := g.join("a").claim(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 5})
	raw, err := segment.Encode(segment.Header{Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Pieces: []segment.Piece{object("x", "hello", a)}}, []byte("hello"))
	require.NoError(g.t, err)
	for _, seq := range seqs {
		mine := bytes.Clone(raw)
		id := proto.SegmentID{Relay: g.relay.meta.Relay, Seq: seq}
		segment.Stamp(mine, id)
		_, err := g.relay.stores.Put(g.t.Context(), []store.Item{{ID: id, Raw: mine}})
		require.NoError(g.t, err)
	}
}

// What is left over is looked for each hour.
func TestLeftoversAreLookedForByAndBy(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	g.leave(uint64(g.relay.meta.Generation-1)<<40 | 77)
	g.eventually("it is freed", func() bool {
		g.clock.advance(leftoversEvery / 10)
		g.relay.upkeep.ring()
		return g.shards() == 0
	})
}

// What a node tells before it is greeted anew is recorded before, or not at all: else it would undo what the node tells since (I13).
func TestHelloWaitsForTheReportThatIsBeingWritten(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	gone := g.relay.gone.of(a.holder)
	gone.RLock() // as a report does
	written := sync.OnceFunc(gone.RUnlock)
	defer written()
	before := a.s
	greeted := make(chan struct{})
	go func() { // ends when the node is greeted
		defer close(greeted)
		a.hello()
	}()
	g.eventually("it waits", func() bool {
		if gone.TryRLock() {
			gone.RUnlock()
			return false
		}
		return true
	})
	select {
	case <-greeted:
		t.Fatal("it was greeted while a report was being written")
	default:
	}
	_, ok := g.relay.book.Get(before)
	require.True(t, ok)
	written()
	<-greeted
	err := reported(g.relay.Report(context.Background(), proto.Report{Session: before, Holder: a.holder, Gone: []proto.GoneEntry{{Path: "f", Version: 1}}}))
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err), "%v", err)
}

// An index that was made anew is known to the ledger a moment before the session of the old one ends. What that tells in between
// counts for nothing.
func TestReportOfAnIndexThatWasMadeAnew(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	reg := &ledger.RegisterHolder{Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Node: "a", Root: "/srv/media", Index: "i2", Instance: "inst-a"}
	require.NoError(t, g.relay.Ledger().Update(reg))
	require.Equal(t, a.holder, reg.Holder.ID)
	err := reported(g.relay.Report(context.Background(), proto.Report{Session: a.s, Holder: a.holder, ScanDone: true, ScanUp: 1}))
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err), "%v", err)
	_, err = g.relay.Claim(context.Background(), proto.ClaimBatch{Session: a.s, Holder: a.holder, Told: 3, Claims: []proto.Claim{{Path: "x", Kind: proto.KindFile, Size: 1}}})
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err), "%v", err)
	require.NoError(t, g.relay.Ledger().Update(reg))
	require.Zero(t, reg.Holder.ScannedGen)
	require.Zero(t, reg.Holder.Told)
}
