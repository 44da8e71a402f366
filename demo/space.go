package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"forebay/internal/show"
)

// census is how much a source holds, before it is copied.
type census struct {
	objects int64
	bytes   int64 // of content
	disk    int64 // what a copy takes
}

// count walks the source. What cannot be read counts nothing: the copy lists it.
func count(ctx context.Context, source string) (c census, err error) {
	err = filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if path == source || !errors.Is(err, fs.ErrPermission) {
				return err
			}
			return fs.SkipDir
		}
		if d.Name() == reserved {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("lstat %s: %w", path, err)
		}
		if path != source {
			c.objects++
		}
		const block = 4096
		c.disk += block // an inode's share, or a directory's entry
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			c.bytes += st.Size
			c.disk += (min(st.Size, st.Blocks*512) + block - 1) / block * block
		}
		return nil
	})
	return c, err
}

// need is what the demo takes of disk space: the replicas, the coded segments, the mirror, the restored tree, and some for
// the ledger, ballast and logs.
func need(c census, large int64) int64 {
	tree := c.disk + large
	const other = 512 << 20
	return replicas*tree + coded(c.bytes+large) + 2*tree + other
}

// coded is how many bytes the stores hold of n acknowledged ones.
func coded(n int64) int64 { return n * (dataShards + parityShards) / dataShards }

// checkSpace fails when the file system of dir lacks the room.
func checkSpace(dir string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	if free < need {
		return fmt.Errorf("the demo needs %s in %s and only %s are free: choose another place with --dir, a smaller --large, or a smaller tree with --source",
			show.Bytes(need), dir, show.Bytes(free))
	}
	return nil
}
