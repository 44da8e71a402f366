package restore

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
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
			a := newAhead(iotest.HalfReader(bytes.NewReader(content)), size)
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

// What the caller works on stays as it is while the next blocks are read, and end waits for what is being read.
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
	a := newAhead(from, int64(len(content)))
	data, err := a.next()
	require.NoError(t, err)
	require.Eventually(t, func() bool { return read.Load() >= aheadBlocks*proto.BlockSize }, time.Minute, time.Millisecond, "it goes on without being asked")
	require.True(t, bytes.Equal(content[:proto.BlockSize], data))
	a.end()
	at := read.Load()
	require.LessOrEqual(t, at, int64(aheadBlocks+1)*proto.BlockSize, "nothing is read that nobody has room for")
}

func TestAheadTellsWhatEndedIt(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, size := range []int64{10, 3 * proto.BlockSize} {
		a := newAhead(io.MultiReader(bytes.NewReader(make([]byte, size-1)), iotest.ErrReader(broken)), size)
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
