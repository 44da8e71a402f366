package relay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// A holder has what is published as a hard link as a file of its own, and says so. Then the leader's name gets another content: nothing
// changed on the holder, and yet its bytes are the only ones. It is asked for them.
func TestHardLinkThatLostItsLeaderIsAskedFor(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b := g.join("a"), g.join("b")
	first := a.put("leader", "one", 0)
	c := claimOf("link", "one", 0)
	c.Kind, c.LinkTo = proto.KindHardlink, "leader"
	ans := a.claim(c)
	require.Equal(t, proto.VerdictSend, ans.Verdict)
	piece := object("link", "", ans)
	piece.Desc.Kind, piece.Desc.LinkTo, piece.Desc.Size, piece.Desc.Digest = proto.KindHardlink, "leader", 3, proto.ContentDigest([]byte("one"))
	rep, err := a.send(nil, piece)
	require.NoError(t, err)
	link := rep.Pieces[0].Version
	require.Equal(t, proto.VerdictHave, b.claim(claimOf("link", "one", 0)).Verdict)

	require.Equal(t, proto.KindHardlink, g.object("link").Current.Kind)
	row, err := ledger.DatasetByName(g.relay.Ledger(), proto.Dataset{Cluster: "primary", Name: "media"})
	require.NoError(t, err)
	ds := row.ID
	g.relay.NoteLoose(ds, "link", link)
	require.Empty(t, b.asked(), "its leader is what it was")
	a.put("leader", "two", first)
	g.relay.NoteLoose(ds, "link", link)
	require.EqualValues(t, 1, b.poll(proto.RootStatus{}).Datasets[0].Asked)
	items := b.asked()
	require.Len(t, items, 1)
	require.Equal(t, proto.FeedItem{Version: link, Path: "link", Kind: proto.KindHardlink, Size: 3, Digest: proto.ContentDigest([]byte("one")), LinkTo: "leader"}, items[0])

	g.clock.advance(looseFor + time.Second)
	require.Empty(t, b.asked(), "not for ever: who has it had its turn")
	g.relay.NoteLoose(ds, "link", link)
	require.Len(t, b.asked(), 1)

	ans = b.claim(claimOf("link", "one", link))
	require.Equal(t, proto.VerdictSend, ans.Verdict)
	rep, err = b.send([]byte("one"), object("link", "one", ans))
	require.NoError(t, err)
	require.Equal(t, proto.PieceAccepted, rep.Pieces[0].State)
	require.Equal(t, proto.KindFile, g.object("link").Current.Kind)
	require.Empty(t, b.asked())
	require.Zero(t, g.relay.loose.count(ds))
}

func (p *peer) asked() []proto.FeedItem {
	p.g.t.Helper()
	rep, err := p.g.relay.Feed(p.g.t.Context(), proto.FeedRequest{Session: p.s, Dataset: "media", Limit: 100}, true)
	require.NoError(p.g.t, err)
	return rep.Items
}
