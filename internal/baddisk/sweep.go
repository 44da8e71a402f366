package baddisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// markName begins the source of every tmpfs of a yard.
const markName = "forebay-baddisk"

// owner is the mark of a process: its id and when it began, since ids come again.
func owner(pid int) (string, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name of the program may hold anything; what follows its closing bracket begins with field 3.
	_, rest, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')'):]), " ")
	fields := strings.Fields(rest)
	const began = 22 - 3
	if len(fields) <= began {
		return "", fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return fmt.Sprintf("%s:%d:%s", markName, pid, fields[began]), nil
}

// left reports whether a mark is that of a process which has ended.
func left(mark string) bool {
	parts := strings.Split(mark, ":")
	if len(parts) != 3 || parts[0] != markName {
		return false
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil {
		return false
	}
	now, err := owner(pid)
	return err != nil || now != mark
}

// mounted is a line of mountinfo.
type mounted struct{ at, source string }

// Sweep takes away the yards of processes that have ended without doing so. It returns where they were.
func Sweep() (swept []string, err error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	var dead []mounted
	for _, m := range all {
		if left(m.source) {
			dead = append(dead, m)
		}
	}
	var errs []error
	for _, m := range dead { // a file system whose disk is full cannot be unmounted
		errs = append(errs, Free(m.at))
	}
	for _, m := range slices.Backward(all) {
		image := backing(m.source)
		on := slices.ContainsFunc(dead, func(d mounted) bool { return image != "" && strings.HasPrefix(image, d.at+"/") })
		if on || slices.Contains(dead, m) {
			errs = append(errs, unmount(m.at))
			swept = append(swept, m.at)
		}
	}
	return swept, errors.Join(errs...)
}

// backing is the file of a loop device, "" of anything else.
func backing(device string) string {
	name, ok := strings.CutPrefix(device, "/dev/loop")
	if !ok {
		return ""
	}
	raw, err := os.ReadFile(filepath.Join("/sys/block", "loop"+name, "loop/backing_file"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// mounts reads what is mounted, in the order in which it was.
func mounts() (out []mounted, err error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		// 36 35 98:0 /root /at options [more] - type source options
		before, after, ok := strings.Cut(line, " - ")
		fields, of := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(of) < 2 {
			return nil, fmt.Errorf("/proc/self/mountinfo: %q", line)
		}
		out = append(out, mounted{at: plain.Replace(fields[4]), source: plain.Replace(of[1])})
	}
	return out, nil
}
