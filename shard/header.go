package shard

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"

	"forebay/proto"
	"forebay/proto/segment"
)

// HeaderLen is the length in bytes of a shard's header.
const HeaderLen = 64

// Format is the version of the header's layout:
//
//	 0  4  magic "FBSH"
//	 4  2  format version, 1
//	 6  1  data shards
//	 7  1  parity shards
//	 8 16  segment id
//	24  1  index of this shard: 0 to data-1 data, then parity
//	25  3  zero
//	28  4  length of the segment
//	32  8  tag of the segment's content
//	40  4  length of the body
//	44  4  CRC-32C of the body
//	48 12  zero
//	60  4  CRC-32C of bytes 0 to 59
//
// Integers are big endian.
const Format = 1

// MaxSegment is the longest segment in bytes that is coded.
const MaxSegment = segment.PreambleLen + proto.MaxHeader + proto.MaxPayload

var (
	magic      = [4]byte{'F', 'B', 'S', 'H'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// TagLen is the length in bytes of a Tag.
const TagLen = 8

// Tag tells contents apart that bear the same segment id: the beginning of the BLAKE3-256 of a segment's preamble, which
// holds the id and, through the header's digest, the digest of every block. Shards with different tags are never mixed.
type Tag [TagLen]byte

// String returns the tag in hex.
func (t Tag) String() string { return hex.EncodeToString(t[:]) }

// TagOf returns the tag of a whole segment.
func TagOf(raw []byte) Tag {
	d := proto.BlockDigest(raw[:min(len(raw), segment.PreambleLen)])
	return Tag(d[:TagLen])
}

// Code says what a segment was coded into: all that its shards have in common.
type Code struct {
	ID       proto.SegmentID
	Geometry Geometry
	Length   int // bytes of the segment
	Tag      Tag
}

// Validate says what is wrong with c, with ClassPermanent. A code that passes can be used without further bounds checks.
func (c Code) Validate() error {
	if err := c.Geometry.Validate(); err != nil {
		return err
	}
	if c.Length < segment.PreambleLen || c.Length > MaxSegment {
		return proto.Errorf(proto.ClassPermanent, "segment %s of %d bytes, %d to %d are allowed", c.ID, c.Length, segment.PreambleLen, MaxSegment)
	}
	return nil
}

// Header is a shard's header.
type Header struct {
	Code
	Index int    // which shard
	Body  int    // bytes of the body
	CRC   uint32 // CRC-32C of the body
}

// encode writes the header.
func (h Header) encode() (b [HeaderLen]byte) {
	copy(b[:], magic[:])
	binary.BigEndian.PutUint16(b[4:], Format)
	b[6], b[7] = byte(h.Geometry.Data), byte(h.Geometry.Parity)
	copy(b[8:24], h.ID.Bytes())
	b[24] = byte(h.Index)
	binary.BigEndian.PutUint32(b[28:], uint32(h.Length))
	copy(b[32:40], h.Tag[:])
	binary.BigEndian.PutUint32(b[40:], uint32(h.Body))
	binary.BigEndian.PutUint32(b[44:], h.CRC)
	binary.BigEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

// ParseHeader reads and proves a header. It fails with ClassCorrupt on damaged bytes and with ClassPermanent on a format
// that this program does not know.
func ParseHeader(b []byte) (Header, error) {
	if len(b) != HeaderLen {
		return Header{}, proto.Errorf(proto.ClassCorrupt, "shard header of %d bytes, want %d", len(b), HeaderLen)
	}
	if [4]byte(b[:4]) != magic {
		return Header{}, proto.Errorf(proto.ClassCorrupt, "not a shard: it begins with %q", b[:4])
	}
	if got, want := crc32.Checksum(b[:60], castagnoli), binary.BigEndian.Uint32(b[60:]); got != want {
		return Header{}, proto.Errorf(proto.ClassCorrupt, "shard header has checksum %08x, says %08x", got, want)
	}
	// After the checksum: a damaged version number must not be taken for a newer release.
	if v := binary.BigEndian.Uint16(b[4:]); v != Format {
		return Header{}, proto.Errorf(proto.ClassPermanent, "shard format %d, this program knows %d: use a newer release", v, Format)
	}
	id, err := proto.SegmentIDFromBytes(b[8:24])
	if err != nil {
		return Header{}, err
	}
	h := Header{
		Code: Code{
			ID:       id,
			Geometry: Geometry{Data: int(b[6]), Parity: int(b[7])},
			Length:   int(binary.BigEndian.Uint32(b[28:])),
			Tag:      Tag(b[32:40]),
		},
		Index: int(b[24]),
		Body:  int(binary.BigEndian.Uint32(b[40:])),
		CRC:   binary.BigEndian.Uint32(b[44:]),
	}
	if err := h.Validate(); err != nil {
		return Header{}, proto.Errorf(proto.ClassCorrupt, "shard header: %w", err)
	}
	if h.Index >= h.Geometry.Shards() || h.Body != h.Geometry.ShardLen(h.Length) {
		return Header{}, proto.Errorf(proto.ClassCorrupt, "shard header of segment %s: shard %d with %d bytes in a %s of %d", id, h.Index, h.Body, h.Geometry, h.Length)
	}
	return h, nil
}
