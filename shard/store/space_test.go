package store_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/testfs"
	"forebay/proto"
	"forebay/shard/store"
)

// smallFS is a file system in memory with a size: what passes it fails with ENOSPC, as on a full disk. Hard links share
// their bytes, preallocated bytes count.
type smallFS struct {
	vfs.FS
	mu    sync.Mutex
	size  int64
	used  int64
	most  int // files; 0: as many as one likes
	files map[string]*smallNode
}

type smallNode struct {
	bytes int64
	links int
}

func newSmallFS(size int64) *smallFS {
	return &smallFS{FS: vfs.NewMem(), size: size, files: make(map[string]*smallNode)}
}

func (s *smallFS) Unwrap() vfs.FS { return s.FS }

func (s *smallFS) grow(n *smallNode, by int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+by > s.size {
		return syscall.ENOSPC
	}
	s.used += by
	n.bytes += by
	return nil
}

func (s *smallFS) unlink(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.files[name]; n != nil {
		delete(s.files, name)
		if n.links--; n.links == 0 {
			s.used -= n.bytes
		}
	}
}

func (s *smallFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	s.mu.Lock()
	_, there := s.files[name]
	full := !there && s.most > 0 && len(s.files) >= s.most
	s.mu.Unlock()
	if full {
		return nil, &os.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	f, err := s.FS.Create(name, c)
	if err != nil {
		return nil, err
	}
	s.unlink(name)
	s.mu.Lock()
	n := &smallNode{links: 1}
	s.files[name] = n
	s.mu.Unlock()
	return &smallFile{f, s, n}, nil
}

func (s *smallFS) Link(from, to string) error {
	if err := s.FS.Link(from, to); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[to] = s.files[from]
	s.files[to].links++
	return nil
}

func (s *smallFS) Rename(from, to string) error {
	if err := s.FS.Rename(from, to); err != nil {
		return err
	}
	s.unlink(to)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[to] = s.files[from]
	delete(s.files, from)
	return nil
}

func (s *smallFS) Remove(name string) error {
	err := s.FS.Remove(name)
	if err == nil {
		s.unlink(name)
	}
	return err
}

func (s *smallFS) RemoveAll(name string) error {
	s.mu.Lock()
	var under []string
	for f := range s.files {
		if strings.HasPrefix(f, name+"/") {
			under = append(under, f)
		}
	}
	s.mu.Unlock()
	for _, f := range under {
		s.unlink(f)
	}
	return s.FS.RemoveAll(name)
}

func (s *smallFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return vfs.DiskUsage{TotalBytes: uint64(s.size), UsedBytes: uint64(s.used), AvailBytes: uint64(s.size - s.used)}, nil
}

type smallFile struct {
	vfs.File
	fs   *smallFS
	node *smallNode
}

func (f *smallFile) Write(p []byte) (int, error) {
	if err := f.fs.grow(f.node, int64(len(p))); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *smallFile) Preallocate(_, n int64) error { return f.fs.grow(f.node, n) }

// A disk runs full: what does not fit is refused as overload, what was acknowledged stays, the store does not fail, freeing
// works because the ballast is let go, and then data is taken again (recovery without an operator).
func TestDiskFull(t *testing.T) {
	t.Parallel()
	recoversFromFullDisk(t, newSmallFS(24<<20), "/disk1")
}

// The same on a real file system that is really full.
func TestDiskFullTmpfs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testfs.Tmpfs(t, dir, "24m")
	recoversFromFullDisk(t, vfs.Default, dir)
}

func recoversFromFullDisk(t *testing.T, fs vfs.FS, dir string) {
	r := newRig(t, fs, 0, ballast(2<<20), func(c *store.Config) {
		c.Capacity = 1 << 40 // the disk itself is what ends
		c.Paths = []string{fs.PathJoin(dir, "forebay")}
	})
	var its []store.Item
	var at []store.Placement
	var refused error
	for seq := uint64(1); refused == nil; seq++ {
		require.Less(t, seq, uint64(100))
		it := item(t, seq, 1<<20)
		p, err := r.Put(context.Background(), []store.Item{it})
		if refused = err; err == nil {
			its, at = append(its, it), append(at, p...)
		}
	}
	assert.Greater(t, len(its), 15)
	assert.Equal(t, proto.ClassOverload, proto.ClassOf(refused))
	assert.Equal(t, store.Degraded, r.States()[0].State)
	assert.NotEmpty(t, r.States()[0].LastError)
	assert.Zero(t, r.Healthy())
	assert.NotEmpty(t, r.told(store.StoreFull))
	assert.Empty(t, r.told(store.StoreFailed), "a full disk is no broken one")
	_, err := r.Accepting()
	assert.Equal(t, proto.ClassOverload, proto.ClassOf(err))
	r.Tend()
	assert.Zero(t, r.Healthy(), "it stays full until there is room")
	r.reopen(fs) // it can be opened full
	for i, it := range its {
		r.wants(it, at[i])
	}

	// Something else fills the last byte.
	filler, err := fs.Create(fs.PathJoin(dir, "filler"), vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	defer func() { _ = filler.Close() }()
	for n := 1 << 20; n > 0; n /= 2 {
		for _, err = filler.Write(make([]byte, n)); err == nil; _, err = filler.Write(make([]byte, n)) {
		}
	}
	var free []store.IDPlacement
	for i := range 8 {
		free = append(free, store.IDPlacement{ID: its[2*i].ID, Placement: at[2*i]})
	}
	require.NoError(t, r.Free(context.Background(), free), "freeing must work on a full disk")
	assert.Len(t, r.told(store.BallastReleased), 1)
	require.Eventually(t, func() bool { r.Tend(); return r.Healthy() == 1 }, waitLong, waitStep)
	assert.Len(t, r.told(store.BallastRestored), 1)
	p := r.put(item(t, 500, 1<<20))
	r.wants(item(t, 500, 1<<20), p[0])
	r.reopen(fs)
	for i, it := range its {
		if i%2 == 0 && i < 16 {
			continue
		}
		r.wants(it, at[i])
	}
}

// A disk may run out of files with bytes to spare. It is full all the same, told of once and not with each try, and takes
// data again when there is room for some more.
func TestDiskOutOfInodes(t *testing.T) {
	t.Parallel()
	small := newSmallFS(1 << 30)
	r := newRig(t, small, 0, ballast(2<<20), func(c *store.Config) { c.Capacity, c.Paths = 1<<40, []string{"/disk1/forebay"} })
	small.mu.Lock()
	small.most = len(small.files) + 30
	small.mu.Unlock()
	var free []store.IDPlacement
	var refused error
	for seq := uint64(1); refused == nil; seq++ {
		require.Less(t, seq, uint64(100))
		it := item(t, seq, 1<<10)
		var p []store.Placement
		if p, refused = r.Put(context.Background(), []store.Item{it}); refused == nil {
			free = append(free, store.IDPlacement{ID: it.ID, Placement: p[0]})
		}
	}
	assert.Equal(t, proto.ClassOverload, proto.ClassOf(refused))
	for seq := range uint64(5) {
		r.Tend()
		require.Equal(t, store.Degraded, r.States()[0].State)
		_, err := r.Put(context.Background(), []store.Item{item(t, 200+seq, 1<<10)})
		require.Equal(t, proto.ClassOverload, proto.ClassOf(err))
	}
	assert.Len(t, r.told(store.StoreFull), 1)
	assert.Empty(t, r.told(store.StoreFailed))
	require.NoError(t, r.Free(context.Background(), free), "freeing must work on a full disk")
	require.Eventually(t, func() bool { r.Tend(); return r.Healthy() == 1 }, waitLong, waitStep)
	r.put(item(t, 500, 1<<20))
}

// One full store among several is left out, with the parity kept.
func TestOneStoreFull(t *testing.T) {
	t.Parallel()
	small := newSmallFS(3 << 20)
	r := newRig(t, splitFS{FS: vfs.NewMem(), full: small}, 3)
	var last store.Placement
	for seq := range uint64(6) {
		it := item(t, seq, 2<<20)
		last = r.put(it)[0]
		r.wants(it, last)
	}
	assert.Equal(t, "1+1", last.Geometry.String())
	assert.Equal(t, store.Degraded, r.States()[1].State)
	assert.Empty(t, r.told(store.StoreFailed))
}

// splitFS puts /disk2 on a file system of its own.
type splitFS struct {
	vfs.FS
	full *smallFS
}

func (s splitFS) Unwrap() vfs.FS { return s.FS }

func (s splitFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	if err == nil && strings.HasPrefix(name, "/disk2/") && strings.HasSuffix(name, ".sst") {
		return &smallFile{f, s.full, &smallNode{links: 1}}, nil
	}
	return f, err
}

// Without ballast and without room a full disk may even fail MANIFEST, for which pebble gives up. That is overload for the
// caller too, and the store comes back.
func TestManifestHitsFullDisk(t *testing.T) {
	t.Parallel()
	fs := newSmallFS(8 << 20)
	r := newRig(t, fs, 1)
	it := item(t, 1, 100_000)
	p := r.put(it)[0]
	fs.mu.Lock()
	size := fs.size
	fs.size = fs.used
	fs.mu.Unlock()
	err := r.Free(context.Background(), []store.IDPlacement{{ID: it.ID, Placement: p}})
	require.Error(t, err)
	assert.Equal(t, proto.ClassOverload, proto.ClassOf(err))
	fs.mu.Lock()
	fs.size = size
	fs.mu.Unlock()
	require.Eventually(t, func() bool { r.revive(); return r.Healthy() == 1 }, waitLong, waitStep)
	require.NoError(t, r.Free(context.Background(), []store.IDPlacement{{ID: it.ID, Placement: p}}))
	r.put(it)
}

// lateFS removes no table until it may.
type lateFS struct {
	vfs.FS
	may chan struct{}
}

func (l lateFS) Unwrap() vfs.FS { return l.FS }

func (l lateFS) Remove(name string) error {
	if strings.HasSuffix(name, ".sst") && !strings.Contains(name, "stage") {
		<-l.may
	}
	return l.FS.Remove(name)
}

// Pebble removes the files of what was freed when it likes. What was freed leaves room at once all the same.
func TestFreedIsFreeBeforeItsFilesAreGone(t *testing.T) {
	t.Parallel()
	fs := lateFS{vfs.NewMem(), make(chan struct{})}
	r := newRig(t, fs, 1, func(c *store.Config) { c.Capacity = 3 << 19 })
	t.Cleanup(func() { close(fs.may) })
	for seq := range uint64(5) {
		it := item(t, seq, 1<<20)
		p := r.put(it)[0]
		require.NoError(t, r.Free(context.Background(), []store.IDPlacement{{ID: it.ID, Placement: p}}))
	}
	require.Less(t, r.Used(), int64(1<<20))
}

// Every byte put is written once, (k+m)/k times over all stores, and half the space is back when every second segment is
// freed. Counted on a real file system.
func TestWriteAmplificationAndSpace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, vfs.Default, 0, coding("2+1"), func(c *store.Config) {
		c.Paths = []string{filepath.Join(dir, "a/forebay"), filepath.Join(dir, "b"), filepath.Join(dir, "c")}
	})
	base := written(r)
	var list []store.IDPlacement
	put := int64(0)
	for group := range uint64(6) {
		its := items(t, group*4, 4, 4<<20)
		for i, p := range r.put(its...) {
			list = append(list, store.IDPlacement{ID: its[i].ID, Placement: p})
			put += int64(len(its[i].Raw))
		}
	}
	amplification := float64(written(r)-base) / (float64(put) * 3 / 2)
	t.Logf("write amplification %.4f (%d bytes put)", amplification, put)
	assert.LessOrEqual(t, amplification, 1.05)
	before := onDisk(t, dir)
	assert.InEpsilon(t, float64(put)*3/2, float64(before), 0.05)

	base = written(r)
	var free []store.IDPlacement
	for i := 0; i < len(list); i += 2 {
		free = append(free, list[i])
	}
	require.NoError(t, r.Free(context.Background(), free))
	assert.Less(t, written(r)-base, int64(64<<10), "freeing writes next to nothing")
	require.Eventually(t, func() bool { return float64(onDisk(t, dir)) < float64(before)*0.52 }, waitLong, waitStep)
	require.Eventually(t, func() bool { r.Tend(); return float64(r.Used()) < float64(before)*0.52 }, waitLong, waitStep)

	s := r.States()[0]
	assert.Positive(t, s.CapacityBytes)
	assert.Positive(t, s.FreeBytes)
	assert.InDelta(t, float64(s.CapacityBytes)*0.9, float64(r.Capacity()), 2, "three stores on one file system have it once")
	r.reopen(r.fs)
	for i := 1; i < len(list); i += 2 {
		_, err := r.Get(context.Background(), list[i].ID, list[i].Placement)
		require.NoError(t, err)
	}
}

func written(r *rig) int64 {
	n := int64(0)
	for _, s := range r.States() {
		n += s.WrittenBytes
	}
	return n
}

// onDisk is what du says.
func onDisk(t *testing.T, dir string) int64 {
	t.Helper()
	total := int64(0)
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // removed while we look
		}
		require.NoError(t, err)
		if info, err := e.Info(); err == nil && !e.IsDir() {
			total += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	}))
	return total
}

// The ballast really takes space on a real file system.
func TestBallastTakesSpace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, vfs.Default, 0, ballast(4<<20), func(c *store.Config) { c.Paths = []string{dir} })
	assert.GreaterOrEqual(t, onDisk(t, dir), int64(4<<20))
	assert.Equal(t, 1, r.Healthy())
}
