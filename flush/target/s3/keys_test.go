package s3

import (
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestEscape(t *testing.T) {
	t.Parallel()
	for path, key := range map[string]string{
		"plain/name.txt": "plain/name.txt", "100%": "100%", "50%25": "50%2525", "new\nline": "new%0Aline", "\xff\xfe": "%FF%FE", "…": "…", "a%": "a%", "%4": "%4", "\x7f": "%7F",
	} {
		require.Equal(t, key, escape(path))
		back, ok := unescape(key)
		require.True(t, ok)
		require.Equal(t, path, back)
	}
	_, ok := unescape("a%41b")
	require.False(t, ok, "escape never makes it")
}

// Whatever bytes a path has, its key is text, and tells it.
func TestEscapeIsReversible(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		path := string(rapid.SliceOf(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte("%0aF/.")))).Draw(t, "path"))
		key := escape(path)
		require.True(t, utf8.ValidString(key))
		back, ok := unescape(key)
		require.True(t, ok)
		require.Equal(t, path, back)
	})
}

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
