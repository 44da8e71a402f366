package segment_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"forebay/proto"
	"forebay/proto/segment"
)

var dataset = proto.Dataset{Cluster: "primary", Name: "media"}

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed, 1}).Read(b)
	return b
}

// builder packs pieces the way a sender does.
type builder struct {
	header  segment.Header
	payload []byte
}

func newBuilder() *builder { return &builder{header: segment.Header{Dataset: dataset}} }

func (b *builder) add(p segment.Piece, content []byte) *builder {
	p.At, p.Length, p.Blocks = uint32(len(b.payload)), uint32(len(content)), proto.BlockDigests(nil, content)
	b.header.Pieces = append(b.header.Pieces, p)
	b.payload = append(b.payload, content...)
	return b
}

func (b *builder) file(path string, content []byte) *builder {
	return b.add(segment.Piece{
		Kind: segment.PieceObject, Path: path, Upload: 7, Epoch: proto.Epoch{Generation: 2, Counter: 9}, Parent: 4,
		Desc: &proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content), Meta: proto.Meta{Mode: 0o644, MtimeNs: -5}},
	}, content)
}

func (b *builder) desc(kind segment.PieceKind, path string, d proto.Desc) *builder {
	return b.add(segment.Piece{Kind: kind, Path: path, Desc: &d}, nil)
}

func (b *builder) span(path string, offset, size int64, content []byte) *builder {
	return b.add(segment.Piece{Kind: segment.PieceRange, Path: path, Offset: offset, ObjectSize: size}, content)
}

// same names blocks that are elsewhere.
func (b *builder) same(path string, offset, size int64, content []byte) *builder {
	b.header.Pieces = append(b.header.Pieces, segment.Piece{
		Kind: segment.PieceSame, Path: path, At: uint32(len(b.payload)), Offset: offset, ObjectSize: size,
		Span: int64(len(content)), Blocks: proto.BlockDigests(nil, content),
	})
	return b
}

func (b *builder) encode(tb testing.TB) []byte {
	tb.Helper()
	raw, err := segment.Encode(b.header, b.payload)
	require.NoError(tb, err)
	return raw
}

// everything holds one piece of each kind, and names that are hard to carry.
func everything() *builder {
	return newBuilder().
		file("a/small", []byte("hello")).
		file("a/empty", nil).
		file("a/two blocks", noise(proto.BlockSize+1, 1)).
		span("big", 2*proto.BlockSize, 4*proto.BlockSize+3, noise(proto.BlockSize, 2)).
		span("big2", 4*proto.BlockSize, 4*proto.BlockSize+3, noise(3, 3)).
		desc(segment.PieceObject, "dir", proto.Desc{Kind: proto.KindDir}).
		desc(segment.PieceObject, "link", proto.Desc{Kind: proto.KindSymlink, LinkTo: "../any where"}).
		desc(segment.PieceObject, "hard", proto.Desc{Kind: proto.KindHardlink, LinkTo: "a/small", Size: 5}).
		desc(segment.PieceSeal, "sealed", proto.Desc{Kind: proto.KindFile, Size: 100, Extents: []proto.Extent{{Kind: proto.ExtentData, Length: 60}, {Kind: proto.ExtentHole, Offset: 60, Length: 40}}}).
		desc(segment.PieceMeta, "new\nline \xff\xfe invalid", proto.Desc{Kind: proto.KindFile, Size: 9}).
		desc(segment.PieceDelete, strings.Repeat("x", 255), proto.Desc{Kind: proto.KindTombstone}).
		same("big", 0, 4*proto.BlockSize+3, noise(2*proto.BlockSize, 4)).
		same("big2", 4*proto.BlockSize, 4*proto.BlockSize+3, noise(3, 5))
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	b := everything()
	raw := b.encode(t)
	id := proto.SegmentID{Relay: 0xabc, Seq: 1 << 60}
	segment.Stamp(raw, id)
	n, err := segment.Len(raw[:segment.PreambleLen])
	require.NoError(t, err)
	assert.Len(t, raw, n)
	s, err := segment.Decode(raw)
	require.NoError(t, err)
	assert.Equal(t, id, s.ID)
	assert.Equal(t, b.header, s.Header)
	assert.Equal(t, b.payload, s.Payload)
	assert.Equal(t, []byte("hello"), s.Bytes(0))
	assert.Empty(t, s.Bytes(1))
	again, err := segment.Encode(s.Header, s.Payload)
	require.NoError(t, err)
	segment.Stamp(again, id)
	assert.Equal(t, raw, again, "equal content gives equal bytes")
}

// The smallest and the largest segments pass.
func TestLimitsAreInclusive(t *testing.T) {
	t.Parallel()
	_, err := segment.Decode(newBuilder().file("x", noise(proto.MaxPayload, 1)).encode(t))
	require.NoError(t, err)
	b := newBuilder()
	for range proto.MaxPieces {
		b.header.Pieces = append(b.header.Pieces, segment.Piece{Kind: segment.PieceDelete, Path: "p", Desc: &proto.Desc{Kind: proto.KindTombstone}})
	}
	_, err = segment.Decode(b.encode(t))
	require.NoError(t, err)
}

// No single flipped bit passes: wrong bytes are never taken for right ones.
func TestEveryBitFlipIsNoticed(t *testing.T) {
	t.Parallel()
	raw := newBuilder().file("a", []byte("some content")).desc(segment.PieceDelete, "b", proto.Desc{Kind: proto.KindTombstone}).encode(t)
	for bit := range len(raw) * 8 {
		bad := bytes.Clone(raw)
		bad[bit/8] ^= 1 << (bit % 8)
		_, err := segment.Decode(bad)
		require.Error(t, err, "bit %d", bit)
	}
}

func TestEveryCutIsNoticed(t *testing.T) {
	t.Parallel()
	raw := newBuilder().file("a", []byte("some content")).encode(t)
	for n := range len(raw) {
		_, err := segment.Decode(raw[:n])
		require.Error(t, err, "%d bytes", n)
		require.NotEqual(t, proto.ClassTransient, proto.ClassOf(err), "%d bytes", n)
	}
	_, err := segment.Decode(append(bytes.Clone(raw), 0))
	assert.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
}

// forge writes a segment whose header breaks the rules, with every digest and checksum right: only the rules can refuse it.
func forge(h segment.Header, payload []byte) []byte {
	head := proto.Marshal(h)
	raw := make([]byte, segment.PreambleLen)
	copy(raw, "FBSG")
	binary.BigEndian.PutUint16(raw[4:], segment.Format)
	binary.BigEndian.PutUint32(raw[24:], uint32(len(head)))
	binary.BigEndian.PutUint32(raw[28:], uint32(len(payload)))
	digest := proto.BlockDigest(head)
	copy(raw[32:], digest[:])
	seal(raw)
	return append(append(raw, head...), payload...)
}

func seal(raw []byte) {
	binary.BigEndian.PutUint32(raw[64:], crc32.Checksum(raw[:64], crc32.MakeTable(crc32.Castagnoli)))
}

// A header that lies is refused by sender and receiver alike.
func TestLyingHeaders(t *testing.T) {
	t.Parallel()
	five := []byte("hello")
	for name, lie := range map[string]func(b *builder, p *segment.Piece){
		"no pieces":          func(b *builder, _ *segment.Piece) { b.header.Pieces, b.payload = nil, nil },
		"payload uncovered":  func(b *builder, _ *segment.Piece) { b.payload = append(b.payload, 1) },
		"beyond the payload": func(_ *builder, p *segment.Piece) { p.Length = 6 },
		"huge length":        func(_ *builder, p *segment.Piece) { p.Length = 1<<32 - 1 },
		"huge start":         func(_ *builder, p *segment.Piece) { p.At = 1<<32 - 1 },
		"gap":                func(_ *builder, p *segment.Piece) { p.At = 1 },
		"no digests":         func(_ *builder, p *segment.Piece) { p.Blocks = nil },
		"too many digests":   func(_ *builder, p *segment.Piece) { p.Blocks = append(p.Blocks, proto.Digest{}) },
		"no description":     func(_ *builder, p *segment.Piece) { p.Desc = nil },
		"other size":         func(_ *builder, p *segment.Piece) { p.Desc.Size = 4 },
		"negative size":      func(_ *builder, p *segment.Piece) { p.Desc.Size = -5 },
		"unknown kind":       func(_ *builder, p *segment.Piece) { p.Desc.Kind = 99 },
		"unknown piece":      func(_ *builder, p *segment.Piece) { p.Kind = 99 },
		"directory of bytes": func(_ *builder, p *segment.Piece) { p.Desc.Kind = proto.KindDir },
		"delete of a file": func(b *builder, p *segment.Piece) {
			p.Kind, p.Length, p.Blocks, b.payload = segment.PieceDelete, 0, nil, nil
		},
		"tombstone as an object": func(b *builder, _ *segment.Piece) {
			*b = *newBuilder().desc(segment.PieceObject, "a", proto.Desc{Kind: proto.KindTombstone})
		},
		"tombstone as a seal": func(b *builder, _ *segment.Piece) {
			*b = *newBuilder().desc(segment.PieceSeal, "a", proto.Desc{Kind: proto.KindTombstone})
		},
		"tombstone as metadata": func(b *builder, _ *segment.Piece) {
			*b = *newBuilder().desc(segment.PieceMeta, "a", proto.Desc{Kind: proto.KindTombstone})
		},
		"seal with bytes": func(_ *builder, p *segment.Piece) { p.Kind = segment.PieceSeal },
		"climbing path":   func(_ *builder, p *segment.Piece) { p.Path = "a/../../etc/passwd" },
		"absolute path":   func(_ *builder, p *segment.Piece) { p.Path = "/etc/passwd" },
		"reserved path":   func(_ *builder, p *segment.Piece) { p.Path = ".forebay/journal" },
		"empty path":      func(_ *builder, p *segment.Piece) { p.Path = "" },
		"NUL in path":     func(_ *builder, p *segment.Piece) { p.Path = "a\x00b" },
		"long path":       func(_ *builder, p *segment.Piece) { p.Path = strings.Repeat("a/", proto.MaxPath) + "a" },
		"bad dataset":     func(b *builder, _ *segment.Piece) { b.header.Dataset.Name = "../x" },
		"hard link out": func(b *builder, p *segment.Piece) {
			p.Desc.Kind, p.Desc.LinkTo = proto.KindHardlink, "../../etc/shadow"
		},
		"gap in extents": func(_ *builder, p *segment.Piece) {
			p.Desc.Extents = []proto.Extent{{Kind: proto.ExtentData, Length: 2}, {Kind: proto.ExtentHole, Offset: 3, Length: 2}}
		},
		"extents beyond": func(_ *builder, p *segment.Piece) {
			p.Desc.Extents = []proto.Extent{{Kind: proto.ExtentData, Length: 1 << 62}, {Kind: proto.ExtentData, Offset: 1 << 62, Length: 1 << 62}}
		},
		"unknown extent": func(_ *builder, p *segment.Piece) { p.Desc.Extents = []proto.Extent{{Kind: 77, Length: 5}} },
		"many attributes": func(_ *builder, p *segment.Piece) {
			p.Desc.Meta.Xattrs = []proto.Xattr{{Name: "user.x", Value: make([]byte, proto.MaxXattrBytes)}}
		},
		"range inside block": func(_ *builder, p *segment.Piece) {
			p.Kind, p.Desc, p.Offset, p.ObjectSize = segment.PieceRange, nil, 1, 6
		},
		"range cut short": func(_ *builder, p *segment.Piece) { p.Kind, p.Desc, p.ObjectSize = segment.PieceRange, nil, 100 },
		"range beyond":    func(_ *builder, p *segment.Piece) { p.Kind, p.Desc, p.ObjectSize = segment.PieceRange, nil, 4 },
		"negative range": func(_ *builder, p *segment.Piece) {
			p.Kind, p.Desc, p.Offset, p.ObjectSize = segment.PieceRange, nil, -proto.BlockSize, 5
		},
		"empty range": func(b *builder, p *segment.Piece) {
			p.Kind, p.Desc, p.Length, p.Blocks, p.ObjectSize, b.payload = segment.PieceRange, nil, 0, nil, 5, nil
		},
		"range described": func(_ *builder, p *segment.Piece) { p.Kind, p.ObjectSize = segment.PieceRange, 5 },
	} {
		b := newBuilder().file("a", five)
		p := &b.header.Pieces[0]
		lie(b, p)
		_, err := segment.Encode(b.header, b.payload)
		assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "encode: %s", name)
		_, err = segment.Decode(forge(b.header, b.payload))
		assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "decode: %s", name)
	}
	// The forger itself is right.
	b := newBuilder().file("a", five)
	_, err := segment.Decode(forge(b.header, b.payload))
	require.NoError(t, err)
}

// Content whose digests do not fit is corrupt, which the sender may cure by sending again; a lie is permanent.
func TestWrongContentIsCorrupt(t *testing.T) {
	t.Parallel()
	b := newBuilder().file("a", []byte("hello"))
	b.payload = []byte("hellO")
	_, err := segment.Decode(forge(b.header, b.payload))
	assert.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
	b = newBuilder().file("a", []byte("hello"))
	b.header.Pieces[0].Desc.Digest = proto.Digest{1}
	_, err = segment.Decode(forge(b.header, b.payload))
	assert.Equal(t, proto.ClassCorrupt, proto.ClassOf(err), "blocks that do not add up to the content digest")
	raw := everything().encode(t)
	s, err := segment.DecodeHeader(raw)
	require.NoError(t, err)
	s.Payload[0] ^= 1
	assert.Error(t, s.Prove(0))
	assert.NoError(t, s.Prove(2), "each piece is proved alone")
}

func TestNewerFormatsAreRefused(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]int{"format": 5, "codec": 6, "cipher": 7} {
		raw := newBuilder().file("a", []byte("x")).encode(t)
		raw[at] = 9
		seal(raw)
		_, err := segment.Decode(raw)
		assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), name)
		assert.ErrorContains(t, err, "newer release", name)
	}
	raw := newBuilder().file("a", []byte("x")).encode(t)
	binary.BigEndian.PutUint32(raw[28:], proto.MaxPayload+1)
	seal(raw)
	_, err := segment.Len(raw)
	assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "too large is refused from the preamble alone")
}

func TestStampChangesOnlyTheID(t *testing.T) {
	t.Parallel()
	raw := everything().encode(t)
	stamped := bytes.Clone(raw)
	segment.Stamp(stamped, proto.SegmentID{Relay: 1, Seq: 2})
	assert.Equal(t, raw[24:64], stamped[24:64])
	assert.Equal(t, raw[segment.PreambleLen:], stamped[segment.PreambleLen:])
	s, err := segment.Decode(stamped)
	require.NoError(t, err)
	assert.EqualValues(t, 2, s.ID.Seq)
}

func TestRoundTripProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := newBuilder()
		for range rapid.IntRange(1, 20).Draw(t, "pieces") {
			path := rapid.StringMatching(`[a-z\xff ]{1,9}(/[a-z]{1,9}){0,3}`).Draw(t, "path")
			content := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "content")
			if rapid.Bool().Draw(t, "ranged") && len(content) > 0 {
				at := rapid.Int64Range(0, 1<<20).Draw(t, "block") * proto.BlockSize
				b.span(path, at, at+int64(len(content)), content)
			} else {
				b.file(path, content)
			}
		}
		raw, err := segment.Encode(b.header, b.payload)
		if err != nil {
			t.Fatal(err)
		}
		s, err := segment.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range s.Header.Pieces {
			if p.Path != b.header.Pieces[i].Path || !bytes.Equal(s.Bytes(i), b.payload[p.At:p.At+p.Length]) {
				t.Fatalf("piece %d changed", i)
			}
		}
	})
}

// FuzzDecode: whatever comes in, Decode neither panics nor lets through what would break a reader that trusts it.
func FuzzDecode(f *testing.F) {
	f.Add(newBuilder().file("a", []byte("hello")).encode(f))
	f.Add(newBuilder().span("big", proto.BlockSize, proto.BlockSize+9, noise(9, 1)).desc(segment.PieceDelete, "x", proto.Desc{Kind: proto.KindTombstone}).encode(f))
	f.Add(newBuilder().desc(segment.PieceSeal, "s", proto.Desc{Kind: proto.KindFile, Size: 3}).encode(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		trusted(t, raw)
		// Mend what a random change breaks first, so that the search gets behind the checksums.
		if len(raw) < segment.PreambleLen {
			return
		}
		mended := bytes.Clone(raw)
		copy(mended, "FBSG\x00\x01\x00\x00")
		head := binary.BigEndian.Uint32(mended[24:]) % uint32(len(raw)-segment.PreambleLen+1)
		binary.BigEndian.PutUint32(mended[24:], head)
		binary.BigEndian.PutUint32(mended[28:], uint32(len(raw)-segment.PreambleLen)-head)
		digest := proto.BlockDigest(mended[segment.PreambleLen : segment.PreambleLen+head])
		copy(mended[32:], digest[:])
		seal(mended)
		trusted(t, mended)
	})
}

func trusted(t *testing.T, raw []byte) {
	s, err := segment.DecodeHeader(raw)
	if err != nil {
		require.NotEqual(t, proto.ClassTransient, proto.ClassOf(err), "%v", err)
		return
	}
	total := 0
	for i, p := range s.Header.Pieces {
		total += len(s.Bytes(i))
		require.NoError(t, proto.CheckPath(p.Path))
		_ = s.Prove(i)
	}
	require.Equal(t, len(s.Payload), total)
	again, err := segment.Encode(s.Header, s.Payload)
	require.NoError(t, err, "what decodes can be encoded")
	_, err = segment.DecodeHeader(again)
	require.NoError(t, err)
}
