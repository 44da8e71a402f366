package relayd

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryForFlushing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		memory  int64
		links   int
		workers int
		driver  int64
	}{{0, 4, 0, 0}, {1 << 40, 4, 4, 1 << 35}, {256 << 20, 1, 4, 32 << 20}, {256 << 20, 4, 2, 8 << 20}, {256 << 20, 100, 1, 335544}, {1 << 20, 0, 1, 1 << 17}} {
		require.Equal(t, c.workers, flushWorkers(c.memory, c.links), "%d bytes, %d links", c.memory, c.links)
		require.Equal(t, c.driver, driverMemory(c.memory, c.links), "%d bytes, %d links", c.memory, c.links)
	}
}
