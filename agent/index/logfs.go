package index

import (
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// logFS is the file system under the database. It marks the database failed as soon as its log cannot be written. Pebble would go
// on until it begins the next log, and then end the process in a way that nothing can recover from: between two syncs nobody is
// told of a failed write.
type logFS struct {
	vfs.FS
	d *DB
}

func (l logFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.Create(name, c)
	return l.wrap(name, f, err)
}

func (l logFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.ReuseForWrite(from, to, c)
	return l.wrap(to, f, err)
}

func (l logFS) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil || !strings.HasSuffix(name, ".log") {
		return f, err
	}
	return logFile{f, l.d}, nil
}

// logFile is a log. Its writer does not get to know of an error: it waits, with all who wait for it, until the process ends.
// Those who wait through DB.do are told.
type logFile struct {
	vfs.File
	d *DB
}

func (f logFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.check(err)
	return n, nil
}

func (f logFile) Sync() error     { f.check(f.File.Sync()); return nil }
func (f logFile) SyncData() error { f.check(f.File.SyncData()); return nil }

func (f logFile) SyncTo(length int64) (fullSync bool, err error) {
	fullSync, err = f.File.SyncTo(length)
	f.check(err)
	return fullSync, nil
}

func (f logFile) check(err error) {
	if err == nil {
		return
	}
	f.d.fail(fmt.Errorf("write the log: %w", err))
	select {}
}
