package relay

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// scanned reports a completed scan: at is its end by the agent's clock, up the relay's running time that was known when it began.
func (p *peer) scanned(at, up int64) {
	require.NoError(p.g.t, reported(p.g.relay.Report(context.Background(), proto.Report{Session: p.s, Holder: p.holder, First: true, Listed: true, ScanDone: true, ScanNs: at, ScanUp: up})))
}

// judged judges the deletes until one is carried out, or, after some rounds, none.
func (g *rig) judged(path string) bool {
	for range 5 {
		g.relay.judgeRound(context.Background())
		g.clock.advance(time.Millisecond)
	}
	return g.object(path).Current.Kind == proto.KindTombstone
}

// What b's last scan did not find may have come to b since. After a lost connection its agent reports that same scan again, and a
// scan may begin before a path is copied and end after it was reported gone elsewhere: only one that began since counts (I13).
func TestOldScanIsNoWitness(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	old, up := g.clock.now().UnixNano(), g.relay.up()
	b.scanned(old, up)
	b.poll(proto.RootStatus{LastScanNs: old})
	g.clock.advance(2 * time.Second) // x is copied to b, then removed from a
	a.poll(proto.RootStatus{})
	a.gone("x", v)
	require.False(t, g.judged("x"))
	g.relay.EndSession(b.s, "its connection was lost")
	b.hello()
	b.scanned(old, up)
	b.poll(proto.RootStatus{LastScanNs: old})
	require.False(t, g.judged("x"), "on the word of a scan from before")
	b.scanned(old, 0)
	b.poll(proto.RootStatus{LastScanNs: old})
	require.False(t, g.judged("x"), "on the word of a scan that nobody knows the beginning of")

	now := g.clock.now().UnixNano()
	b.scanned(now, g.relay.up())
	b.poll(proto.RootStatus{LastScanNs: now, UnsentCount: 1, OldestUnsent: now + 1})
	require.False(t, g.judged("x"), "what it found is not told yet")
	b.poll(proto.RootStatus{LastScanNs: now, Unreadable: 1})
	require.False(t, g.judged("x"), "there is something that it could not look at")
	b.poll(proto.RootStatus{LastScanNs: old})
	require.False(t, g.judged("x"), "a status from before that scan")
	b.poll(proto.RootStatus{LastScanNs: now})
	require.True(t, g.judged("x"), "b looked, and has nothing left to tell")
}

// After a rebuild b has everything to tell again; its last scan is older.
func TestRebuiltLedgerWaitsForWhatHoldersHave(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	b.have(v)
	old := g.clock.now().UnixNano()
	for _, p := range []*peer{a, b} {
		p.scanned(old, g.relay.up())
		p.poll(proto.RootStatus{LastScanNs: old})
	}
	g.relay.keepMemo()
	g.lose()
	_, err := g.recover(nothingThere)
	require.NoError(t, err)
	g.clock.advance(10 * time.Minute)
	g.up()
	a.hello()
	b.hello()
	a.gone("x", v) // a alone lost it
	a.poll(proto.RootStatus{})
	b.scanned(old, g.relay.up()) // at the worst
	b.poll(proto.RootStatus{LastScanNs: old, UnsentCount: 1, OldestUnsent: g.clock.now().UnixNano()})
	require.False(t, g.judged("x"), "b has it and is about to say so")
}

// A node that was away when a path was deleted follows the feed in seconds, and tells what it has much later: until then the
// tombstone alone says that its copy lags.
func TestTombstonesOfARebuildStayUntilAllHaveTold(t *testing.T) {
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
	g.relay.keepMemo()
	g.lose()
	_, err := g.recover(nothingThere)
	require.NoError(t, err)
	g.up()
	a.hello()
	b.hello()
	dead := g.object("x").Current.Version
	a.poll(proto.RootStatus{Cursor: dead})
	b.poll(proto.RootStatus{Cursor: dead, UnsentCount: 100000, OldestUnsent: g.clock.now().UnixNano()}) // followed the feed, has not told again
	g.relay.noteSeen()
	g.eventually("cursors", func() bool {
		hs, err := ledger.Holders(g.relay.ledger)
		require.NoError(t, err)
		return seenBy(hs, hs[0].Dataset) >= dead
	})
	g.relay.dropTombstones(burialLook)
	require.Equal(t, proto.VerdictLags, b.claim(claimOf("x", "one", v)).Verdict, "b was away when it was deleted")
}

// A report of what is gone that had no answer may arrive after the holder has told that the path is back. Only the order tells:
// the version in it is one that the holder has again (I13).
func TestALateReportOfWhatIsGoneDoesNotCount(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	b.have(v)
	late := proto.Report{Session: b.s, Holder: b.holder, Seq: 1, Gone: []proto.GoneEntry{{Path: "x", Version: v}}}
	told := func() ledger.HoldingState {
		for _, h := range g.object("x").Holders {
			if h.Holder == b.holder {
				return h.State
			}
		}
		return 0
	}
	report := func(r proto.Report) error {
		r.Session, r.Holder = b.s, b.holder
		return reported(g.relay.Report(context.Background(), r))
	}
	require.NoError(t, report(proto.Report{GivenUp: 1, Have: []proto.HaveEntry{{Version: v, MtimeNs: 1}}}))
	require.Error(t, report(late))
	require.Equal(t, ledger.HoldingHas, told(), "it is back")
	late.Seq = 2
	require.NoError(t, report(late))
	require.Equal(t, ledger.HoldingGone, told())

	late.Seq = 3 // given up by a claim
	_, err := g.relay.Claim(context.Background(), proto.ClaimBatch{Session: b.s, Holder: b.holder, GivenUp: 3, Claims: []proto.Claim{claimOf("x", "one", v)}})
	require.NoError(t, err)
	require.Equal(t, ledger.HoldingHas, told())
	require.Error(t, report(late))
	require.Equal(t, ledger.HoldingHas, told())
	late.Seq = 0 // an agent that does not number them
	require.NoError(t, report(late))
	require.Equal(t, ledger.HoldingGone, told())
}

// What tells that the holder has a path, and had no answer, may arrive after the holder has told that it is gone. Nobody would ever say
// so again (I16).
func TestALateWordOfWhatAHolderHasDoesNotCount(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	have := func(seq uint64) error {
		return reported(g.relay.Report(context.Background(), proto.Report{Session: b.s, Holder: b.holder, HaveSeq: seq, Have: []proto.HaveEntry{{Version: v, MtimeNs: 1}}}))
	}
	claim := func(seq uint64) error {
		_, err := g.relay.Claim(context.Background(), proto.ClaimBatch{Session: b.s, Holder: b.holder, HaveSeq: seq, Claims: []proto.Claim{claimOf("x", "one", v)}})
		return err
	}
	told := func() ledger.HoldingState { o := g.object("x"); return o.Holding(b.holder).State }
	require.NoError(t, have(1))
	require.NoError(t, claim(2))
	require.Equal(t, ledger.HoldingHas, told())
	require.NoError(t, reported(g.relay.Report(context.Background(), proto.Report{Session: b.s, Holder: b.holder, Seq: 1, HavePast: 3, Gone: []proto.GoneEntry{{Path: "x", Version: v}}})))
	for _, late := range []func(uint64) error{have, claim} {
		err := late(3)
		require.Equal(t, proto.ClassTransient, proto.ClassOf(err), "%v", err)
		require.Equal(t, ledger.HoldingGone, told())
	}
	require.NoError(t, claim(4))
	require.Equal(t, ledger.HoldingHas, told(), "it is back")
	b.hello()
	require.NoError(t, have(1), "a session counts for itself")
}

// A holder that has never found anything may have looked at nothing but a mount point from its first day on: its copies hold a delete up
// as those of one that is away do, for the grace (I13, I16).
func TestHolderThatNeverFoundAnythingIsNoWitness(t *testing.T) {
	t.Parallel()
	g := driven(t)
	a, b := g.agent("a"), g.agent("b")
	b.empty = true
	v, y := a.put("x"), a.put("y")
	after := func(d time.Duration) {
		g.c.pass(d)
		for _, n := range []*agent{a, b} {
			n.poll(proto.RootStatus{})
			n.report(nil, nil)
			n.poll(proto.RootStatus{})
		}
		g.round()
	}
	after(time.Second)
	a.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
	after(time.Minute)
	require.False(t, g.deleted("x"))
	fs, err := g.relay.Failures("")
	require.NoError(t, err)
	require.Contains(t, fs[0].Reason, "node b has never found anything: is its root mounted?")
	for range 23 {
		after(time.Hour)
	}
	require.False(t, g.deleted("x"))
	after(2 * time.Hour)
	require.True(t, g.deleted("x"), "it is empty indeed")

	a.report(nil, []proto.GoneEntry{{Path: "y", Version: y}})
	after(time.Minute)
	require.True(t, g.deleted("y"), "which is known by now")
}
