package relay

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/ledger/ledgertest"
	"forebay/proto"
	"forebay/proto/segment"
)

func (g *rig) recover(journal func(fn func(string, ledger.OnTarget) error) (bool, error)) (RecoverReport, error) {
	g.t.Helper()
	return Recover(context.Background(), g.cfg, RecoverDeps{FS: g.fs, Now: g.clock.now, Journal: func(_ context.Context, _ Link, _ proto.RelayID, fn func(string, ledger.OnTarget) error) (bool, error) {
		return journal(fn)
	}})
}

func nothingThere(func(string, ledger.OnTarget) error) (bool, error) { return true, nil }

// lose ends the relay and takes its ledger away.
func (g *rig) lose() {
	g.t.Helper()
	g.down()
	require.NoError(g.t, os.RemoveAll(filepath.Join(g.cfg.Data, "ledger")))
}

// half sends the first half of an object of 16 MiB.
func half(p *peer, content []byte) proto.ClaimAnswer {
	ans := p.claim(proto.Claim{Path: "big", Kind: proto.KindFile, Size: int64(len(content))})
	require.Equal(p.g.t, proto.VerdictSend, ans.Verdict)
	rep, err := p.send(content[:8<<20], bigRange(ans, content, 0))
	require.NoError(p.g.t, err)
	require.Equal(p.g.t, proto.PieceAccepted, rep.Pieces[0].State)
	return ans
}

func bigRange(ans proto.ClaimAnswer, content []byte, off int) segment.Piece {
	return segment.Piece{Kind: segment.PieceRange, Path: "big", Upload: ans.Upload, Epoch: ans.Epoch, Offset: int64(off), Length: 8 << 20,
		Blocks: proto.BlockDigests(nil, content[off:off+8<<20]), ObjectSize: int64(len(content))}
}

func claimOf(path, content string, parent proto.VersionID) proto.Claim {
	return proto.Claim{Path: path, Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest([]byte(content)), HasDigest: true, Parent: parent}
}

func TestLostLedgerIsRebuiltFromStores(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(cfg Config){
		"all stores":     func(Config) {},
		"one store lost": func(cfg Config) { require.NoError(t, os.RemoveAll(cfg.Stores[1])) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, testConfig(t, 3))
			a, b := g.join("a"), g.join("b")
			x1 := a.put("x", "one", 0)
			x2 := a.put("x", "two", x1)
			kept := a.put("kept", "on the target", 0)
			gone := a.put("gone", "for now", 0)
			b.have(gone)
			for _, p := range []*peer{a, b} {
				p.poll(proto.RootStatus{})
				p.gone("gone", gone)
			}
			g.eventually("it is a tombstone", func() bool { return g.object("gone").Current.Kind == proto.KindTombstone })
			content := make([]byte, 16<<20)
			for i := range content {
				content[i] = byte(i >> 10)
			}
			first := half(a, content)
			require.NoError(t, g.relay.Pause("l1", true, 0))
			generation, id := g.relay.meta.Generation, g.relay.ID()
			g.lose()
			damage(g.cfg)

			_, err := Open(g.cfg, Deps{Log: zerolog.Nop(), Now: g.clock.now})
			require.ErrorContains(t, err, "--recover-ledger")
			require.NoError(t, os.MkdirAll(filepath.Join(g.cfg.Data, "ledger.rebuild", "db"), 0o700)) // one that was cut short
			rep, err := g.recover(func(fn func(string, ledger.OnTarget) error) (bool, error) {
				return true, fn("kept", ledger.OnTarget{Version: kept, Holds: kept, Desc: proto.Desc{Kind: proto.KindFile, Size: 13,
					Digest: proto.ContentDigest([]byte("on the target")), Meta: proto.Meta{Mode: 0o644, MtimeNs: 1}}})
			})
			require.NoError(t, err)
			require.Equal(t, name != "all stores", rep.Partly, "%+v", rep)
			require.EqualValues(t, 2, rep.Objects)
			require.EqualValues(t, 1, rep.Tombstones)
			require.EqualValues(t, 8<<20, rep.UploadBytes)
			require.Zero(t, rep.Unreadable)
			_, err = g.recover(nothingThere)
			require.ErrorContains(t, err, "move", "a usable ledger is not thrown away")

			g.up()
			require.Equal(t, id, g.relay.ID())
			require.Greater(t, g.relay.meta.Generation, generation)
			require.NoError(t, g.relay.Ledger().View(ledgertest.Check))
			l, err := g.relay.linkRow("l1")
			require.NoError(t, err)
			require.True(t, l.Paused, "what an operator had paused stays paused")
			require.EqualValues(t, 1, l.ConfirmedObjects)
			require.EqualValues(t, 1, l.OwedObjects, "x; the target never had what is gone")
			now := g.object("x")
			require.Equal(t, proto.ContentDigest([]byte("two")), now.Current.Digest)
			require.Greater(t, now.Current.Version, x2)

			// A holder that lags is known for it before any other has said a word.
			c := g.join("c")
			// Where its segment was freed before the loss nobody knows that its content is an older one: it is a fork, and changes as little.
			require.Contains(t, []proto.Verdict{proto.VerdictLags, proto.VerdictDivergent}, c.claim(claimOf("x", "one", x1)).Verdict)
			require.Equal(t, proto.VerdictLags, c.claim(claimOf("gone", "for now", gone)).Verdict)
			a.hello()
			require.Equal(t, proto.VerdictHave, a.claim(claimOf("x", "two", x2)).Verdict)
			// What was sent under a lease of before changes nothing, and the upload goes on from what is here.
			late, err := a.send(content[8<<20:], bigRange(first, content, 8<<20))
			require.NoError(t, err)
			require.Equal(t, proto.PieceStale, late.Pieces[0].State)
			second := a.claim(proto.Claim{Path: "big", Kind: proto.KindFile, Size: int64(len(content))})
			require.Equal(t, first.Upload, second.Upload)
			require.Equal(t, []proto.Range{{Offset: 0, Length: 8 << 20}}, second.Have)
			seal := segment.Piece{Kind: segment.PieceSeal, Path: "big", Upload: second.Upload, Epoch: second.Epoch, At: 8 << 20,
				Desc: &proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content)}}
			done, err := a.send(content[8<<20:], bigRange(second, content, 8<<20), seal)
			require.NoError(t, err)
			require.Equal(t, proto.PieceAccepted, done.Pieces[1].State)
			// What changed while the ledger was away follows the number that the holder knows.
			next := a.claim(claimOf("x", "three", x2))
			require.Equal(t, proto.VerdictSend, next.Verdict)
			sent, err := a.send([]byte("three"), object("x", "three", next))
			require.NoError(t, err)
			require.Equal(t, proto.PieceAccepted, sent.Pieces[0].State)
			require.Greater(t, sent.Pieces[0].Version, now.Current.Version)
			require.NoError(t, g.relay.Ledger().View(ledgertest.Check))
		})
	}
}

// Without the memo nothing says which links were paused, and an empty mount point is no target: both stop the link.
func TestRebuiltLinksAreSafe(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	v := a.put("x", "one", 0)
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	require.NoError(t, g.relay.Ledger().Update(&ledger.Confirm{Link: l.ID, Versions: []proto.VersionID{v}, NowNs: 1}))
	g.relay.keepMemo()
	g.lose()
	rep, err := g.recover(func(func(string, ledger.OnTarget) error) (bool, error) { return false, nil })
	require.NoError(t, err)
	require.True(t, rep.Partly)
	require.Contains(t, rep.Links[0].Unread, "mounted")
	require.True(t, rep.Links[0].Paused)
	require.NoError(t, os.RemoveAll(filepath.Join(g.cfg.Data, "ledger")))
	require.NoError(t, os.Remove(filepath.Join(g.cfg.Stores[0], "memo")))
	rep, err = g.recover(nothingThere)
	require.NoError(t, err)
	require.True(t, rep.Partly)
	require.True(t, rep.Links[0].Paused)
}

// What operators decided about stores outlives the ledger: one that was added is read, one that was given up is not, and neither is
// taken for a new one.
func TestRolesOfStoresAreRebuilt(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 3)
	g := start(t, cfg)
	a := g.join("a")
	lost := cfg.Stores[2]
	old := filepath.Join(t.TempDir(), "old")
	a.put("before", "one", 0)
	g.down()
	require.NoError(t, os.Rename(lost, old))
	g.up()
	a.hello()
	_, err := g.relay.DrainStore(lost, true, false)
	require.NoError(t, err)
	added := filepath.Join(t.TempDir(), "added")
	_, err = g.relay.AddStore(added)
	require.NoError(t, err)
	a.put("after", "two", 0)
	_, err = g.relay.DrainStore(cfg.Stores[0], false, false)
	require.NoError(t, err)
	was := g.relay.knownStores()
	require.Len(t, was.Roles.GivenUp, 1)
	require.Len(t, was.Roles.Added, 1)
	g.lose()
	require.NoError(t, os.Rename(old, lost), "it turns up again")

	rep, err := g.recover(nothingThere)
	require.NoError(t, err)
	require.EqualValues(t, 2, rep.Objects, "%+v", rep)
	require.True(t, slices.ContainsFunc(rep.Notes, func(n string) bool { return strings.Contains(n, lost+" was given up") }), "%q", rep.Notes)
	require.NotContains(t, strings.Join(rep.Notes, "\n"), added)
	g.up()
	require.Equal(t, was.Roles, g.relay.knownStores().Roles)
}

// Stores and ledger are lost: what the targets' journals say is what the relay goes on from, under its own id, in a generation that
// the lost one cannot have reached.
func TestLostRelayIsRebuiltFromTargets(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 2))
	a := g.join("a")
	v := a.put("x", "on the target", 0)
	a.put("y", "in the cache alone", 0)
	id := g.relay.ID()
	g.down()
	owner := func(is proto.RelayID) func(context.Context, Link) (proto.RelayID, uint32, error) {
		return func(context.Context, Link) (proto.RelayID, uint32, error) { return is, 5_000_000, nil }
	}
	aside := t.TempDir()
	deps := RecoverDeps{Now: g.clock.now, FromTargets: true, Owner: owner(id), Journal: func(_ context.Context, _ Link, of proto.RelayID, fn func(string, ledger.OnTarget) error) (bool, error) {
		require.Equal(t, id, of)
		return true, fn("x", ledger.OnTarget{Version: v, Holds: v, Desc: proto.Desc{Kind: proto.KindFile, Size: 13,
			Digest: proto.ContentDigest([]byte("on the target")), Meta: proto.Meta{Mode: 0o644, MtimeNs: 1}}})
	}}
	require.NoError(t, os.RemoveAll(filepath.Join(g.cfg.Data, "ledger")))
	_, err := Recover(t.Context(), g.cfg, deps)
	require.ErrorContains(t, err, "without --from-targets", "the stores are there")
	swap := func(away bool) {
		for i, s := range g.cfg.Stores {
			from, to := filepath.Join(aside, fmt.Sprint(i)), s
			if away {
				from, to = to, from
			} else {
				require.NoError(t, os.RemoveAll(to))
			}
			require.NoError(t, os.Rename(from, to))
		}
	}
	swap(true)
	_, err = g.recover(nothingThere)
	require.ErrorContains(t, err, "--from-targets")
	deps.Owner = owner(0)
	_, err = Recover(t.Context(), g.cfg, deps)
	require.ErrorContains(t, err, "nothing to rebuild")
	deps.Owner = owner(id)
	rep, err := Recover(t.Context(), g.cfg, deps)
	require.NoError(t, err)
	require.EqualValues(t, 1, rep.Objects)
	require.True(t, rep.Partly)
	require.True(t, rep.Links[0].Paused)

	// The stores were not lost, only not mounted: what is in them is not left over, and a rebuild with them brings it back.
	swap(false)
	g.up()
	g.sweep()
	require.Equal(t, 4, g.shards())
	g.lose()
	rep, err = g.recover(nothingThere)
	require.NoError(t, err)
	require.EqualValues(t, 2, rep.Objects, "%+v", rep)
	g.up()
	got, ok := g.content("y")
	require.True(t, ok)
	require.Equal(t, "in the cache alone", got)

	// They are lost indeed.
	g.lose()
	swap(true)
	_, err = Recover(t.Context(), g.cfg, deps)
	require.NoError(t, err)
	g.up()
	require.Equal(t, id, g.relay.ID())
	require.Greater(t, g.relay.meta.Rebuilt, uint32(5_000_000), "the mark is that of an earlier ledger, whatever the clock says")
	require.NoError(t, g.relay.Ledger().View(ledgertest.Check))
	a.hello()
	require.Equal(t, proto.VerdictHave, a.claim(claimOf("x", "on the target", v)).Verdict)
	require.Equal(t, proto.VerdictSend, a.claim(claimOf("y", "in the cache alone", 2)).Verdict)
	require.NotZero(t, a.put("z", "goes on", 0))
	g.restart()
	require.False(t, g.relay.meta.Outdated)
}

// A generation that is taken from the clock has 24 bits for a lifetime, and grows.
func TestStartsUntil(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	require.Less(t, startsUntil(at), startsUntil(at.Add(2*time.Minute)))
	require.Less(t, startsUntil(at.AddDate(30, 0, 0)), uint32(1)<<24)
	require.EqualValues(t, 1, startsUntil(time.Unix(0, 0)), "a clock that was never set")
}
