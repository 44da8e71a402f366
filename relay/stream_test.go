package relay

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/relay/arbiter"
)

// stager is a flush whose links can stage, as the test says; what they have staged the test writes to the ledger itself.
type stager struct {
	Flusher
	mu  sync.Mutex
	can map[string]bool
}

func (s *stager) set(link string, can bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.can[link] = can
}

func (s *stager) CanStage(link string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.can[link]
}

func (s *stager) Stalled(link string) bool             { return !s.CanStage(link) }
func (s *stager) Wake(string)                          {}
func (s *stager) Bandwidth() (b proto.BandwidthStatus) { return b }
func (s *stager) Status(string, *proto.LinkStatus)     {}

// streamRig is a relay on one store of 240 MiB: of 204 MiB in use a stream has 64 MiB.
func streamRig(t *testing.T) (*rig, *stager) {
	cfg := testConfig(t, 1)
	cfg.Capacity, cfg.Suspicion = 240<<20, time.Hour // the clock is moved while agents are silent
	cfg.Links = append(cfg.Links, cfg.Links[0])
	cfg.Links[1].Name, cfg.Links[1].Target = "l2", "dir:/elsewhere"
	g := &rig{t: t, cfg: cfg, clock: &clock{}}
	f := &stager{can: map[string]bool{"l1": true, "l2": true}}
	g.flush = f
	g.up()
	t.Cleanup(func() { g.down() })
	return g, f
}

var (
	run8  = bytes.Repeat([]byte("forebay\n"), 1<<20)
	sums8 = proto.BlockDigests(nil, run8)
)

const huge = 1 << 30

func hugeClaim(path string) proto.Claim {
	return proto.Claim{Path: path, Kind: proto.KindFile, Size: huge}
}

// sendRun sends the i-th 8 MiB of an object, for so long as ctx lets it.
func (p *peer) sendRun(ctx context.Context, path string, a proto.ClaimAnswer, i int64) error {
	raw, err := segment.Encode(segment.Header{Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Pieces: []segment.Piece{{Kind: segment.PieceRange, Path: path,
		Upload: a.Upload, Epoch: a.Epoch, Offset: i * 8 << 20, Length: 8 << 20, Blocks: sums8, ObjectSize: huge}}}, run8)
	require.NoError(p.g.t, err)
	rep, err := p.g.relay.Segment(ctx, p.s, raw)
	if err == nil && rep.Pieces[0].State != proto.PieceAccepted {
		err = fmt.Errorf("state %d", rep.Pieces[0].State) // not require: it is called from goroutines too
	}
	return err
}

func (g *rig) linkID(name string) ledger.LinkID {
	row, err := g.relay.linkRow(name)
	require.NoError(g.t, err)
	return row.ID
}

func (g *rig) staged(link string, id proto.UploadID, bytes int64) {
	require.NoError(g.t, g.relay.Ledger().Update(&ledger.StageUpload{Link: g.linkID(link), Upload: id, Durable: bytes}))
}

func (g *rig) upload(id proto.UploadID) ledger.UploadRow {
	u, _, err := ledger.Upload(g.relay.Ledger(), id)
	require.NoError(g.t, err)
	return u
}

func TestStreamKeepsWithinItsAllowance(t *testing.T) {
	t.Parallel()
	g, f := streamRig(t)
	a := g.join("a")
	ans := a.claim(hugeClaim("big"))
	require.Equal(t, proto.VerdictSend, ans.Verdict, ans.Reason)
	ctx := context.Background()
	for _, i := range []int64{0, 1, 2, 4, 5, 6, 7} { // 64 MiB with the gap
		require.NoError(t, a.sendRun(ctx, "big", ans, i))
	}
	require.True(t, g.upload(ans.Upload).Stream)
	waits := func(i int64) {
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, a.sendRun(short, "big", ans, i), context.DeadlineExceeded, "it waits for room")
	}
	waits(8) // what is left is for the gap: all behind it waits for that
	require.NoError(t, a.sendRun(ctx, "big", ans, 3))
	waits(8)
	require.NoError(t, a.sendSmall(), "other objects do not")

	waited := make(chan error, 1)
	go func() { waited <- a.sendRun(ctx, "big", ans, 8) }() // ends when there is room
	var err error
	g.eventually("its agent is asked to send it again", func() bool {
		select {
		case err = <-waited:
			return true
		default:
			g.clock.advance(time.Second)
			return false
		}
	})
	require.Equal(t, proto.ClassOverload, proto.ClassOf(err), "%v", err)

	g.staged("l1", ans.Upload, 40<<20)
	f.set("l2", false)
	require.NoError(t, a.sendRun(ctx, "big", ans, 8), "room is made without the stalled link (I15)")
	u := g.upload(ans.Upload)
	require.EqualValues(t, 40<<20, u.Gone)
	g.eventually("the segments are freed", func() bool {
		m, err := ledger.ReadMeta(g.relay.Ledger())
		return err == nil && m.StoredBytes < 60<<20
	})
	w, err := g.relay.Where("primary/media/big")
	require.NoError(t, err)
	require.True(t, w.Uploading.Streaming)
	require.EqualValues(t, 40<<20, w.Uploading.Released)
}

// A stream goes on without a link whose target is away or that is paused, but not without one that holds: nothing is let go that such a link
// has not got.
func TestStreamWaitsForALinkThatHolds(t *testing.T) {
	t.Parallel()
	g, f := streamRig(t)
	hold := func(yes bool) {
		links := slices.Clone(g.cfg.Links)
		links[1].Hold = yes
		require.NoError(t, g.relay.SetLinks(links))
	}
	hold(true)
	f.set("l2", false)
	a := g.join("a")
	ans := a.claim(hugeClaim("big"))
	for i := range int64(3) {
		require.NoError(t, a.sendRun(t.Context(), "big", ans, i))
	}
	g.staged("l1", ans.Upload, 24<<20)
	require.NoError(t, g.relay.tendStreams())
	require.Zero(t, g.upload(ans.Upload).Freed, "its target is away")
	require.NoError(t, g.relay.Pause("l2", true, 0))
	f.set("l2", true)
	require.NoError(t, g.relay.tendStreams())
	require.Zero(t, g.upload(ans.Upload).Freed, "it is paused")
	hold(false)
	require.NoError(t, g.relay.tendStreams())
	require.EqualValues(t, 24<<20, g.upload(ans.Upload).Freed, "it does not hold any more")
}

func (g *rig) lease(a proto.ClaimAnswer) arbiter.Lease {
	g.relay.tableMu.Lock()
	defer g.relay.tableMu.Unlock()
	return *g.relay.table.Get(a.Upload)
}

// sendSmall uploads a small file.
func (p *peer) sendSmall() error {
	a := p.claim(proto.Claim{Path: "small", Kind: proto.KindFile, Size: 5})
	_, err := p.send([]byte("hello"), object("small", "hello", a))
	return err
}

func TestOneObjectStreamsAtATime(t *testing.T) {
	t.Parallel()
	g, _ := streamRig(t)
	a, b := g.join("a"), g.join("b")
	first := a.claim(hugeClaim("big"))
	require.Equal(t, proto.VerdictSend, first.Verdict)
	second := b.claim(hugeClaim("other"))
	require.Equal(t, proto.VerdictLeased, second.Verdict, "it waits for its turn, and holds up nothing else of its root")
	require.Contains(t, second.Reason, "larger than the cache")
	require.Positive(t, second.RetryAfter)
	require.NoError(t, b.sendSmall())
	g.relay.EndSession(a.s, "its connection was lost")
	require.Equal(t, proto.VerdictSend, b.claim(hugeClaim("other")).Verdict)
}

func TestObjectThatCannotStreamIsRefused(t *testing.T) {
	t.Parallel()
	g, f := streamRig(t)
	f.set("l1", false)
	f.set("l2", false)
	a := g.join("a")
	require.Equal(t, proto.VerdictRefused, a.claim(hugeClaim("big")).Verdict)
	require.Positive(t, g.relay.admission.refusedSize())
	f.set("l2", true)
	require.Equal(t, proto.VerdictSend, a.claim(hugeClaim("big")).Verdict)
}

func TestStreamGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	g, _ := streamRig(t)
	a := g.join("a")
	ans := a.claim(hugeClaim("big"))
	for i := range int64(6) {
		require.NoError(t, a.sendRun(context.Background(), "big", ans, i))
	}
	g.staged("l1", ans.Upload, 32<<20)
	g.staged("l2", ans.Upload, 33<<20)
	g.eventually("what both have is let go", func() bool { return g.upload(ans.Upload).Gone == 32<<20 })
	g.down()
	g.up()
	b := g.join("b")
	again := b.claim(hugeClaim("big"))
	require.Equal(t, proto.VerdictSend, again.Verdict)
	require.Equal(t, ans.Upload, again.Upload)
	require.Equal(t, []proto.Range{{Length: 48 << 20}}, again.Have, "I9")
	require.NoError(t, b.sendRun(context.Background(), "big", again, 6))

	g.staged("l1", ans.Upload, 0)
	g.staged("l2", ans.Upload, 8<<20)
	g.eventually("no target has it any more: it is given up", func() bool { return g.object("big").Upload == 0 })
	fresh := b.claim(hugeClaim("big"))
	require.Equal(t, proto.VerdictSend, fresh.Verdict)
	require.NotEqual(t, ans.Upload, fresh.Upload)
	require.Empty(t, fresh.Have)
}

func TestHolesOfAStreamAreSettled(t *testing.T) {
	t.Parallel()
	g, _ := streamRig(t)
	a := g.join("a")
	ans := a.claim(hugeClaim("big"))
	for i := int64(2); i < 8; i++ {
		require.NoError(t, a.sendRun(context.Background(), "big", ans, i))
	}
	waited := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { waited <- a.sendRun(ctx, "big", ans, 8) }() // ends with ctx
	g.eventually("it waits", func() bool {
		long, _ := g.relay.streaming.still(g.lease(ans), g.upload(ans.Upload), g.clock.now())
		return long > 0
	})
	require.Zero(t, g.upload(ans.Upload).Solid)
	g.clock.advance(streamSolid)
	g.eventually("what its uploader left out is holes", func() bool { return g.upload(ans.Upload).Solid == 64<<20 })
	cancel()
	<-waited
}

// In a small cache the hole before the first data may be larger than what is kept for gaps.
func TestStreamThatBeginsWithALargeHole(t *testing.T) {
	t.Parallel()
	g, _ := streamRig(t)
	g.relay.Tune(time.Hour, 40<<20, 0.85, 0.7) // as a reload does: a stream has 28 MiB
	a := g.join("a")
	ans := a.claim(hugeClaim("big"))
	require.EqualValues(t, 28<<20, g.lease(ans).Allowance)
	first := make(chan error, 1)
	go func() { first <- a.sendRun(t.Context(), "big", ans, 20) }() // ends when it is let in, or refused
	for again := 0; ; {
		var err error
		g.eventually("it is let in, or its agent is asked to send it again", func() bool {
			select {
			case err = <-first:
				return true
			default:
				g.clock.advance(time.Second)
				return false
			}
		})
		if err == nil {
			break
		}
		require.Equal(t, proto.ClassOverload, proto.ClassOf(err), "%v", err)
		again++
		require.Less(t, again, 5)
		go func() { first <- a.sendRun(t.Context(), "big", ans, 20) }() // as above
	}
	require.EqualValues(t, 8<<20, g.upload(ans.Upload).Acked)
}

// In a small cache a stream has most of the room. It begins beside what little cannot be flushed, and what the cache has of it does not
// count twice when its uploader is lost: nobody else could ever send what is missing.
func TestStreamInASmallCacheIsCarriedOn(t *testing.T) {
	t.Parallel()
	g, _ := streamRig(t)
	g.relay.Tune(time.Hour, 40<<20, 0.85, 0.7)
	a, b := g.join("a"), g.join("b")
	require.NoError(t, a.sendSmall())
	ans := a.claim(hugeClaim("big"))
	require.Equal(t, proto.VerdictSend, ans.Verdict, ans.Reason)
	for _, i := range []int64{0, 2} {
		require.NoError(t, a.sendRun(t.Context(), "big", ans, i))
	}
	a.leave()
	ans = b.claim(hugeClaim("big"))
	require.Equal(t, proto.VerdictSend, ans.Verdict, ans.Reason)
	require.Len(t, ans.Have, 2)
	require.NoError(t, b.sendRun(t.Context(), "big", ans, 1), "the gap has its room")
	require.EqualValues(t, 24<<20, g.upload(ans.Upload).Acked)
}

// What was taken for a hole and comes all the same cannot be mended at the targets: the stream begins anew, rather than keep its room for
// ever.
func TestWhatWasTakenForAHoleEndsTheStream(t *testing.T) {
	t.Parallel()
	g, _ := streamRig(t)
	a := g.join("a")
	ans := a.claim(hugeClaim("big"))
	for _, i := range []int64{0, 2} {
		require.NoError(t, a.sendRun(t.Context(), "big", ans, i))
	}
	require.NoError(t, g.relay.Ledger().Update(&ledger.SettleHoles{Upload: ans.Upload, Below: 24 << 20}))
	g.staged("l1", ans.Upload, 24<<20)
	g.staged("l2", ans.Upload, 24<<20)
	g.eventually("what both have is let go", func() bool { return g.upload(ans.Upload).Freed == 24<<20 })
	require.ErrorContains(t, a.sendRun(t.Context(), "big", ans, 0), fmt.Sprintf("state %d", proto.PieceDuplicate), "what is here comes again")
	require.ErrorContains(t, a.sendRun(t.Context(), "big", ans, 1), fmt.Sprintf("state %d", proto.PieceStale))
	require.Zero(t, g.object("big").Upload)
	fresh := a.claim(hugeClaim("big"))
	require.Equal(t, proto.VerdictSend, fresh.Verdict)
	require.Empty(t, fresh.Have)
}

// Nobody asks any more for the content that a stream brings again: it goes.
func TestStreamThatNobodyAsksForAnyMore(t *testing.T) {
	t.Parallel()
	g, _ := streamRig(t)
	a := g.join("a")
	ans := a.claim(hugeClaim("big"))
	require.NoError(t, a.sendRun(t.Context(), "big", ans, 0))
	u := g.upload(ans.Upload)
	require.True(t, u.Stream)
	require.False(t, u.Again)
	u.Again = true // as of a claim for a content that was asked for, by links that are gone
	require.NoError(t, g.relay.freeStream(ans.Upload, u))
	require.Zero(t, g.object("big").Upload)
}

// What came of a stream while the cache had more room may leave none for what comes before it, with nothing else to let go of. Then it is sent
// anew: waiting would not end (I16).
func TestStreamThatLeavesItselfNoRoom(t *testing.T) {
	t.Parallel()
	g, _ := streamRig(t)
	a := g.join("a")
	ans := a.claim(hugeClaim("big"))
	ctx := context.Background()
	for i := range int64(7) {
		require.NoError(t, a.sendRun(ctx, "big", ans, 1+i))
	}
	g.relay.Tune(time.Hour, 60<<20, 0.9, 0.8)
	require.Equal(t, proto.ClassOverload, proto.ClassOf(a.sendRun(ctx, "big", ans, 0)))
	g.eventually("told", func() bool { return len(g.events("stream-ended")) == 1 })
	var again proto.ClaimAnswer
	g.eventually("its room is free", func() bool {
		again = a.claim(hugeClaim("big"))
		return again.Verdict == proto.VerdictSend
	})
	require.NotEqual(t, ans.Upload, again.Upload)
	require.Empty(t, again.Have)
	for i := range int64(3) {
		require.NoError(t, a.sendRun(ctx, "big", again, i))
	}
}

// A stream that finds the stores full of other data waits for these.
func TestStreamWaitsForTheRoomOfOthers(t *testing.T) {
	t.Parallel()
	g, _ := streamRig(t)
	a := g.join("a")
	ans := a.claim(hugeClaim("big"))
	ctx := context.Background()
	require.NoError(t, a.sendRun(ctx, "big", ans, 1))
	a.put("other", blob("other", 8<<20), 0)
	g.relay.Tune(time.Hour, 20<<20, 0.9, 0.8)
	require.Equal(t, proto.ClassOverload, proto.ClassOf(a.sendRun(ctx, "big", ans, 0)))
	require.Empty(t, g.events("stream-ended"))
	g.relay.Tune(time.Hour, 60<<20, 0.9, 0.8)
	require.NoError(t, a.sendRun(ctx, "big", ans, 0))
}

func TestFits(t *testing.T) {
	t.Parallel()
	const mib = int64(1) << 20
	for name, c := range map[string]struct {
		freed, solid, here, off, length, allowance int64
		want                                       bool
	}{
		"what comes next":                                  {0, 0, 16, 16, 16, 64, true},
		"up to the allowance":                              {0, 0, 48, 48, 16, 64, true},
		"and not beyond":                                   {0, 0, 49, 49, 16, 64, false},
		"what is let go counts no more":                    {40, 0, 24, 64, 16, 64, true},
		"a gap has its room kept":                          {0, 0, 32, 48, 16, 64, true},
		"which nobody else takes":                          {0, 0, 33, 50, 16, 64, false},
		"not more than may be on its way":                  {0, 0, 8, 500, 16, 64, true},
		"a hole needs none":                                {0, 48, 32, 48, 16, 64, true},
		"what comes next is taken into a tiny cache":       {0, 0, 0, 0, 16, 8, true},
		"after what was let go too":                        {16, 0, 0, 16, 16, 8, true},
		"but not what lies behind a gap":                   {0, 0, 0, 16, 16, 24, false},
		"unless that is a hole":                            {0, 16, 0, 16, 16, 8, true},
		"nor in a cache that has something of it already":  {0, 0, 4, 4, 16, 8, false},
		"bytes that are counted twice for a moment do not": {0, 0, 24, 16, 16, 64, true},
	} {
		u := ledger.UploadRow{Freed: c.freed * mib, Solid: c.solid * mib}
		require.Equal(t, c.want, fits(u, c.here*mib, c.off*mib, (c.off+c.length)*mib, c.allowance*mib), name)
	}
}
