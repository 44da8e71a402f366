package scale

import (
	"github.com/cockroachdb/pebble/v2/vfs"
)

// lazyFS is the operating system's file system without fsync: what a sync costs is the disk's, and waits, but takes no CPU.
type lazyFS struct{ vfs.FS }

type lazyFile struct{ vfs.File }

func (lazyFile) Sync() error     { return nil }
func (lazyFile) SyncData() error { return nil }

func (lazyFile) SyncTo(int64) (fullSync bool, err error) { return true, nil }

func lazy(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

func (l lazyFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return lazy(l.FS.Create(name, c))
}

func (l lazyFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return lazy(l.FS.OpenReadWrite(name, c, opts...))
}

func (l lazyFS) OpenDir(name string) (vfs.File, error) { return lazy(l.FS.OpenDir(name)) }

func (l lazyFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return lazy(l.FS.ReuseForWrite(from, to, c))
}

func (l lazyFS) Unwrap() vfs.FS { return l.FS }
