package nice

import (
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSetReachesEveryThread(t *testing.T) {
	t.Parallel()
	now, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	require.NoError(t, err)
	was := 20 - now                      // the system call answers 20 - nice
	require.NoError(t, Set(was, "idle")) // as it is: a test process need not be slower than others
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		require.NoError(t, err)
		prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, whoProcess, uintptr(tid), 0)
		if errno == 0 { // the thread may have ended
			assert.Equal(t, uintptr(classIdle), prio>>classShift)
		}
	}
	assert.ErrorContains(t, Set(was, "fast"), "idle or best-effort")
}
