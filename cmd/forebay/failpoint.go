//go:build failpoint

package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"forebay/internal/faultpoint"
)

// failpointEnv names a point, and after a colon how many times it is passed before the process kills itself there: 1 for at
// once, which is the default.
const failpointEnv = "FOREBAY_FAILPOINT"

// failpoint kills the process at a point: only in the variant that tests build, with -tags failpoint. A name that is no point,
// or a count that is none, ends the process too: a test that never reaches its point would show nothing.
func failpoint() faultpoint.Hook {
	spec := os.Getenv(failpointEnv)
	if spec == "" {
		return nil
	}
	name, count, counted := strings.Cut(spec, ":")
	hits, err := strconv.ParseInt(count, 10, 64)
	if !counted {
		hits, err = 1, nil
	}
	at := faultpoint.Point(name)
	if err != nil || hits < 1 || !slices.Contains(faultpoint.All(), at) {
		fmt.Fprintf(os.Stderr, "%s=%s: want POINT or POINT:HIT\n", failpointEnv, spec)
		os.Exit(exitUsage)
	}
	var left atomic.Int64
	left.Store(hits)
	return func(p faultpoint.Point) {
		if p == at && left.Add(-1) == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it is on its way
		}
	}
}
