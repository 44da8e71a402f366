package relay

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// helloTold says hello with an index whose proto.Root.Told is so much, and returns the relay's word on that.
func (p *peer) helloTold(told uint64) uint64 {
	rep, err := p.g.relay.Hello(context.Background(), proto.Hello{Version: proto.Version, Cluster: "primary", Node: p.node, Instance: "inst-" + p.node,
		Roots: []proto.Root{{Dataset: "media", Path: "/srv/media", Index: p.index, Told: told}}, ClockNs: p.g.clock.now().UnixNano()}, "127.0.0.1", "127.0.0.1:1")
	require.NoError(p.g.t, err)
	p.s, p.holder = rep.Session, rep.Holders[0]
	if len(rep.PutBack) == 0 {
		return 0
	}
	return rep.PutBack[0]
}

// claimTold claims, or reports what it has, as the told-th time that its index counts.
func (p *peer) claimTold(c proto.Claim, told uint64) proto.ClaimAnswer {
	rep, err := p.g.relay.Claim(context.Background(), proto.ClaimBatch{Session: p.s, Holder: p.holder, Claims: []proto.Claim{c}, Told: told})
	require.NoError(p.g.t, err)
	return rep.Answers[0]
}

func (p *peer) reportTold(r proto.Report, told uint64) {
	r.Session, r.Holder, r.Told = p.s, p.holder, told
	require.NoError(p.g.t, reported(p.g.relay.Report(context.Background(), r)))
}

// looked reports a scan that began now, after which nothing is left to tell.
func (p *peer) looked() {
	at := p.g.clock.now().UnixNano()
	p.scanned(at, p.g.relay.up())
	p.poll(proto.RootStatus{LastScanNs: at, Objects: 1})
}

// far is how far an index that is to be settled anew has to go ahead.
const far = 1 << 32

// b's data is put back to a copy from before it had x. It can never report x gone; what it had told counts no longer than until it has
// looked and told again, so that a's word does (I13, I16).
func TestIndexThatWasPutBackHoldsNothingUp(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"claim", "report"} {
		for _, restarted := range []bool{false, true} {
			g := start(t, testConfig(t, 1))
			a, b := g.join("a"), g.join("b")
			v := a.put("x", "one", 0)
			require.Zero(t, b.helloTold(3))
			if way == "claim" {
				require.Equal(t, proto.VerdictHave, b.claimTold(claimOf("x", "one", 0), 4).Verdict)
			} else {
				b.reportTold(proto.Report{Have: []proto.HaveEntry{{Version: v, MtimeNs: 1}}}, 4)
			}
			if restarted {
				g.restart()
				a.hello()
			}
			require.EqualValues(t, 4+far, b.helloTold(3), "its index is older than what it told: "+way)
			require.EqualValues(t, 4+2*far, b.helloTold(5), "until it has gone on above")
			a.gone("x", v)
			b.poll(proto.RootStatus{UnsentCount: 1})
			a.poll(proto.RootStatus{})
			require.False(t, g.judged("x"), "b has not told again what it has")
			b.looked()
			require.True(t, g.judged("x"))
			require.Zero(t, b.helloTold(5+2*far), "it has gone on above")
		}
	}
}

// b had reported x gone; with its data, x came back, and its index never says so by itself. Its old word must not delete x (I13).
func TestIndexThatWasPutBackIsAskedBeforeADelete(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	require.Zero(t, b.helloTold(3))
	b.reportTold(proto.Report{Have: []proto.HaveEntry{{Version: v, MtimeNs: 1}}}, 4)
	b.reportTold(proto.Report{Gone: []proto.GoneEntry{{Path: "x", Version: v}}}, 5)
	b.looked()
	require.EqualValues(t, 5+far, b.helloTold(4))
	b.poll(proto.RootStatus{UnsentCount: 1})
	a.gone("x", v)
	a.poll(proto.RootStatus{})
	require.False(t, g.judged("x"), "on b's word from before it was put back")
	require.Equal(t, proto.VerdictHave, b.claimTold(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 3, Digest: proto.ContentDigest([]byte("one")), HasDigest: true, Parent: v, Renewed: true}, 6).Verdict)
	b.looked()
	require.False(t, g.judged("x"), "b has it")
}

// What the relay refuses of a report it has not been told: the claim after it, counted alike, is.
func TestRefusedReportTellsNothing(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	a.put("x", "one", 0)
	require.Zero(t, b.helloTold(3))
	_, err := g.relay.Report(context.Background(), proto.Report{Session: b.s, Holder: b.holder, Told: 6, Gone: []proto.GoneEntry{{Path: "../x"}}})
	require.Error(t, err)
	require.Equal(t, proto.VerdictHave, b.claimTold(claimOf("x", "one", 0), 6).Verdict)
	require.EqualValues(t, 6+far, b.helloTold(3), "its index is from before that claim")
}

// An index that tells less than it had told was put back to an older copy, also to one from before it had told of anything.
func TestIndexThatToldLessWasPutBack(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	b := g.join("b")
	require.Zero(t, b.helloTold(0))
	require.Zero(t, b.helloTold(0))
	require.Zero(t, b.helloTold(3))
	require.EqualValues(t, 3+far, b.helloTold(2))
	require.Zero(t, b.helloTold(5+far))
	require.EqualValues(t, 5+2*far, b.helloTold(0), "the copy is from before all of it")
	b.index = "another"
	require.Zero(t, b.helloTold(0), "a fresh index")
	require.Zero(t, b.helloTold(1))
	b.index = "i1"
	require.EqualValues(t, 5+far, b.helloTold(5), "the one before is back: what it had told counts no longer, and it does not know that")
}

// A tombstone stays while a fresh index has not told what it has, and goes then, whatever the index before it had said.
func TestTombstoneGoesOnceAFreshIndexHasTold(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	require.Zero(t, b.helloTold(3))
	b.reportTold(proto.Report{Have: []proto.HaveEntry{{Version: v, MtimeNs: 1}}}, 4)
	require.EqualValues(t, 4+far, b.helloTold(3))
	a.gone("x", v)
	b.looked()
	a.looked()
	require.True(t, g.judged("x"))
	dead := g.object("x").Current.Version
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	require.NoError(t, g.relay.ledger.Update(&ledger.Confirm{Link: l.ID, Versions: []proto.VersionID{v, dead}, NowNs: 1}))
	followed := func(p *peer, more proto.RootStatus) {
		more.Cursor = dead
		p.poll(more)
		g.relay.noteSeen()
	}
	followed(a, proto.RootStatus{})
	require.Zero(t, b.helloTold(5+far))
	followed(b, proto.RootStatus{UnsentCount: 1})
	for range 3 {
		g.relay.eventRound(false)
		g.relay.dropTombstones(burialLook)
	}
	require.Equal(t, dead, g.object("x").Current.Version, "b has not told again")
	b.looked()
	followed(b, proto.RootStatus{})
	a.looked()
	followed(a, proto.RootStatus{})
	g.eventually("the tombstone is dropped", func() bool {
		g.relay.dropTombstones(burialLook)
		return g.object("x").Current.Version == 0
	})
	again := proto.Claim{Path: "x", Kind: proto.KindFile, Size: 3, Digest: proto.ContentDigest([]byte("one")), HasDigest: true, Parent: v, Renewed: true}
	require.Equal(t, proto.VerdictLags, b.claimTold(again, 6).Verdict, "what was agreed on before is no new object")
	again.Renewed = false
	require.Equal(t, proto.VerdictSend, b.claimTold(again, 6).Verdict, "what was changed since is")
}
