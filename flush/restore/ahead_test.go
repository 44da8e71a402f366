package restore

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

func TestAheadGivesTheObjectBlockByBlock(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, 100, proto.BlockSize - 1, proto.BlockSize, proto.BlockSize + 1, 5 * proto.BlockSize, 5*proto.BlockSize + 7} {
		for _, more := range []int64{0, 1, proto.BlockSize} {
			content := make([]byte, size+more)
			_, _ = rand.Read(content)
			a := newAhead(io.NopCloser(iotest.HalfReader(bytes.NewReader(content))), size)
			var got []byte
			var err error
			for err == nil && int64(len(got)) <= size {
				var data []byte
				data, err = a.next()
				got = append(got, data...)
			}
			a.end()
			if more == 0 {
				require.Equal(t, io.EOF, err, "%d", size)
				require.True(t, bytes.Equal(content, got), "%d", size)
				continue
			}
			require.Greater(t, int64(len(got)), size, "more than the object has is seen")
			require.True(t, bytes.HasPrefix(content, got))
		}
	}
}

// What the caller works on stays as it is while the next blocks are read, and nothing is read that there is no room for.
func TestAheadReadsWhileTheCallerWorks(t *testing.T) {
	t.Parallel()
	const blocks = 20
	content := make([]byte, blocks*proto.BlockSize)
	_, _ = rand.Read(content)
	var read atomic.Int64
	from := readerFunc(func(p []byte) (int, error) {
		n := copy(p, content[read.Load():])
		read.Add(int64(n))
		return n, nil
	})
	a := newAhead(io.NopCloser(from), int64(len(content)))
	data, err := a.next()
	require.NoError(t, err)
	require.Eventually(t, func() bool { return read.Load() >= aheadBlocks*proto.BlockSize }, time.Minute, time.Millisecond, "it goes on without being asked")
	require.True(t, bytes.Equal(content[:proto.BlockSize], data))
	for i := int64(1); i < blocks; i++ {
		require.LessOrEqual(t, read.Load(), (i-1+aheadBlocks)*proto.BlockSize, "nothing is read that there is no room for")
		data, err = a.next()
		require.NoError(t, err)
		require.True(t, bytes.Equal(content[i*proto.BlockSize:][:proto.BlockSize], data))
	}
	a.end()
}

// Who ends it does not wait for a target that does not answer; what it read from is closed once that has.
func TestAheadEndsAtOnce(t *testing.T) {
	t.Parallel()
	asked, answer, closed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(asked) })
	from := &closer{readerFunc(func([]byte) (int, error) {
		once()
		<-answer
		return 0, io.EOF
	}), func() { close(closed) }}
	a := newAhead(from, 4*proto.BlockSize)
	<-asked
	a.end()
	select {
	case <-closed:
		t.Fatal("it is being read from")
	default:
	}
	close(answer)
	<-closed
	small := make(chan struct{})
	newAhead(&closer{nil, func() { close(small) }}, 1).end()
	<-small
}

type closer struct {
	io.Reader
	then func()
}

func (c *closer) Close() error {
	c.then()
	return nil
}

func TestAheadTellsWhatEndedIt(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, size := range []int64{10, 3 * proto.BlockSize} {
		a := newAhead(io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, size-1)), iotest.ErrReader(broken))), size)
		var err error
		for err == nil {
			_, err = a.next()
		}
		require.ErrorIs(t, err, broken)
		a.end()
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
