package relay

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// lostHalfway is a relay that has lost a, which had sent half of an object.
func lostHalfway(t *testing.T) (g *rig, a, b *peer, content []byte, first proto.ClaimAnswer) {
	cfg := testConfig(t, 1)
	cfg.Suspicion = time.Minute // on a busy machine agents are silent for seconds here
	g = start(t, cfg)
	a, b = g.join("a"), g.join("b")
	content = make([]byte, 16<<20)
	first = half(a, content)
	g.relay.EndSession(a.s, "its connection was lost")
	return g, a, b, content, first
}

// Who takes an upload over and finds that its own copy changed gives the lease back. What was acknowledged before is another
// holder's, and stays for it (I9). What it sent itself is a content that is no more.
func TestSuccessorWhoseCopyChangedLeavesWhatOthersSent(t *testing.T) {
	t.Parallel()
	g, a, b, content, first := lostHalfway(t)
	claim := proto.Claim{Path: "big", Kind: proto.KindFile, Size: int64(len(content))}
	giveBack := func(p *peer, up proto.UploadID) {
		require.NoError(t, g.relay.Abandon(context.Background(), proto.Abandon{Session: p.s, Holder: p.holder, Uploads: []proto.UploadID{up}, Changed: true}))
	}
	require.Equal(t, first.Upload, b.claim(claim).Upload)
	giveBack(b, first.Upload)
	a.hello()
	again := a.claim(claim)
	require.Equal(t, first.Upload, again.Upload)
	require.Equal(t, []proto.Range{{Offset: 0, Length: 8 << 20}}, again.Have, "a goes on from where it was")

	_, err := a.send(content[8<<20:], bigRange(again, content, 8<<20))
	require.NoError(t, err)
	giveBack(a, again.Upload)
	anew := a.claim(claim)
	require.NotEqual(t, first.Upload, anew.Upload)
	require.Empty(t, anew.Have)
}

// A give-back that comes late, of an upload that another one has taken over meanwhile, is the business of nobody any more (I7).
func TestLateGiveBackLeavesTheSuccessorItsLease(t *testing.T) {
	t.Parallel()
	g, a, b, content, first := lostHalfway(t)
	a.hello()
	next := b.claim(proto.Claim{Path: "big", Kind: proto.KindFile, Size: int64(len(content))})
	require.Equal(t, first.Upload, next.Upload)
	for _, late := range []proto.Abandon{{Changed: true}, {ReadError: "input/output error"}, {}} {
		late.Session, late.Holder, late.Uploads = a.s, a.holder, []proto.UploadID{first.Upload}
		require.NoError(t, g.relay.Abandon(t.Context(), late))
	}
	reply, err := b.send(content[8<<20:], bigRange(next, content, 8<<20))
	require.NoError(t, err)
	require.Equal(t, proto.PieceAccepted, reply.Pieces[0].State)
	b.hello()
	again := b.claim(proto.Claim{Path: "big", Kind: proto.KindFile, Size: int64(len(content))})
	require.Equal(t, []proto.Range{{Offset: 0, Length: 16 << 20}}, again.Have, "what a had sent is there, too")
}

// A claim that waits while its session ends is granted nothing: nobody would end such a lease, and the path would wait for ever (I16).
func TestClaimOfASessionThatEndedMeanwhile(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	ingest := guard{g.relay}
	ingest.Enter() // a group is being written
	done := make(chan error, 1)
	go func() { // ends when the claim is answered
		_, err := g.relay.Claim(context.Background(), proto.ClaimBatch{Session: a.s, Holder: a.holder, Claims: []proto.Claim{{Path: "x", Kind: proto.KindFile, Size: 1}}})
		done <- err
	}()
	g.eventually("the claim waits", func() bool {
		if g.relay.fence.TryRLock() {
			g.relay.fence.RUnlock()
			return false
		}
		return true
	})
	s, ok := g.relay.book.End(a.s)
	require.True(t, ok)
	ended := make(chan struct{})
	go func() { g.relay.endLeases(s, "its connection was lost"); close(ended) }() // ends after the claim, or before it
	ingest.Leave()
	require.Equal(t, proto.ClassConflict, proto.ClassOf(<-done))
	<-ended
	require.Equal(t, proto.VerdictSend, b.claim(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 1}).Verdict, "nobody has the lease")
}

// A link lags behind by what its slowest holder has not settled, in whatever order they came, or what it owes is older (I17).
func TestLagIsThatOfTheSlowestHolder(t *testing.T) {
	t.Parallel()
	g := driven(t)
	a, b := g.agent("a"), g.agent("b")
	lag := func(ofA, ofB time.Duration) float64 {
		g.c.pass(24 * time.Hour) // what was said before is older than all of this
		for p, d := range map[*agent]time.Duration{a: ofA, b: ofB} {
			p.hello()
			p.poll(proto.RootStatus{UnsentCount: 1, OldestUnsent: p.clock() - int64(d)})
		}
		st, err := g.relay.Status(context.Background())
		require.NoError(t, err)
		require.Len(t, st.Links, 1)
		return st.Links[0].LagSeconds
	}
	require.InDelta(t, 600, lag(10*time.Minute, time.Minute), 1)
	require.InDelta(t, 600, lag(time.Minute, 10*time.Minute), 1)
	a.put("x")
	require.InDelta(t, 24*3600, lag(time.Minute, time.Minute), 1, "x is owed since a day")
}

// A wait for confirmation on a new link is not done before it is known what its first copy needs (I17).
func TestWaitIsForTheFirstCopyOfANewLink(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	a.put("x", "one", 0)
	second := g.cfg.Links[0]
	second.Name, second.Target = "l2", "dir:/elsewhere"
	g.cfg.Links = append(g.cfg.Links, second)
	g.restart()
	a.hello()
	req, err := g.relay.RequestScan("l2")
	require.NoError(t, err)
	a.poll(proto.RootStatus{ScanToken: req.Token})
	w, err := g.relay.Wait("l2", req.Token, true)
	require.NoError(t, err)
	require.True(t, w.Done, "acknowledged: %v", w.WaitingFor)
	w, err = g.relay.Wait("l2", req.Token, false)
	require.NoError(t, err)
	require.False(t, w.Done)
	require.Equal(t, []string{"link l2 is seeding"}, w.WaitingFor)
}

// What an agent told as unsent before it heard of its acknowledgement is not counted beside what the link owes: a bar would show twice of it.
func TestWaitCountsWhatIsOnItsWayOnce(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	a.poll(proto.RootStatus{UnsentCount: 1, UnsentBytes: 5})
	left := func() int64 {
		w, err := g.relay.Wait("l1", 0, false)
		require.NoError(t, err)
		return w.Bytes
	}
	require.EqualValues(t, 5, left())
	v := a.put("x", "hello", 0)
	require.EqualValues(t, 5, left(), "owed by now")
	a.poll(proto.RootStatus{UnsentCount: 1, UnsentBytes: 7, Cursor: v})
	require.EqualValues(t, 12, left(), "owed, and another is to come")
}

// What a link gave up is owed no more, and a wait for confirmation is not done with it: it ends with what failed (I17).
func TestWaitCountsWhatWasGivenUp(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	v := a.put("x", "hello", 0)
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	require.NoError(t, g.relay.Ledger().Update(&ledger.Park{Link: l.ID, Versions: []proto.VersionID{v}, Reasons: []string{"the name is too long"}, NowNs: 1}))
	a.poll(proto.RootStatus{Cursor: v})
	w, err := g.relay.Wait("l1", 0, false)
	require.NoError(t, err)
	require.Empty(t, w.WaitingFor)
	require.True(t, w.Partial)
	require.False(t, w.Done)
	require.EqualValues(t, 1, w.Failures)
	w, err = g.relay.Wait("l1", 0, true)
	require.NoError(t, err)
	require.True(t, w.Done, "acknowledged it is: %v", w.WaitingFor)
}

// The grant of a lease may be lost on its way. Its holder claims again, and may have something else to say by then: the lease must not
// keep the others waiting for as long as the session lasts.
func TestLeaseWhoseGrantWasLostEnds(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	b.have(v)
	next := proto.Claim{Path: "x", Kind: proto.KindFile, Size: 7, Parent: v}
	require.Equal(t, proto.VerdictSend, a.claim(next).Verdict)
	require.Equal(t, proto.VerdictLeased, b.claim(next).Verdict)
	require.Equal(t, proto.VerdictHave, a.claim(claimOf("x", "one", v)).Verdict, "it was put back to what it was")
	require.Equal(t, proto.VerdictSend, b.claim(next).Verdict)
	require.Equal(t, proto.VerdictHave, a.claim(claimOf("x", "one", v)).Verdict)
	require.Equal(t, proto.VerdictSend, b.claim(next).Verdict, "the lease of another stays")

	touched := claimOf("y", "one", a.put("y", "one", 0))
	touched.Changed, touched.Meta = proto.FieldMode, &proto.Meta{Mode: 0o600, MtimeNs: 1}
	for range 2 { // the answer to the first is lost
		require.Equal(t, proto.VerdictSendMeta, a.claim(touched).Verdict)
	}
}

// Nor must it keep room from what its holder claims in its place.
func TestRoomOfALeaseWhoseGrantWasLostIsFree(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 1)
	cfg.Capacity = 24 << 20
	g := start(t, cfg)
	a, b := g.join("a"), g.join("b")
	large := proto.Claim{Path: "x", Kind: proto.KindFile, Size: 15 << 20}
	require.Equal(t, proto.VerdictSend, a.claim(large).Verdict)
	require.Equal(t, proto.VerdictSend, a.claim(large).Verdict)
	require.Equal(t, proto.VerdictLeased, b.claim(large).Verdict)
	large.Path = "y"
	require.Equal(t, proto.VerdictRefused, b.claim(large).Verdict)

	g.relay.EndSession(a.s, "its connection was lost")
	batch := proto.ClaimBatch{Session: b.s, Holder: b.holder}
	for i := range 10 {
		batch.Claims = append(batch.Claims, proto.Claim{Path: fmt.Sprint(i), Kind: proto.KindFile, Size: 4 << 20})
	}
	granted := func() (n int) {
		rep, err := g.relay.Claim(t.Context(), batch)
		require.NoError(t, err)
		for _, a := range rep.Answers {
			if a.Verdict == proto.VerdictSend {
				n++
			}
		}
		return n
	}
	first := granted()
	require.Positive(t, first)
	require.Equal(t, first, granted(), "a whole batch whose answer was lost")
}

// A grant, or the word that it is given back, may be lost on its way, and its holder may have no reason to claim again. The lease ends when
// nothing has come under it for long; one that is used stays.
func TestLeaseThatNobodyUsesEnds(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 1)
	cfg.Suspicion = 24 * time.Hour // the clock is moved while the agents are silent
	g := start(t, cfg)
	a, b := g.join("a"), g.join("b")
	content := make([]byte, 16<<20)
	ans := half(a, content)
	unused := proto.Claim{Path: "unused", Kind: proto.KindFile, Size: 7}
	require.Equal(t, proto.VerdictSend, a.claim(unused).Verdict)
	g.clock.advance(leaseIdle / 2)
	rep, err := a.send(content[8<<20:], bigRange(ans, content, 8<<20))
	require.NoError(t, err)
	require.Equal(t, proto.PieceAccepted, rep.Pieces[0].State)
	g.relay.endIdleLeases()
	require.Equal(t, proto.VerdictLeased, b.claim(unused).Verdict)
	g.clock.advance(leaseIdle/2 + time.Second)
	g.relay.endIdleLeases()
	require.Equal(t, proto.VerdictSend, b.claim(unused).Verdict)
	require.Equal(t, proto.VerdictLeased, b.claim(proto.Claim{Path: "big", Kind: proto.KindFile, Size: int64(len(content))}).Verdict, "that one is used")
}
