// Package nice makes the whole process give way to others, for the processor and for the disk. It imports nothing of
// Forebay.
package nice

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// The numbers of ioprio_set(2).
const (
	whoProcess = 1
	classShift = 13
	classBest  = 2
	classIdle  = 3
)

// Set gives every thread of the process the nice value, and the io class ("idle", "best-effort", or "" to leave it).
// Linux keeps both per thread; threads started later inherit them from the one that starts them. Raising the nice value
// and the idle class need no privilege. Threads that end meanwhile are no error.
func Set(value int, io string) error {
	class, err := ioClass(io)
	if err != nil {
		return err
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, value); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("set nice value %d: %w", value, err)
		}
		if class == 0 {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(tid), uintptr(class<<classShift)); errno != 0 && errno != unix.ESRCH {
			return fmt.Errorf("set io class %s: %w", io, errno)
		}
	}
	return nil
}

func ioClass(io string) (int, error) {
	switch io {
	case "":
		return 0, nil
	case "best-effort":
		return classBest, nil
	case "idle":
		return classIdle, nil
	}
	return 0, fmt.Errorf("io class %q: want idle or best-effort", io)
}
