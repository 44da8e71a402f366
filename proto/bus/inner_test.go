package bus

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// TestBurstFillsNothingForGood: what finds no place in the queue takes none, so that hints go out again once the queue is written,
// however many were refused.
func TestBurstFillsNothingForGood(t *testing.T) {
	t.Parallel()
	b := &NATS{send: make(chan message, 1), done: make(chan struct{})}
	b.up.Store(true)
	hint := make([]byte, proto.MaxBusMessage)
	require.NoError(t, b.Publish("s", hint))
	for range 2 * maxSendBytes / len(hint) {
		require.Equal(t, proto.ClassOverload, proto.ClassOf(b.Publish("s", hint)))
	}
	require.EqualValues(t, len(hint), b.size.Load(), "only what waits counts")
	b.size.Add(-int64(len((<-b.send).data))) // as the goroutine does that writes
	require.NoError(t, b.Publish("s", hint))
}
