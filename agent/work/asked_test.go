package work

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/agent/index"
	"forebay/proto"
)

// What is asked for again and is not granted, however often it is offered, leaves the queue its slots.
func TestOfferingTakesNoSlots(t *testing.T) {
	t.Parallel()
	relay := &granting{answer: proto.ClaimAnswer{Verdict: proto.VerdictLeased, Node: "b", RetryAfter: time.Second}}
	w := carrying(t, relay)
	for n := range 2 * maxPacks {
		e, ok, err := w.Index.Get("big")
		require.NoError(t, err)
		require.True(t, ok)
		require.True(t, w.busy.take("big"))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		require.NoError(t, w.claimOffered(ctx, []index.Entry{e}))
		require.NoError(t, ctx.Err(), "no slot is free")
		cancel()
		require.Equal(t, n+1, relay.claims)
	}
	require.True(t, w.packs.TryAcquire(maxPacks))
}

// What is asked for again is claimed as a file of its own also where it has become a hard link since (I1).
func TestHardLinkThatIsAskedForIsClaimedAlone(t *testing.T) {
	t.Parallel()
	relay := &granting{answer: proto.ClaimAnswer{Verdict: proto.VerdictLeased, Node: "b", RetryAfter: time.Second}}
	w := carrying(t, relay)
	e, _, err := w.Index.Get("big")
	require.NoError(t, err)
	e.Kind, e.LinkTo = proto.KindHardlink, "leader"
	require.True(t, w.busy.take("big"))
	require.NoError(t, w.claimOffered(t.Context(), []index.Entry{e}))
	require.Len(t, relay.asked, 1)
	require.Equal(t, proto.KindFile, relay.asked[0].Kind)
	require.Empty(t, relay.asked[0].LinkTo)
}
