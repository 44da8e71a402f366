package s3

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTimes(t *testing.T) {
	t.Parallel()
	for ns, text := range map[int64]string{0: "0.000000000", 1_600_000_000_123_456_789: "1600000000.123456789", -1_500_000_001: "-1.500000001", -1: "-0.000000001"} {
		require.Equal(t, text, formatTime(ns))
		back, ok := parseTime(text)
		require.True(t, ok)
		require.Equal(t, ns, back)
	}
	for _, text := range []string{"", "x", "1.2.3", "1.0000000001", "99999999999999999999"} {
		_, ok := parseTime(text)
		require.False(t, ok, text)
	}
	back, ok := parseTime("1600000000.5") // as others write it
	require.True(t, ok)
	require.EqualValues(t, 1_600_000_000_500_000_000, back)
}
