package proto

import (
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"
)

func TestEventsKeepFractionsOfSeconds(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 25, 21, 4, 5, 678_901_000, time.UTC)
	var back Event
	require.NoError(t, Unmarshal(Marshal(Event{Seq: 1, At: at, Kind: "takeover"}), &back))
	require.WithinDuration(t, at, back.At, time.Microsecond)

	older, err := cbor.CoreDetEncOptions().EncMode() // wrote whole seconds
	require.NoError(t, err)
	b, err := older.Marshal(Event{Seq: 1, At: at})
	require.NoError(t, err)
	require.NoError(t, Unmarshal(b, &back))
	require.True(t, back.At.Equal(at.Truncate(time.Second)), back.At)
}
