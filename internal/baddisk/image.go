package baddisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// leastXFS is what mkfs.xfs asks for. Images are sparse.
const leastXFS = 320 << 20

// Image is a disk that lies in a file.
type Image struct {
	yard *Yard
	file string // the image
	at   string // where it is mounted
	kind string // xfs or ext4
	room string // tmpfs that the file lies on, of a failing disk
}

// Failing mounts over the directory at an XFS whose image lies on a tmpfs of its own with room for so many bytes of
// content. XFS, because with a full disk below it writes succeed, fsync fails once and forgets, and it goes on once there is
// room: its log is set aside at mkfs, and metadata is written again until that succeeds.
func (y *Yard) Failing(at string, room int64) (*Image, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	i := &Image{yard: y, at: at, kind: "xfs", room: y.fresh(y.dir, "room")}
	if err := os.Mkdir(i.room, 0o755); err != nil {
		return nil, err
	}
	if err := y.tmpfs(i.room, fmt.Sprintf("size=%d", room+96<<20)); err != nil {
		return nil, err
	}
	y.rooms = append(y.rooms, i.room)
	i.file = filepath.Join(i.room, "image")
	return i, i.create(max(leastXFS, room+96<<20))
}

// Break makes every write of new blocks to a failing disk fail from now on, once the kernel gets to it: in fsync at the
// latest. Mend gives the disk its room back.
func (i *Image) Break() error {
	dir, err := os.Open(i.at)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()); err != nil {
		return err
	}
	if err := run("fstrim", i.at); err != nil { // what was used before and is free now has room below
		return err
	}
	return Fill(i.room)
}

// Mend ends what Break began.
func (i *Image) Mend() error { return Free(i.room) }

// Cuttable mounts over the directory at an ext4 that can be cut off at any instant.
func (y *Yard) Cuttable(at string, size int64) (*Image, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	host := filepath.Join(y.dir, "host")
	if !y.host {
		if err := os.Mkdir(host, 0o755); err != nil {
			return nil, err
		}
		i := &Image{yard: y, file: host + ".img", at: host, kind: "xfs"}
		if err := i.create(2 << 30); err != nil {
			return nil, err
		}
		y.host = true
	}
	i := &Image{yard: y, file: y.fresh(host, "image"), at: at, kind: "ext4"}
	return i, i.create(size)
}

// create makes the file system and mounts it.
func (i *Image) create(size int64) error {
	f, err := os.OpenFile(i.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	if i.kind == "xfs" {
		err = run("mkfs.xfs", "-q", i.file)
	} else {
		err = run("mkfs.ext4", "-q", "-F", "-m", "0", i.file) // nothing set aside for root, whom tests run as
	}
	if err != nil {
		return err
	}
	return i.mount()
}

func (i *Image) mount() error {
	if err := run("mount", "-t", i.kind, "-o", "loop", i.file, i.at); err != nil {
		return err
	}
	i.yard.mounts = append(i.yard.mounts, i.at)
	return nil
}

// Remount unmounts and mounts again: what was only in memory is gone, what was written is read back from the disk.
func (i *Image) Remount() error {
	i.yard.mu.Lock()
	defer i.yard.mu.Unlock()
	if err := i.yard.unmount(i.at); err != nil {
		return err
	}
	return i.mount()
}

// Cut takes a copy of a cuttable disk as it is at this instant: what has been written to the disk is in it, what is in
// memory only is not. It is one clone of the file, which the file system below lets no write interrupt. Restore mounts it.
func (i *Image) Cut() (cut string, err error) {
	i.yard.mu.Lock()
	defer i.yard.mu.Unlock()
	cut = i.yard.fresh(filepath.Dir(i.file), "cut")
	from, err := os.Open(i.file)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := os.OpenFile(cut, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	err = unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
	return cut, errors.Join(err, to.Close())
}

// Restore puts a cut in the place of its disk, as after the power came back. Whoever used the disk must have ended; what it
// wrote after the cut is gone.
func (i *Image) Restore(cut string) error {
	i.yard.mu.Lock()
	defer i.yard.mu.Unlock()
	if err := i.yard.unmount(i.at); err != nil {
		return err
	}
	if err := os.Remove(i.file); err != nil {
		return err
	}
	i.file = cut
	return i.mount()
}
