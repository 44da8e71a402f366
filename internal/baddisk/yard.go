package baddisk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// yardSize is the most that all disks of a yard take, in memory.
const yardSize = "3g"

// Yard is where the disks of one test are made.
type Yard struct {
	dir  string
	mark string // source of every tmpfs: who made it

	mu     sync.Mutex
	mounts []string // mount points in the order in which they were made
	rooms  []string // tmpfs below failing disks: emptied before anything is unmounted
	host   bool     // the XFS that holds cuttable disks is there
	n      int
}

// Check says why bad disks cannot be made here, "" when they can.
func Check() string {
	if os.Geteuid() != 0 {
		return "bad disks need root: mounts and loop devices"
	}
	for tool, of := range map[string]string{"mount": "util-linux", "mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Sprintf("bad disks need %s (package %s)", tool, of)
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return "bad disks need loop devices: " + err.Error()
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err.Error()
	}
	for _, name := range []string{"ext4", "xfs"} {
		if !slices.Contains(strings.Fields(string(known)), name) {
			return "bad disks need a kernel that knows " + name
		}
	}
	return ""
}

// New makes a yard at an empty directory. Close it.
func New(dir string) (*Yard, error) {
	mark, err := owner(os.Getpid())
	if err != nil {
		return nil, err
	}
	y := &Yard{dir: dir, mark: mark}
	return y, y.tmpfs(dir, "size="+yardSize)
}

// tmpfs mounts memory at a directory.
func (y *Yard) tmpfs(at, options string) error {
	if err := unix.Mount(y.mark, at, "tmpfs", 0, options+",mode=755"); err != nil {
		return fmt.Errorf("mount a tmpfs of %s at %s: %w", options, at, err)
	}
	y.mounts = append(y.mounts, at)
	return nil
}

// Small mounts a disk of some bytes and inodes (0: as many as the kernel thinks) over the directory at.
func (y *Yard) Small(at string, size, inodes int64) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	options := fmt.Sprintf("size=%d", size)
	if inodes > 0 {
		options += fmt.Sprintf(",nr_inodes=%d", inodes)
	}
	return y.tmpfs(at, options)
}

// Close takes all disks away, whatever state they are in. Whoever has files open on them should have ended.
func (y *Yard) Close() error {
	y.mu.Lock()
	defer y.mu.Unlock()
	var errs []error
	for _, room := range y.rooms { // a file system whose disk is full cannot be unmounted
		errs = append(errs, Free(room))
	}
	for _, at := range slices.Backward(y.mounts) {
		errs = append(errs, unmount(at))
	}
	y.mounts, y.rooms = nil, nil
	return errors.Join(errs...)
}

// Unmount takes away the disk that is mounted at a directory, as an operator would, or a loose cable. Remount is there for
// disks with an image.
func (y *Yard) Unmount(at string) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.unmount(at)
}

func (y *Yard) unmount(at string) error {
	if err := unmount(at); err != nil {
		return err
	}
	if i := slices.Index(y.mounts, at); i >= 0 {
		y.mounts = slices.Delete(y.mounts, i, i+1)
	}
	return nil
}

// unmount unmounts at once, also when somebody is still there.
func unmount(at string) error {
	err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	return nil
}

// fresh is a path in the yard that nobody has.
func (y *Yard) fresh(dir, what string) string {
	y.n++
	return filepath.Join(dir, fmt.Sprintf("%s-%d", what, y.n))
}

// run runs a tool.
func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, strings.TrimSpace(string(out)))
	}
	return nil
}
