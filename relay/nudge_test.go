package relay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// The first of many versions is told of at once, the others together; what cannot wait does not, and takes the head along.
func TestHeadsAreToldOfTogether(t *testing.T) {
	t.Parallel()
	const lull = time.Second
	var n nudger
	head := func(ds proto.DatasetID) { n.add(func() { n.heads[ds] = true }) }
	at := 5 * time.Second
	take := func() (map[proto.DatasetID]proto.Nudge, time.Duration) { return n.take(9, at, lull) }

	head(1)
	out, next := take()
	require.Contains(t, out, proto.DatasetID(1))
	require.Zero(t, next)
	at += 20 * time.Millisecond
	head(1)
	head(2)
	out, next = take()
	require.NotContains(t, out, proto.DatasetID(1))
	require.Contains(t, out, proto.DatasetID(2), "another dataset does not wait")
	require.Equal(t, 980*time.Millisecond, next)
	at += next
	out, next = take()
	require.Contains(t, out, proto.DatasetID(1), "what was held back is told")
	require.Zero(t, next)

	at += 20 * time.Millisecond
	head(1)
	n.add(func() { n.ended[1] = []proto.LeaseEnded{{Path: "p"}} })
	out, next = take()
	require.Len(t, out[1].Ended, 1, "an upload that may be taken over is told of at once")
	require.Zero(t, next)
	at += lull
	out, _ = take()
	require.Empty(t, out, "the head went along")
}
