package openfiles

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/proto"
)

func TestDivide(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ limit, users, want int }{
		{65536, 7, 256}, {1024, 7, 109}, {775, 7, 74}, {774, 7, 74}, {773, 7, 0}, {64, 1, 0},
	} {
		got, err := Divide(c.limit, c.users, 74, 256, 256)
		require.Equal(t, c.want, got, c)
		if c.want == 0 {
			require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
			require.ErrorContains(t, err, "LimitNOFILE")
		} else {
			require.NoError(t, err)
		}
	}
}

// What is counted is this process's: other tests of the package open nothing.
func TestUsed(t *testing.T) { //nolint:paralleltest // it counts what is open
	before, err := Used()
	require.NoError(t, err)
	for i := range 10 {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }() //nolint:gocritic // until it is counted
		now, err := Used()
		require.NoError(t, err)
		require.Equal(t, before+i+1, now)
	}
	limit, err := Limit()
	require.NoError(t, err)
	var r unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &r))
	require.Equal(t, min(r.Cur, 1<<30), uint64(limit))
	require.Equal(t, r.Max, r.Cur, "Go raises the one to the other")
}
