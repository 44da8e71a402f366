package wire

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func frames() *rapid.Generator[Frame] {
	return rapid.Custom(func(t *rapid.T) Frame {
		f := Frame{Kind: Kind(rapid.Uint8().Draw(t, "kind")), Session: rapid.Uint32().Draw(t, "session"), Request: rapid.Uint32().Draw(t, "request")}
		if p := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"); len(p) > 0 {
			f.Payload = p
		}
		return f
	})
}

// What is written is read, however the stream cuts it.
func TestFrames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(frames(), 1, 10).Draw(t, "frames")
		var b bytes.Buffer
		w := NewWriter(&b, 300)
		for _, f := range all {
			require.NoError(t, w.Write(f))
		}
		r := NewReader(iotest.OneByteReader(&b), 300)
		for _, f := range all {
			got, err := r.Next()
			require.NoError(t, err)
			require.Equal(t, f, got)
		}
		_, err := r.Next()
		require.ErrorIs(t, err, io.EOF)
	})
}

// However a stream is damaged, no frame comes out of it that was not written, and after enough bytes of nothing the next one does.
func TestDamage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(frames(), 1, 10).Draw(t, "frames")
		var b []byte
		written := map[string]bool{}
		for _, f := range all {
			b = f.Append(b)
			written[string(f.Append(nil))] = true
		}
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for range rapid.IntRange(1, 5).Draw(t, "damages") {
			i := rnd.IntN(len(b))
			switch rnd.IntN(3) {
			case 0:
				b[i] ^= 1 << rnd.IntN(8)
			case 1:
				b = append(b[:i:i], b[i+1:]...)
			case 2:
				b = append(append(b[:i:i], byte(rnd.Uint32())), b[i:]...)
			}
			if len(b) == 0 {
				return
			}
		}
		last := Frame{Kind: KindHello, Session: 7, Payload: []byte("hello")}
		written[string(last.Append(nil))] = true
		b = append(b, make([]byte, 1024)...)
		b = last.Append(b)
		r := NewReader(bytes.NewReader(b), 300)
		found := false
		for {
			f, err := r.Next()
			if errors.Is(err, ErrDamaged) {
				continue
			}
			if err != nil {
				break
			}
			require.True(t, written[string(f.Append(nil))], "%+v was never written", f)
			found = found || f.Session == 7 && f.Kind == KindHello
		}
		require.True(t, found)
	})
}

func TestFrameLimits(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	require.ErrorIs(t, NewWriter(&b, 10).Write(Frame{Payload: make([]byte, 11)}), ErrTooLarge)
	require.Zero(t, b.Len())
	require.NoError(t, NewWriter(&b, 11).Write(Frame{Payload: make([]byte, 11)}))
	_, err := NewReader(bytes.NewReader(b.Bytes()), 10).Next()
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorContains(t, err, "it announces 11 bytes, 10 are allowed")
	for cut := 1; cut < b.Len(); cut++ {
		_, err = NewReader(bytes.NewReader(b.Bytes()[:cut]), 11).Next()
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut after %d bytes", cut)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(Frame{Kind: KindCall, Session: 1, Request: 2, Payload: []byte("x")}.Append(nil))
	f.Add([]byte("FBD1 and more that is none"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b), 1<<10)
		for range len(b) + 1 { // each call takes a byte at least
			got, err := r.Next()
			if err == nil {
				require.Contains(t, string(b), string(got.Append(nil)))
			} else if !errors.Is(err, ErrDamaged) {
				return
			}
		}
		t.Fatal("it does not come to an end")
	})
}
