package demo

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/show"
	"forebay/internal/treecmp"
)

// plant makes a source with everything that a copy must keep.
func plant(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	t.Cleanup(func() { _ = removeAll(root) })
	must := func(err error) {
		t.Helper()
		require.NoError(t, err)
	}
	must(os.MkdirAll(root+"/a/b/empty", 0o755))
	for _, name := range []string{"a/1", "a/2", "a/3", "a/b/4", "a/b/5", "a/b/6", "7", "8", "9", "a/10", "a/11"} {
		must(os.WriteFile(filepath.Join(root, name), []byte("content of "+name+"\n"), 0o644))
	}
	must(os.WriteFile(root+"/a/none", nil, 0o600))
	must(os.WriteFile(root+"/a/odd\n\xff", []byte("x"), 0o444))
	must(os.Link(root+"/a/1", root+"/a/b/one"))
	must(os.Symlink("/nowhere", root+"/a/link"))
	must(os.MkdirAll(root+"/"+reserved, 0o755))
	must(os.WriteFile(root+"/"+reserved+"/x", []byte("not part of it"), 0o644))
	sparse, err := os.Create(root + "/sparse")
	must(err)
	_, err = sparse.WriteAt([]byte("middle"), 20<<20)
	must(err)
	must(sparse.Truncate(40 << 20))
	must(sparse.Close())
	if err := unix.Setxattr(root+"/a/2", "user.forebay.test", []byte("v"), 0); err != nil {
		require.ErrorIs(t, err, unix.ENOTSUP)
	}
	must(os.Mkdir(root+"/readonly", 0o755))
	must(os.WriteFile(root+"/readonly/file", []byte("file"), 0o444))
	old := time.Unix(1_600_000_000, 987_654_321)
	for _, name := range []string{"a/b/empty", "a/b", "a/2", "a/odd\n\xff", "a/link", "readonly"} {
		must(setTimes(filepath.Join(root, name), stamp(old)))
	}
	must(os.Chmod(root+"/readonly", 0o555))
	return root
}

func equal(t *testing.T, a, b string) treecmp.Result {
	t.Helper()
	r, err := treecmp.Compare(t.Context(), a, b, treecmp.Options{Owner: true, Exclude: []string{reserved}})
	require.NoError(t, err)
	return r
}

// copied makes a copy that goes away with the test.
func copied(t *testing.T, from string) (string, tree) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	t.Cleanup(func() { assert.NoError(t, removeAll(to)) })
	var bytes atomic.Int64
	found, err := copyTree(t.Context(), from, to, func(n int64) { bytes.Add(n) })
	require.NoError(t, err)
	assert.Equal(t, found.bytes, bytes.Load(), "progress tells every byte")
	return to, found
}

func TestCopyKeepsEverything(t *testing.T) {
	t.Parallel()
	source := plant(t)
	to, found := copied(t, source)
	r := equal(t, source, to)
	assert.True(t, r.Equal(), "%v", r.Listed)
	assert.Equal(t, found.objects, r.Objects)
	assert.Empty(t, found.left)
	assert.NoDirExists(t, filepath.Join(to, reserved))

	var st unix.Stat_t
	require.NoError(t, unix.Stat(to+"/sparse", &st))
	assert.Less(t, st.Blocks*512, int64(10<<20), "holes stay holes")
	assert.NotContains(t, found.small, "a/1", "has two names")
	assert.Contains(t, found.small, "a/2")

	c, err := count(t.Context(), source)
	require.NoError(t, err)
	assert.Equal(t, found.objects, c.objects)
}

func TestCopyOfWhatCannotBeCopied(t *testing.T) {
	t.Parallel()
	source := plant(t)
	require.NoError(t, unix.Mkfifo(source+"/pipe", 0o644))
	_, found := copied(t, source)
	require.Len(t, found.left, 1)
	assert.Equal(t, "pipe", found.left[0].Path)

	if os.Geteuid() == 0 {
		t.Skip("the rest needs an ordinary user: root reads everything")
	}
	require.NoError(t, os.Chmod(source+"/a/3", 0))
	require.NoError(t, os.Chmod(source+"/a/b", 0))
	to, found := copied(t, source)
	assert.Len(t, found.left, 3)
	assert.True(t, found.covers("a/3"))
	assert.True(t, found.covers("a/b/empty"))
	assert.False(t, found.covers("a/bc"))
	_, err := os.Open(to + "/a/3")
	require.ErrorIs(t, err, os.ErrPermission, "the agent meets what the copy met")
	_, err = os.ReadDir(to + "/a/b")
	require.ErrorIs(t, err, os.ErrPermission)
}

func TestChangesAreTheSameOnEveryReplica(t *testing.T) {
	t.Parallel()
	source := plant(t)
	one, found := copied(t, source)
	two, _ := copied(t, source)
	large := newName(largeName, []string{one, two})
	when := time.Unix(1_700_000_000, 5)
	var bytes int64
	require.NoError(t, writeLarge(t.Context(), []string{one, two}, large, 3<<20+5, 42, when, func(n int64) { bytes += n }))
	assert.EqualValues(t, 2*(3<<20+5), bytes)

	plan := planChanges(found.small, newName("new", []string{one, two}))
	assert.Equal(t, "3 objects changed, 2 renamed, 3 deleted, 1 new mode, 8 new", tally(plan))
	for _, root := range []string{one, two} {
		require.NoError(t, apply(plan, root, when))
	}
	r := equal(t, one, two)
	assert.True(t, r.Equal(), "%v", r.Listed)
	assert.False(t, equal(t, source, one).Equal())
	assert.Greater(t, moved(plan, one), int64(1<<20))
}

func TestChangesOfATreeWithNothingToChange(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	plan := planChanges(nil, "new")
	require.NoError(t, apply(plan, root, time.Unix(1, 0)))
	assert.FileExists(t, root+"/new/file")
}

func TestSpread(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []string{"a", "b"}, spread([]string{"a", "b"}, 3))
	assert.Equal(t, []string{"b", "e"}, spread([]string{"a", "b", "c", "d", "e", "f"}, 2))
}

func TestLargeObjectIsGivenByItsSeed(t *testing.T) {
	t.Parallel()
	read := func(seed uint64) string {
		dir := t.TempDir()
		require.NoError(t, writeLarge(t.Context(), []string{dir}, "x", 100, seed, time.Unix(1, 0), func(int64) {}))
		b, err := os.ReadFile(dir + "/x")
		require.NoError(t, err)
		return string(b)
	}
	assert.Equal(t, read(1), read(1))
	assert.NotEqual(t, read(1), read(2))
}

func TestNewName(t *testing.T) {
	t.Parallel()
	a, b := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(b+"/x", nil, 0o600))
	assert.Equal(t, "1-x", newName("x", []string{a, b}))
}

func TestSpace(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkSpace(t.TempDir(), 1))
	err := checkSpace(t.TempDir(), 1<<62)
	require.ErrorContains(t, err, show.Bytes(1<<62))
	require.ErrorContains(t, err, "--dir")
	require.Error(t, checkSpace("/no/such/directory", 1))
	got := need(census{bytes: 1 << 30, disk: 1 << 30}, 1<<30)
	assert.Greater(t, got, int64(13)<<30, "three replicas, one and a half in the cache, a mirror and a restored copy")
	assert.Less(t, got, int64(15)<<30)
}

func TestRemoveAll(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "r")
	require.NoError(t, os.MkdirAll(root+"/locked/in", 0o755))
	require.NoError(t, os.Chmod(root+"/locked", 0))
	require.NoError(t, removeAll(root))
	_, err := os.Lstat(root)
	assert.True(t, errors.Is(err, os.ErrNotExist))
}
