package relay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/segment"
)

// An upload whose holders are all gone waits, says so, and goes on from where it was, across restarts of the relay too.
func TestUploadThatNobodyCarriesOnIsShown(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	content := make([]byte, 10<<20)
	claim := proto.Claim{Path: "big", Kind: proto.KindFile, Size: int64(len(content))}
	ans := a.claim(claim)
	_, err := a.send(content[:8<<20], segment.Piece{Kind: segment.PieceRange, Path: "big", Upload: ans.Upload, Epoch: ans.Epoch, Length: 8 << 20,
		Blocks: proto.BlockDigests(nil, content[:8<<20]), ObjectSize: int64(len(content))})
	require.NoError(t, err)
	require.Empty(t, g.problems("upload-waiting"))
	where := func() *proto.WhereUpload {
		w, err := g.relay.Where("primary/media/big")
		require.NoError(t, err)
		require.NotNil(t, w.Uploading)
		return w.Uploading
	}
	require.Empty(t, where().Why)
	require.Equal(t, "a", where().Node)

	shown := func(cause string) {
		t.Helper()
		found := g.problems("upload-waiting")
		require.Len(t, found, 1)
		require.Contains(t, found[0].What, "primary/media: 1 uploads wait")
		require.Contains(t, found[0].What, "none of its holders is there (a)")
		require.Contains(t, found[0].What, `"big" has 8388608 of 10485760 bytes`)
		require.Contains(t, found[0].What, cause)
		require.Contains(t, where().Why, "none of its holders is there (a)")
		require.Contains(t, where().Why, cause)
	}
	g.relay.EndSession(a.s, "its connection was lost")
	shown("its connection was lost")
	g.down()
	g.up()
	shown("the relay was restarted")

	b := g.join("b") // another holder, which has not looked yet
	require.Empty(t, g.problems("upload-waiting"), "it may have it")
	require.Contains(t, where().Why, "no holder that is there has claimed it (away: a)")
	g.clock.advance(waitsShown * g.relay.book.Suspicion())
	require.Len(t, g.problems("upload-waiting"), 1)
	b.hello() // it was silent that long
	require.Len(t, b.claim(claim).Have, 1)
	require.Empty(t, g.problems("upload-waiting"))
	require.Empty(t, where().Why)
	require.Equal(t, "b", where().Node)
}

func TestJudgeRests(t *testing.T) {
	t.Parallel()
	at := int64(time.Hour)
	require.Equal(t, at, judgeNext(at, at), "nothing to look at")
	require.Equal(t, at+int64(10*time.Second), judgeNext(at, at+int64(time.Second)), "one part in ten")
	require.Equal(t, at+int64(20*time.Second), judgeNext(at, at+int64(10*time.Second)), "not for ever")
	require.Equal(t, at-1, judgeNext(at, at-1))
	require.Equal(t, at+int64(100*time.Millisecond), judgeNext(at, at+int64(100*time.Millisecond)), "too little to matter")
	var w waitedFor
	require.False(t, w.any(at))
	w.note(7, at)
	require.True(t, w.any(at+int64(hurryFor)-1))
	require.False(t, w.any(at+int64(hurryFor)))
}

// What a node calls divergent may be what another has sent since: it has to hear of that before a wait says that it is not backed up.
func TestWaitIsForTheNewsThatMayMakeADivergentCopyEqual(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	req, err := g.relay.RequestScan("l1")
	require.NoError(t, err)
	a.poll(proto.RootStatus{ScanToken: req.Token, Cursor: v})
	say := func(cursor proto.VersionID) proto.WaitState {
		require.NoError(t, reported(g.relay.Report(t.Context(), proto.Report{Session: b.s, Holder: b.holder, First: true, Listed: true,
			Failed: []proto.Failure{{Path: "x", Kind: proto.FailDivergent}}})))
		b.poll(proto.RootStatus{ScanToken: req.Token, Divergent: 1, Cursor: cursor})
		w, err := g.relay.Wait("l1", req.Token, true)
		require.NoError(t, err)
		return w
	}
	w := say(v - 1)
	require.False(t, w.Partial)
	require.Equal(t, []string{"b has not heard of the newest versions"}, w.WaitingFor)
	w = say(v)
	require.True(t, w.Partial, "%v", w.WaitingFor)
}
