package text

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
		require.Equal(t, key, Escape(path))
		back, ok := Unescape(key)
		require.True(t, ok)
		require.Equal(t, path, back)
	}
	_, ok := Unescape("a%41b")
	require.False(t, ok, "Escape never makes it")
}

// Whatever bytes a path has, its key is text, and tells it.
func TestEscapeIsReversible(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		path := string(rapid.SliceOf(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte("%0aF/.")))).Draw(t, "path"))
		key := Escape(path)
		require.True(t, utf8.ValidString(key))
		back, ok := Unescape(key)
		require.True(t, ok)
		require.Equal(t, path, back)
	})
}
