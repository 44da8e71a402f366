package proto_test

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// An object is read to its end, in whatever pieces it comes. A connection that is cut amid a body, which HTTP clients tell by
// io.ErrUnexpectedEOF, is no end.
func TestReadDigest(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, proto.BlockSize - 1, proto.BlockSize, proto.BlockSize + 1, 2*proto.BlockSize + 5} {
		content := bytes.Repeat([]byte("x"), n)
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "by halves": iotest.HalfReader, "with its end": iotest.DataErrReader,
		} {
			sum, read, err := proto.ReadDigest(t.Context(), wrap(bytes.NewReader(content)))
			require.NoError(t, err, "%d bytes, %s", n, name)
			require.EqualValues(t, n, read)
			require.Equal(t, proto.ContentDigest(content), sum)
		}
		_, read, err := proto.ReadDigest(t.Context(), io.MultiReader(bytes.NewReader(content), iotest.ErrReader(io.ErrUnexpectedEOF)))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", n)
		require.EqualValues(t, n, read)
		require.Equal(t, proto.ClassTransient, proto.ClassOf(err))
	}
}
