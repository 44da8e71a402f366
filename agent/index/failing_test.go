package index

import (
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// failing is a file system whose files can no longer be written once it is broken.
type failing struct {
	vfs.FS
	broken atomic.Bool
	full   atomic.Bool // no new table can be made, as on a disk that is full up to what the log has set aside
}

var errBroken = errors.New("input/output error")

func (f *failing) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if f.full.Load() && strings.HasSuffix(name, ".sst") {
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	file, err := f.FS.Create(name, c)
	if err != nil {
		return nil, err
	}
	return &failingFile{File: file, fs: f}, nil
}

type failingFile struct {
	vfs.File
	fs *failing
}

func (f *failingFile) Write(p []byte) (int, error) {
	if f.fs.broken.Load() {
		return 0, errBroken
	}
	return f.File.Write(p)
}

func (f *failingFile) Sync() error {
	if f.fs.broken.Load() {
		return errBroken
	}
	return f.File.Sync()
}

func (f *failingFile) SyncData() error { return f.Sync() }
