package bench

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"time"

	"forebay/internal/proc"
)

// sampleEvery is how often the memory of a running command is looked at. Its peak is the kernel's own, so that only what comes after the
// last look is missed.
const sampleEvery = 20 * time.Millisecond

// Command runs a program to its end and counts, with its children. A command that fails is an error with what it said.
func Command(ctx context.Context, now func() time.Time, cmd *exec.Cmd) (Run, error) {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	began := now()
	if err := cmd.Start(); err != nil {
		return Run{}, fmt.Errorf("start %s: %w", cmd, err)
	}
	ended := make(chan struct{})
	peaks := make(chan int64)
	go func() { peaks <- watchMemory(cmd.Process.Pid, ended) }() // ends when the command has
	err := cmd.Wait()
	wall := now().Sub(began)
	close(ended)
	peak := <-peaks
	if ctx.Err() != nil {
		return Run{}, ctx.Err()
	}
	if err != nil {
		return Run{}, fmt.Errorf("%s: %w: %s", cmd, err, said.Bytes())
	}
	run := Run{Wall: wall, CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), Peak: peak}
	run.Written = proc.WrittenBy(cmd.ProcessState)
	return run, nil
}

// watchMemory adds up the peaks of a process and of all that it has started. The kernel's own for a process that has ended will not do: it
// begins with what the process that started it had.
func watchMemory(pid int, ended <-chan struct{}) (sum int64) {
	peaks := map[int]int64{}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		for _, p := range proc.Family(pid) {
			if n, err := proc.Peak(p); err == nil { // else it has just ended
				peaks[p] = max(peaks[p], n)
			}
		}
		select {
		case <-ended:
			for _, n := range peaks {
				sum += n
			}
			return sum
		case <-tick.C:
		}
	}
}
