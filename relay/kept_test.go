package relay

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// After a rebuild without one of the stores, what could not be read stays in the stores. What was read is freed like any other once
// nothing needs it, on the store that was away, too.
func TestWhatIsFreedAfterARebuildIsFreedOnStoresThatWereAway(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 3))
	a := g.join("a")
	a.put("x", "read by the rebuild", 0)
	require.Equal(t, 3, g.shards())
	g.lose()
	aside := make([]string, 3)
	for i, path := range g.cfg.Stores {
		aside[i] = path + ".aside"
	}
	require.NoError(t, os.Rename(g.cfg.Stores[2], aside[2]))
	rep, err := g.recover(nothingThere)
	require.NoError(t, err)
	require.EqualValues(t, 1, rep.Objects)
	g.up()
	require.NotZero(t, g.relay.meta.Kept)
	l, err := g.relay.linkRow("l1")
	require.NoError(t, err)
	require.NoError(t, g.relay.Ledger().Update(&ledger.Confirm{Link: l.ID, Versions: []proto.VersionID{g.object("x").Current.Version}, NowNs: 1}))
	g.eventually("x is freed", func() bool { return g.shards() == 0 })
	g.down()
	require.NoError(t, os.RemoveAll(g.cfg.Stores[2]))
	require.NoError(t, os.Rename(aside[2], g.cfg.Stores[2]))
	g.up()
	g.eventually("what the store had of x is freed, too", func() bool {
		g.relay.sweepAll()
		return g.shards() == 0
	})
}

// Where nothing but the stores is left of a relay, one that cannot be read may be what its ledger is rebuilt from.
func TestNoRelayBeginsBesideAStoreThatCannotBeRead(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	g.join("a").put("x", "acknowledged", 0)
	g.lose()
	file := filepath.Join(g.cfg.Stores[0], "store")
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, whole[:len(whole)-1], 0o600))
	_, err = Open(g.cfg, Deps{Log: zerolog.Nop(), Now: g.clock.now})
	require.ErrorContains(t, err, "--recover-ledger")
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	require.NoError(t, os.WriteFile(file, whole, 0o600))
	_, err = g.recover(nothingThere)
	require.NoError(t, err)
	g.up()
	got, ok := g.content("x")
	require.True(t, ok)
	require.Equal(t, "acknowledged", got)
}

// A piece that is not what its digest says stays where it is, until it is judged. It does not keep the others there.
func TestABadPieceDoesNotStopTheRepack(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, 1)
	cfg.Capacity, cfg.Low, cfg.High = 100<<20, 0.001, 0.99
	g := startDriven(t, cfg)
	r := g.relay
	a := g.join("a")
	var done []proto.VersionID
	for _, s := range []string{"a", "b", "c"} {
		var pieces []segment.Piece
		var payload []byte
		for _, name := range []string{"1", "2", "big"} {
			content := bytes.Repeat([]byte(s+name), 1000)
			if name == "big" {
				content = make([]byte, 2<<20)
			}
			p := object(s+name, string(content), a.claim(proto.Claim{Path: s + name, Kind: proto.KindFile, Size: int64(len(content))}))
			p.At = uint32(len(payload))
			pieces, payload = append(pieces, p), append(payload, content...)
		}
		rep, err := a.send(payload, pieces...)
		require.NoError(t, err)
		done = append(done, rep.Pieces[2].Version)
	}
	l, err := r.linkRow("l1")
	require.NoError(t, err)
	require.NoError(t, r.Ledger().Update(&ledger.Confirm{Link: l.ID, Versions: done, NowNs: 1}))
	at := func(path string) uint64 {
		v, ok, err := ledger.Version(r.Ledger(), l.Dataset, g.object(path).Current.Version)
		require.NoError(t, err)
		require.True(t, ok)
		return v.Content.Segment
	}
	first, second := at("a1"), at("b1")
	seg, err := r.ReadSegment(t.Context(), first)
	require.NoError(t, err)
	seg.Payload[0] ^= 1 // in memory, where the next reader finds it

	require.NoError(t, r.repack(context.Background()))
	require.Equal(t, first, at("a1"), "it is not copied")
	require.NotEqual(t, first, at("a2"))
	require.NotEqual(t, second, at("b1"))
	require.Len(t, r.suspects, 1)
	r.judgeSuspect(t.Context(), <-r.suspects)
	got, ok := g.content("a1")
	require.True(t, ok, "on the disk it was good")
	require.Equal(t, string(bytes.Repeat([]byte("a1"), 1000)), got)
}
