package proto_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// page is a page of the feed as a first fill makes it: paths that begin alike, and digests that are alike in nothing.
func page(n int) proto.FeedReply {
	rng := rand.New(rand.NewPCG(1, 2))
	var p proto.FeedReply
	for i := range n {
		item := proto.FeedItem{Version: proto.VersionID(100000 + i), Path: fmt.Sprintf("projects/0001/run-%05d/sample-%08d.dat", i/1000, i), Kind: proto.KindFile, Size: 4096, Parent: 99000}
		for j := range item.Digest {
			item.Digest[j] = byte(rng.Uint32())
		}
		p.Items = append(p.Items, item)
	}
	return p
}

func TestPackedMessagesComeBack(t *testing.T) {
	t.Parallel()
	plain := proto.Marshal(page(1000))
	small, ok := proto.Pack(plain)
	require.True(t, ok)
	require.Less(t, len(small), 45*1000, "of each item little but the digest is left")
	back, err := proto.Unpack(small)
	require.NoError(t, err)
	require.Equal(t, plain, back)
	for _, hint := range [][]byte{small, plain} {
		back, err = proto.UnpackHint(hint)
		require.NoError(t, err)
		require.Equal(t, plain, back)
	}
	_, ok = proto.Pack(plain[:proto.PackFrom-1])
	require.False(t, ok)
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	same, ok := proto.Pack(noise)
	require.False(t, ok)
	require.Equal(t, noise, same)
}

// A message that would be larger than any may be is refused before it takes the memory: whether it says how large it is, or does not, or
// comes in many parts.
func TestBombsAreRefused(t *testing.T) {
	zeros := make([]byte, 64<<20)
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	told := w.EncodeAll(zeros, nil)
	var buf bytes.Buffer
	stream, err := zstd.NewWriter(&buf)
	require.NoError(t, err)
	for range 64 {
		_, err = stream.Write(zeros[:1<<20])
		require.NoError(t, err)
	}
	require.NoError(t, stream.Close())
	parts := bytes.Repeat(w.EncodeAll(zeros[:proto.MaxMessage/2], nil), 32)
	for name, bomb := range map[string][]byte{"told": told, "untold": buf.Bytes(), "parts": parts} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := proto.Unpack(bomb)
		runtime.ReadMemStats(&after)
		require.Equal(t, proto.ClassPermanent, proto.ClassOf(err), name)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(6*proto.MaxMessage), "%s: memory that it took", name)
	}
	most, ok := proto.Pack(zeros[:proto.MaxMessage])
	require.True(t, ok)
	back, err := proto.Unpack(most)
	require.NoError(t, err)
	require.Len(t, back, proto.MaxMessage)
	_, err = proto.Unpack([]byte("no frame"))
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	_, err = proto.UnpackHint(told[:len(told)-3])
	require.Error(t, err)
}

// What packing costs, beside the CBOR that is made and read anyway.
func BenchmarkMessage(b *testing.B) {
	p := page(1000)
	plain := proto.Marshal(p)
	packed, _ := proto.Pack(plain)
	b.Run("cbor", func(b *testing.B) {
		for b.Loop() {
			var q proto.FeedReply
			if err := proto.Unmarshal(proto.Marshal(p), &q); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(plain))/1000, "B/item")
	})
	b.Run("packed", func(b *testing.B) {
		for b.Loop() {
			small, _ := proto.Pack(proto.Marshal(p))
			raw, err := proto.Unpack(small)
			if err != nil {
				b.Fatal(err)
			}
			var q proto.FeedReply
			if err := proto.Unmarshal(raw, &q); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(packed))/1000, "B/item")
	})
}
