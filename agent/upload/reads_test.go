package upload

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/proto"
)

// hangs is a Tree whose disk does not answer the looks at what is open from one of them on, until it is released.
type hangs struct {
	Tree
	mu      sync.Mutex
	path    string // "": every one
	left    int    // looks that are answered before
	release chan struct{}
	names   map[*os.File]string
	last    error // of the last look
}

func (h *hangs) Open(path string) (*os.File, error) {
	f, err := h.Tree.Open(path)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.names == nil {
		h.names = map[*os.File]string{}
	}
	h.names[f] = path
	return f, err
}

func (h *hangs) Stat(f *os.File) (index.Stat, error) {
	h.mu.Lock()
	wait := false
	if h.path == "" || h.names[f] == h.path {
		h.left--
		wait = h.left < 0
	}
	h.mu.Unlock()
	if wait {
		<-h.release
	}
	st, err := h.Tree.Stat(f)
	h.mu.Lock()
	h.last = err
	h.mu.Unlock()
	return st, err
}

// hung is a bench whose disk hangs; give says whether another holder goes on.
func hung(t *testing.T, path string, left int, give func(j Job, waited time.Duration) bool) (*bench, *hangs) {
	b := newBench(t, accept)
	h := &hangs{Tree: b.Tree, path: path, left: left, release: make(chan struct{})}
	b.Tree, b.Reads, b.Patience = h, NewReads(time.Now), 12*time.Second
	b.Slow = func(_ context.Context, j Job, waited time.Duration) bool { return give(j, waited) }
	return b, h
}

// A large object whose disk hangs ends when another holder goes on with it, whatever the disk does, and what was left behind harms nothing.
// While none does, it is waited for.
func TestLargeObjectOnADiskThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, began := 0, time.Now()
		b, h := hung(t, "", 3, func(_ Job, waited time.Duration) bool {
			asked++
			require.GreaterOrEqual(t, waited, 12*time.Second)
			return asked == 3
		})
		j := b.put(t, "f", 40*proto.BlockSize)
		b.Large(t.Context(), j)
		res := b.rec.results["f"]
		require.Equal(t, Failed, res.Outcome)
		require.Equal(t, settle.FaultRead, res.Bad.Fault)
		require.Contains(t, res.Bad.Reason, "slow read: the disk has not answered for 36s")
		require.Equal(t, 36*time.Second, time.Since(began))
		require.Equal(t, 36*time.Second, b.Reads.Slow(), "it is told of as long as it hangs")
		_, err := Hasher{Tree: b.Tree, Reads: b.Reads, Patience: b.Patience}.Hash(t.Context(), j.Entry, nil)
		require.ErrorContains(t, err, "has not answered the last one yet", "nothing else waits behind it")
		close(h.release)
		synctest.Wait()
		require.Zero(t, b.Reads.Slow())
		delete(b.rec.results, "f")
		b.Large(t.Context(), j)
		require.Equal(t, Sealed, b.rec.results["f"].Outcome)
		require.Equal(t, int64(64*proto.BlockSize), b.Reads.Bytes(), "the three segments that were read, and all of it")
	})
}

// Of a pack, what the disk gives is sent. Once it has hung twice, the rest is given to who goes on.
func TestPackOnADiskThatHangs(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]map[string]Outcome{
		"b": {"a": Sealed, "b": Failed, "c": Sealed, "d": Sealed, "e": Sealed},
		"":  {"a": Failed, "b": Failed, "c": Failed, "d": Failed, "e": Failed},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			b, h := hung(t, path, 0, func(Job, time.Duration) bool { return true })
			var jobs []Job
			for _, n := range []string{"a", "b", "c", "d", "e"} {
				jobs = append(jobs, b.put(t, n, 100_000))
			}
			b.Pack(t.Context(), jobs)
			require.LessOrEqual(t, time.Since(began), 24*time.Second)
			for n, o := range want {
				require.Equal(t, o, b.rec.results[n].Outcome, n)
			}
			close(h.release)
			synctest.Wait()
		})
	}
}

// A disk that is slow, a limit and a relay that takes its time are no disk that hangs. The end of a session does not wait for one.
func TestWhatIsNoDiskThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewReads(time.Now)
		w := watch{path: "f", patience: 12 * time.Second, give: func(time.Duration) bool { t.Error("it is slow, and comes"); return true }}
		over, err := r.do(t.Context(), w, func(step func()) error {
			for range 30 {
				time.Sleep(11 * time.Second)
				step()
			}
			return nil
		}, nil)
		require.NoError(t, err)
		require.True(t, over)
		ctx, cancel := context.WithCancel(t.Context())
		release, dropped := make(chan struct{}), false
		time.AfterFunc(time.Second, cancel)
		over, err = r.do(ctx, watch{path: "f", patience: time.Minute}, func(func()) error { <-release; return nil }, func() { dropped = true })
		require.ErrorIs(t, err, context.Canceled)
		require.False(t, over)
		close(release)
		synctest.Wait()
		require.True(t, dropped, "what it has opened is closed")
	})
}

// Hashing that is left behind on a disk that hangs, at any of its looks, has its file closed under it. It asks no other file then: descriptors'
// numbers come again at once.
func TestLeftBehindHashingAsksNoOtherFile(t *testing.T) {
	t.Parallel()
	for left := range 3 {
		synctest.Test(t, func(t *testing.T) {
			b, h := hung(t, "", left, nil)
			e := b.put(t, "f", 100_000).Entry
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			_, err := Hasher{Tree: b.Tree, Reads: b.Reads, Patience: b.Patience}.Hash(ctx, e, func(context.Context) error { return nil })
			if left == 2 {
				require.NoError(t, err, "it looks twice")
			} else {
				require.ErrorIs(t, err, context.Canceled)
			}
			close(h.release)
			synctest.Wait()
			require.Equal(t, left == 1, errors.Is(h.last, os.ErrClosed), "only the first look is in what closes the file itself: %v", h.last)
			cancel()
		})
	}
}
