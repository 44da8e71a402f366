package relay

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// patient is a relay whose clock can be moved while agents are silent.
func patient(t *testing.T) *rig {
	t.Helper()
	cfg := testConfig(t, 1)
	cfg.Suspicion = time.Hour
	return startDriven(t, cfg)
}

// settle reports a scan that began now, of which all is settled.
func (p *peer) settle() {
	now := p.g.clock.now().UnixNano()
	p.scanned(now, p.g.relay.up())
	p.poll(proto.RootStatus{LastScanNs: now})
}

// The sender of an upload ends, and its object goes before anybody carries it on: it must not be waited for for ever.
func TestUploadThatNobodyCanCarryOnIsDropped(t *testing.T) {
	t.Parallel()
	g := patient(t)
	a, b := g.join("a"), g.join("b")
	content := make([]byte, 16<<20)
	ans := half(a, content)
	at := g.clock.now().UnixNano()
	for _, p := range []*peer{a, b} {
		p.settle()
	}
	g.relay.judgeRound(t.Context())
	require.NotZero(t, g.object("big").Upload, "its sender is there")
	g.clock.advance(time.Second)
	g.relay.EndSession(a.s, "its connection was lost")
	g.clock.advance(time.Second)
	a.hello()
	a.settle()
	b.scanned(at, 1)
	b.poll(proto.RootStatus{LastScanNs: at})
	g.relay.judgeRound(t.Context())
	require.NotZero(t, g.object("big").Upload, "b has not looked since")
	g.relay.EndSession(b.s, "its connection was lost")
	g.relay.judgeRound(t.Context())
	require.NotZero(t, g.object("big").Upload, "b is away, and may have it")
	b.hello()
	now := g.clock.now().UnixNano()
	b.scanned(now, g.relay.up())
	b.poll(proto.RootStatus{LastScanNs: now, UnsentCount: 1, OldestUnsent: now})
	g.relay.judgeRound(t.Context())
	require.NotZero(t, g.object("big").Upload, "b has something to send")
	w, err := g.relay.Wait("l1", 0, true)
	require.NoError(t, err)
	require.Contains(t, w.WaitingFor, `the upload of "big", which nobody carries on just now`)

	b.settle()
	g.relay.judgeRound(t.Context())
	require.Zero(t, g.object("big").Upload)
	_, ok, err := ledger.Upload(g.relay.Ledger(), ans.Upload)
	require.NoError(t, err)
	require.False(t, ok)
	w, err = g.relay.Wait("l1", 0, true)
	require.NoError(t, err)
	require.Empty(t, w.WaitingFor)
	g.eventually("it is told", func() bool {
		evs, err := ledger.Events(g.relay.Ledger(), 0, 100)
		return err == nil && slices.ContainsFunc(evs, func(e proto.Event) bool { return e.Kind == "upload-dropped" })
	})
}

// One that was carried on is not dropped, nor one that was for a moment and has waited since.
func TestUploadThatIsCarriedOnIsKept(t *testing.T) {
	t.Parallel()
	g := patient(t)
	a, b := g.join("a"), g.join("b")
	content := make([]byte, 16<<20)
	ans := half(a, content)
	g.clock.advance(time.Second)
	g.relay.EndSession(a.s, "its connection was lost")
	g.clock.advance(time.Second)
	a.hello()
	require.Equal(t, ans.Upload, b.claim(proto.Claim{Path: "big", Kind: proto.KindFile, Size: int64(len(content))}).Upload)
	for _, p := range []*peer{a, b} {
		p.settle()
	}
	g.relay.judgeRound(t.Context())
	require.Equal(t, ans.Upload, g.object("big").Upload)
	g.clock.advance(time.Second)
	g.relay.EndSession(b.s, "its connection was lost")
	b.hello()
	g.clock.advance(time.Second)
	old, ok := g.relay.waits.get(ans.Upload)
	require.True(t, ok)
	was := old
	was.up-- // what a look before had found
	dropped, err := g.relay.dropUnlessCarriedOn(ans.Upload, was)
	require.NoError(t, err)
	require.False(t, dropped)
	require.Equal(t, ans.Upload, g.object("big").Upload)
	for _, p := range []*peer{a, b} {
		p.settle()
	}
	g.relay.judgeRound(t.Context())
	require.Zero(t, g.object("big").Upload)
}

// An index that was made anew and found nothing has perhaps looked at a disk that is not mounted yet.
func TestEmptyRootDropsNoUpload(t *testing.T) {
	t.Parallel()
	g := patient(t)
	a := g.join("a")
	a.empty = true
	half(a, make([]byte, 16<<20))
	g.clock.advance(time.Second)
	g.relay.EndSession(a.s, "its connection was lost")
	g.clock.advance(time.Second)
	a.index = "i2"
	a.hello()
	a.settle()
	g.relay.judgeRound(t.Context())
	require.NotZero(t, g.object("big").Upload)
	now := g.clock.now().UnixNano()
	a.scanned(now, g.relay.up())
	a.poll(proto.RootStatus{LastScanNs: now, Objects: 3})
	g.relay.judgeRound(t.Context())
	require.Zero(t, g.object("big").Upload, "it is mounted, and has other objects")
}

// crowded is a small cache with half of a large object that lost its sender, which is back.
func crowded(t *testing.T) (g *rig, a, b *peer) {
	t.Helper()
	cfg := testConfig(t, 1)
	cfg.Suspicion, cfg.Capacity = time.Hour, 24<<20
	g = startDriven(t, cfg)
	a, b = g.join("a"), g.join("b")
	half(a, make([]byte, 16<<20))
	g.clock.advance(time.Second)
	g.relay.EndSession(a.s, "its connection was lost")
	g.clock.advance(time.Second)
	a.hello()
	return g, a, b
}

// What is received of a content that no holder has any more may take the room that its successor needs. Nobody settles then until it
// goes: whoever has another content at the path has said enough.
func TestUploadThatIsInTheWayOfItsSuccessorIsDropped(t *testing.T) {
	t.Parallel()
	g, a, b := crowded(t)
	next := proto.Claim{Path: "big", Kind: proto.KindFile, Size: 15 << 20}
	for _, p := range []*peer{a, b} {
		p.unsettled()
	}
	require.Equal(t, proto.VerdictRefused, a.claim(next).Verdict)
	g.relay.judgeRound(t.Context())
	require.NotZero(t, g.object("big").Upload, "b may have it")
	require.Equal(t, proto.VerdictRefused, b.claim(next).Verdict)
	g.relay.EndSession(b.s, "its connection was lost")
	g.relay.judgeRound(t.Context())
	require.NotZero(t, g.object("big").Upload, "b is away, and may be put back meanwhile")
	b.hello()
	b.unsettled()
	g.relay.judgeRound(t.Context())
	require.Zero(t, g.object("big").Upload)
	g.eventually("its room is free", func() bool { return b.claim(next).Verdict == proto.VerdictSend })
}

// Nor does anybody settle while other objects wait for the room. A scan has to do then, and time to claim what it found.
func TestUploadWhoseRoomIsNeededIsDropped(t *testing.T) {
	t.Parallel()
	g, a, b := crowded(t)
	another := func() proto.Verdict {
		return b.claim(proto.Claim{Path: "another", Kind: proto.KindFile, Size: 15 << 20}).Verdict
	}
	stays := func(why string) {
		require.Equal(t, proto.VerdictRefused, another())
		g.relay.judgeRound(t.Context())
		require.NotZero(t, g.object("big").Upload, why)
	}
	b.unsettled()
	g.clock.advance(pressAfter)
	stays("a has not scanned since")
	g.clock.advance(roomLife + time.Second)
	a.unsettled()
	g.relay.judgeRound(t.Context())
	require.NotZero(t, g.object("big").Upload, "nobody asks for its room any more")
	require.Equal(t, proto.VerdictRefused, another())
	g.relay.judgeRound(t.Context())
	require.Zero(t, g.object("big").Upload)
	g.eventually("its room is free", func() bool { return another() == proto.VerdictSend })
}

// A holder that had another content, and has what was received by now, is not passed over because there is no room for the rest of it.
func TestUploadThatAHolderHasClaimedIsKept(t *testing.T) {
	t.Parallel()
	g, a, b := crowded(t)
	was := g.object("big").Upload
	big := proto.Claim{Path: "big", Kind: proto.KindFile, Size: 15 << 20}
	require.Equal(t, proto.VerdictRefused, b.claim(big).Verdict, "a part of it")
	require.Equal(t, proto.VerdictSend, b.claim(proto.Claim{Path: "other", Kind: proto.KindFile, Size: 10 << 20}).Verdict)
	big.Size = 16 << 20
	require.Equal(t, proto.VerdictRefused, b.claim(big).Verdict)
	b.unsettled()
	a.settle()
	g.relay.judgeRound(t.Context())
	require.Equal(t, was, g.object("big").Upload)
	big.Size = 15 << 20
	require.Equal(t, proto.VerdictRefused, b.claim(big).Verdict)
	g.relay.judgeRound(t.Context())
	require.Zero(t, g.object("big").Upload)
}

// One that claimed it and had no room may lose the content: once all that it has found since is settled it claims it no more.
func TestUploadThatIsClaimedNoMoreIsDropped(t *testing.T) {
	t.Parallel()
	g, a, b := crowded(t)
	require.Equal(t, proto.VerdictSend, b.claim(proto.Claim{Path: "other", Kind: proto.KindFile, Size: 10 << 20}).Verdict)
	b.settle()
	g.clock.advance(time.Second)
	require.Equal(t, proto.VerdictRefused, b.claim(proto.Claim{Path: "big", Kind: proto.KindFile, Size: 16 << 20}).Verdict)
	a.settle()
	g.relay.judgeRound(t.Context())
	require.NotZero(t, g.object("big").Upload, "b has it, as far as is known")
	g.clock.advance(time.Second)
	b.settle()
	g.relay.judgeRound(t.Context())
	require.Zero(t, g.object("big").Upload)
}

// unsettled reports a scan that began now, and that something of it is still to be sent.
func (p *peer) unsettled() {
	now := p.g.clock.now().UnixNano()
	p.scanned(now, p.g.relay.up())
	p.poll(proto.RootStatus{LastScanNs: now, Objects: 1, UnsentCount: 1, OldestUnsent: now})
}
