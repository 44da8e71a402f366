package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/cmd/forebay/bench/advice"
	"forebay/internal/show"
	"forebay/proto"
	"forebay/shard/store"
)

// A part takes at most this part of what is free on a disk, and does without when that is less than leastRoom.
const (
	freePart  = 4
	leastRoom = 64 << 20
)

// spot is a directory of the relay with a folder of the bench's own in it.
type spot struct {
	role    string
	path    string   // as it is configured
	scratch string   // the folder, on the same file system
	lock    *os.File // held while the folder is in use
	device  string
	kind    string // of file system
	memory  bool
	sharers int // spots on the same device, this one too
}

// relays are whose stores were seen.
type relays struct {
	relay proto.RelayID
	first string // where
	known map[store.StoreID]string
}

func newRelays() *relays { return &relays{known: map[store.StoreID]string{}} }

// enterStore looks at a store as its relay would, without opening it, and makes a folder in it; began says that the relay has run before.
func enterStore(path string, began bool, seen *relays) (*spot, error) {
	id, found, err := store.Look(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, denied(err)
	}
	if err != nil {
		return nil, err
	}
	if !found && began {
		return nil, fmt.Errorf("there is no store at %s (the directory is absent or empty), and the relay has run before: mount the disk; "+
			"if the store is new, start the relay first, which makes it", path)
	}
	if found {
		if seen.first != "" && seen.relay != id.Relay {
			return nil, fmt.Errorf("the store at %s belongs to relay %s, that at %s to relay %s: give each relay directories of its own", path,
				id.Relay, seen.first, seen.relay)
		}
		if other := seen.known[id.ID]; other != "" {
			return nil, fmt.Errorf("%s and %s hold the same store: one is a copy, take it out of cache.stores", other, path)
		}
		seen.relay, seen.first, seen.known[id.ID] = id.Relay, path, path
	}
	return enter(advice.RoleStore, path)
}

// enterData makes a folder in the data directory.
func enterData(path string) (*spot, error) { return enter(advice.RoleLedger, path) }

// enter makes a folder in a directory, or, where the relay has still to make that, in the one that it will make it in.
func enter(role, path string) (*spot, error) {
	in := path
	info, err := os.Stat(in)
	if errors.Is(err, fs.ErrNotExist) {
		in = filepath.Dir(path)
		if info, err = os.Stat(in); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("neither %s nor %s to make it in is there: mount the disk, or make the directory", path, in)
		}
	}
	if err != nil {
		return nil, denied(err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory: name another path", in)
	}
	if err := sweep(in); err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp(in, store.ScratchPrefix)
	if err != nil {
		return nil, denied(err)
	}
	s := &spot{role: role, path: path, scratch: scratch}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

func (s *spot) open() (err error) {
	if s.lock, err = os.Open(s.scratch); err != nil {
		return err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", s.scratch, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.scratch, &st); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", s.scratch, err)
	}
	s.kind, s.memory = kindOf(st.Type)
	s.device, err = deviceOf(s.scratch)
	return err
}

// remove takes the folder away.
func (s *spot) remove() error {
	err := os.RemoveAll(s.scratch)
	if s.lock != nil {
		_ = s.lock.Close()
	}
	return err
}

// sweep removes what a bench that was killed has left in a directory. One that is still running holds its folder locked.
func sweep(dir string) error {
	entries, _ := os.ReadDir(dir) // what cannot be listed stays: making a folder there tells what is wrong
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), store.ScratchPrefix) {
			continue
		}
		name := filepath.Join(dir, e.Name())
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue // somebody else's, no folder, or gone meanwhile
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = os.RemoveAll(name)
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("remove what an earlier bench has left: %w", err)
		}
	}
	return nil
}

// room is how many bytes may be written to the spot, at most want.
func (s *spot) room(want int64) (int64, error) {
	free, _, err := spaceOf(s.scratch)
	if err != nil {
		return 0, err
	}
	n := min(want, free/freePart/int64(max(s.sharers, 1)))
	if n < min(want, leastRoom) {
		return 0, fmt.Errorf("%s has %s free: a bench takes at most a quarter of that, shared by the stores that lie there, and needs %s "+
			"for each: make room, or ask for less with --size",
			s.path, show.Bytes(free), show.Bytes(min(want, leastRoom)))
	}
	return n, nil
}

func spaceOf(path string) (free, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// deviceOf names the disk below a path: partitions of one disk are one.
func deviceOf(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	dir, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", number))
	if err != nil {
		return "device " + number, nil // of a file system that lies on none, or on several
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	return filepath.Base(dir), nil
}

// kindOf names a file system by its magic number.
func kindOf(magic int64) (name string, memory bool) {
	switch magic {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "tmpfs", true
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", false
	case unix.XFS_SUPER_MAGIC:
		return "xfs", false
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", false
	case unix.NFS_SUPER_MAGIC:
		return "nfs", false
	case unix.FUSE_SUPER_MAGIC:
		return "fuse", false
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay", false
	}
	return "0x" + strconv.FormatInt(magic, 16), false
}

// own is what a store or ledger takes of its disk now: sizes are looked at, nothing is opened.
func (s *spot) own() (n int64) {
	_ = filepath.WalkDir(s.path, func(path string, d fs.DirEntry, err error) error { // what cannot be seen is not counted
		if err != nil || path == s.scratch {
			return skipDir(d)
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return nil
	})
	return n
}

func skipDir(d fs.DirEntry) error {
	if d != nil && d.IsDir() {
		return fs.SkipDir
	}
	return nil
}

// denied is an error of a path with what to do about missing rights.
func denied(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w: run the bench as the user that the relay runs as, such as sudo -u forebay forebay bench", err)
}
