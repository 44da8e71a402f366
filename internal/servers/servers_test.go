package servers

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/internal/proc"
)

// A server that is ended while it is still starting processes, as Apache does its workers, leaves none of them. One that is left would hold
// the server's output, for whose end Kill waits.
func TestKillLeavesNothing(t *testing.T) {
	t.Parallel()
	s := &Server{t: t, path: "/bin/sh", args: []string{"-c", "for i in $(seq 300); do sleep 30 & done; wait"}, Data: t.TempDir()}
	s.launch()
	group, began := s.cmd.Process.Pid, time.Now()
	require.Eventually(t, func() bool { return len(proc.Family(group)) > 4 }, time.Minute, time.Millisecond)
	s.Kill()
	require.Less(t, time.Since(began), 25*time.Second, "it waited for one that was left")
	require.Eventually(t, func() bool { return errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) }, time.Minute, 10*time.Millisecond)
}
