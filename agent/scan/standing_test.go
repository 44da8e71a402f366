package scan

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/agent/index"
	"forebay/fsmeta"
)

// For how long a scan waits for the disk is seen from outside while it asks it for something, and in which directory; never in its pauses.
func TestStandingIsTheDisksTimeAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 3 * paceEvery {
		r.write(fmt.Sprintf("dir/file-%d", i), "x")
	}
	identify := r.scan.identify
	r.scan.identify = func(root *fsmeta.Root) (index.Identity, bool, error) {
		r.now = r.now.Add(time.Hour) // for which the disk takes its time
		_, since := r.scan.Standing()
		require.False(t, since.IsZero())
		require.GreaterOrEqual(t, r.now.Sub(since), time.Hour)
		return identify(root)
	}
	pauses := 0
	clock := func() time.Time { r.now = r.now.Add(time.Second); return r.now }
	p := NewPacer(0.5, 0, clock, func(context.Context, time.Duration) error {
		pauses++
		_, since := r.scan.Standing()
		require.Zero(t, since)
		return nil
	})
	looked := map[string]bool{}
	r.scan.now = func() time.Time { // asked for by each question to the disk
		dir, _ := r.scan.Standing()
		looked[dir] = true
		return r.now
	}
	_, err := r.scan.Scan(t.Context(), p)
	require.NoError(t, err)
	require.GreaterOrEqual(t, pauses, 3)
	require.Contains(t, looked, "dir")
	_, since := r.scan.Standing()
	require.Zero(t, since)
}
