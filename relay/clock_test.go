package relay

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/internal/figures"
	"forebay/ledger"
	"forebay/proto"
)

var (
	clockRuns   = flag.Int("clock-runs", 12, "histories that TestNoHistoryOfJumpsDeletesBeforeTheGrace tries")
	clockSeed   = flag.Uint64("clock-seed", 0, "the first one's seed; 0 draws each")
	clockReport = flag.String("report", "", "directory for the report of TestNoHistoryOfJumpsDeletesBeforeTheGrace; none when empty")
)

// twoClocks is a wall clock that can be set apart from the monotonic one.
type twoClocks struct {
	mu   sync.Mutex
	wall time.Time
	mono time.Duration
}

func newTwoClocks() *twoClocks {
	return &twoClocks{wall: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
}

func (c *twoClocks) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall
}

func (c *twoClocks) monotonic() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mono
}

func (c *twoClocks) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.mono = c.wall.Add(d), c.mono+d
}

// jump sets the wall clock.
func (c *twoClocks) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall = c.wall.Add(d)
}

// clockRig is a relay that is driven step by step, with a wall clock that jumps.
type clockRig struct {
	*rig
	c *twoClocks
}

func driven(t *testing.T) *clockRig {
	g := &clockRig{rig: &rig{t: t, cfg: testConfig(t, 1)}, c: newTwoClocks()}
	g.open()
	t.Cleanup(func() { require.NoError(t, g.relay.Close()) })
	return g
}

func (g *clockRig) open() {
	r, err := Open(g.cfg, Deps{Log: zerolog.Nop(), Now: g.c.now, Mono: g.c.monotonic, Driven: true})
	require.NoError(g.t, err)
	g.relay = r
}

// restart stops the relay, waits with it down, and starts it again.
func (g *clockRig) restart(down time.Duration) {
	require.NoError(g.t, g.relay.Close())
	g.c.pass(down)
	g.open()
}

func (g *clockRig) round() { require.NoError(g.t, g.relay.Round(context.Background())) }

// agent is a peer whose clock is off by skew.
type agent struct {
	*clockRig
	node   string
	skew   time.Duration
	s      proto.SessionID
	holder proto.HolderID
	live   bool
	empty  bool // it has found nothing at all
}

func (g *clockRig) agent(node string) *agent {
	a := &agent{clockRig: g, node: node}
	a.hello()
	return a
}

func (a *agent) clock() int64 { return a.c.now().Add(a.skew).UnixNano() }

func (a *agent) hello() {
	rep, err := a.relay.Hello(context.Background(), proto.Hello{Version: proto.Version, Cluster: "primary", Node: a.node, Instance: "inst-" + a.node,
		Roots: []proto.Root{{Dataset: "media", Path: "/srv/media", Index: "i1"}}, ClockNs: a.clock()}, "127.0.0.1", "127.0.0.1:1")
	require.NoError(a.t, err)
	a.s, a.holder, a.live = rep.Session, rep.Holders[0], true
}

// poll says hello again when its session has ended, as an agent does.
func (a *agent) poll(st proto.RootStatus) {
	st.Holder = a.holder
	if st.Objects == 0 && !a.empty {
		st.Objects = 1 // some that the test is not about
	}
	p := proto.Poll{Session: a.s, ClockNs: a.clock(), Roots: []proto.RootStatus{st}}
	if _, err := a.relay.Poll(context.Background(), p); err != nil {
		a.hello()
		p.Session = a.s
		_, err = a.relay.Poll(context.Background(), p)
		require.NoError(a.t, err)
	}
}

func (a *agent) report(have []proto.HaveEntry, gone []proto.GoneEntry) {
	require.NoError(a.t, reported(a.relay.Report(context.Background(), proto.Report{Session: a.s, Holder: a.holder, First: true, Have: have, Gone: gone, ScanDone: true, Bare: a.empty, ScanUp: a.relay.up()})))
}

func (a *agent) lose() {
	a.relay.EndSession(a.s, "its connection was lost")
	a.live = false
}

// version makes a path that holders have, without the stores.
func (a *agent) put(path string) proto.VersionID {
	p := &peer{g: a.rig, node: a.node, s: a.s, holder: a.holder}
	return p.put(path, "content", 0)
}

func (g *clockRig) deleted(path string) bool {
	return g.object(path).Current.Kind == proto.KindTombstone
}

var jumps = []time.Duration{time.Second, time.Hour, 24 * time.Hour, 365 * 24 * time.Hour, -time.Second, -time.Hour, -24 * time.Hour, -365 * 24 * time.Hour}

// A node that was away for a minute is not one that was away for the grace, however the relay's clock jumps, and one that is
// away for the grace holds a delete up no longer (I13, I16).
func TestJumpOfTheRelaysClockIsNoAbsence(t *testing.T) {
	t.Parallel()
	for _, jump := range jumps {
		for _, when := range []string{"before the node left", "while it is away", "while the relay is down"} {
			t.Run(fmt.Sprintf("%s %s", jump, when), func(t *testing.T) {
				t.Parallel()
				g := driven(t)
				a, b := g.agent("a"), g.agent("b")
				v := a.put("x")
				a.poll(proto.RootStatus{})
				b.poll(proto.RootStatus{})
				b.report([]proto.HaveEntry{{Version: v, MtimeNs: 1}}, nil)
				g.round()
				if when == "before the node left" {
					g.c.jump(jump)
				}
				b.lose()
				g.round()
				g.c.pass(time.Minute)
				switch when {
				case "while it is away":
					g.c.jump(jump)
				case "while the relay is down":
					g.c.jump(jump)
					g.restart(48 * time.Hour)
					g.c.jump(-jump) // and it is put right
				}
				gone := func() {
					a.poll(proto.RootStatus{})
					a.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
					g.round()
					g.c.pass(time.Second)
					g.round()
				}
				gone()
				require.False(t, g.deleted("x"), "b is away for a minute")
				for range 23 {
					g.c.pass(time.Hour)
					gone()
				}
				require.False(t, g.deleted("x"), "b is away for 23 hours")
				g.c.pass(2 * time.Hour)
				gone()
				require.True(t, g.deleted("x"), "b is away for longer than the grace")
			})
		}
	}
}

// A stop of the relay is no absence in the run after the next either.
func TestStopsOfTheRelayAreNoAbsenceAcrossSeveralRuns(t *testing.T) {
	t.Parallel()
	g := driven(t)
	a, b := g.agent("a"), g.agent("b")
	v := a.put("x")
	a.poll(proto.RootStatus{})
	b.poll(proto.RootStatus{})
	b.report([]proto.HaveEntry{{Version: v, MtimeNs: 1}}, nil)
	b.lose()
	g.round()
	g.restart(48 * time.Hour)
	a.hello()
	a.poll(proto.RootStatus{})
	for range 3 { // a is seen, and that is written down
		g.c.pass(time.Minute)
		a.poll(proto.RootStatus{})
		g.round()
	}
	g.restart(time.Second)
	a.hello()
	a.poll(proto.RootStatus{})
	a.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
	g.c.pass(time.Second)
	g.round()
	require.False(t, g.deleted("x"), "b was away for some minutes of the relay's time")
}

// A scan that was done while the clock was ahead is not one that was done after a path was found gone later.
func TestScanDuringAJumpProvesNothingAfterIt(t *testing.T) {
	t.Parallel()
	g := driven(t)
	a, b := g.agent("a"), g.agent("b")
	v := a.put("x")
	g.c.jump(365 * 24 * time.Hour)
	b.poll(proto.RootStatus{})
	b.report(nil, nil)
	g.c.jump(-365 * 24 * time.Hour)
	g.c.pass(time.Minute)
	a.poll(proto.RootStatus{})
	b.poll(proto.RootStatus{})
	a.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
	g.round()
	require.False(t, g.deleted("x"), "b may have got it since its scan")
	g.c.pass(time.Second)
	b.poll(proto.RootStatus{})
	b.report(nil, nil)
	g.c.pass(time.Second)
	a.poll(proto.RootStatus{})
	b.poll(proto.RootStatus{})
	g.round()
	require.True(t, g.deleted("x"))
}

// An agent whose clock is set back makes what it has not sent look younger: nothing counts as settled by that.
func TestAgentsClockThatGoesBackSettlesNothing(t *testing.T) {
	t.Parallel()
	for _, back := range []time.Duration{time.Hour, 365 * 24 * time.Hour} {
		g := driven(t)
		a, b := g.agent("a"), g.agent("b")
		v := a.put("x")
		a.poll(proto.RootStatus{})
		b.poll(proto.RootStatus{})
		unsent := proto.RootStatus{UnsentCount: 1, OldestUnsent: b.clock()} // it may be x, which b has not told yet
		g.c.pass(time.Second)
		a.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
		g.c.pass(time.Second)
		b.report(nil, nil)
		b.poll(unsent)
		b.skew = -back
		for range 100 {
			g.c.pass(time.Minute)
			a.poll(proto.RootStatus{})
			b.poll(unsent)
			g.round()
		}
		require.False(t, g.deleted("x"), "b has something unsent from before")
		b.poll(proto.RootStatus{})
		g.c.pass(2 * time.Second)
		a.poll(proto.RootStatus{})
		b.poll(proto.RootStatus{})
		g.round()
		require.True(t, g.deleted("x"), "all that b had is settled")
	}
}

// Clocks that are off are shown: the agents', and the relay's own.
func TestClocksThatAreOffAreShown(t *testing.T) {
	t.Parallel()
	g := driven(t)
	a := g.agent("a")
	year := 365 * 24 * time.Hour
	codes := func() map[string]string {
		st, err := g.relay.Status(context.Background())
		require.NoError(t, err)
		out := map[string]string{}
		for _, p := range st.Problems {
			out[p.Code] = p.What
		}
		for _, n := range st.Nodes {
			require.GreaterOrEqual(t, n.LastSeenSeconds, 0.0)
			require.InDelta(t, a.skew.Seconds(), n.ClockSkewSeconds, 0.001)
		}
		return out
	}
	a.poll(proto.RootStatus{})
	require.NotContains(t, codes(), "clock-skew")
	for _, skew := range []time.Duration{10 * time.Second, -year, 3 * year} {
		a.skew = skew
		a.poll(proto.RootStatus{})
		require.Contains(t, codes()["clock-skew"], fmt.Sprintf("off by %.0f s", skew.Seconds()))
	}
	a.skew = 0
	a.poll(proto.RootStatus{})
	require.NotContains(t, codes(), "clock-skew")

	g.round()
	for _, jump := range []time.Duration{year, -year, -time.Hour, 10 * time.Second} {
		g.c.pass(time.Second)
		g.round()
		require.NotContains(t, codes(), "clock-jumped")
		g.c.jump(jump)
		g.c.pass(time.Second)
		a.poll(proto.RootStatus{})
		g.round()
		require.Contains(t, codes()["clock-jumped"], "the relay's clock: it was set")
		g.c.pass(61 * time.Minute)
		a.poll(proto.RootStatus{})
		g.round()
	}
	g.c.jump(-time.Hour)
	g.restart(0)
	a.hello()
	g.round()
	require.Contains(t, codes()["clock-jumped"], "back by 1h", "it is seen at the start, too")
	evs, err := g.relay.Events(context.Background(), 0, 1000, 0)
	require.NoError(t, err)
	n := 0
	for _, e := range evs {
		if e.Kind == "clock-jumped" {
			n++
		}
	}
	require.Equal(t, 5, n)
}

// Whatever the clocks of the relay and the agents do, and however often the relay stops: no path is deleted while a node that
// had it has been away for less than the grace of time in which the relay ran, and nothing that is held that way stays held.
func TestNoHistoryOfJumpsDeletesBeforeTheGrace(t *testing.T) {
	t.Parallel()
	runs, first := *clockRuns, *clockSeed
	var tried, judged int
	for i := range runs {
		seed := first + uint64(i)
		if first == 0 {
			seed = rand.Uint64()
		}
		j, n := jumpHistory(t, seed)
		tried, judged = tried+j, judged+n
	}
	require.Positive(t, tried)
	require.Positive(t, judged)
	if *clockReport == "" || t.Failed() {
		return
	}
	require.NoError(t, figures.Report{
		Layer: "clocks", Command: fmt.Sprintf("make clocks RUNS=%d REPORT=docs/reliability", runs), Measured: time.Now().UTC().Format(time.DateOnly),
		Figures: []figures.Figure{
			{Name: "random histories of jumps, absences and restarts", Value: fmt.Sprint(runs), Note: "up to 200 steps each, of up to three hours"},
			{Name: "jumps of the relay's and the agents' clocks", Value: fmt.Sprint(tried), Note: "of seconds to a year, back and forth"},
			{Name: "deletes judged", Value: fmt.Sprint(judged)},
			{Name: "deletes before the grace of running time had passed", Value: "0"},
			{Name: "deletes that stayed held once the grace had passed", Value: "0"},
		},
		Invariants: map[string]string{
			"I13": "after each step of a random history: no path is deleted while a node that had it has been away for less than the grace of time in which the relay ran",
			"I16": "once the others have been away for the grace, the delete is judged, whatever the clocks did",
			"I17": "a clock that is off or was set is shown in status and events",
		},
		NotCovered: []string{"suspend of the machine, in which the monotonic clock stands still", "deadlines and ages follow the wall clock: one that is set forward forces a flush early, and that is shown as forced"},
	}.Save(*clockReport))
}

func jumpHistory(t *testing.T, seed uint64) (jumpsTried, deletes int) {
	ok := t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 1))
		g := driven(t)
		nodes := []*agent{g.agent("a"), g.agent("b"), g.agent("c")}
		v := nodes[0].put("x")
		for _, n := range nodes {
			n.poll(proto.RootStatus{})
			n.report([]proto.HaveEntry{{Version: v, MtimeNs: 1}}, nil)
		}
		g.round()
		away := make([]time.Duration, len(nodes)) // in time in which a relay ran
		for step := 0; step < 200 && !g.deleted("x"); step++ {
			switch n := nodes[rng.IntN(len(nodes))]; rng.IntN(8) {
			case 0, 1:
				g.c.jump(time.Duration(rng.Int64N(int64(jumps[rng.IntN(4)]))) * time.Duration(1-2*rng.IntN(2)))
				jumpsTried++
			case 2:
				n.skew = time.Duration(rng.Int64N(int64(2*jumps[3]))) - jumps[3]
				jumpsTried++
			case 3:
				if n != nodes[0] && n.live {
					n.lose()
				}
			case 4:
				if n != nodes[0] && !n.live {
					n.hello() // it still has x
					n.poll(proto.RootStatus{})
					n.report([]proto.HaveEntry{{Version: v, MtimeNs: 1}}, nil)
				}
			case 5:
				g.restart(time.Duration(rng.Int64N(int64(72 * time.Hour))))
				for _, n := range nodes {
					if n.live {
						n.hello()
					}
				}
			default:
			}
			d := time.Duration(rng.Int64N(int64(3 * time.Hour)))
			g.c.pass(d)
			for i, n := range nodes {
				if !n.live {
					away[i] += d
					continue
				}
				away[i] = 0
				n.poll(proto.RootStatus{})
			}
			nodes[0].report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
			g.round()
			if g.deleted("x") {
				deletes++
				for i, n := range nodes[1:] {
					require.False(t, n.live, "node %s is here and has it", n.node)
					require.GreaterOrEqual(t, away[i+1], 24*time.Hour, "node %s", n.node)
				}
			}
		}
		if !g.deleted("x") { // all others leave for good
			for _, n := range nodes[1:] {
				if n.live {
					n.lose()
				}
			}
			for range 26 {
				g.c.pass(time.Hour)
				nodes[0].poll(proto.RootStatus{})
				nodes[0].report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
				g.round()
			}
			require.True(t, g.deleted("x"))
			deletes++
		}
	})
	require.True(t, ok, "run it again with: go test ./relay -run TestNoHistoryOfJumps -clock-runs 1 -clock-seed %d", seed)
	return jumpsTried, deletes
}

// A pause for a while ends after that while, also when the clock is set back meanwhile.
func TestPauseIsNotMadeLongerByTheClock(t *testing.T) {
	t.Parallel()
	g := driven(t)
	require.NoError(t, g.relay.Pause("l1", true, time.Hour))
	ls, err := ledger.Links(g.relay.Ledger())
	require.NoError(t, err)
	require.Equal(t, g.relay.up()+int64(time.Hour), ls[0].PausedUp)
	g.c.jump(-365 * 24 * time.Hour)
	g.c.pass(61 * time.Minute)
	for range 3 { // the running time is written down once a minute
		g.c.pass(61 * time.Second)
		g.round()
	}
	m, err := ledger.ReadMeta(g.relay.Ledger())
	require.NoError(t, err)
	require.GreaterOrEqual(t, m.UpNs, ls[0].PausedUp)
}
