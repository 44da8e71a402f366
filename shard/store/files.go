package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	stageName = "stage"
	dbName    = "db"
	newSuffix = ".new"
)

// writeFile replaces dir/name; when it returns nil, the new content is durable under that name.
func writeFile(fs vfs.FS, dir, name string, content []byte) error {
	tmp := fs.PathJoin(dir, name+newSuffix)
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if _, err := f.Write(content); err != nil {
		_ = f.Close()
		return fmt.Errorf("write: %w", err)
	}
	return publish(fs, f, dir, name)
}

// publish makes the written file dir/name.new durable, gives it its name and makes that durable. It closes f.
func publish(fs vfs.FS, f vfs.File, dir, name string) error {
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return fmt.Errorf("sync: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if err := fs.Rename(fs.PathJoin(dir, name+newSuffix), fs.PathJoin(dir, name)); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	return syncDir(fs, dir)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("open %s to sync it: %w", dir, err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// makeDirs makes dir and its parents, durably.
func makeDirs(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent := fs.PathDir(dir)
	if parent != dir {
		if err := makeDirs(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return syncDir(fs, parent)
}

// countingFS counts the bytes written through it, tables, MANIFEST and all, for the write amplification.
type countingFS struct {
	vfs.FS
	written *atomic.Int64
}

func (c countingFS) Unwrap() vfs.FS { return c.FS }

func (c countingFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.Create(name, category)
	return c.wrap(f, err)
}

func (c countingFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.OpenReadWrite(name, category, opts...)
	return c.wrap(f, err)
}

func (c countingFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.ReuseForWrite(oldname, newname, category)
	return c.wrap(f, err)
}

func (c countingFS) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return countingFile{f, c.written}, nil
}

type countingFile struct {
	vfs.File
	written *atomic.Int64
}

func (c countingFile) Write(p []byte) (int, error) {
	n, err := c.File.Write(p)
	c.written.Add(int64(n))
	return n, err
}

func (c countingFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := c.File.WriteAt(p, off)
	c.written.Add(int64(n))
	return n, err
}

// unlockedFS keeps pebble from locking its directory: the store's own lock covers it, and stays held when an instance that
// failed cannot be closed properly, whose lock would otherwise keep the store shut until the process ends.
type unlockedFS struct{ vfs.FS }

func (u unlockedFS) Unwrap() vfs.FS { return u.FS }

func (unlockedFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }
