package target

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPrefixKeysAreRecordNamesAndDistinct(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, p := range []string{"", "root", "a", "a/b", "a_b", "a\nb", "\xff", ".x", strings.Repeat("long/", 40) + "x", strings.Repeat("long/", 40) + "y"} {
		k := PrefixKey(p)
		require.NoError(t, CheckRecord("x/"+strings.TrimLeft(k, ".")), p)
		require.Equal(t, k, PrefixKey(p))
		other, twice := seen[k]
		assert.Falsef(t, twice, "%q and %q share the key %s", p, other, k)
		seen[k] = p
	}
}

func TestPrefixesOverlap(t *testing.T) {
	t.Parallel()
	assert.True(t, PrefixesOverlap("", "a"))
	assert.True(t, PrefixesOverlap("a/b", "a"))
	assert.True(t, PrefixesOverlap("a", "a"))
	assert.False(t, PrefixesOverlap("a", "ab"))
	assert.False(t, PrefixesOverlap("a/b", "a/c"))
}

func TestCheckRecordAndStageID(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "/a", "a/", "a//b", "../a", ".a", "a/..", "a b", "a\x00", "stage/x", "stage"} {
		assert.Error(t, CheckRecord(bad), bad)
	}
	assert.NoError(t, CheckRecord("journal/root/intent-1.2_x"))
	for _, bad := range []StageID{"", "a/b", "..", "a.b", "a_b", StageID(strings.Repeat("a", 65))} {
		assert.Error(t, CheckStageID(bad), string(bad))
	}
	assert.NoError(t, CheckStageID("v-12-3"))
}
