//go:build !race

package store_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// Two tables that changed names are both recognised. Not under the race detector: pebble then checks its invariants and
// gives up on tables whose keys are not those that MANIFEST says.
func TestSwappedTables(t *testing.T) {
	t.Parallel()
	healsDamage(t, func(t *testing.T, fs vfs.FS, tables []string) {
		require.NoError(t, fs.Rename(tables[0], "/x"))
		require.NoError(t, fs.Rename(tables[1], tables[0]))
		require.NoError(t, fs.Rename("/x", tables[1]))
	})
}
