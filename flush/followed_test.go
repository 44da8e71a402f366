package flush_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/ledger"
	"forebay/proto"
)

// A target's journal names what was deleted until every holder of the dataset has followed that, also one that was away for long: after a
// rebuild of the ledger nobody else would know of it, and the holder would bring it back.
func TestDeletesAreNamedUntilTheLastHolderFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.link("a", "media", keeping...)
	first := w.dataset("media")
	away := &ledger.RegisterHolder{Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Node: "node-b", Root: "/srv/media", Index: "i2", NowNs: w.clock.Now().UnixNano()}
	w.apply(away)
	follow := func(node string, h ledger.HolderRow) {
		cursors := map[proto.HolderID]ledger.Followed{h.ID: {IndexGen: h.IndexGen, Cursor: 1000}}
		w.apply(&ledger.UpdateNode{Cluster: "primary", Node: node, Cursors: cursors})
	}
	tgt, err := dir.Open(dir.Config{Path: root}, dir.Deps{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tgt.Close()) })
	named := func() bool {
		w.start()
		for i := range 12 { // so many that the journal is merged
			w.put("media", file("g", fmt.Sprint(i)))
			w.drained("a")
		}
		w.kill()
		j, err := journal.Open(t.Context(), tgt.Records(), target.PrefixKey(""))
		require.NoError(t, err)
		e, _, ok, err := j.Get(t.Context(), "f")
		require.NoError(t, err)
		require.True(t, !ok || e.State == journal.StateDeleted, "%+v", e)
		return ok
	}
	w.put("media", file("f", "1"))
	w.start()
	w.drained("a")
	w.put("media", deleted("f"))
	w.drained("a")
	w.kill()
	follow("node-a", first)
	require.True(t, named(), "node-b has not heard of it")
	follow("node-b", away.Holder)
	require.False(t, named())
}
