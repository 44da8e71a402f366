package disk

import (
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/ledger/ledgertest"
)

// logged is a ledger's disk after a power cut: opening it writes what the log has into a table, in the background.
func logged(t *testing.T) *vfs.MemFS {
	mem := vfs.NewCrashableMem()
	l := open(t, mem)
	ds, h, _ := begin(t, l)
	require.NoError(t, l.Update(objects(1, ds, h, 3)))
	require.NoError(t, l.Close())
	l = open(t, mem) // there are tables, and a log with more
	require.NoError(t, l.Update(objects(10, ds, h, 3)))
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	require.NoError(t, l.Close())
	return crashed
}

// Whatever fails while a ledger is opened, opening says so and the process lives: pebble by itself panics in a goroutine of
// its own when a directory cannot be synced, and now and then when it gives up while a flush is under way.
func TestOpenFailsAtEachWrite(t *testing.T) {
	t.Parallel()
	for k := 1; ; k++ {
		disk := logged(t)
		var n atomic.Int64
		l, err := Open(Config{Dir: "led", FS: errorfs.Wrap(disk, each(func() bool { return n.Add(1) == int64(k) }))})
		if err == nil {
			_ = l.Close() // it may have failed in the meantime
		}
		if n.Load() < int64(k) {
			require.NoError(t, err)
			require.Greater(t, k, 10, "writes while it opened")
			return
		}
		if err != nil {
			require.ErrorContains(t, err, "injected error", "write %d", k)
		}
		l = open(t, disk.CrashClone(vfs.CrashCloneCfg{}))
		require.NoError(t, ledgertest.Check(l))
		require.NoError(t, l.Close())
	}
}

// A directory that cannot be synced ends the ledger, not the process.
func TestFailedSyncOfTheDirectory(t *testing.T) {
	t.Parallel()
	told := make(chan error, 1)
	fs, on := faulty(errorfs.OpFileSync)
	l, err := Open(Config{Dir: "led", FS: fs, Fatal: func(err error) { told <- err }})
	require.NoError(t, err)
	on.Store(true)
	require.Error(t, l.guarded(func() error { return l.db.Flush() }))
	require.ErrorContains(t, <-told, "ledger failed, restart the relay")
	require.Error(t, l.Update(&ledger.Start{}))
	require.Error(t, l.Close())
}

// each has the writes fail that fn says.
func each(fn func() bool) errorfs.Injector {
	return errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpRename:
			if fn() {
				return errorfs.ErrInjected
			}
		}
		return nil
	})
}
