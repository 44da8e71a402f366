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

			digest := proto.ContentDigest([]byte("x"))
			ans := asked.claim(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 1, Parent: v, HasDigest: true, Digest: digest, MtimeNs: 1,
				Changed: proto.FieldMode | proto.FieldOwner | proto.FieldMtime | proto.FieldXattrs, Meta: &is, MetaSum: proto.MetaSum(is.Sums())})
			require.Equal(t, proto.VerdictSendMeta, ans.Verdict)
			rep, err := asked.send(nil, segment.Piece{Kind: segment.PieceMeta, Path: "x", Upload: ans.Upload, Epoch: ans.Epoch, Parent: ans.Version,
				Desc: &proto.Desc{Kind: proto.KindFile, Size: 1, Digest: digest, Meta: is}})
			require.NoError(t, err)
			require.Equal(t, proto.PieceAccepted, rep.Pieces[0].State)
			now := rep.Pieces[0].Version
			l, err := g.relay.linkRow("l1")
			require.NoError(t, err)
			row, ok, err := ledger.Version(g.relay.Ledger(), l.Dataset, now)
			require.NoError(t, err)
			require.True(t, ok)
			require.EqualValues(t, 0o600, row.Desc.Meta.Mode)

			require.False(t, c.haveWith(now, is))
			require.False(t, c.haveWith(now, proto.Meta{Mode: 0o640, MtimeNs: 1}), "it differs for itself")
		})
	}
}
