// Package faultfs mounts a directory a second time, through FUSE, with faults: reads that fail, come short or take long, by
// rules that a test sets and lifts while processes use the files, or all of it that answers nothing, as a hard mount does whose server is away.
// It needs root and /dev/fuse. It imports nothing of Forebay
// and is used by tests only.
package faultfs

import (
	"context"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Rule is one fault. It strikes the reads of a file that touch [From, To), each with probability P. One with Err that names a directory strikes
// the opening of it, to list it.
type Rule struct {
	Path     string // relative to the directory; "" is every file
	From, To int64  // bytes; To 0: to the end
	P        float64
	Err      syscall.Errno // what the read fails with; 0: it does not fail
	Short    bool          // the read gives half of what it would, as a signal may bring about
	Delay    time.Duration // before anything else
	Times    int           // how often it strikes; 0: always
}

// FS is a directory with faults.
type FS struct {
	fs.LoopbackRoot

	mu     sync.Mutex
	rules  []Rule
	rand   *rand.Rand
	struck int
	first  time.Time     // of the strikes since the last Set
	stall  chan struct{} // closed when the stall ends; nil: there is none
	asked  int           // calls that met the stall
}

// Missing says why nothing can be mounted here; "" when it can.
func Missing() string {
	if os.Geteuid() != 0 {
		return "mounting through FUSE needs root"
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return err.Error()
	}
	_ = f.Close()
	return ""
}

// Mount shows the directory dir at the directory at, without faults. seed drives rules with a probability. The mount ends with
// the test, whoever still uses it.
func Mount(t testing.TB, dir, at string, seed uint64) *FS {
	t.Helper()
	f := &FS{LoopbackRoot: fs.LoopbackRoot{Path: dir}, rand: rand.New(rand.NewPCG(seed, 0))}
	var st unix.Stat_t
	require.NoError(t, unix.Stat(dir, &st))
	f.Dev = st.Dev
	root := &node{LoopbackNode: &fs.LoopbackNode{RootData: &f.LoopbackRoot}, faults: f}
	f.RootNode = root
	server, err := fs.Mount(at, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: dir, Name: "faultfs", MaxWrite: 512 << 10},
	})
	require.NoError(t, err, "mount %s at %s", dir, at)
	t.Cleanup(func() {
		f.Answer()
		// A process that is being killed may be in it: it is taken out of the tree at once and ends with its last user.
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", at, err)
		}
		ended := make(chan struct{})
		go func() { // ends with the mount
			defer close(ended)
			server.Wait()
		}()
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Errorf("the mount at %s is still in use", at)
		}
	})
	return f
}

// Set replaces the rules; without any the directory is sound.
func (f *FS) Set(rules ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules, f.first = rules, time.Time{}
}

// Stall keeps everything that is asked of the directory waiting until Answer, or until who asked is killed.
func (f *FS) Stall() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stall == nil {
		f.stall, f.asked = make(chan struct{}), 0
	}
}

// Answer ends the stall.
func (f *FS) Answer() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stall != nil {
		close(f.stall)
		f.stall = nil
	}
}

// Asked is how many calls the last stall has kept waiting.
func (f *FS) Asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// gate waits for the end of a stall.
func (f *FS) gate(ctx context.Context) syscall.Errno {
	f.mu.Lock()
	stall := f.stall
	if stall != nil {
		f.asked++
	}
	f.mu.Unlock()
	if stall == nil {
		return fs.OK
	}
	select {
	case <-stall:
		return fs.OK
	case <-ctx.Done(): // who asked was killed
		return syscall.EINTR
	}
}

// Struck is how many reads the rules have struck.
func (f *FS) Struck() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.struck
}

// First is when the present rules struck for the first time; zero: not yet.
func (f *FS) First() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first
}

// fault is what a read meets.
func (f *FS) fault(path string, from, to int64) (r Rule, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, r := range f.rules {
		if r.Times < 0 { // it has struck as often as it was to
			continue
		}
		if (r.Path == "" || r.Path == path) && from < r.end() && to > r.From && (r.P >= 1 || f.rand.Float64() < r.P) {
			f.struck++
			if f.first.IsZero() {
				f.first = time.Now()
			}
			if r.Times == 1 {
				f.rules[i].Times = -1
			} else if r.Times > 1 {
				f.rules[i].Times--
			}
			return r, true
		}
	}
	return r, false
}

func (r Rule) end() int64 {
	if r.To == 0 {
		return 1<<63 - 1
	}
	return r.To
}

// node is a file or directory below the mount.
type node struct {
	*fs.LoopbackNode
	faults *FS
}

// WrapChild puts faults into everything below.
func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	if l, ok := ops.(*fs.LoopbackNode); ok {
		return &node{LoopbackNode: l, faults: n.faults}
	}
	return ops
}

// Open opens a file so that every read comes here, whatever the kernel has cached.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.faults.gate(ctx); errno != fs.OK {
		return nil, 0, errno
	}
	h, how, errno := n.LoopbackNode.Open(ctx, flags)
	if l, ok := h.(*fs.LoopbackFile); ok {
		return &file{LoopbackFile: l, faults: n.faults, path: n.Path(nil)}, how | fuse.FOPEN_DIRECT_IO, errno
	}
	return h, how, errno
}

// Lookup, Getattr, Statx and OpendirHandle are LoopbackNode's, but for stalls.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.faults.gate(ctx); errno != fs.OK {
		return nil, errno
	}
	return n.LoopbackNode.Lookup(ctx, name, out)
}

// Getattr see Lookup.
func (n *node) Getattr(ctx context.Context, h fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if errno := n.faults.gate(ctx); errno != fs.OK {
		return errno
	}
	return n.LoopbackNode.Getattr(ctx, h, out)
}

// Statx see Lookup.
func (n *node) Statx(ctx context.Context, h fs.FileHandle, flags, mask uint32, out *fuse.StatxOut) syscall.Errno {
	if errno := n.faults.gate(ctx); errno != fs.OK {
		return errno
	}
	return n.LoopbackNode.Statx(ctx, h, flags, mask, out)
}

// OpendirHandle see Lookup.
func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.faults.gate(ctx); errno != fs.OK {
		return nil, 0, errno
	}
	if r, ok := n.faults.fault(n.Path(nil), 0, 1); ok && r.Path != "" && r.Err != 0 {
		return nil, 0, r.Err
	}
	return n.LoopbackNode.OpendirHandle(ctx, flags)
}

// file is an open file.
type file struct {
	*fs.LoopbackFile
	faults *FS
	path   string
}

// PassthroughFd keeps the kernel from reading the file below by itself.
func (f *file) PassthroughFd() (int, bool) { return 0, false }

// Read reads, or meets a fault.
func (f *file) Read(ctx context.Context, buf []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := f.faults.gate(ctx); errno != fs.OK {
		return nil, errno
	}
	r, ok := f.faults.fault(f.path, off, off+int64(len(buf)))
	if !ok {
		return f.LoopbackFile.Read(ctx, buf, off)
	}
	if r.Delay > 0 {
		wait := time.NewTimer(r.Delay)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done(): // the reader was killed
			return nil, syscall.EINTR
		}
	}
	if r.Err != 0 {
		return nil, r.Err
	}
	if r.Short && len(buf) > 1 {
		buf = buf[:len(buf)/2]
	}
	return f.LoopbackFile.Read(ctx, buf, off)
}
