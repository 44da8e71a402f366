package drivers

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The table names drivers that are there, and every driver is in it.
func TestTable(t *testing.T) {
	t.Parallel()
	named := map[string]bool{}
	for _, r := range Table {
		require.NotEmpty(t, r.Device)
		require.NotEmpty(t, r.Way)
		require.NotEmpty(t, r.Protocol)
		require.NotEmpty(t, r.Type)
		require.Positive(t, r.Confirm.Rank(), "%+v", r)
		require.DirExists(t, filepath.Join("../../..", r.Driver))
		named[filepath.Base(r.Driver)] = true
	}
	entries, err := os.ReadDir("..")
	require.NoError(t, err)
	for _, e := range entries {
		switch e.Name() {
		case "conformance", "drivers", "faulty", "held", "text", "tree", "trial", "waves":
		default:
			if e.IsDir() {
				require.True(t, named[e.Name()], "driver %s is not in the table", e.Name())
			}
		}
	}
}
