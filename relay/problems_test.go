package relay

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// pretender is a flush that says of its links what the test wants.
type pretender struct {
	Flusher
	state, held string
	staged      int64
}

func (*pretender) CanStage(string) bool                 { return false }
func (*pretender) Stalled(string) bool                  { return false }
func (*pretender) Wake(string)                          {}
func (*pretender) Bandwidth() (b proto.BandwidthStatus) { return b }
func (p *pretender) Status(_ string, s *proto.LinkStatus) {
	s.State, s.HistoryHeld, s.StagedBytes = p.state, p.held, p.staged
}

func drivenWith(t *testing.T, cfg Config) *clockRig {
	g := &clockRig{rig: &rig{t: t, cfg: cfg}, c: newTwoClocks()}
	r, err := Open(cfg, Deps{Log: zerolog.Nop(), Now: g.c.now, Mono: g.c.monotonic, Driven: true})
	require.NoError(t, err)
	g.relay = r
	t.Cleanup(func() { require.NoError(t, g.relay.Close()) })
	return g
}

// after lets time pass, with the agents there, round by round.
func (g *clockRig) after(d time.Duration, there ...*agent) {
	for range d / time.Second {
		g.c.pass(time.Second)
		for _, a := range there {
			a.poll(proto.RootStatus{})
		}
		g.round()
	}
}

// Each problem appears with its cause and goes with it (I17). Those that need a real target, disk or scanner are provoked by the
// tests of the whole; docs.TestEveryProblemIsProvoked sees that none is forgotten.
func TestProblemsComeAndGoWithTheirCause(t *testing.T) {
	t.Parallel()
	for code, c := range map[string]struct {
		config  func(*Config)
		provoke func(*clockRig, *agent) (mend func())
		health  proto.Health
	}{
		"insecure": {config: func(c *Config) { c.Insecure = true }, health: proto.Red},
		"object-too-large": {
			config: func(c *Config) { c.Capacity = 10 << 20 },
			provoke: func(g *clockRig, a *agent) func() {
				p := &peer{g: g.rig, node: a.node, s: a.s, holder: a.holder}
				p.claim(proto.Claim{Path: "huge", Kind: proto.KindFile, Size: 1 << 30})
				return func() { g.after(6*time.Minute, a) }
			},
			health: proto.Red,
		},
		"cache-full": {
			config: func(c *Config) { c.Capacity = 10 << 20 },
			provoke: func(g *clockRig, a *agent) func() {
				p := &peer{g: g.rig, node: a.node, s: a.s, holder: a.holder}
				var vers []proto.VersionID
				for i := range 3 {
					vers = append(vers, p.put(fmt.Sprint(i), strings.Repeat(fmt.Sprint(i), 1<<20), 0))
				}
				g.relay.Tune(3*time.Second, 10<<20, 0.3, 0.2) // as a reload does
				p.claim(proto.Claim{Path: "more", Kind: proto.KindFile, Size: 1 << 20})
				return func() {
					l, err := g.relay.linkRow("l1")
					require.NoError(t, err)
					require.NoError(t, g.relay.Ledger().Update(&ledger.Confirm{Link: l.ID, Versions: vers, NowNs: 1}))
					g.after(10*time.Second, a)
				}
			},
			health: proto.Red,
		},
		"content-awaited": {
			provoke: func(g *clockRig, a *agent) func() {
				v := a.put("x")
				l, err := g.relay.linkRow("l1")
				require.NoError(g.t, err)
				require.NoError(g.t, g.relay.Ledger().Update(&ledger.Release{Link: l.ID, Versions: []proto.VersionID{v}}))
				g.after(5*time.Minute, a)
				require.Empty(g.t, g.problems("content-awaited"), "its holder is there")
				a.lose()
				g.after(2 * time.Minute)
				found := g.problems("content-awaited")
				require.Len(g.t, found, 1)
				require.Equal(g.t, proto.Yellow, found[0].Health)
				require.Empty(g.t, g.problems("only-copy"), "the cache has no copy")
				g.after(15 * time.Minute)
				g.round()
				require.Equal(g.t, []string{"yellow", "red"}, g.told("content-awaited"), "an event for each")
				return func() { a.hello(); g.after(31*time.Second, a) }
			},
			health: proto.Red,
		},
		"only-copy": {
			provoke: func(g *clockRig, a *agent) func() {
				v := a.put("x")
				a.lose()
				g.after(31 * time.Second)
				return func() { // once it is confirmed, and not at the next look only
					l, err := g.relay.linkRow("l1")
					require.NoError(t, err)
					require.NoError(t, g.relay.Ledger().Update(&ledger.Confirm{Link: l.ID, Versions: []proto.VersionID{v}, NowNs: 1}))
				}
			},
			health: proto.Yellow,
		},
		"own-data": {
			provoke: func(g *clockRig, a *agent) func() {
				say := func(fs ...proto.Failure) {
					require.NoError(t, reported(g.relay.Report(t.Context(), proto.Report{Session: a.s, Holder: a.holder, First: true, Failed: fs, ScanDone: true})))
				}
				say(proto.Failure{Path: "store", Kind: proto.FailSkipped, Reason: proto.SkippedOwn + "a store"})
				return func() { say() }
			},
			health: proto.Yellow,
		},
		"link-orphaned": {
			provoke: func(g *clockRig, a *agent) func() {
				a.put("x")
				require.NoError(t, g.relay.SetLinks(nil))
				return func() { require.NoError(t, g.relay.SetLinks(g.cfg.Links)) }
			},
			health: proto.Yellow,
		},
		"link-stuck": {
			provoke: func(g *clockRig, a *agent) func() {
				f := &pretender{state: "flushing"}
				g.relay.SetFlusher(f)
				v := a.put("x")
				for range 6 { // one large object over a slow line
					f.staged++
					g.after(time.Minute, a)
				}
				require.Empty(t, g.problems("link-stuck"), "it moves")
				for i := range 6 { // what comes in is no progress of what goes out
					a.put(fmt.Sprint("more ", i))
					g.after(time.Minute, a)
				}
				return func() {
					l, err := g.relay.linkRow("l1")
					require.NoError(t, err)
					require.NoError(t, g.relay.Ledger().Update(&ledger.Confirm{Link: l.ID, Versions: []proto.VersionID{v}, NowNs: 1}))
					g.after(2*time.Second, a)
				}
			},
			health: proto.Red,
		},
		"ingest-stuck": {
			provoke: func(g *clockRig, a *agent) func() {
				waits := proto.RootStatus{UnsentCount: 3, Unreadable: 1, Unsettled: 1}
				still := func(d time.Duration, each func()) {
					for range d / time.Second {
						g.c.pass(time.Second)
						each()
						a.poll(waits)
						g.round()
					}
				}
				still(15*time.Minute, func() { waits.ReadBytes++ })
				require.Empty(g.t, g.problems("ingest-stuck"), "it reads")
				still(15*time.Minute, func() { g.relay.Came(a.s) })
				require.Empty(g.t, g.problems("ingest-stuck"), "bytes are on their way")
				still(170*time.Second, func() {})
				a.put("x")
				still(170*time.Second, func() {})
				require.Empty(g.t, g.problems("ingest-stuck"), "something was acknowledged")
				still(15*time.Second, func() {})
				found := g.problems("ingest-stuck")
				require.Len(g.t, found, 1)
				require.Equal(g.t, proto.Yellow, found[0].Health)
				still(7*time.Minute, func() {})
				return func() { waits.UnsentCount--; still(2*time.Second, func() {}) }
			},
			health: proto.Red,
		},
		"history-held": {
			provoke: func(g *clockRig, _ *agent) func() {
				f := &pretender{state: "idle", held: "history.keep was shortened from 30d to 1d"}
				g.relay.SetFlusher(f)
				g.round()
				return func() { f.held = "" }
			},
			health: proto.Yellow,
		},
		"parked": {
			provoke: func(g *clockRig, a *agent) func() {
				v := a.put("x")
				l, err := g.relay.linkRow("l1")
				require.NoError(t, err)
				require.NoError(t, g.relay.Ledger().Update(&ledger.Park{Link: l.ID, Versions: []proto.VersionID{v}, Reasons: []string{"the name is too long"}, NowNs: 1}))
				return func() { require.NoError(t, g.relay.Ledger().Update(&ledger.Retry{Link: l.ID})) }
			},
			health: proto.Yellow,
		},
		"config": {
			provoke: func(g *clockRig, a *agent) func() {
				say := func(notice string) {
					_, err := g.relay.Poll(t.Context(), proto.Poll{Session: a.s, ClockNs: a.clock(), Notice: notice, Roots: []proto.RootStatus{{Holder: a.holder}}})
					require.NoError(t, err)
				}
				say("the changed file was not taken")
				return func() { say("") }
			},
			health: proto.Yellow,
		},
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, 1)
			if c.config != nil {
				c.config(&cfg)
			}
			g := drivenWith(t, cfg)
			a := g.agent("a")
			a.poll(proto.RootStatus{})
			if c.provoke == nil {
				require.NotEmpty(t, g.problems(code))
				return
			}
			require.Empty(t, g.problems(code))
			mend := c.provoke(g, a)
			found := g.problems(code)
			require.Len(t, found, 1)
			require.Equal(t, c.health, found[0].Health)
			require.NotEmpty(t, found[0].Do, "what is to be done about it")
			mend()
			require.Empty(t, g.problems(code), "it goes with its cause")
		})
	}
}

// told are the healths with which a problem was told as an event, in order.
func (g *clockRig) told(code string) (healths []string) {
	g.t.Helper()
	evs, err := g.relay.Events(g.t.Context(), 0, 1000, 0)
	require.NoError(g.t, err)
	for _, e := range evs {
		if e.Kind == "problem" && e.Fields["code"] == code {
			healths = append(healths, e.Fields["health"])
		}
	}
	return healths
}
