package crash

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// memory is a file system in memory: the target's syncs are not what is tested. Each run has a directory of its own there and
// holds a lock on it; what a run left that was killed has none, and the next run sweeps it.
const memory = "/dev/shm"

const runDirs = "forebay-crash-"

func TestMain(m *testing.M) {
	flag.Parse()
	dir, unlock, err := scratch()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	debug.SetGCPercent(200) // worlds come and go, and are small
	code := m.Run()
	if dir != "" {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		unlock()
	}
	os.Exit(code)
}

// scratch makes the directory of this run and sweeps those of runs that are no more. Where there is no memory to put it in,
// the tests have temporary directories of their own, and dir is empty.
func scratch() (dir string, unlock func(), err error) {
	if _, err := os.Stat(memory); err != nil {
		return "", nil, nil
	}
	old, err := filepath.Glob(filepath.Join(memory, runDirs+"*"))
	if err != nil {
		return "", nil, err
	}
	for _, d := range old {
		unlock, err := lock(d)
		if err != nil {
			continue // it is in use, or gone
		}
		err = os.RemoveAll(d)
		unlock()
		if err != nil {
			return "", nil, fmt.Errorf("sweep what a killed run left: %w", err)
		}
	}
	for range 10 {
		dir := filepath.Join(memory, fmt.Sprintf("%s%d", runDirs, os.Getpid()))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", nil, err
		}
		if unlock, err := lock(dir); err == nil {
			if _, err := os.Stat(dir); err == nil { // nobody swept it before it was locked
				return dir, unlock, nil
			}
			unlock()
		}
	}
	return "", nil, errors.New("the run's directory is swept each time that it is made")
}

// lock holds a directory until it is told to let go, or the process ends.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // closing lets go
}

// tempDir is a directory for one world, gone when its test ends.
func tempDir(t testing.TB) string {
	dir := filepath.Join(memory, fmt.Sprintf("%s%d", runDirs, os.Getpid()))
	if _, err := os.Stat(dir); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(dir, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}
