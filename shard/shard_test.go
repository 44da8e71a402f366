package shard_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard"
)

func TestParseGeometry(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"1+0", "1+1", "2+1", "4+2", "64+16"} {
		g, err := shard.ParseGeometry(s)
		require.NoError(t, err, s)
		assert.Equal(t, s, g.String())
	}
	for _, s := range []string{"", "2", "+", "2+", "+1", "0+1", "65+1", "2+17", "02+1", "2+ 1", "-1+1", "2+-1", "2+1+1", "99999999999+1", "2x+1"} {
		_, err := shard.ParseGeometry(s)
		require.Error(t, err, s)
		assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), s)
		assert.Contains(t, err.Error(), "coding", s)
	}
}

func TestDefaultGeometry(t *testing.T) {
	t.Parallel()
	for stores, want := range map[int]string{1: "1+0", 2: "1+1", 3: "2+1", 4: "2+1", 5: "2+1", 6: "4+2", 20: "4+2"} {
		g := shard.Default(stores)
		assert.Equal(t, want, g.String(), "%d stores", stores)
		assert.LessOrEqual(t, g.Shards(), stores, "it must fit on the stores there are")
		assert.NoError(t, g.Validate())
	}
}

func TestNarrow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want    string
		healthy int
		got     string // "" for none
	}{
		{"2+1", 5, "2+1"}, {"2+1", 3, "2+1"}, {"2+1", 2, "1+1"}, {"2+1", 1, ""}, {"2+1", 0, ""},
		{"4+2", 6, "4+2"}, {"4+2", 5, "3+2"}, {"4+2", 4, "2+2"}, {"4+2", 3, "1+2"}, {"4+2", 2, ""},
		{"1+0", 1, "1+0"}, {"1+0", 0, ""}, {"3+0", 4, "3+0"}, {"3+0", 3, "3+0"}, {"3+0", 2, ""},
		{"1+1", 2, "1+1"}, {"1+1", 1, ""},
	} {
		want, err := shard.ParseGeometry(c.want)
		require.NoError(t, err)
		got, ok := shard.Narrow(want, c.healthy)
		assert.Equal(t, c.got != "", ok, "%s on %d", c.want, c.healthy)
		if ok {
			assert.Equal(t, c.got, got.String(), "%s on %d", c.want, c.healthy)
		}
	}
}

// makeSegment returns a stamped segment around a payload of n random bytes.
func makeSegment(tb testing.TB, seq uint64, n int, seed uint64) (proto.SegmentID, []byte) {
	tb.Helper()
	payload := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 7}).Read(payload)
	desc := proto.Desc{Kind: proto.KindFile, Size: int64(n), Digest: proto.ContentDigest(payload)}
	raw, err := segment.Encode(segment.Header{
		Dataset: proto.Dataset{Cluster: "c", Name: "d"},
		Pieces: []segment.Piece{{
			Kind: segment.PieceObject, Path: "a/b", Length: uint32(n), Blocks: proto.BlockDigests(nil, payload), Desc: &desc,
		}},
	}, payload)
	require.NoError(tb, err)
	id := proto.SegmentID{Relay: 0xc0ffee, Seq: seq}
	segment.Stamp(raw, id)
	return id, raw
}

// join puts a segment together from the shards with the given indices.
func join(c *shard.Coder, e *shard.Encoded, use []int) ([]byte, error) {
	j, err := c.Join(e.Code)
	if err != nil {
		return nil, err
	}
	for _, i := range use {
		copy(j.Body(i), e.Shards[i].Body)
		if err := j.Add(i, e.Shards[i].Head[:]); err != nil {
			return nil, err
		}
	}
	defer j.Release()
	return j.Raw()
}

// Every way to lose up to parity shards decodes, one more never does (I3).
func TestAllLossPatterns(t *testing.T) {
	t.Parallel()
	var c shard.Coder
	for _, g := range []shard.Geometry{{Data: 1}, {Data: 3}, {Data: 1, Parity: 1}, {Data: 2, Parity: 1}, {Data: 1, Parity: 2}, {Data: 3, Parity: 2}, {Data: 4, Parity: 2}, {Data: 5, Parity: 3}} {
		for _, size := range []int{0, 1, 1000, 70_001} {
			id, raw := makeSegment(t, 1, size, uint64(size))
			before := bytes.Clone(raw)
			e, err := c.Encode(id, raw, g)
			require.NoError(t, err)
			for mask := range 1 << g.Shards() {
				var use []int
				for i := range g.Shards() {
					if mask>>i&1 == 1 {
						use = append(use, i)
					}
				}
				got, err := join(&c, e, use)
				if len(use) < g.Data {
					require.Error(t, err, "%s with shards %v", g, use)
					assert.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
					continue
				}
				require.NoError(t, err, "%s with shards %v", g, use)
				require.Equal(t, before, got, "%s with shards %v", g, use)
			}
			e.Release()
			require.Equal(t, before, raw, "encoding must not change the segment")
		}
	}
}

func TestRoundTripProperty(t *testing.T) {
	t.Parallel()
	var c shard.Coder
	rapid.Check(t, func(t *rapid.T) {
		g := shard.Geometry{Data: rapid.IntRange(1, 12).Draw(t, "data"), Parity: rapid.IntRange(0, 5).Draw(t, "parity")}
		raw := rapid.SliceOfN(rapid.Byte(), segment.PreambleLen, 3000).Draw(t, "raw") // coding does not look inside
		id := proto.SegmentID{Relay: proto.RelayID(rapid.Uint64().Draw(t, "relay")), Seq: rapid.Uint64().Draw(t, "seq")}
		e, err := c.Encode(id, raw, g)
		if err != nil {
			t.Fatal(err)
		}
		order := rapid.Permutation(indices(g.Shards())).Draw(t, "order")
		got, err := join(&c, e, order[:rapid.IntRange(g.Data, g.Shards()).Draw(t, "kept")])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, got) {
			t.Fatalf("%s gives other bytes back", g)
		}
		e.Release()
	})
}

func indices(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// A shard that is not exactly the one that belongs there is recognised, whatever it is.
func TestWrongShardsAreRecognised(t *testing.T) {
	t.Parallel()
	var c shard.Coder
	g := shard.Geometry{Data: 2, Parity: 1}
	id, raw := makeSegment(t, 1, 5000, 1)
	other, otherRaw := makeSegment(t, 2, 5000, 2)
	_, staleRaw := makeSegment(t, 1, 5000, 3) // same id and length, other content
	right, err := c.Encode(id, raw, g)
	require.NoError(t, err)
	foreign, err := c.Encode(other, otherRaw, g)
	require.NoError(t, err)
	stale, err := c.Encode(id, staleRaw, g)
	require.NoError(t, err)
	narrow, err := c.Encode(id, raw, shard.Geometry{Data: 2, Parity: 2})
	require.NoError(t, err)
	flipped := right.Shards[0]
	flipped.Body = bytes.Clone(flipped.Body)
	flipped.Body[100] ^= 4

	for name, s := range map[string]shard.Shard{
		"foreign": foreign.Shards[0], "stale": stale.Shards[0], "swapped": right.Shards[1], "other geometry": narrow.Shards[0],
		"damaged body": flipped, "no shard": {Body: right.Shards[0].Body},
	} {
		j, err := c.Join(right.Code)
		require.NoError(t, err)
		copy(j.Body(0), s.Body)
		err = j.Add(0, s.Head[:])
		require.Error(t, err, name)
		assert.Equal(t, proto.ClassCorrupt, proto.ClassOf(err), name)
		assert.Equal(t, 2, j.Missing(), "%s must not count", name)
	}
}

// Any change to any byte of a header is noticed.
func TestHeaderBitFlips(t *testing.T) {
	t.Parallel()
	var c shard.Coder
	id, raw := makeSegment(t, 9, 100, 1)
	e, err := c.Encode(id, raw, shard.Geometry{Data: 4, Parity: 2})
	require.NoError(t, err)
	h, err := shard.ParseHeader(e.Shards[5].Head[:])
	require.NoError(t, err)
	assert.Equal(t, e.Code, h.Code)
	assert.Equal(t, 5, h.Index)
	for bit := range shard.HeaderLen * 8 {
		b := e.Shards[5].Head
		b[bit/8] ^= 1 << (bit % 8)
		_, err := shard.ParseHeader(b[:])
		assert.Equal(t, proto.ClassCorrupt, proto.ClassOf(err), "bit %d", bit)
	}
	_, err = shard.ParseHeader(e.Shards[5].Head[:shard.HeaderLen-1])
	assert.Error(t, err)
}

func TestBounds(t *testing.T) {
	t.Parallel()
	var c shard.Coder
	id, raw := makeSegment(t, 1, 10, 1)
	for _, g := range []shard.Geometry{{}, {Data: -1}, {Data: 1, Parity: -1}, {Data: 65}, {Data: 1, Parity: 17}} {
		_, err := c.Encode(id, raw, g)
		assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), g.String())
	}
	_, err := c.Encode(id, nil, shard.Geometry{Data: 1})
	assert.Error(t, err)
	_, err = c.Join(shard.Code{ID: id, Geometry: shard.Geometry{Data: 1}, Length: shard.MaxSegment + 1})
	assert.Error(t, err, "a ledger row that lies must not make us allocate without bound")
}

// Buffers are reused, so a segment that was released must not reach into the next.
func TestPooledBuffersAreIndependent(t *testing.T) {
	t.Parallel()
	var c shard.Coder
	g := shard.Geometry{Data: 3, Parity: 2}
	for seq := range uint64(50) {
		id, raw := makeSegment(t, seq, int(seq)*37, seq)
		e, err := c.Encode(id, raw, g)
		require.NoError(t, err)
		got, err := join(&c, e, []int{1, 3, 4})
		require.NoError(t, err)
		e.Release()
		require.Equal(t, raw, got)
	}
}

// The least of many runs is what coding a segment needs: a collection of garbage between two runs, or the race detector (which makes
// a pool lose things at random), adds to some of them.
func TestEncodeAllocatesLittle(t *testing.T) {
	var c shard.Coder
	id, raw := makeSegment(t, 1, 1<<20, 1)
	least := math.Inf(1)
	for range 50 {
		least = min(least, testing.AllocsPerRun(1, func() {
			e, err := c.Encode(id, raw, shard.Geometry{Data: 4, Parity: 2})
			require.NoError(t, err)
			e.Release()
		}))
	}
	assert.LessOrEqual(t, least, 10.0, "allocations for one segment")
}

func FuzzParseHeader(f *testing.F) {
	var c shard.Coder
	id, raw := makeSegment(f, 1, 500, 1)
	e, err := c.Encode(id, raw, shard.Geometry{Data: 2, Parity: 1})
	require.NoError(f, err)
	for _, s := range e.Shards {
		f.Add(s.Head[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := shard.ParseHeader(b)
		if err != nil {
			return
		}
		// What passes can be used without further checks.
		require.NoError(t, h.Validate())
		require.Less(t, h.Index, h.Geometry.Shards())
		require.Equal(t, h.Body, h.Geometry.ShardLen(h.Length))
	})
}

func BenchmarkEncode(b *testing.B) {
	for _, g := range []shard.Geometry{{Data: 1}, {Data: 2, Parity: 1}, {Data: 4, Parity: 2}} {
		b.Run(g.String(), func(b *testing.B) {
			var c shard.Coder
			id, raw := makeSegment(b, 1, 8<<20, 1)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				e, err := c.Encode(id, raw, g)
				if err != nil {
					b.Fatal(err)
				}
				e.Release()
			}
		})
	}
}

func BenchmarkJoin(b *testing.B) {
	g := shard.Geometry{Data: 4, Parity: 2}
	for _, lost := range []int{0, 2} {
		b.Run(fmt.Sprintf("lost=%d", lost), func(b *testing.B) {
			var c shard.Coder
			id, raw := makeSegment(b, 1, 8<<20, 1)
			e, err := c.Encode(id, raw, g)
			require.NoError(b, err)
			use := indices(g.Shards())[lost : lost+g.Data]
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := join(&c, e, use); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
