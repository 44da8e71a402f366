package relay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/segment"
)

// Who says that its disk gives nothing of an object loses the lease on it while others may go on, and the object goes once around however
// slow all disks are: the last one keeps it (I16, I17).
func TestSlowDiskGivesItsUploadToAnother(t *testing.T) {
	t.Parallel()
	g := driven(t)
	agents := []*agent{g.agent("a"), g.agent("b"), g.agent("c")}
	there := func() {
		for _, a := range agents {
			a.poll(proto.RootStatus{})
		}
	}
	peers := map[string]*peer{}
	for _, a := range agents {
		peers[a.node] = &peer{g: g.rig, node: a.node, s: a.s, holder: a.holder}
	}
	content := make([]byte, 2*proto.BlockSize)
	cl := proto.Claim{Path: "x", Kind: proto.KindFile, Size: int64(len(content))}
	held := map[string]proto.ClaimAnswer{}
	claim := func(node string) {
		held[node] = peers[node].claim(cl)
		require.Equal(t, proto.VerdictSend, held[node].Verdict, node)
	}
	says := func(node string) bool {
		p := peers[node]
		rep, err := g.relay.Slow(t.Context(), proto.Slow{Session: p.s, Holder: p.holder, Upload: held[node].Upload, Epoch: held[node].Epoch, Waited: 12 * time.Second})
		require.NoError(t, err)
		return rep.Ended
	}
	claim("a")
	first := content[:proto.BlockSize]
	_, err := peers["a"].send(first, segment.Piece{Kind: segment.PieceRange, Path: "x", Upload: held["a"].Upload, Epoch: held["a"].Epoch,
		Length: uint32(len(first)), Blocks: proto.BlockDigests(nil, first), ObjectSize: cl.Size})
	require.NoError(t, err)
	require.True(t, says("a"))
	there()
	claim("b")
	require.NotEmpty(t, held["b"].Have, "it goes on from what there is")
	require.True(t, says("a"), "what it asks about is over")
	require.Equal(t, proto.VerdictLeased, peers["c"].claim(cl).Verdict, "b has it still")
	agents[2].poll(proto.RootStatus{SlowFor: 20 * time.Second})
	require.Len(t, g.problems("slow-read"), 1)
	require.Equal(t, proto.Yellow, g.problems("slow-read")[0].Health)
	require.False(t, says("b"), "c's disk does not answer either, and a's did not")
	there()
	require.Empty(t, g.problems("slow-read"))
	require.True(t, says("b"))
	claim("c")
	for range 10 {
		require.False(t, says("c"), "all are slow")
	}
	for range 9 {
		g.after(time.Minute, agents...)
		require.False(t, says("c"))
	}
	_, err = peers["c"].send(first, segment.Piece{Kind: segment.PieceRange, Path: "x", Upload: held["c"].Upload, Epoch: held["c"].Epoch,
		Offset: proto.BlockSize, Length: uint32(len(first)), Blocks: proto.BlockDigests(nil, first), ObjectSize: cl.Size})
	require.NoError(t, err)
	g.after(70*time.Second, agents...)
	require.True(t, says("c"), "those before may have recovered")
	g.after(2*time.Second, agents...)
	require.Len(t, g.events("slow-read"), 3)
	took := g.events("takeover")
	require.Len(t, took, 2)
	require.Contains(t, took[0].Fields["cause"], "slow read")
}

// Where nobody else goes on, who gave it up gets it back and keeps it.
func TestSlowDiskKeepsWhatNobodyElseHas(t *testing.T) {
	t.Parallel()
	g := driven(t)
	a := g.agent("a")
	p := &peer{g: g.rig, node: "a", s: a.s, holder: a.holder}
	cl := proto.Claim{Path: "x", Kind: proto.KindFile, Size: 5}
	says := func(ans proto.ClaimAnswer) bool {
		rep, err := g.relay.Slow(t.Context(), proto.Slow{Session: p.s, Holder: p.holder, Upload: ans.Upload, Epoch: ans.Epoch, Waited: 12 * time.Second})
		require.NoError(t, err)
		return rep.Ended
	}
	ans := p.claim(cl)
	require.False(t, says(ans), "nobody else is there")
	g.agent("b")
	require.True(t, says(ans))
	ans = p.claim(cl)
	require.False(t, says(ans), "b does not have it, or it would have gone on")
	require.NotZero(t, p.put("y", "other", 0), "all else goes on")
	rep, err := p.send([]byte("hello"), object("x", "hello", ans))
	require.NoError(t, err)
	require.Equal(t, proto.PieceAccepted, rep.Pieces[0].State)
	require.Empty(t, g.relay.slowed.by, "it is over with the version")
}
