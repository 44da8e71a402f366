package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Usage is what a process has used since it began.
type Usage struct {
	CPU     time.Duration // user and system, of its threads, and of the children that it has waited for
	Peak    int64         // bytes of resident memory at most
	Written int64         // bytes for disks, counted by the kernel when pages become dirty
}

// Of reads what a running process has used.
func Of(pid int) (u Usage, err error) {
	var text [3]string
	for i, name := range []string{"stat", "status", "io"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			return u, fmt.Errorf("what process %d has used: %w", pid, err)
		}
		text[i] = string(b)
	}
	var errs [3]error
	u.CPU, errs[0] = parseStat(text[0])
	u.Peak, errs[1] = field(text[1], "VmHWM:")
	u.Written, errs[2] = field(text[2], "write_bytes:")
	u.Peak <<= 10
	return u, errors.Join(errs[:]...)
}

// Rest has the peak of a running process begin at what it has resident now.
func Rest(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil { // see proc_pid_clear_refs(5)
		return fmt.Errorf("forget the peak of process %d: %w", pid, err)
	}
	return nil
}

// parseStat takes the CPU time out of /proc/PID/stat, see proc_pid_stat(5).
func parseStat(text string) (time.Duration, error) {
	const user, children, ticks = 11, 14, 100 // fields after the name, four of them; USER_HZ is 100 on all that Go runs on
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= children {
		return 0, fmt.Errorf("process times %q: too short", text)
	}
	var sum int64
	for _, f := range fields[user : children+1] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("process times %q: %w", text, err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}

// field is the number that stands behind a name at the start of a line.
func field(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s %q: %w", name, rest, err)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("no line %s", name)
}

// Wire is what has gone over the loopback interface, in bytes, with the headers of IP and TCP.
func Wire() (int64, error) {
	b, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return 0, fmt.Errorf("what went over loopback: %w", err)
	}
	return parseWire(string(b))
}

func parseWire(text string) (int64, error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "lo:")
		if fields := strings.Fields(rest); ok && len(fields) > 0 {
			return strconv.ParseInt(fields[0], 10, 64) // received; on loopback it is what was sent
		}
	}
	return 0, errors.New("no loopback interface")
}

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
	run.Written = WrittenBy(cmd.ProcessState)
	return run, nil
}

// WrittenBy is what the kernel counted for a process that has ended and for the children that it waited for.
func WrittenBy(p *os.ProcessState) int64 {
	const block = 512 // see getrusage(2)
	if r, ok := p.SysUsage().(*syscall.Rusage); ok {
		return r.Oublock * block
	}
	return 0
}

// watchMemory adds up the peaks of a process and of all that it has started. The kernel's own for a process that has ended will not do: it
// begins with what the process that started it had.
func watchMemory(pid int, ended <-chan struct{}) (sum int64) {
	peaks := map[int]int64{}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		for _, p := range family(pid) {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p)); err == nil { // else it has just ended
				if n, err := field(string(b), "VmHWM:"); err == nil {
					peaks[p] = max(peaks[p], n<<10)
				}
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

// family is a process with its children, and theirs.
func family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", all[i]))
		if err != nil {
			continue // it has just ended
		}
		for _, task := range tasks {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", all[i], task.Name()))
			if err != nil {
				continue
			}
			for _, c := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(c); err == nil {
					all = append(all, n)
				}
			}
		}
	}
	return all
}
