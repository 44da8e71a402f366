package disk

import (
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Discard removes a ledger that is not open, if it is there.
func Discard(fs FS, dir string) error {
	fs = orDefault(fs)
	if err := fs.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// Rename gives the directory of a ledger that is not open another name in the same parent; when it returns, that is durable.
// Nothing may be at the new name. A directory that is not there is passed over.
func Rename(fs FS, from, to string) error {
	fs = orDefault(fs)
	if _, err := fs.Stat(from); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := fs.Rename(from, to); err != nil {
		return fmt.Errorf("rename ledger: %w", err)
	}
	if err := syncDir(fs, fs.PathDir(to)); err != nil {
		return fmt.Errorf("sync the directory of %s: %w", to, err)
	}
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(fs FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func orDefault(fs FS) FS {
	if fs == nil {
		return vfs.Default
	}
	return fs
}
