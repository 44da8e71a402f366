package baddisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Filler begins the names of what fills a disk.
const Filler = ".forebay-filler"

// Fill takes all room of the disk that a directory lies on, for Free to give it back.
func Fill(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, Filler), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	at, err := f.Seek(0, 2)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	for step := int64(64 << 20); step >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, at, step); {
		case err == nil:
			at += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case !errors.Is(err, unix.EINTR):
			return errors.Join(fmt.Errorf("fill %s: %w", dir, err), f.Close())
		}
	}
	return f.Close()
}

// FillInodes takes all inodes of the disk that a directory lies on, for Free to give them back.
func FillInodes(dir string) error {
	in := filepath.Join(dir, Filler+"-inodes")
	if err := os.MkdirAll(in, 0o755); err != nil && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	for n := 0; ; n++ {
		f, err := os.OpenFile(filepath.Join(in, fmt.Sprint(n)), os.O_CREATE|os.O_WRONLY, 0o600)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
}

// Free gives back what Fill and FillInodes took.
func Free(dir string) error {
	return errors.Join(os.RemoveAll(filepath.Join(dir, Filler)), os.RemoveAll(filepath.Join(dir, Filler+"-inodes")))
}
