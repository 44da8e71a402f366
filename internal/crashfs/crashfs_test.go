package crashfs

import (
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// The power is cut again and again while others link, reuse and lock files: nobody waits for ever, and what was synced is there.
func TestClonesAmidCallsThatLockTwice(t *testing.T) {
	t.Parallel()
	fs := New()
	file := func(name string) {
		f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		require.NoError(t, err)
		_, err = f.Write([]byte("content"))
		require.NoError(t, err)
		require.NoError(t, f.Sync())
		require.NoError(t, f.Close())
	}
	file("kept")
	dir, err := fs.OpenDir("")
	require.NoError(t, err)
	require.NoError(t, dir.Sync())
	const times = 2000
	var all sync.WaitGroup
	each := func(fn func(n int) error) {
		all.Go(func() { // ends after so many times
			for n := range times {
				if err := fn(n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for w := range 2 {
		each(func(n int) error { return fs.Link("kept", fmt.Sprintf("link %d.%d", w, n)) })
	}
	file("log 0")
	each(func(n int) error {
		f, err := fs.ReuseForWrite(fmt.Sprintf("log %d", n), fmt.Sprintf("log %d", n+1), vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		return f.Close()
	})
	each(func(n int) error {
		l, err := fs.Lock(fmt.Sprintf("lock %d", n))
		if err != nil {
			return err
		}
		return l.Close()
	})
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }() // ends with them
	for clones := 0; ; clones++ {
		after := fs.CrashClone(vfs.CrashCloneCfg{})
		_, err := after.Stat("kept")
		require.NoError(t, err)
		select {
		case <-done:
			require.NotZero(t, clones)
			return
		default:
		}
	}
}
