// Package proc reads what processes use, and which they have started, from /proc. It imports nothing of Forebay.
package proc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	var errs [3]error
	u.Peak, errs[0] = Peak(pid)
	u.Written, errs[1] = Field(pid, "io", "write_bytes:")
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errs[2] = err; err == nil {
		u.CPU, errs[2] = parseStat(string(stat))
	}
	if err := errors.Join(errs[:]...); err != nil {
		return u, fmt.Errorf("what process %d has used: %w", pid, err)
	}
	return u, nil
}

// Peak is the most resident memory that a running process has had, in bytes.
func Peak(pid int) (int64, error) {
	n, err := Field(pid, "status", "VmHWM:")
	return n << 10, err
}

// Field is the number that stands behind a name at the start of a line of /proc/PID/file; " kB" behind it is passed over.
func Field(pid int, file, name string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	return field(string(b), name)
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

// field is the number in a text, see Field.
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

// WrittenBy is what the kernel counted for a process that has ended and for the children that it waited for.
func WrittenBy(p *os.ProcessState) int64 {
	const block = 512 // see getrusage(2)
	if r, ok := p.SysUsage().(*syscall.Rusage); ok {
		return r.Oublock * block
	}
	return 0
}

// Children are the processes that one has started and that have not ended.
func Children(pid int) (out []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is right
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for _, c := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(c); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// Family is a process, first, with its children, and theirs.
func Family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, Children(all[i])...)
	}
	return all
}
