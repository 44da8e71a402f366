package relay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// underHeld has a path x that a lost an hour ago and c still has; b never had it. All have scanned since and have nothing to tell.
func underHeld(t *testing.T) (g *clockRig, a, b, c *agent, v proto.VersionID) {
	g = driven(t)
	a, b, c = g.agent("a"), g.agent("b"), g.agent("c")
	v = a.put("x")
	c.report([]proto.HaveEntry{{Version: v, MtimeNs: 1}}, nil)
	b.report(nil, nil)
	a.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
	g.after(time.Hour, a, b, c)
	for _, p := range []*agent{a, b, c} {
		p.report(nil, nil)
		p.poll(proto.RootStatus{})
	}
	g.after(time.Minute, a, b, c)
	require.False(t, g.deleted("x"), "c has it")
	return g, a, b, c, v
}

// c's only copy is moved to another holder, which has not told of it yet when c reports it gone. What that one scanned before, since the
// first holder lost it, says nothing of what came to it since (I13).
func TestLastCopyThatMovedIsNotDeleted(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"a holder that never had it", "the holder that had lost it"} {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			g, a, b, c, v := underHeld(t)
			to := map[string]*agent{"a holder that never had it": b, "the holder that had lost it": a}[to]
			c.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
			there := []*agent{a, b, c}
			for range 90 {
				g.c.pass(time.Second)
				for _, p := range there {
					st := proto.RootStatus{Holder: p.holder, Objects: 1}
					if p == to {
						st.UnsentCount = 1
					}
					rep, err := g.relay.Poll(t.Context(), proto.Poll{Session: p.s, ClockNs: p.clock(), Roots: []proto.RootStatus{st}})
					require.NoError(t, err)
					for _, l := range rep.Look {
						if p != to && l.Path != "" {
							p.lack(l.Path, l.Version)
						}
					}
				}
				g.round()
				require.False(t, g.deleted("x"))
			}
			to.report([]proto.HaveEntry{{Version: v, MtimeNs: 1}}, nil)
			to.poll(proto.RootStatus{})
			g.after(2*time.Minute, there...)
			require.False(t, g.deleted("x"))

			to.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
			for _, p := range there {
				p.report(nil, nil)
				p.poll(proto.RootStatus{})
			}
			g.after(time.Minute, there...)
			require.True(t, g.deleted("x"), "now it is gone from all")
		})
	}
}

// c was asked for x and lacks it. Then b, which had told of nothing before, has x, and reports it gone: it may have moved to c, whose answer
// is from before that (I13).
func TestAnswerFromBeforeAMoveDoesNotCount(t *testing.T) {
	t.Parallel()
	g, a, c, v := lookRig(t)
	b := g.agent("b")
	second := func() []proto.Look {
		b.poll(proto.RootStatus{})
		return g.second(a, c)
	}
	asked := func() {
		t.Helper()
		for range 300 {
			if len(second()) > 0 {
				return
			}
		}
		require.FailNow(t, "c is not asked")
	}
	asked()
	c.lack("x", v)
	require.False(t, g.deleted("x"), "b has told nothing")
	b.report([]proto.HaveEntry{{Version: v, MtimeNs: 1}}, nil)
	second()
	require.False(t, g.deleted("x"), "b has it")
	b.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
	second()
	require.False(t, g.deleted("x"), "c has not looked since")
	asked()
	c.lack("x", v)
	require.True(t, g.deleted("x"))
}
