package relay

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

func TestLetGo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		used, goal int64
		links      []holding
		want       []int64
	}{
		"nobody is stalled":                      {90, 70, nil, []int64{}},
		"beyond its share":                       {90, 70, []holding{{60, 50, false}}, []int64{10}},
		"no more than is needed":                 {75, 70, []holding{{60, 50, false}}, []int64{5}},
		"within its share, and others make room": {90, 70, []holding{{40, 50, false}}, []int64{0}},
		"a share that is more than may stay":     {90, 70, []holding{{88, 90, false}}, []int64{18}},
		"a large object needs what it may have":  {45, 10, []holding{{45, 50, false}}, []int64{35}},
		"several, each within its share":         {66, 50, []holding{{33, 33, false}, {33, 33, false}}, []int64{16, 0}},
		"several, one beyond":                    {100, 70, []holding{{30, 33, false}, {60, 33, false}}, []int64{0, 27}},
		"nothing is needed":                      {60, 70, []holding{{60, 10, false}}, []int64{0}},
		"one that works keeps its share":         {90, 10, []holding{{88, 50, true}}, []int64{38}},
		"what one that works keeps is no stay":   {90, 60, []holding{{50, 50, false}, {88, 60, true}}, []int64{0, 28}},
		"links that share what they have cached": {80, 70, []holding{{80, 50, false}, {80, 50, false}}, []int64{10, 0}},
	} {
		assert.Equal(t, c.want, letGo(c.used, c.goal, c.links), name)
	}
}

// slowRig is a relay with a cache of 16 MiB and two links whose targets are there.
func slowRig(t *testing.T, hold bool) (*rig, *stager) {
	cfg := testConfig(t, 1)
	cfg.Capacity, cfg.Suspicion = 16<<20, time.Hour // the clock is moved while agents are silent
	cfg.Links = append(cfg.Links, cfg.Links[0])
	cfg.Links[0].Hold = hold
	cfg.Links[1].Name, cfg.Links[1].Target = "l2", "dir:/elsewhere"
	f := &stager{can: map[string]bool{"l1": true, "l2": true}}
	return (&rig{t: t, cfg: cfg, clock: &clock{}, flush: f, driven: true}).begin(), f
}

// putAll puts objects of 512 KiB until there is no room, and returns their versions.
func (p *peer) putAll(from int) (vers []proto.VersionID) {
	p.g.t.Helper()
	content := strings.Repeat("forebay\n", 64<<10)
	for i := from; ; i++ {
		c := proto.Claim{Path: fmt.Sprintf("f%03d", i), Kind: proto.KindFile, Size: int64(len(content))}
		a := p.claim(c)
		if a.Verdict == proto.VerdictRefused {
			return vers
		}
		require.Equal(p.g.t, proto.VerdictSend, a.Verdict)
		rep, err := p.send([]byte(content), object(c.Path, content, a))
		require.NoError(p.g.t, err)
		vers = append(vers, rep.Pieces[0].Version)
	}
}

func (g *rig) confirm(link string, vers ...proto.VersionID) {
	g.t.Helper()
	require.NoError(g.t, g.relay.ledger.Update(&ledger.Confirm{Link: g.linkID(link), Versions: vers}))
}

func (g *rig) linkNow(name string) ledger.LinkRow {
	g.t.Helper()
	row, err := g.relay.linkRow(name)
	require.NoError(g.t, err)
	return row
}

// A link that is slow lets go of the newest of what it has beyond its share once it has kept another waiting, and is brought no more
// than its share again at a time.
func TestSlowLinkLetsGo(t *testing.T) {
	t.Parallel()
	g, _ := slowRig(t, false)
	a := g.join("a")
	vers := a.putAll(0)
	require.Greater(t, len(vers), 20)
	round := func() { g.relay.sweepRound(t.Context(), 1) }
	round()
	require.Zero(t, g.linkNow("l1").ReleasedObjects, "both links have the same: nobody waits for the other")
	g.confirm("l2", vers...)
	round()
	require.Zero(t, g.linkNow("l1").ReleasedObjects, "what waits for conditions is forced out first")
	g.clock.advance(lagPatience)
	require.Empty(t, a.putAll(100))
	round()
	l := g.linkNow("l1")
	require.Positive(t, l.ReleasedObjects)
	require.LessOrEqual(t, l.CachedBytes, int64(11<<20), "there is room")
	state := func(v proto.VersionID) ledger.OwedState {
		q, owed, err := ledger.OwedAt(g.relay.ledger, l.ID, v)
		require.NoError(t, err)
		require.True(t, owed)
		return q.State
	}
	require.Equal(t, ledger.OwedCached, state(vers[0]), "the oldest is sent next")
	require.Equal(t, ledger.OwedReleased, state(vers[len(vers)-1]))

	for n := 100; n < 500; n += 100 { // the other goes on, at once now
		round()
		more := a.putAll(n)
		require.NotEmpty(t, more)
		g.confirm("l2", more...)
		round()
	}
	require.Equal(t, ledger.OwedCached, state(vers[0]))
	require.Empty(t, a.asked(), "there is a share to be sent yet")
	for i := 0; ; i++ {
		older, _, err := olderThanReleased(g.relay.ledger, l.ID)
		require.NoError(t, err)
		if older <= 4<<20 {
			break
		}
		g.confirm("l1", vers[i])
	}
	round()
	require.NotEmpty(t, a.asked())
	require.LessOrEqual(t, len(a.asked()), 12, "no more than its share")
	require.Equal(t, ledger.OwedReleased, state(a.asked()[0].Version))
}

func TestLinkThatHoldsLetsNothingGo(t *testing.T) {
	t.Parallel()
	g, _ := slowRig(t, true)
	a := g.join("a")
	g.confirm("l2", a.putAll(0)...)
	for range 3 {
		a.putAll(100)
		g.relay.sweepRound(t.Context(), 1)
		g.clock.advance(lagPatience)
	}
	require.Zero(t, g.linkNow("l1").ReleasedObjects)
}

// scans counts the rows that are looked at.
type scans struct {
	ledger.Rows
	n int
}

func (s *scans) Scan(lo, hi []byte, fn func(key, value []byte) (bool, error)) error {
	return s.Rows.Scan(lo, hi, func(k, v []byte) (bool, error) {
		s.n++
		return fn(k, v)
	})
}

// What a link has to send before what it let go of is looked for seldom where that means passing over much, and not while it is stalled.
func TestLaggardsAreLookedAtAsTheyCanBear(t *testing.T) {
	t.Parallel()
	g, _ := slowRig(t, false)
	a := g.join("a")
	vers := a.putAll(0)
	l := g.linkNow("l1")
	require.NoError(t, g.relay.ledger.Update(&ledger.Release{Link: l.ID, Versions: vers[len(vers)-1:]}))
	ls := []ledger.LinkRow{g.linkNow("l1")}
	var stalled bool
	var lag laggards
	lag.init()
	look := func(up time.Duration) int {
		rows := &scans{Rows: g.relay.ledger}
		require.NoError(t, lag.look(rows, ls, func(string) bool { return stalled }, int64(up)))
		return rows.n
	}
	older := func() int64 {
		_, older := lag.get(l.ID)
		return older
	}
	rest := time.Duration(len(vers)) * lookRest
	require.Equal(t, len(vers), look(1))
	before := older()
	require.EqualValues(t, (len(vers)-1)<<19, before)
	require.Zero(t, look(rest))
	require.Equal(t, before, older(), "as last seen")
	require.Equal(t, len(vers), look(rest+1))
	stalled = true
	require.Zero(t, look(3*rest))
	require.EqualValues(t, math.MaxInt64, older(), "nothing is asked for")
	stalled = false
	require.Equal(t, len(vers), look(3*rest+1), "at once when it is back")
	require.Equal(t, before, older())
}
