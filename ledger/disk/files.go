package disk

import (
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// files is the file system as pebble sees it. Two of its ways with a disk that fails would end the whole process from a
// goroutine of its own, with a stack in place of a reason, and are kept from it:
//   - it panics when a directory cannot be synced, out of reach of a recover;
//   - when opening fails it takes down what flushes in the background are still using.
//
// Either is the end of the ledger: the failure is told, and the goroutine stays where it is until the process ends. Ending it
// would not do: what it defers unlocks what is not locked, and releases what is in use. Pebble does such writes unlocked.
type files struct {
	vfs.FS
	l       *Ledger
	opening atomic.Bool // until pebble has opened
}

// failed sees to an error of what writes.
func (f *files) failed(err error) error {
	if err != nil && f.opening.Load() {
		f.end(err)
	}
	return err
}

// end ends the ledger and does not return.
func (f *files) end(err error) {
	f.l.fail(err)
	select {}
}

// Create implements vfs.FS.
func (f *files) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.Create(name, category))
}

// ReuseForWrite implements vfs.FS.
func (f *files) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.ReuseForWrite(oldname, newname, category))
}

func (f *files) wrap(opened vfs.File, err error) (vfs.File, error) {
	if err := f.failed(err); err != nil {
		return nil, err
	}
	return file{opened, f}, nil
}

// Rename implements vfs.FS.
func (f *files) Rename(oldname, newname string) error { return f.failed(f.FS.Rename(oldname, newname)) }

// OpenDir implements vfs.FS.
func (f *files) OpenDir(name string) (vfs.File, error) {
	opened, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return directory{opened, f, name}, nil
}

// Unwrap is the file system below, for vfs.Root.
func (f *files) Unwrap() vfs.FS { return f.FS }

// file is one that is written.
type file struct {
	vfs.File
	files *files
}

func (f file) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.files.failed(err)
}

func (f file) Sync() error     { return f.files.failed(f.File.Sync()) }
func (f file) SyncData() error { return f.files.failed(f.File.SyncData()) }

func (f file) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.files.failed(err)
}

type directory struct {
	vfs.File
	files *files
	name  string
}

func (d directory) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.files.end(fmt.Errorf("sync directory %s: %w", d.name, err))
	}
	return nil
}
