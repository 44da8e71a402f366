package work

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/agent/index"
	"forebay/proto"
)

// A decision that was made before the feed told of a newer version does not put the object off: it may wait for the hasher, which passes
// over what cannot be the newest version.
func TestWhatIsHeardMeanwhileIsNotPutOff(t *testing.T) {
	t.Parallel()
	w := carrying(t, nil)
	e := entryOf(t, w.Root.(alone), "small", 100)
	e.Heard, e.HeardKind, e.HeardSize = 5, proto.KindFile, 100
	require.NoError(t, w.Index.Edit(func(tx *index.Tx) error { return tx.Put(e) }))
	now := w.Now()
	list, err := w.fresh(w.busy.free([]index.Entry{e}), now)
	require.NoError(t, err)
	b, err := w.sort(t.Context(), list, now)
	require.NoError(t, err)
	require.Len(t, b.wait, 1)
	require.Greater(t, b.wait[0].Due, now.Add(time.Minute).UnixNano(), "the hasher finds it")
	require.NoError(t, w.hear(proto.FeedReply{Next: 6, Items: []proto.FeedItem{{Version: 6, Path: "small", Kind: proto.KindFile, Size: 101}}}))
	require.NoError(t, w.putBack(b.wait))
	cur, ok, err := w.Index.Get("small")
	require.NoError(t, err)
	require.True(t, ok)
	require.LessOrEqual(t, cur.Due, w.Now().UnixNano())
	require.Zero(t, w.busy.len())
}
