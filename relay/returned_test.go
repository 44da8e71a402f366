package relay

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// Who could not read an object is named when the lease on it ends again, until it claims it again: the next one is not to wait for it.
func TestEndedLeasesNameAllWhoGaveBack(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	a, b, c := g.join("a"), g.join("b"), g.join("c")
	cl := proto.Claim{Path: "x", Kind: proto.KindFile, Size: 3}
	fails := func(p *peer, w proto.Abandon) []proto.HolderID {
		answer := p.claim(cl)
		require.Equal(t, proto.VerdictSend, answer.Verdict)
		w.Session, w.Holder, w.Uploads = p.s, p.holder, []proto.UploadID{answer.Upload}
		require.NoError(t, g.relay.Abandon(t.Context(), w))
		ended := c.poll(proto.RootStatus{}).Ended
		require.Len(t, ended, 1)
		require.Equal(t, p.holder, ended[0].Holder)
		return ended[0].Unable
	}
	bad := proto.Abandon{ReadError: "input/output error"}
	require.Equal(t, []proto.HolderID{a.holder}, fails(a, bad))
	require.Equal(t, []proto.HolderID{a.holder, b.holder}, fails(b, bad), "a's disk is bad too")
	require.Equal(t, []proto.HolderID{b.holder}, fails(a, proto.Abandon{Changed: true}), "a could read it again")
	c.put("x", "one", 0)
	w := proto.Claim{Path: "x", Kind: proto.KindFile, Size: 4, Parent: g.object("x").Current.Version}
	cl = w
	require.Equal(t, []proto.HolderID{a.holder}, fails(a, bad), "that of another version is over")
}

func TestReturnedIsBounded(t *testing.T) {
	t.Parallel()
	var r returned
	for i := range maxReturned + 10 {
		r.add(objectKey{1, fmt.Sprint(i)}, 1)
	}
	require.Len(t, r.by, maxReturned)
	require.Empty(t, r.of(objectKey{1, "9"}))
	require.Len(t, r.of(objectKey{1, "10"}), 1)
}
