package treecmp

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// stamp is an mtime with nanoseconds that no file gets by accident.
var stamp = time.Unix(1_700_000_000, 123_456_789)

// plant makes the tree that all cases start from.
func plant(t *testing.T, root string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "a/b/empty"), 0o755))
	write(t, filepath.Join(root, "a/one"), "one")
	write(t, filepath.Join(root, "a/two"), "two")
	write(t, filepath.Join(root, "a/b/odd\n\xff name"), "odd")
	write(t, filepath.Join(root, "nothing"), "")
	require.NoError(t, os.Link(filepath.Join(root, "a/one"), filepath.Join(root, "a/b/one too")))
	require.NoError(t, os.Symlink("../a/one", filepath.Join(root, "a/link")))
	settle(t, root)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

// settle gives everything below root the same mtime, leaves first.
func settle(t *testing.T, root string) {
	t.Helper()
	var paths []string
	require.NoError(t, filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}))
	for i := len(paths) - 1; i >= 0; i-- {
		ts := []unix.Timespec{unix.NsecToTimespec(stamp.UnixNano()), unix.NsecToTimespec(stamp.UnixNano())}
		require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, paths[i], ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func compare(t *testing.T, a, b string, opt Options) Result {
	t.Helper()
	r, err := Compare(t.Context(), a, b, opt)
	require.NoError(t, err)
	return r
}

func TestEqualTrees(t *testing.T) {
	t.Parallel()
	a, b := t.TempDir(), t.TempDir()
	plant(t, a)
	plant(t, b)
	require.NoError(t, os.Mkdir(filepath.Join(b, ".records"), 0o700))
	var objects, size atomic.Int64
	r := compare(t, a, b, Options{Owner: true, Exclude: []string{".records"}, Progress: func(o, n int64) {
		objects.Add(o)
		size.Add(n)
	}})
	assert.True(t, r.Equal(), "%v", r.Listed)
	assert.EqualValues(t, 9, r.Objects)
	assert.EqualValues(t, 5, r.Files)
	assert.EqualValues(t, 3, r.Directories)
	assert.EqualValues(t, 12, r.Bytes)
	assert.Equal(t, r.Objects, objects.Load())
	assert.Equal(t, r.Bytes, size.Load())
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		path   string // that is told
		what   string
		change func(t *testing.T, root string)
	}{
		{"a byte", "a/two", "content", func(t *testing.T, root string) { write(t, root+"/a/two", "twO") }},
		{"a shorter file", "a/two", "size", func(t *testing.T, root string) { write(t, root+"/a/two", "tw") }},
		{"a file gone", "a/two", "missing", func(t *testing.T, root string) { require.NoError(t, os.Remove(root+"/a/two")) }},
		{"a file more", "a/three", "extra", func(t *testing.T, root string) { write(t, root+"/a/three", "") }},
		{"an empty directory gone", "a/b/empty", "missing", func(t *testing.T, root string) { require.NoError(t, os.Remove(root+"/a/b/empty")) }},
		{"a directory in place of a file", "nothing", "type", func(t *testing.T, root string) {
			require.NoError(t, os.Remove(root+"/nothing"))
			require.NoError(t, os.Mkdir(root+"/nothing", 0o755))
		}},
		{"mode of a file", "a/two", "mode", func(t *testing.T, root string) { require.NoError(t, os.Chmod(root+"/a/two", 0o640)) }},
		{"sticky bit of a directory", "a/b", "mode", func(t *testing.T, root string) {
			require.NoError(t, os.Chmod(root+"/a/b", 0o755|os.ModeSticky))
		}},
		{"symlink text", "a/link", "link", func(t *testing.T, root string) {
			require.NoError(t, os.Remove(root+"/a/link"))
			require.NoError(t, os.Symlink("../a/two", root+"/a/link"))
		}},
		{"a hard link that is a copy", "a/one", "hardlinks", func(t *testing.T, root string) {
			require.NoError(t, os.Remove(root+"/a/b/one too"))
			write(t, root+"/a/b/one too", "one")
		}},
		{"copies that became one inode", "a/two", "hardlinks", func(t *testing.T, root string) {
			require.NoError(t, os.Remove(root+"/a/two"))
			require.NoError(t, os.Link(root+"/a/one", root+"/a/two"))
			write(t, root+"/a/one", "two") // shared: both names read "two", and "a/one" differs too
		}},
		{"an attribute", "a/two", "xattrs", func(t *testing.T, root string) { setXattr(t, root+"/a/two", "v") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, b := t.TempDir(), t.TempDir()
			plant(t, a)
			plant(t, b)
			c.change(t, b)
			settle(t, b)
			r := compare(t, a, b, Options{})
			require.NotZero(t, r.Differences)
			var told []string
			for _, d := range r.Listed {
				told = append(told, d.Path+" "+d.What)
			}
			if c.what == "hardlinks" {
				// Which name of a group is told depends on the order of the walk.
				assert.Contains(t, fmt.Sprint(told), "hardlinks")
				return
			}
			assert.Equal(t, []string{c.path + " " + c.what}, told)
		})
	}
}

func setXattr(t *testing.T, path, value string) {
	t.Helper()
	err := unix.Lsetxattr(path, "user.forebay.test", []byte(value), 0)
	if err == unix.ENOTSUP {
		t.Skip("the file system of the temporary directory has no user attributes")
	}
	require.NoError(t, err)
}

func TestMtimeToTheNanosecond(t *testing.T) {
	t.Parallel()
	a, b := t.TempDir(), t.TempDir()
	plant(t, a)
	plant(t, b)
	require.NoError(t, os.Chtimes(b+"/a/b/empty", stamp, stamp.Add(1)))
	require.NoError(t, os.Chtimes(b+"/a/two", stamp, stamp.Add(-1)))
	r := compare(t, a, b, Options{})
	require.Len(t, r.Listed, 2)
	assert.Equal(t, "mtime", r.Listed[0].What)
	assert.Equal(t, "a/b/empty", r.Listed[0].Path)
	assert.Equal(t, "a/two", r.Listed[1].Path)
}

func TestXattrValuesDiffer(t *testing.T) {
	t.Parallel()
	a, b := t.TempDir(), t.TempDir()
	plant(t, a)
	plant(t, b)
	setXattr(t, a+"/a", "one")
	setXattr(t, b+"/a", "two")
	settle(t, a)
	settle(t, b)
	r := compare(t, a, b, Options{})
	require.Len(t, r.Listed, 1)
	assert.Equal(t, Difference{Path: "a", What: "xattrs", Detail: `user.forebay.test is "two", not "one"`}, r.Listed[0])
}

func TestOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: gives a file to another owner")
	}
	a, b := t.TempDir(), t.TempDir()
	plant(t, a)
	plant(t, b)
	require.NoError(t, os.Chown(b+"/nothing", 12345, 12346))
	settle(t, b)
	assert.True(t, compare(t, a, b, Options{}).Equal())
	r := compare(t, a, b, Options{Owner: true})
	require.Len(t, r.Listed, 1)
	assert.Equal(t, "owner", r.Listed[0].What)
}

func TestUnreadableIsADifference(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("needs an ordinary user: root reads everything")
	}
	a, b := t.TempDir(), t.TempDir()
	plant(t, a)
	plant(t, b)
	for _, root := range []string{a, b} {
		require.NoError(t, os.Chmod(root+"/a/two", 0))
		settle(t, root)
	}
	r := compare(t, a, b, Options{})
	require.Len(t, r.Listed, 1)
	assert.Equal(t, "unreadable", r.Listed[0].What)
}

func TestLargeFileIsSharedAndToldOnce(t *testing.T) {
	t.Parallel()
	a, b := t.TempDir(), t.TempDir()
	for _, root := range []string{a, b} { // sparse: takes no room
		f, err := os.Create(root + "/large")
		require.NoError(t, err)
		require.NoError(t, f.Truncate(3*rangeLen+17))
		require.NoError(t, f.Close())
	}
	for _, offset := range []int64{rangeLen + 5, 3*rangeLen + 16} {
		f, err := os.OpenFile(b+"/large", os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte{1}, offset)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	settle(t, a)
	settle(t, b)
	r := compare(t, a, b, Options{Workers: 3})
	require.Len(t, r.Listed, 1)
	assert.Equal(t, "content", r.Listed[0].What)
}

func TestSkipAndListLimit(t *testing.T) {
	t.Parallel()
	a, b := t.TempDir(), t.TempDir()
	for i := range 20 {
		write(t, fmt.Sprintf("%s/%02d", a, i), "x")
	}
	r := compare(t, a, b, Options{List: 3, Skip: func(path string) bool { return path < "05" }})
	assert.EqualValues(t, 15, r.Differences)
	assert.Len(t, r.Listed, 3)
}

func TestManyDirectoriesWithFewWorkers(t *testing.T) {
	t.Parallel()
	a, b := t.TempDir(), t.TempDir()
	for _, root := range []string{a, b} {
		for i := range 10 {
			dir := fmt.Sprintf("%s/%d/deep/er", root, i)
			require.NoError(t, os.MkdirAll(dir, 0o755))
			for j := range 5 {
				require.NoError(t, os.WriteFile(fmt.Sprintf("%s/%d", dir, j), bytes.Repeat([]byte{byte(j)}, 1000), 0o644))
			}
		}
		settle(t, root)
	}
	for workers := 1; workers < 9; workers *= 2 {
		r := compare(t, a, b, Options{Workers: workers})
		assert.True(t, r.Equal())
		assert.EqualValues(t, 80, r.Objects)
		assert.EqualValues(t, 50_000, r.Bytes)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	_, err := Compare(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "nowhere"), Options{})
	require.ErrorIs(t, err, os.ErrNotExist)

	a := t.TempDir()
	plant(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Compare(ctx, a, a, Options{})
	require.ErrorIs(t, err, context.Canceled)
}
