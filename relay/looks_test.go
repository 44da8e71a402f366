package relay

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// lookRig has a path x that a reported gone, and of which c, which never had it, can not say by a scan that it has it not: something
// else there cannot be read, for ever.
func lookRig(t *testing.T) (g *clockRig, a, c *agent, v proto.VersionID) {
	g = driven(t)
	a, c = g.agent("a"), g.agent("c")
	v = a.put("x")
	c.report(nil, nil)
	for _, p := range []*agent{a, c} {
		p.poll(proto.RootStatus{})
	}
	g.c.pass(time.Second)
	a.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
	return g, a, c, v
}

// second passes, with the signs of life of everybody; what c is asked to look for is returned.
func (g *clockRig) second(a, c *agent) []proto.Look {
	g.c.pass(time.Second)
	a.poll(proto.RootStatus{})
	st := proto.RootStatus{Holder: c.holder, Objects: 1, Unreadable: 1}
	rep, err := g.relay.Poll(g.t.Context(), proto.Poll{Session: c.s, ClockNs: c.clock(), Roots: []proto.RootStatus{st}})
	require.NoError(g.t, err)
	g.round()
	return rep.Look
}

// lack answers what the agent was asked last.
func (a *agent) lack(path string, v proto.VersionID) {
	at := int64(0)
	if x := a.relay.looks.by[a.holder]; x != nil {
		at = x.at
	}
	a.lackAt(path, v, at)
}

func (a *agent) lackAt(path string, v proto.VersionID, at int64) {
	require.NoError(a.t, reported(a.relay.Report(a.t.Context(), proto.Report{Session: a.s, Holder: a.holder, Lack: []proto.GoneEntry{{Path: path, Version: v}}, LackUp: at})))
	a.round()
}

// asked waits until c is asked to look.
func (g *clockRig) asked(a, c *agent) (list []proto.Look, after time.Duration) {
	for range 300 {
		if list = g.second(a, c); len(list) > 0 {
			return list, after
		}
		after += time.Second
	}
	return nil, after
}

// While somebody waits for the dataset's link, the holder is asked at once, and the wait is not over before it has had time to answer.
func TestHolderIsAskedToLookAtOnceWhileSomebodyWaits(t *testing.T) {
	t.Parallel()
	g, a, c, v := lookRig(t)
	waits := func() proto.WaitState {
		w, err := g.relay.Wait("l1", 0, true)
		require.NoError(t, err)
		return w
	}
	waits()
	list := g.second(a, c) // this round finds it out
	if len(list) == 0 {
		list = g.second(a, c)
	}
	require.Equal(t, []proto.Look{{Holder: c.holder, Path: "x", Version: v}}, list)
	const why = "1 deletes that other holders look for"
	w := waits()
	require.Contains(t, w.WaitingFor, why)
	failed := w.Failures
	for range 2 * int(lookAfter.Seconds()) { // one that cannot say holds nobody up for ever
		g.second(a, c)
		w = waits()
	}
	require.NotContains(t, w.WaitingFor, why)
	require.Equal(t, failed+1, w.Failures, "it is listed")
	c.lack("x", v)
	require.True(t, g.deleted("x"))
}

// A delete that waits for nothing but a holder's scan has that holder look for the path, and is carried out on its word.
func TestHolderIsAskedToLook(t *testing.T) {
	t.Parallel()
	g, a, c, v := lookRig(t)
	c.lack("x", v)
	require.False(t, g.deleted("x"), "it was not asked")
	list, after := g.asked(a, c)
	require.Equal(t, []proto.Look{{Holder: c.holder, Path: "x", Version: v}}, list)
	require.InDelta(t, lookAfter.Seconds(), after.Seconds(), 5)
	require.False(t, g.deleted("x"), "it has not answered")
	list, after = g.asked(a, c)
	require.Len(t, list, 1, "it is asked again")
	require.InDelta(t, lookEvery.Seconds(), after.Seconds(), 2, "but not all the time")
	c.lack("x", v+1)
	c.lack("y", v)
	require.False(t, g.deleted("x"), "answers to something else")
	c.lack("x", v)
	require.True(t, g.deleted("x"))
}

// What a holder said in a session that was lost, or long ago, counts no longer: the path may have come to it since (I13).
func TestOldAnswersDoNotCount(t *testing.T) {
	t.Parallel()
	for _, why := range []string{"nothing of that", "another session", "long ago", "a new version", "it came"} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			g, a, c, v := lookRig(t)
			b := g.agent("b") // holds it up until it is forgotten
			b.poll(proto.RootStatus{})
			b.report([]proto.HaveEntry{{Version: v, MtimeNs: 1}}, nil)
			b.lose()
			g.second(a, c)
			g.relay.looks.gather([]proto.HolderID{c.holder}, map[proto.HolderID][]proto.Look{c.holder: {{Holder: c.holder, Path: "x", Version: v}}})
			require.Len(t, g.relay.looks.take(c.holder, g.relay.up(), false), 1)
			c.lack("x", v)
			require.False(t, g.deleted("x"), "b is away")
			switch why {
			case "another session":
				c.hello()
			case "long ago":
				for range lacksFor/time.Second + 1 {
					g.second(a, c)
				}
			case "a new version":
				w := (&peer{g: a.rig, node: a.node, s: a.s, holder: a.holder}).put("x", "other", v)
				a.report(nil, []proto.GoneEntry{{Path: "x", Version: w}})
			case "it came":
				c.report([]proto.HaveEntry{{Version: v, MtimeNs: 1}}, nil)
			}
			require.NoError(t, g.relay.ledger.Update(&ledger.ForgetNode{Cluster: "primary", Node: "b"}))
			g.second(a, c)
			require.Equal(t, why == "nothing of that", g.deleted("x"))
		})
	}
}

// An answer that comes late, after the holder was asked again, is from before: the path may have come to it in between (I13).
func TestLateAnswerDoesNotCount(t *testing.T) {
	t.Parallel()
	g, a, c, v := lookRig(t)
	list, _ := g.asked(a, c)
	require.Len(t, list, 1)
	first := g.relay.looks.by[c.holder].at
	list, _ = g.asked(a, c)
	require.Len(t, list, 1)
	c.lackAt("x", v, first)
	require.False(t, g.deleted("x"))
	c.lack("x", v)
	require.True(t, g.deleted("x"))
}

// However much waits for however many holders, not more than is asked next is kept, and all of it gets its turn.
func TestWhatIsAskedIsBounded(t *testing.T) {
	t.Parallel()
	var l looks
	var holders []proto.HolderID
	for h := range 1000 {
		holders = append(holders, proto.HolderID(h+1))
	}
	seen, at := map[string]bool{}, int64(1)
	const paths = 1000
	for range 2 * paths {
		asks := l.begin(holders)
		for i := range paths {
			asks.add(1, proto.Look{Holder: 1, Path: fmt.Sprintf("%06d", i), Version: 1})
			asks.add(2, proto.Look{Holder: 2})
		}
		l.gather(holders, asks.found())
		require.Len(t, l.by[2].want, 1, "one scan does for all")
		require.LessOrEqual(t, len(l.by[1].want)*len(holders), 2*maxLooks)
		for _, k := range l.take(1, at, false) {
			seen[k.Path] = true
		}
		if at += int64(lookEvery); len(seen) == paths {
			return
		}
	}
	require.Len(t, seen, paths)
}

// All that waits gets its turn, however much of it is not answered.
func TestLooksTakeTurns(t *testing.T) {
	t.Parallel()
	var l looks
	var all []proto.Look
	for i := range 2*lookBatch + 5 {
		all = append(all, proto.Look{Holder: 1, Path: fmt.Sprintf("%06d", i), Version: 1})
	}
	seen := map[string]int{}
	at := int64(1)
	for range 6 {
		l.gather([]proto.HolderID{1, 2}, map[proto.HolderID][]proto.Look{1: all})
		require.Empty(t, l.take(2, at, false))
		list := l.take(1, at, false)
		require.LessOrEqual(t, len(list), lookBatch)
		for _, k := range list {
			seen[k.Path]++
		}
		at += int64(lookEvery)
	}
	require.Len(t, seen, len(all))
	for p, n := range seen {
		require.Equal(t, 2, n, p)
	}
	l.gather([]proto.HolderID{1}, nil)
	at += int64(lacksFor)
	require.Empty(t, l.take(1, at, false), "nothing waits any more")
	require.Empty(t, l.by[1].asked[all[0].Path].version, "what was asked long ago is forgotten")
}

// A holder with a fresh index has to scan before its word counts.
func TestHolderWithAFreshIndexIsAskedToScan(t *testing.T) {
	t.Parallel()
	g := driven(t)
	a, c := g.agent("a"), g.agent("c")
	v := a.put("x")
	a.poll(proto.RootStatus{})
	g.c.pass(time.Second)
	a.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
	list, _ := g.asked(a, c)
	require.Equal(t, []proto.Look{{Holder: c.holder}}, list)
	c.lack("x", v)
	require.False(t, g.deleted("x"))
	c.report(nil, nil)
	list, _ = g.asked(a, c)
	require.Equal(t, "x", list[0].Path)
}
