package relay

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

func (g *rig) problems(code string) (found []proto.Problem) {
	s, err := g.relay.Status(context.Background())
	require.NoError(g.t, err)
	for _, p := range s.Problems {
		if p.Code == code {
			found = append(found, p)
		}
	}
	return found
}

func (g *rig) say(instance, boot string) error {
	_, err := g.relay.Hello(context.Background(), proto.Hello{Version: proto.Version, Cluster: "primary", Node: "a", Instance: instance, Boot: boot,
		Roots: []proto.Root{{Dataset: "media", Path: "/srv/media", Index: "i"}}, ClockNs: g.clock.now().UnixNano()}, "127.0.0.1", "10.0.0.9:4711")
	return err
}

func TestASecondAgentIsRefusedAndShown(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	require.NoError(t, g.say("one", "boot-1"))
	for range 3 {
		err := g.say("two", "boot-2")
		require.ErrorContains(t, err, "two agents must not share a node name")
		require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	}
	found := g.problems("twin")
	require.Len(t, found, 1)
	require.Equal(t, proto.Red, found[0].Health)
	require.Contains(t, found[0].What, "node primary/a: a second agent, from 10.0.0.9")

	g.join("later")
	told := 0
	require.Eventually(t, func() bool { // events are written in order
		events, err := g.relay.Events(context.Background(), 0, 1000, 0)
		require.NoError(t, err)
		told = 0
		for _, e := range events {
			if e.Kind == "twin" {
				told++
			}
		}
		return len(events) > 0 && events[len(events)-1].Fields["node"] == "later"
	}, 10*time.Second, 5*time.Millisecond)
	require.Equal(t, 1, told, "one event, however often it asks")

	g.clock.advance(2 * twinShown)
	require.Empty(t, g.problems("twin"), "it has gone away")
}

func TestACopiedAgentIsRefused(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	require.NoError(t, g.say("one", "boot-1"))
	require.NoError(t, g.say("one", "boot-2"), "it was started again, or is a copy")
	require.ErrorContains(t, g.say("one", "boot-1"), "its data folder is a copy", "no boot comes back after another")
	require.NoError(t, g.say("one", "boot-2"), "the one that is in says hello again")
	require.Len(t, g.problems("twin"), 1)

	g.clock.advance(time.Minute) // the other one is gone
	require.NoError(t, g.say("one", "boot-1"))
}

func TestAMistypedFromNamesTheNearestDataset(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 1)
	cfg.Links[0].From.Name = "medai"
	g := start(t, cfg)
	found := g.problems("no-holder")
	require.Len(t, found, 1)
	require.NotContains(t, found[0].Do, "did you mean", "nothing is near yet")

	g.join("a")
	found = g.problems("no-holder")
	require.Len(t, found, 1)
	require.True(t, strings.HasPrefix(found[0].Do, "did you mean primary/media?"), found[0].Do)
	require.Len(t, g.problems("no-link"), 1)

	require.NoError(t, g.relay.SetLinks(testConfig(t, 1).Links))
	require.Empty(t, g.problems("no-holder"))
	require.Empty(t, g.problems("no-link"), "a name that nobody announces is no dataset without a link")
}

// What only the cache has is owed by the link that comes in the place of another before that one lets go of it (I1).
func TestALinkThatGoesElsewhereTakesWhatIsOwedWithIt(t *testing.T) {
	t.Parallel()
	elsewhere := testConfig(t, 1).Links
	elsewhere[0].Target = "dir:/elsewhere"
	for name, change := range map[string]func(*rig) error{
		"another target":   func(g *rig) error { return g.relay.SetLinks(elsewhere) },
		"the target wiped": func(g *rig) error { return errors.Join(g.relay.LinkAnew("l1"), g.relay.SetLinks(g.cfg.Links)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, testConfig(t, 1))
			a := g.join("a")
			v := a.put("x", "hello", 0)
			g.relay.EndSession(a.s, "its disk is gone")
			before, err := g.relay.linkRow("l1")
			require.NoError(t, err)
			require.NoError(t, change(g))
			l, err := g.relay.linkRow("l1")
			require.NoError(t, err)
			require.NotEqual(t, before.ID, l.ID)
			q, owed, err := ledger.OwedAt(g.relay.ledger, l.ID, v)
			require.NoError(t, err)
			require.True(t, owed)
			require.Equal(t, ledger.OwedCached, q.State)
			require.EqualValues(t, 5, l.OwedBytes)
			row, known, err := ledger.Version(g.relay.ledger, l.Dataset, v)
			require.NoError(t, err)
			require.True(t, known && row.Cached, "its bytes are here still")
		})
	}
	g := start(t, testConfig(t, 1))
	require.ErrorContains(t, g.relay.LinkAnew("l9"), `there is no link "l9"`)
}

// owing names the links that owe a version.
func (g *rig) owing(v proto.VersionID) (names []string) {
	rows, err := ledger.Links(g.relay.ledger)
	require.NoError(g.t, err)
	for _, r := range rows {
		_, owed, err := ledger.OwedAt(g.relay.ledger, r.ID, v)
		require.NoError(g.t, err)
		if owed {
			names = append(names, r.Name)
		}
	}
	return names
}

// The same when the relay was killed before the new link owed anything, and the link was then taken out of the configuration: it is
// orphaned, and what it owes stays until an operator gives it up (I1).
func TestALinkThatWasTakenOutWhileItWentElsewhere(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	v := a.put("x", "hello", 0)
	g.relay.EndSession(a.s, "its disk is gone")
	require.NoError(t, g.relay.LinkAnew("l1"))
	g.down()
	g.cfg.Links = nil
	g.up()
	require.Equal(t, []string{"l1"}, g.owing(v))
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	require.True(t, l.Orphaned)
}

// One link goes, one comes, one is pointed elsewhere, in one change of the configuration.
func TestLinksThatChangeAtOnce(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 1)
	l1 := cfg.Links[0]
	l2, l3, l4 := l1, l1, l1
	l2.Name, l2.Target = "l2", "dir:/l2"
	l3.Name, l3.Target = "l3", "dir:/l3"
	l4.Name, l4.Target = "l4", "dir:/l4"
	g := start(t, cfg)
	a := g.join("a")
	v := a.put("x", "hello", 0)
	require.NoError(t, g.relay.SetLinks([]Link{l1, l2, l3}))
	l3.Target = "dir:/elsewhere"
	require.NoError(t, g.relay.SetLinks([]Link{l1, l3, l4}))
	require.ElementsMatch(t, []string{"l1", "l2", "l3", "l4"}, g.owing(v))
}

// A link for all versions takes those that are no longer current with it, as far as they are here.
func TestALinkThatGoesElsewhereTakesOlderVersionsWithIt(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 1)
	cfg.Links[0].Coalesce = false
	g := start(t, cfg)
	a := g.join("a")
	v1 := a.put("x", "one", 0)
	v2 := a.put("x", "two!", v1)
	require.NoError(t, errors.Join(g.relay.LinkAnew("l1"), g.relay.SetLinks(cfg.Links)))
	require.Equal(t, []string{"l1"}, g.owing(v1))
	require.Equal(t, []string{"l1"}, g.owing(v2))
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	require.EqualValues(t, 7, l.OwedBytes)
}

// A link that is for another dataset now cannot take anything with it. Nothing of that is silent.
func TestALinkThatGoesToAnotherDatasetTellsWhatItGivesUp(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	g.join("a").put("x", "hello", 0)
	links := testConfig(t, 1).Links
	links[0].From.Name = "other"
	require.NoError(t, g.relay.SetLinks(links))
	require.Eventually(t, func() bool {
		told, err := g.relay.Events(t.Context(), 0, 100, 0)
		return err == nil && slices.ContainsFunc(told, func(e proto.Event) bool {
			return e.Kind == "link-dropped" && strings.Contains(e.What, "1 objects (5 bytes)")
		})
	}, 10*time.Second, time.Millisecond)
}

func TestALinkThatOwesNothingMayGoElsewhere(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 1)
	g := start(t, cfg)
	links := testConfig(t, 1).Links
	links[0].Target = "dir:/elsewhere"
	require.NoError(t, g.relay.SetLinks(links))
	s, err := g.relay.Status(context.Background())
	require.NoError(t, err)
	require.Len(t, s.Links, 1)
}

// The relay may end amid a drop, or a reload come between its steps.
func TestADropThatWasCutShortTakesNothingFromTheLinkThatIsConfiguredAgain(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	var put []proto.VersionID
	for _, path := range []string{"x", "y", "z"} {
		put = append(put, a.put(path, path, 0))
	}
	require.NoError(t, g.relay.SetLinks(nil))
	old, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	require.NoError(t, g.relay.Ledger().Update(&ledger.DropLink{Link: old.ID, Limit: 1}))
	s, err := g.relay.Status(t.Context())
	require.NoError(t, err)
	require.Empty(t, s.Links, "it was dropped")
	require.NoError(t, g.relay.SetLinks(g.cfg.Links))
	for _, ver := range put {
		require.Equal(t, []string{"l1"}, g.owing(ver))
	}
	require.NoError(t, g.relay.dropLink(old), "the reload ended that drop")
	rows, err := ledger.Links(g.relay.Ledger())
	require.NoError(t, err)
	require.Len(t, rows, 1)
}
