package demo

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// largeName is the name of the generated object, at the top of the tree.
const largeName = "forebay-demo-large.bin"

// newName returns a name that the directories do not have yet.
func newName(name string, dirs []string) string {
	for n := 0; ; n++ {
		candidate := name
		if n > 0 {
			candidate = fmt.Sprintf("%d-%s", n, name)
		}
		free := true
		for _, dir := range dirs {
			if _, err := os.Lstat(filepath.Join(dir, candidate)); err == nil {
				free = false
			}
		}
		if free {
			return candidate
		}
	}
}

// writeLarge writes the same size pseudo-random bytes, given by seed, as name into each directory, with the same mtime.
func writeLarge(ctx context.Context, dirs []string, name string, size int64, seed uint64, mtime time.Time, add func(int64)) (err error) {
	var writers []io.Writer
	var files []*os.File
	defer func() {
		for _, f := range files {
			if e := f.Close(); err == nil {
				err = e
			}
		}
		for _, dir := range dirs {
			if err == nil {
				err = setTimes(filepath.Join(dir, name), stamp(mtime))
			}
		}
	}()
	for _, dir := range dirs {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
		if err != nil {
			return err
		}
		files = append(files, f)
		writers = append(writers, f)
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	src := rand.NewChaCha8(key)
	to := io.MultiWriter(writers...)
	buf := make([]byte, 1<<20)
	for done := int64(0); done < size; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p := buf[:min(int64(len(buf)), size-done)]
		_, _ = src.Read(p) // never fails
		if _, err := to.Write(p); err != nil {
			return fmt.Errorf("write the large object: %w", err)
		}
		done += int64(len(p))
		add(int64(len(p)) * int64(len(dirs)))
	}
	return nil
}
