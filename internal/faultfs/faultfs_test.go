package faultfs

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestFaults(t *testing.T) {
	t.Parallel()
	if why := Missing(); why != "" {
		t.Skip(why)
	}
	dir, at := t.TempDir(), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	content := bytes.Repeat([]byte("0123456789abcdef"), 300_000)
	for _, name := range []string{"sub/bad", "sub/good"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o640))
	}
	require.NoError(t, unix.Setxattr(filepath.Join(dir, "sub/bad"), "user.x", []byte("y"), 0))
	f := Mount(t, dir, at, 1)
	read := func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(at, name)) }
	same := func(name string) {
		t.Helper()
		got, err := read(name)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got))
	}
	same("sub/bad")
	value := make([]byte, 10)
	n, err := unix.Getxattr(filepath.Join(at, "sub/bad"), "user.x", value)
	require.NoError(t, err)
	require.Equal(t, "y", string(value[:n]))

	f.Set(Rule{Path: "sub/bad", From: 2 << 20, To: 2<<20 + 1, P: 1, Err: syscall.EIO})
	_, err = read("sub/bad") // what was read before does not help
	require.ErrorIs(t, err, syscall.EIO)
	require.Positive(t, f.Struck())
	same("sub/good")
	open, err := os.Open(filepath.Join(at, "sub/bad"))
	require.NoError(t, err)
	defer func() { _ = open.Close() }()
	_, err = open.ReadAt(make([]byte, 1<<20), 3<<20)
	require.NoError(t, err, "only the bad range fails")
	f.Set(Rule{P: 1, Short: true})
	part := make([]byte, 1<<20)
	n, err = unix.Pread(int(open.Fd()), part, 0)
	require.NoError(t, err)
	require.Less(t, n, len(part))
	_, err = io.ReadFull(open, part)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content[:len(part)], part))
	f.Set(Rule{Path: "sub", P: 1, Err: syscall.EIO, Times: 2})
	for range 2 {
		_, err = os.ReadDir(filepath.Join(at, "sub"))
		require.ErrorIs(t, err, syscall.EIO)
	}
	_, err = os.ReadDir(filepath.Join(at, "sub"))
	require.NoError(t, err)
	same("sub/bad")
	f.Set()
	same("sub/bad")
}
