package disk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/ledger/disk"
	"forebay/proto"
)

// A bit that turns in a log is told of, also in the first log of a ledger that was just made: what lies behind it was acknowledged.
func TestARottenLogIsNoShorterLedger(t *testing.T) {
	t.Parallel()
	for name, reopened := range map[string]bool{"new": false, "reopened": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l, err := disk.Open(disk.Config{Dir: dir})
			require.NoError(t, err)
			if reopened {
				require.NoError(t, l.Close())
				l, err = disk.Open(disk.Config{Dir: dir})
				require.NoError(t, err)
			}
			for i := range 400 {
				require.NoError(t, l.Update(&ledger.SetNote{Name: fmt.Sprint(i % 20), Value: make([]byte, 400)}))
			}
			rotten := t.TempDir()
			require.NoError(t, os.CopyFS(rotten, os.DirFS(dir)))
			require.NoError(t, l.Close())
			logs, err := filepath.Glob(filepath.Join(rotten, "*.log"))
			require.NoError(t, err)
			require.Len(t, logs, 1)
			b, err := os.ReadFile(logs[0])
			require.NoError(t, err)
			b[len(b)/3] ^= 1
			require.NoError(t, os.WriteFile(logs[0], b, 0o600))
			l, err = disk.Open(disk.Config{Dir: rotten})
			if err == nil {
				require.NoError(t, l.Close())
			}
			require.ErrorContains(t, err, "open ledger")
			require.ErrorContains(t, err, "--recover-ledger")
			require.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
		})
	}
}
