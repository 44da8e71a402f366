package relay

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/ledger/ledgertest"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard/store"
)

// A refused older content shares its segment with one that is needed: the rebuild must not take it for the newest (I18). And
// a delete that waits for a holder is forgotten: nothing is deleted on the word of one.
func TestRebuildKnowsRefusedContents(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	x1 := a.put("x", "one", 0)
	x2 := a.put("x", "two", x1)
	b.have(x2)
	held := a.put("held", "b is to say so, too", 0)
	b.have(held)
	a.poll(proto.RootStatus{})
	a.gone("held", held)
	// a's file became the older one while it was read: its claim had no digest.
	ans := a.claim(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 3, Parent: x2})
	require.Equal(t, proto.VerdictSend, ans.Verdict)
	other := a.claim(proto.Claim{Path: "y", Kind: proto.KindFile, Size: 3})
	old, y := object("x", "one", ans), object("y", "new", other)
	y.At = old.Length
	rep, err := a.send([]byte("onenew"), old, y)
	require.NoError(t, err)
	require.Equal(t, []proto.PieceState{proto.PieceLags, proto.PieceAccepted}, []proto.PieceState{rep.Pieces[0].State, rep.Pieces[1].State})
	up := int64(0)
	m, err := gatherMemo(g.relay.Ledger(), knownStores{}, 0)
	require.NoError(t, err)
	require.Len(t, m.Refused, 1)
	require.NotZero(t, m.UpNs)
	// Both segments of x are freed, as when the target has it and other objects keep the one that is shared.
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	require.NoError(t, g.relay.Ledger().Update(&ledger.Confirm{Link: l.ID, Versions: []proto.VersionID{x1, x2}, NowNs: 1}))
	require.NoError(t, g.relay.freeSegments(context.Background()))
	up = g.relay.up()
	g.lose()
	_, err = g.recover(func(fn func(string, ledger.OnTarget) error) (bool, error) {
		return true, fn("x", ledger.OnTarget{Version: x2, Holds: x2, Desc: proto.Desc{Kind: proto.KindFile, Size: 3,
			Digest: proto.ContentDigest([]byte("two")), Meta: proto.Meta{Mode: 0o644, MtimeNs: 1}}})
	})
	require.NoError(t, err)
	g.up()
	require.Equal(t, proto.ContentDigest([]byte("two")), g.object("x").Current.Digest, "a refused content puts no target back")
	require.Equal(t, proto.ContentDigest([]byte("new")), g.object("y").Current.Digest)
	require.GreaterOrEqual(t, up, m.UpNs)
	require.GreaterOrEqual(t, g.relay.up(), m.UpNs, "counts and graces go on")
	require.NoError(t, g.relay.Ledger().View(ledgertest.Check))
	require.Equal(t, proto.VerdictLags, a.rejoined().claim(claimOf("x", "one", x1)).Verdict)
	a.poll(proto.RootStatus{})
	g.relay.judgeRound(context.Background())
	require.Equal(t, proto.KindFile, g.object("held").Current.Kind, "b has not said that it is gone")
}

func (p *peer) rejoined() *peer {
	p.hello()
	return p
}

// A rebuild that is cut short at any step leaves nothing that a second one minds, and the second one finds the same.
func TestRebuildIsCutShortAndRepeated(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a := g.join("a")
	a.put("x", "two", a.put("x", "one", 0))
	a.put("y", "one", 0)
	g.lose()
	errCut := errors.New("cut")
	for _, at := range []string{StepSegments, StepJournals, StepRows, "journal"} {
		ctx, cut := context.WithCancel(context.Background())
		_, err := Recover(ctx, g.cfg, RecoverDeps{Now: g.clock.now,
			Progress: func(step string, _, _ int64) {
				if step == at {
					cut()
				}
			},
			Journal: func(_ context.Context, _ Link, _ proto.RelayID, fn func(string, ledger.OnTarget) error) (bool, error) {
				if at == "journal" {
					cut()
					return true, errors.Join(errCut, fn("x", ledger.OnTarget{Version: 1}))
				}
				return true, nil
			}})
		cut()
		if err == nil { // it was past the last thing that can be cut
			require.NoError(t, os.RemoveAll(filepath.Join(g.cfg.Data, "ledger")))
			continue
		}
		require.ErrorIs(t, err, context.Canceled, at)
		_, err = os.Stat(filepath.Join(g.cfg.Data, "ledger"))
		require.ErrorIs(t, err, fs.ErrNotExist, "%s: nothing half done takes the ledger's place", at)
	}
	rep, err := g.recover(nothingThere)
	require.NoError(t, err)
	require.EqualValues(t, 2, rep.Objects)
	require.False(t, rep.Partly)
	g.up()
	require.Equal(t, proto.ContentDigest([]byte("two")), g.object("x").Current.Digest)
	require.NoError(t, g.relay.Ledger().View(ledgertest.Check))
}

// Shards are damaged in stores that open: up to the parity nothing is lost, beyond it the segments are named.
func TestRebuildWithDamagedShards(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ stores, lost int }{"as many as the parity": {1, 0}, "more than the parity": {2, 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, testConfig(t, 3))
			a := g.join("a")
			a.put("x", "content", 0)
			g.lose()
			for _, s := range g.cfg.Stores[:tc.stores] {
				damageTables(t, s)
			}
			rep, err := g.recover(nothingThere)
			require.NoError(t, err)
			require.EqualValues(t, tc.lost, rep.Unreadable, "%+v", rep)
			require.EqualValues(t, 1-tc.lost, rep.Objects)
			require.Equal(t, tc.lost > 0, rep.Partly)
			if tc.lost > 0 {
				require.Contains(t, rep.Notes[len(rep.Notes)-1], segmentName(g))
			}
			g.up()
			require.NoError(t, g.relay.Ledger().View(ledgertest.Check))
			a.hello()
			if v := a.claim(claimOf("x", "content", 1)).Verdict; tc.lost > 0 {
				require.Equal(t, proto.VerdictSend, v, "its holder sends it again")
			} else {
				require.Equal(t, proto.VerdictHave, v)
			}
		})
	}
}

// A relay that is killed while it writes a segment leaves some of its shards: nothing that was acknowledged, so nothing that a rebuild
// could not recover.
func TestRebuildAfterAKillBetweenTwoStores(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 3))
	a := g.join("a")
	a.put("x", "content", 0)
	raw, err := segment.Encode(segment.Header{Dataset: proto.Dataset{Cluster: "primary", Name: "media"},
		Pieces: []segment.Piece{{Kind: segment.PieceDelete, Path: "y", Upload: 99, Epoch: proto.Epoch{Generation: 1, Counter: 99}, Desc: &proto.Desc{Kind: proto.KindTombstone}}}}, nil)
	require.NoError(t, err)
	id := g.relay.ingest.NextID() // and never done with
	segment.Stamp(raw, id)
	ps, err := g.relay.stores.Put(t.Context(), []store.Item{{ID: id, Raw: raw}})
	require.NoError(t, err)
	require.Equal(t, 2, ps[0].Geometry.Data)
	g.freeTwo(id, ps[0])
	g.lose()
	rep, err := g.recover(nothingThere)
	require.NoError(t, err)
	require.False(t, rep.Partly, "%+v", rep)
	require.EqualValues(t, 1, rep.Objects)
	require.Contains(t, rep.Notes[len(rep.Notes)-1], "1 segments have too few shards")
	g.up()
	require.NoError(t, g.relay.Ledger().View(ledgertest.Check))
}

// What was acknowledged and has too few shards left was lost, and is named, also where all stores are there: one may have been put back to an
// older copy of itself (I17).
func TestRebuildNamesWhatItsStoresHaveLost(t *testing.T) {
	t.Parallel()
	g := startDriven(t, testConfig(t, 3))
	g.join("a").put("x", "content", 0)
	g.relay.keepMemo()
	for seq, p := range g.rows() {
		g.freeTwo(proto.SegmentID{Relay: g.relay.ID(), Seq: seq}, p)
	}
	g.lose()
	rep, err := g.recover(nothingThere)
	require.NoError(t, err)
	require.True(t, rep.Partly, "%+v", rep)
	require.EqualValues(t, 1, rep.Unreadable)
	require.Contains(t, rep.Notes[len(rep.Notes)-1], segmentName(g))
}

// freeTwo removes the first two shards of a segment.
func (g *rig) freeTwo(id proto.SegmentID, p store.Placement) {
	for i, s := range p.Stores[:2] {
		require.NoError(g.t, g.relay.stores.FreeShards(g.t.Context(), []store.At{{Store: s, Found: store.Found{Code: p.Code(id), Index: i}}}))
	}
}

func segmentName(g *rig) string {
	return proto.SegmentID{Relay: g.relay.ID(), Seq: uint64(g.relay.meta.Generation)<<40 | 1}.String()
}

// damageTables flips bits in the data of every table of a store.
func damageTables(t *testing.T, dir string) {
	t.Helper()
	n := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".sst" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i := range min(len(b)/4, 64) {
			b[i+20] ^= 0x55
		}
		n++
		return os.WriteFile(path, b, 0o600)
	}))
	require.NotZero(t, n, "no tables in %s", dir)
}
