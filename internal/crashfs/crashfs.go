// Package crashfs is pebble's crashable file system in memory, for cutting the power while others write to it. It imports nothing
// of Forebay and is used by tests only.
package crashfs

import (
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is a vfs.MemFS. In release v2.1.7 of pebble a clone that is taken amid a Link, ReuseForWrite or Lock waits for it for ever, and it
// for the clone: they take one lock twice (https://github.com/cockroachdb/pebble/pull/5993). Here they and clones wait for each other
// first. With a release that has the change, this package can go.
type FS struct {
	vfs.FS
	mem   *vfs.MemFS
	whole sync.RWMutex // shared by those calls, held by a clone
}

// New returns an empty file system.
func New() *FS { return wrap(vfs.NewCrashableMem()) }

func wrap(mem *vfs.MemFS) *FS { return &FS{FS: mem, mem: mem} }

// CrashClone returns what a power cut leaves at this moment, see vfs.MemFS. It must not be called from within a call of the file
// system below FS.
func (f *FS) CrashClone(cfg vfs.CrashCloneCfg) *FS {
	f.whole.Lock()
	defer f.whole.Unlock()
	return wrap(f.mem.CrashClone(cfg))
}

// Link implements vfs.FS.
func (f *FS) Link(from, to string) error {
	f.whole.RLock()
	defer f.whole.RUnlock()
	return f.mem.Link(from, to)
}

// ReuseForWrite implements vfs.FS.
func (f *FS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.whole.RLock()
	defer f.whole.RUnlock()
	return f.mem.ReuseForWrite(from, to, c)
}

// Lock implements vfs.FS.
func (f *FS) Lock(name string) (io.Closer, error) {
	f.whole.RLock()
	defer f.whole.RUnlock()
	return f.mem.Lock(name)
}
