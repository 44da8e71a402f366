package relay

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// A path that comes back between the judgement and the row of its tombstone is not deleted, on a cordoned node neither: its holder
// was told that it agrees, and would not tell again (I13).
func TestBackBetweenJudgementAndTombstone(t *testing.T) {
	t.Parallel()
	for name, cordoned := range map[string]bool{"in service": false, "cordoned": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, 1)
			var armed, buried atomic.Bool
			at, on := make(chan struct{}), make(chan struct{})
			clk := &clock{}
			r, err := Open(cfg, Deps{Log: zerolog.Nop(), Now: clk.now, Fault: func(p faultpoint.Point) {
				if p == faultpoint.RelayIngestStored && armed.CompareAndSwap(true, false) {
					close(at)
					<-on
				}
				if p == faultpoint.RelayBuried {
					buried.Store(true)
				}
			}})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }() // ends with ctx
			t.Cleanup(func() {
				cancel()
				require.NoError(t, <-done)
				require.NoError(t, r.Close())
			})
			g := &rig{t: t, cfg: cfg, clock: clk, relay: r}
			a := g.join("a")
			v := a.put("x", "one", 0)
			if cordoned {
				ns, err := ledger.Nodes(r.ledger)
				require.NoError(t, err)
				require.NoError(t, r.ledger.Update(&ledger.UpdateNode{Cluster: ns[0].Cluster, Node: ns[0].Node, Cordoned: &cordoned}))
			}
			armed.Store(true)
			a.poll(proto.RootStatus{})
			a.gone("x", v)
			<-at // judged, and on its way
			ans := a.claim(claimOf("x", "one", 0))
			close(on)
			require.Equal(t, proto.VerdictHave, ans.Verdict, "the relay told a that it agrees")
			g.eventually("the tombstone was tried", buried.Load)
			require.Equal(t, proto.KindFile, g.object("x").Current.Kind, "deleted after its only holder was told that it has the current version")
			g.eventually("taken off the list", func() bool {
				d, err := ledger.Datasets(r.ledger)
				require.NoError(t, err)
				return d[0].Gone == 0
			})

			a.poll(proto.RootStatus{})
			a.gone("x", v)
			g.eventually("gone again", func() bool { return g.object("x").Current.Kind == proto.KindTombstone })
		})
	}
}

// The running time is written once a minute, stamps of it at once. After a crash it goes on from the latest of them: else a scan
// from before the crash would count as one since a path was reported gone (I13).
func TestRunningTimeGoesOnFromItsStamps(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	v := a.put("x", "one", 0)
	g.clock.advance(50 * time.Second)
	require.NoError(t, reported(g.relay.Report(context.Background(), proto.Report{Session: b.s, Holder: b.holder, First: true, Listed: true, ScanDone: true, ScanNs: g.clock.now().UnixNano()}))) // x is not at b
	hs, err := ledger.Holders(g.relay.ledger)
	require.NoError(t, err)
	g.down() // the relay and b lose power
	g.up()
	for _, h := range hs {
		require.Greater(t, g.relay.up(), h.ScannedNs)
	}
	a.hello()
	b.hello()                         // its agent has just started: its first scan runs, nothing is reported in this session
	g.clock.advance(10 * time.Second) // x goes from a to b
	a.gone("x", v)
	for range 2 {
		a.hello() // silent for long by the test's clock
		b.hello()
		a.poll(proto.RootStatus{})
		b.poll(proto.RootStatus{})
		g.relay.judgeRound(context.Background())
		require.Equal(t, proto.KindFile, g.object("x").Current.Kind, "b has not scanned since")
		g.clock.advance(45 * time.Second)
	}
}
