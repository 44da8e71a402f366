package relay

import (
	"bytes"
	"context"
	"fmt"
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

func (s *stager) Stalled(link string) bool         { return !s.CanStage(link) }
func (s *stager) Wake(string)                      {}
func (s *stager) Status(string, *proto.LinkStatus) {}

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
	for _, i := range []int64{0, 1, 2, 4, 5, 6, 7, 8} { // 64 MiB, and a gap
		require.NoError(t, a.sendRun(ctx, "big", ans, i))
	}
	require.True(t, g.upload(ans.Upload).Stream)
	require.NoError(t, a.sendRun(ctx, "big", ans, 3), "a gap is filled whatever is cached: all behind it waits for that")

	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, a.sendRun(short, "big", ans, 9), context.DeadlineExceeded, "it waits for room")
	require.NoError(t, a.sendSmall(), "other objects do not")

	waited := make(chan error, 1)
	go func() { waited <- a.sendRun(ctx, "big", ans, 9) }() // ends when there is room
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
	require.NoError(t, a.sendRun(ctx, "big", ans, 9), "room is made without the stalled link (I15)")
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
	for i := int64(2); i < 10; i++ {
		require.NoError(t, a.sendRun(context.Background(), "big", ans, i))
	}
	waited := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { waited <- a.sendRun(ctx, "big", ans, 10) }() // ends with ctx
	g.eventually("it waits", func() bool { long, _ := g.relay.streaming.still(g.lease(ans), g.clock.now()); return long > 0 })
	require.Zero(t, g.upload(ans.Upload).Solid)
	g.clock.advance(streamSolid)
	g.eventually("what its uploader left out is holes", func() bool { return g.upload(ans.Upload).Solid == 80<<20 })
	cancel()
	<-waited
}
