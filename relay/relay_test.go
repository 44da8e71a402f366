package relay

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/ledger/disk"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard"
)

// clock is a wall clock that tests move.
type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

type rig struct {
	t     *testing.T
	cfg   Config
	clock *clock
	relay *Relay
	flush Flusher // nil: none
	fs    disk.FS // nil: the operating system's
	stop  func()
	// driven is set where what the relay does in the background would race with the test. Only eventually does it then.
	driven bool
}

func testConfig(t *testing.T, stores int) Config {
	dir := t.TempDir()
	c := Config{Name: "relay-t", Data: filepath.Join(dir, "data"), Capacity: 1 << 30, High: 0.85, Low: 0.7, Suspicion: 3 * time.Second,
		Coding: shard.Default(stores), Software: "test",
		Links: []Link{{Name: "l1", From: proto.Dataset{Cluster: "primary", Name: "media"}, Target: "dir:/nowhere", To: "nas", Coalesce: true, Grace: 24 * time.Hour}}}
	for i := range stores {
		c.Stores = append(c.Stores, filepath.Join(dir, fmt.Sprintf("store%d", i)))
		require.NoError(t, os.MkdirAll(c.Stores[i], 0o700))
	}
	return c
}

// start opens and runs a relay; the rig can stop it and start it again on the same directories.
func start(t *testing.T, cfg Config) *rig {
	return (&rig{t: t, cfg: cfg, clock: &clock{}}).begin()
}

// startDriven opens a relay that does nothing in the background.
func startDriven(t *testing.T, cfg Config) *rig {
	return (&rig{t: t, cfg: cfg, clock: &clock{}, driven: true}).begin()
}

func (g *rig) begin() *rig {
	g.up()
	g.t.Cleanup(func() { g.down() })
	return g
}

func (g *rig) up() {
	r, err := Open(g.cfg, Deps{Log: zerolog.Nop(), Now: g.clock.now, FS: g.fs, Driven: g.driven})
	require.NoError(g.t, err)
	if g.flush != nil {
		r.SetFlusher(g.flush)
	}
	g.relay = r
	if g.driven {
		g.stop = sync.OnceFunc(func() { require.NoError(g.t, r.Close()) })
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }() // ended by down
	g.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(g.t, <-done)
		require.NoError(g.t, r.Close())
	})
}

func (g *rig) down() { g.stop() }

// peer is an agent as the relay sees it.
type peer struct {
	g      *rig
	node   string
	s      proto.SessionID
	holder proto.HolderID
	index  string
	empty  bool // it has found nothing at all
}

func (g *rig) join(node string) *peer {
	p := &peer{g: g, node: node, index: "i1"}
	p.hello()
	return p
}

func (p *peer) hello() {
	rep, err := p.g.relay.Hello(context.Background(), proto.Hello{Version: proto.Version, Cluster: "primary", Node: p.node, Instance: "inst-" + p.node,
		Roots: []proto.Root{{Dataset: "media", Path: "/srv/media", Index: p.index}}, ClockNs: p.g.clock.now().UnixNano()}, "127.0.0.1", "127.0.0.1:1")
	require.NoError(p.g.t, err)
	p.s, p.holder = rep.Session, rep.Holders[0]
}

// followed is that a holder has followed the feed with the index that it has now.
func (g *rig) followed(id proto.HolderID, to proto.VersionID) map[proto.HolderID]ledger.Followed {
	h, err := ledger.Holder(g.relay.Ledger(), id)
	require.NoError(g.t, err)
	return map[proto.HolderID]ledger.Followed{id: {IndexGen: h.IndexGen, Cursor: to}}
}

func (p *peer) poll(st proto.RootStatus) proto.PollReply {
	st.Holder = p.holder
	if st.Objects == 0 && !p.empty {
		st.Objects = 1 // some that the test is not about
	}
	rep, err := p.g.relay.Poll(context.Background(), proto.Poll{Session: p.s, ClockNs: p.g.clock.now().UnixNano(), Roots: []proto.RootStatus{st}})
	require.NoError(p.g.t, err)
	return rep
}

func (p *peer) claim(c proto.Claim) proto.ClaimAnswer {
	rep, err := p.g.relay.Claim(context.Background(), proto.ClaimBatch{Session: p.s, Holder: p.holder, Claims: []proto.Claim{c}})
	require.NoError(p.g.t, err)
	return rep.Answers[0]
}

func (p *peer) send(payload []byte, pieces ...segment.Piece) (proto.SegmentReply, error) {
	raw, err := segment.Encode(segment.Header{Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Pieces: pieces}, payload)
	require.NoError(p.g.t, err)
	return p.g.relay.Segment(context.Background(), p.s, raw)
}

// put uploads a small file and returns its version.
func (p *peer) put(path, content string, parent proto.VersionID) proto.VersionID {
	c := proto.Claim{Path: path, Kind: proto.KindFile, Size: int64(len(content)), Parent: parent}
	a := p.claim(c)
	require.Equal(p.g.t, proto.VerdictSend, a.Verdict, "claim of %s", path)
	rep, err := p.send([]byte(content), object(path, content, a))
	require.NoError(p.g.t, err)
	require.Equal(p.g.t, proto.PieceAccepted, rep.Pieces[0].State)
	return rep.Pieces[0].Version
}

func object(path, content string, a proto.ClaimAnswer) segment.Piece {
	b := []byte(content)
	return segment.Piece{Kind: segment.PieceObject, Path: path, Upload: a.Upload, Epoch: a.Epoch, Parent: a.Version, Length: uint32(len(b)),
		Blocks: proto.BlockDigests(nil, b), Desc: &proto.Desc{Kind: proto.KindFile, Size: int64(len(b)), Digest: proto.ContentDigest(b), Meta: proto.Meta{Mode: 0o644, MtimeNs: 1}}}
}

func (p *peer) have(v proto.VersionID) {
	require.NoError(p.g.t, reported(p.g.relay.Report(context.Background(), proto.Report{Session: p.s, Holder: p.holder, Have: []proto.HaveEntry{{Version: v, MtimeNs: 1}}})))
}

func (p *peer) gone(path string, v proto.VersionID) {
	require.NoError(p.g.t, reported(p.g.relay.Report(context.Background(), proto.Report{Session: p.s, Holder: p.holder, First: true, Gone: []proto.GoneEntry{{Path: path, Version: v}}, ScanDone: true, ScanUp: p.g.relay.up()})))
}

func (g *rig) object(path string) ledger.ObjectRow {
	d, err := ledger.DatasetByName(g.relay.Ledger(), proto.Dataset{Cluster: "primary", Name: "media"})
	require.NoError(g.t, err)
	o, _, err := ledger.Object(g.relay.Ledger(), d.ID, path)
	require.NoError(g.t, err)
	return o
}

func (g *rig) eventually(what string, fn func() bool) {
	require.Eventually(g.t, func() bool {
		if g.driven && g.relay.Round(context.Background()) != nil {
			return false
		}
		return fn()
	}, 10*time.Second, 10*time.Millisecond, what)
}

func TestSecondHolderIsTheOneObject(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 3))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "hello", 0)
	ans := b.claim(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 5, MtimeNs: 99})
	require.Equal(t, proto.VerdictHash, ans.Verdict)
	ans = b.claim(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 5, MtimeNs: 99, HasDigest: true, Digest: ans.Digest})
	require.Equal(t, proto.VerdictHave, ans.Verdict)
	require.Equal(t, v, ans.Version)
	require.Len(t, g.object("x").Holders, 2)
	st, err := g.relay.Status(context.Background())
	require.NoError(t, err)
	require.EqualValues(t, 5, st.Cache.AckedBytes)
	require.EqualValues(t, 0, st.Cache.WastedBytes)
}

func TestTakeoverGoesOnFromWhatIsAcknowledged(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 3)
	cfg.Suspicion = time.Minute // on a busy machine agents are silent for seconds here
	g := start(t, cfg)
	a, b := g.join("a"), g.join("b")
	content := make([]byte, 20<<20)
	for i := range content {
		content[i] = byte(i * 7 >> 9)
	}
	claim := proto.Claim{Path: "big", Kind: proto.KindFile, Size: int64(len(content))}
	first := a.claim(claim)
	require.Equal(t, proto.VerdictSend, first.Verdict)
	rng := func(ans proto.ClaimAnswer, off, n int) segment.Piece {
		return segment.Piece{Kind: segment.PieceRange, Path: "big", Upload: ans.Upload, Epoch: ans.Epoch, Offset: int64(off), Length: uint32(n),
			Blocks: proto.BlockDigests(nil, content[off:off+n]), ObjectSize: int64(len(content))}
	}
	rep, err := a.send(content[:8<<20], rng(first, 0, 8<<20))
	require.NoError(t, err)
	require.Equal(t, proto.PieceAccepted, rep.Pieces[0].State)

	require.Equal(t, proto.VerdictLeased, b.claim(claim).Verdict)
	g.relay.EndSession(a.s, "its connection was lost")
	require.Len(t, b.poll(proto.RootStatus{}).Ended, 1, "the other holder is told")
	second := b.claim(claim)
	require.Equal(t, proto.VerdictSend, second.Verdict)
	require.Equal(t, first.Upload, second.Upload)
	require.True(t, first.Epoch.Less(second.Epoch))
	require.Equal(t, []proto.Range{{Offset: 0, Length: 8 << 20}}, second.Have)

	// The first one wakes up: nothing it sends changes anything.
	a.hello()
	late, err := a.send(content[8<<20:16<<20], rng(first, 8<<20, 8<<20))
	require.NoError(t, err)
	require.Equal(t, proto.PieceStale, late.Pieces[0].State)

	_, err = b.send(content[8<<20:16<<20], rng(second, 8<<20, 8<<20))
	require.NoError(t, err)
	seal := segment.Piece{Kind: segment.PieceSeal, Path: "big", Upload: second.Upload, Epoch: second.Epoch,
		Desc: &proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content)}}
	missing, err := b.send(nil, seal)
	require.NoError(t, err)
	require.Equal(t, proto.PieceMissing, missing.Pieces[0].State)
	second = b.claim(claim)
	require.Equal(t, []proto.Range{{Offset: 0, Length: 16 << 20}}, second.Have)
	seal.Epoch = second.Epoch
	last := rng(second, 16<<20, 4<<20)
	seal.At = last.Length
	done, err := b.send(content[16<<20:], last, seal)
	require.NoError(t, err)
	require.Equal(t, proto.PieceAccepted, done.Pieces[1].State)
	require.NotZero(t, done.Pieces[1].Version)

	g.eventually("the takeover is an event", func() bool {
		evs, err := g.relay.Events(context.Background(), 0, 1000, 0)
		require.NoError(t, err)
		for _, e := range evs {
			if e.Kind == "takeover" && e.Fields["from"] == "a" && e.Fields["to"] == "b" && e.Fields["offset"] == fmt.Sprint(8<<20) {
				return true
			}
		}
		return false
	})
}

func TestPrefixThatDiffersIsNeverCompleted(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	mine, other := make([]byte, 10<<20), make([]byte, 10<<20)
	other[5] = 1
	claim := proto.Claim{Path: "big", Kind: proto.KindFile, Size: int64(len(mine))}
	first := a.claim(claim)
	_, err := a.send(mine[:8<<20], segment.Piece{Kind: segment.PieceRange, Path: "big", Upload: first.Upload, Epoch: first.Epoch, Length: 8 << 20,
		Blocks: proto.BlockDigests(nil, mine[:8<<20]), ObjectSize: int64(len(mine))})
	require.NoError(t, err)
	g.relay.EndSession(a.s, "its connection was lost")
	second := b.claim(claim)
	tail := other[8<<20:]
	rep, err := b.send(tail, segment.Piece{Kind: segment.PieceRange, Path: "big", Upload: second.Upload, Epoch: second.Epoch, Offset: 8 << 20, Length: 2 << 20,
		Blocks: proto.BlockDigests(nil, tail), ObjectSize: int64(len(other))},
		segment.Piece{Kind: segment.PieceSeal, Path: "big", Upload: second.Upload, Epoch: second.Epoch, At: 2 << 20,
			Desc: &proto.Desc{Kind: proto.KindFile, Size: int64(len(other)), Digest: proto.ContentDigest(other)}})
	require.NoError(t, err)
	require.Equal(t, proto.PieceMismatch, rep.Pieces[1].State)
	again := b.claim(claim)
	require.Equal(t, proto.VerdictSend, again.Verdict)
	require.NotEqual(t, second.Upload, again.Upload, "it starts anew")
	require.Empty(t, again.Have)
}

func TestLaggingHolderChangesNothing(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v1 := a.put("x", "one", 0)
	b.have(v1)
	v2 := a.put("x", "two", v1)
	require.Greater(t, v2, v1)
	old := proto.Claim{Path: "x", Kind: proto.KindFile, Size: 3, Digest: proto.ContentDigest([]byte("one")), HasDigest: true}
	require.Equal(t, proto.VerdictLags, b.claim(old).Verdict)
	require.Equal(t, v2, g.object("x").Current.Version)

	// When the one live holder of the newer content puts the older one back, that is a change like any other.
	old.Parent = v2
	ans := a.claim(old)
	require.Equal(t, proto.VerdictSend, ans.Verdict)
}

func TestForkThatLosesIsListedAndChangesNothing(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b, c := g.join("a"), g.join("b"), g.join("c")
	v := a.put("x", "one", 0)
	b.have(v)
	fork := proto.Claim{Path: "x", Kind: proto.KindFile, Size: 4, Digest: proto.ContentDigest([]byte("fork")), HasDigest: true, MtimeNs: 1 << 60}
	require.Equal(t, proto.VerdictDivergent, c.claim(fork).Verdict, "two live holders outvote one")
	require.Equal(t, v, g.object("x").Current.Version)
}

func TestDeleteNeedsEveryHolder(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("dir/x", "one", 0)
	b.have(v)
	a.poll(proto.RootStatus{})
	a.gone("dir/x", v)
	g.eventually("the path is under-held", func() bool {
		fs, err := g.relay.Failures("l1")
		require.NoError(t, err)
		return len(fs) == 1 && fs[0].Kind == proto.FailUnderHeld
	})
	require.Equal(t, proto.KindFile, g.object("dir/x").Current.Kind)
	b.poll(proto.RootStatus{})
	b.gone("dir/x", v)
	g.eventually("it is a tombstone", func() bool { return g.object("dir/x").Current.Kind == proto.KindTombstone })
	g.eventually("it is off the list", func() bool {
		fs, err := g.relay.Failures("l1")
		require.NoError(t, err)
		return len(fs) == 0
	})
	// A holder that comes back with the old content from a wiped index neither resurrects nor regresses it.
	c := g.join("c")
	old := proto.Claim{Path: "dir/x", Kind: proto.KindFile, Size: 3, Digest: proto.ContentDigest([]byte("one")), HasDigest: true}
	require.Equal(t, proto.VerdictLags, c.claim(old).Verdict)
}

// A directory is not deleted before what is in it: holders report both in several messages, and may end between two of them.
// Links could not delete it, and would give it up.
func TestDirectoryIsDeletedAfterWhatIsInIt(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	ans := a.claim(proto.Claim{Path: "dir", Kind: proto.KindDir})
	require.Equal(t, proto.VerdictSend, ans.Verdict)
	rep, err := a.send(nil, segment.Piece{Kind: segment.PieceObject, Path: "dir", Upload: ans.Upload, Epoch: ans.Epoch, Parent: ans.Version,
		Desc: &proto.Desc{Kind: proto.KindDir, Meta: proto.Meta{Mode: 0o755, MtimeNs: 1}}})
	require.NoError(t, err)
	require.Equal(t, proto.PieceAccepted, rep.Pieces[0].State)
	dir, x := rep.Pieces[0].Version, a.put("dir/x", "one", 0)
	other := a.put("dir-and-more", "two", 0)
	b.have(dir)
	b.have(x)
	a.poll(proto.RootStatus{})
	b.poll(proto.RootStatus{})
	a.gone("dir", dir)
	a.gone("dir/x", x)
	b.gone("dir", dir)
	g.eventually("both are waited for", func() bool {
		fs, err := g.relay.Failures("l1")
		require.NoError(t, err)
		return len(fs) == 2 && strings.Contains(fs[0].Reason, `"x" in it is not deleted yet`)
	})
	require.Equal(t, proto.KindDir, g.object("dir").Current.Kind)
	b.gone("dir/x", x)
	g.eventually("both are tombstones", func() bool {
		return g.object("dir").Current.Kind == proto.KindTombstone && g.object("dir/x").Current.Kind == proto.KindTombstone
	})
	require.Greater(t, g.object("dir").Current.Version, g.object("dir/x").Current.Version)
	require.Equal(t, other, g.object("dir-and-more").Current.Version)
}

func TestAwayHolderBlocksDeletesForTheGrace(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	b.have(v)
	g.relay.EndSession(b.s, "silent")
	a.poll(proto.RootStatus{})
	a.gone("x", v)
	g.eventually("blocked", func() bool {
		fs, err := g.relay.Failures("l1")
		require.NoError(t, err)
		return len(fs) == 1
	})
	require.Equal(t, proto.KindFile, g.object("x").Current.Kind)
	g.clock.advance(25 * time.Hour)
	a.hello() // its session ended in the jump
	a.poll(proto.RootStatus{})
	a.gone("x", v)
	g.eventually("deleted after the grace", func() bool { return g.object("x").Current.Kind == proto.KindTombstone })
}

func TestTimeInWhichTheRelayWasDownIsNoAbsence(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	b.have(v)
	a.gone("x", v)
	g.down()
	g.clock.advance(48 * time.Hour)
	g.up()
	a.hello() // b comes a little later
	a.poll(proto.RootStatus{})
	a.gone("x", v)
	began := g.clock.now()
	g.eventually("judged", func() bool {
		d, err := ledger.DatasetByName(g.relay.Ledger(), proto.Dataset{Cluster: "primary", Name: "media"})
		require.NoError(t, err)
		round := g.relay.blocked.get(d.ID)
		return round.began.After(began) && round.count == 1
	})
	require.Equal(t, proto.KindFile, g.object("x").Current.Kind)
}

func TestRestartKeepsWhatIsAcknowledgedAndFencesTheRest(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 3))
	a := g.join("a")
	v := a.put("x", "hello", 0)
	open := a.claim(proto.Claim{Path: "y", Kind: proto.KindFile, Size: 1})
	old := a.s
	g.down()
	g.up()
	_, err := g.relay.Claim(context.Background(), proto.ClaimBatch{Session: old, Holder: a.holder})
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	a.hello()
	rep, err := a.send([]byte("z"), object("y", "z", open))
	require.NoError(t, err)
	require.Equal(t, proto.PieceStale, rep.Pieces[0].State, "an epoch of the generation before")
	require.Equal(t, v, g.object("x").Current.Version)
	d, err := ledger.DatasetByName(g.relay.Ledger(), proto.Dataset{Cluster: "primary", Name: "media"})
	require.NoError(t, err)
	row, ok, err := ledger.Version(g.relay.Ledger(), d.ID, v)
	require.NoError(t, err)
	require.True(t, ok)
	seg, err := g.relay.ReadSegment(context.Background(), row.Content.Segment)
	require.NoError(t, err)
	require.Equal(t, "hello", string(seg.Payload[row.Content.At:row.Content.At+row.Content.Length]))
}

func TestTwoRelaysOnOneDataDirectory(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	_, err := Open(g.cfg, Deps{Log: zerolog.Nop(), Now: time.Now})
	require.ErrorContains(t, err, "in use by another relay")
}

func TestTwinNodeIsRefused(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	g.join("a")
	_, err := g.relay.Hello(context.Background(), proto.Hello{Version: proto.Version, Cluster: "primary", Node: "a", Instance: "other",
		Roots: []proto.Root{{Dataset: "media", Path: "/srv/media", Index: "i"}}}, "", "127.0.0.1:2")
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	require.ErrorContains(t, err, "must not share a node name")
}

func TestDatasetWithoutLinkIsNotUploaded(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 1)
	cfg.Links = nil
	g := start(t, cfg)
	a := g.join("a")
	require.Equal(t, proto.VerdictUnwanted, a.claim(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 1}).Verdict)
}

func TestFullCacheRefuses(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 1)
	cfg.Capacity = 10 << 20
	g := start(t, cfg)
	a := g.join("a")
	ans := a.claim(proto.Claim{Path: "huge", Kind: proto.KindFile, Size: 1 << 30})
	require.Equal(t, proto.VerdictRefused, ans.Verdict)
	require.Contains(t, ans.Reason, "cache.capacity")
	first := a.claim(proto.Claim{Path: "one", Kind: proto.KindFile, Size: 6 << 20})
	require.Equal(t, proto.VerdictSend, first.Verdict)
	ans = a.claim(proto.Claim{Path: "two", Kind: proto.KindFile, Size: 6 << 20})
	require.Equal(t, proto.VerdictRefused, ans.Verdict, "what is granted is reserved")
}

func TestSparseSegmentsAreRepackedAboveLowWater(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 1)
	cfg.Capacity, cfg.Low, cfg.High = 40<<20, 0.05, 0.99
	g := start(t, cfg)
	a := g.join("a")
	var confirmed []proto.VersionID
	var kept []string
	for s := range 3 {
		var payload []byte
		var pieces []segment.Piece
		for i := range 8 {
			path := fmt.Sprintf("s%d/%d", s, i)
			content := make([]byte, 900<<10)
			content[0], content[1] = byte(s), byte(i)
			ans := a.claim(proto.Claim{Path: path, Kind: proto.KindFile, Size: int64(len(content))})
			p := object(path, string(content), ans)
			p.At = uint32(len(payload))
			payload = append(payload, content...)
			pieces = append(pieces, p)
		}
		rep, err := a.send(payload, pieces...)
		require.NoError(t, err)
		for i, p := range rep.Pieces {
			require.Equal(t, proto.PieceAccepted, p.State)
			if i == 3 {
				kept = append(kept, pieces[i].Path)
			} else {
				confirmed = append(confirmed, p.Version)
			}
		}
	}
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	require.NoError(t, g.relay.Ledger().Update(&ledger.Confirm{Link: l.ID, Versions: confirmed, NowNs: 1}))
	g.eventually("three segments become one", func() bool {
		m, err := ledger.ReadMeta(g.relay.Ledger())
		require.NoError(t, err)
		return m.Segments == 1
	})
	for s, path := range kept {
		v, ok, err := ledger.Version(g.relay.Ledger(), l.Dataset, g.object(path).Current.Version)
		require.NoError(t, err)
		require.True(t, ok)
		seg, err := g.relay.ReadSegment(context.Background(), v.Content.Segment)
		require.NoError(t, err)
		b := seg.Payload[v.Content.At : v.Content.At+v.Content.Length]
		require.Equal(t, v.Desc.Digest, proto.ContentDigest(b))
		require.Equal(t, []byte{byte(s), 3}, b[:2])
	}
}

func TestWaitIsForWhoWentAwayAMomentAgo(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	settled := proto.RootStatus{ScanToken: 1}
	req, err := g.relay.RequestScan("l1")
	require.NoError(t, err)
	settled.ScanToken = req.Token
	a.poll(settled)
	b.poll(settled)
	w, err := g.relay.Wait("l1", req.Token, true)
	require.NoError(t, err)
	require.True(t, w.Done)

	g.relay.EndSession(b.s, "its connection was lost")
	g.eventually("b is waited for", func() bool {
		w, err := g.relay.Wait("l1", req.Token, true)
		require.NoError(t, err)
		return !w.Done && len(w.WaitingFor) == 1
	})
	g.clock.advance(time.Minute)
	a.hello()
	a.poll(settled)
	w, err = g.relay.Wait("l1", req.Token, true)
	require.NoError(t, err)
	require.True(t, w.Done, "but not for ever: %v", w.WaitingFor)
}

// reported is the error of a report.
func reported(_ proto.ReportReply, err error) error { return err }
