package bus_test

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto/bus"
)

// run publishes n messages through faults and returns what arrived.
func run(t *testing.T, f bus.Faults, n int, between func(*bus.Memory)) (got []string) {
	synctest.Test(t, func(t *testing.T) {
		b := bus.NewMemory(f)
		defer b.Close()
		_, err := b.Subscribe("s", func(data []byte) { got = append(got, string(data)) })
		require.NoError(t, err)
		if between != nil {
			between(b)
		}
		for i := range n {
			require.NoError(t, b.Publish("s", []byte(strconv.Itoa(i))))
		}
		time.Sleep(time.Hour) // of the bubble: all delays are over
		synctest.Wait()
	})
	return got
}

func TestMemoryFaults(t *testing.T) {
	const n = 500
	var all []string
	for i := range n {
		all = append(all, strconv.Itoa(i))
	}
	require.Equal(t, all, run(t, bus.Faults{}, n, nil))

	dropped := run(t, bus.Faults{Seed: 1, Drop: 0.5}, n, nil)
	require.Subset(t, all, dropped)
	require.InDelta(t, n/2, len(dropped), n/5)
	require.Equal(t, dropped, run(t, bus.Faults{Seed: 1, Drop: 0.5}, n, nil), "a seed gives the same faults")
	require.NotEqual(t, dropped, run(t, bus.Faults{Seed: 2, Drop: 0.5}, n, nil))

	repeated := run(t, bus.Faults{Seed: 1, Repeat: 1}, n, nil)
	require.Len(t, repeated, 2*n)

	for _, f := range []bus.Faults{{Seed: 1, Reorder: 0.5}, {Seed: 1, Delay: time.Second}} {
		mixed := run(t, f, n, nil)
		require.NotEqual(t, all, mixed, "%+v", f)
		require.ElementsMatch(t, all, mixed, "%+v", f)
	}

	require.Empty(t, run(t, bus.Faults{}, n, func(b *bus.Memory) {
		b.DropEverything(true)
		require.True(t, b.Connected(), "nobody notices")
	}))
	require.Equal(t, all, run(t, bus.Faults{}, n, func(b *bus.Memory) {
		b.Disconnect(true)
		require.False(t, b.Connected())
		require.Error(t, b.Publish("s", []byte("lost")))
		b.Disconnect(false)
	}))
}
