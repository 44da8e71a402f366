package relay

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

func (p *peer) haveWith(v proto.VersionID, m proto.Meta) (wanted bool) {
	rep, err := p.g.relay.Report(context.Background(), proto.Report{Session: p.s, Holder: p.holder,
		Have: []proto.HaveEntry{{Version: v, MtimeNs: m.MtimeNs, MetaSum: proto.MetaSum(m.Sums())}}})
	require.NoError(p.g.t, err)
	return len(rep.WantMeta) == 1
}

// remeta claims metadata that changed since version v, and sends it.
func (p *peer) remeta(path, content string, v proto.VersionID, changed proto.MetaField, m proto.Meta) proto.VersionID {
	d := proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest([]byte(content)), Meta: m}
	a := p.claim(proto.Claim{Path: path, Kind: d.Kind, Size: d.Size, Parent: v, HasDigest: true, Digest: d.Digest, MtimeNs: m.MtimeNs,
		Changed: changed, Meta: &m, MetaSum: proto.MetaSum(m.Sums())})
	require.Equal(p.g.t, proto.VerdictSendMeta, a.Verdict)
	rep, err := p.send(nil, segment.Piece{Kind: segment.PieceMeta, Path: path, Upload: a.Upload, Epoch: a.Epoch, Parent: a.Version, Desc: &d})
	require.NoError(p.g.t, err)
	require.Equal(p.g.t, proto.PieceAccepted, rep.Pieces[0].State)
	return rep.Pieces[0].Version
}

func (g *rig) mode(v proto.VersionID) uint32 {
	l, err := g.relay.linkRow("l1")
	require.NoError(g.t, err)
	row, ok, err := ledger.Version(g.relay.Ledger(), l.Dataset, v)
	require.NoError(g.t, err)
	require.True(g.t, ok)
	return row.Desc.Meta.Mode
}

func (p *peer) leave() {
	_, err := p.g.relay.Poll(context.Background(), proto.Poll{Session: p.s, ClockNs: p.g.clock.now().UnixNano(), Stopping: true})
	require.NoError(p.g.t, err)
}

// Metadata that changes on every replica before any of them has agreed with the relay on the content is published all the same, also
// when who sent the content died before it knew that it had been taken (I1).
func TestMetadataThatNobodyHasAnyMoreIsReplaced(t *testing.T) {
	t.Parallel()
	is := proto.Meta{Mode: 0o600, MtimeNs: 1}
	for name, x := range map[string]struct {
		back bool // the sender is back before the others tell
		by   func(p *peer, path string, v proto.VersionID) (wanted bool)
	}{
		"reported while the sender is away": {false, func(p *peer, _ string, v proto.VersionID) bool { return p.haveWith(v, is) }},
		"reported once the sender is back":  {true, func(p *peer, _ string, v proto.VersionID) bool { return p.haveWith(v, is) }},
		"claimed while the sender is away": {false, func(p *peer, path string, _ proto.VersionID) bool {
			a := p.claim(proto.Claim{Path: path, Kind: proto.KindFile, Size: 1, HasDigest: true, Digest: proto.ContentDigest([]byte("x")), MtimeNs: 1, MetaSum: proto.MetaSum(is.Sums())})
			require.Equal(t, proto.VerdictHave, a.Verdict)
			return a.WantMeta
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, testConfig(t, 1))
			a, b, c := g.join("a"), g.join("b"), g.join("c")
			v := a.put("x", "x", 0)
			a.leave()
			asked := b
			if x.back {
				a.hello()
				require.False(t, x.by(b, "x", v), "who published it is there, and will tell itself")
				asked = a
			}
			require.True(t, x.by(asked, "x", v))
			require.True(t, x.by(asked, "x", v), "as long as it has not come: an answer may be lost")

			now := asked.remeta("x", "x", v, proto.FieldMode|proto.FieldOwner|proto.FieldMtime|proto.FieldXattrs, is)
			require.EqualValues(t, 0o600, g.mode(now))

			require.False(t, c.haveWith(now, is))
			require.False(t, c.haveWith(now, proto.Meta{Mode: 0o640, MtimeNs: 1}), "it differs for itself")
		})
	}
}

// A change of metadata stands although its author is away, or cordoned, when the others tell that they have not got it yet: what they have
// is what they had agreed on before.
func TestChangeOfMetadataStandsWhileItsAuthorIsAway(t *testing.T) {
	t.Parallel()
	yes := true
	for name, away := range map[string]func(g *rig, a *peer){
		"away": func(_ *rig, a *peer) { a.leave() },
		"cordoned": func(g *rig, _ *peer) {
			require.NoError(t, g.relay.ledger.Update(&ledger.UpdateNode{Cluster: "primary", Node: "a", Cordoned: &yes}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, testConfig(t, 1))
			a, b := g.join("a"), g.join("b")
			was, is := proto.Meta{Mode: 0o644, MtimeNs: 1}, proto.Meta{Mode: 0o600, MtimeNs: 1}
			v := a.put("x", "x", 0)
			require.False(t, b.haveWith(v, was))
			v = a.remeta("x", "x", v, proto.FieldMode, is)
			away(g, a)
			rep, err := g.relay.Report(t.Context(), proto.Report{Session: b.s, Holder: b.holder,
				Have: []proto.HaveEntry{{Version: v, MtimeNs: 1, MetaSum: proto.MetaSum(was.Sums()), Kept: true}}})
			require.NoError(t, err)
			require.Empty(t, rep.WantMeta)
			c := claimOf("x", "x", v-1)
			c.MtimeNs, c.MetaSum = 1, proto.MetaSum(was.Sums())
			require.False(t, b.claim(c).WantMeta)
			require.EqualValues(t, 0o600, g.mode(g.object("x").Current.Version))
		})
	}
}
