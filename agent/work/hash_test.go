package work

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/agent/index"
	"forebay/proto"
)

// A hard link through whose name its file was written to gets no digest from its leader before that was looked at again (I8).
func TestHardLinkWaitsUntilItsLeaderIsLookedAt(t *testing.T) {
	t.Parallel()
	w := carrying(t, &granting{})
	leader, ok, err := w.Index.Get("big")
	require.NoError(t, err)
	require.True(t, ok)
	leader.State, leader.Digest, leader.HasDigest = index.StateSettled, proto.Digest{1}, true
	for _, c := range []struct {
		name   string
		change func(*index.Stat)
		takes  bool
	}{
		{"grown", func(s *index.Stat) { s.Size++ }, false},
		{"written in place", func(s *index.Stat) { s.MtimeNs++ }, false},
		{"as its leader", func(*index.Stat) {}, true},
	} {
		link := index.Entry{Path: "link", Kind: proto.KindHardlink, LinkTo: "big", State: index.StatePending, Stat: leader.Stat}
		c.change(&link.Stat)
		require.NoError(t, w.Index.Edit(func(tx *index.Tx) error {
			if err := tx.Put(leader); err != nil {
				return err
			}
			return tx.Put(link)
		}))
		require.True(t, w.busy.take("link"), c.name)
		back := w.byLeader(link, w.Now())
		got, _, err := w.Index.Get("link")
		require.NoError(t, err)
		require.Equal(t, c.takes, got.HasDigest, c.name)
		require.Equal(t, c.takes, len(back) == 0, c.name)
		if c.takes {
			require.Equal(t, leader.Digest, got.Digest)
		}
		w.busy.done("link")
	}
}
