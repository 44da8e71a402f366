// Package segment is the one format in which object bytes and everything else that is acknowledged travel from an agent to
// the relay and rest in its stores. It is pure: bytes in, bytes out. It imports proto only.
//
// Layout, integers big endian:
//
//	 0  4  magic "FBSG"
//	 4  2  format version, 1
//	 6  1  codec of the payload, 0 = none
//	 7  1  cipher of the payload, 0 = none
//	 8  8  relay id      } zero on the way to the relay, stamped by it
//	16  8  sequence      } before the segment is coded
//	24  4  header length H
//	28  4  payload length P
//	32 32  BLAKE3-256 of the header
//	64  4  CRC-32C of bytes 0 to 63
//	68  4  zero
//	72  H  header: CBOR of Header
//	72+H P payload
//
// The header holds the digest of every block of the payload, and the preamble the digest of the header: a segment proves
// itself, with one pass over its bytes.
package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"forebay/proto"
)

// PreambleLen is the length in bytes of what stands before the header.
const PreambleLen = 72

// Format is the version of the layout above.
const Format = 1

var (
	magic      = [4]byte{'F', 'B', 'S', 'G'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// PieceKind says what a piece of a segment is.
type PieceKind uint8

// The piece kinds.
const (
	PieceRange  PieceKind = 1 // a run of whole blocks of a large object
	PieceObject PieceKind = 2 // a complete version: description and all its bytes (none for links, directories, empty files)
	PieceSeal   PieceKind = 3 // completes an upload whose ranges went before; no bytes
	PieceMeta   PieceKind = 4 // new metadata for the current version; no bytes
	PieceDelete PieceKind = 5 // a tombstone; written by the relay alone
	PieceSame   PieceKind = 6 // a run of whole blocks of a large object that are Parent's at the same place; no bytes
)

// Header describes a segment's pieces. It is complete enough to rebuild the relay's ledger from segments alone (I5).
type Header struct {
	Dataset proto.Dataset `cbor:"1,keyasint"`
	Pieces  []Piece       `cbor:"2,keyasint"`
	KeyID   string        `cbor:"3,keyasint,omitempty"` // the key of the cipher; "" while cipher is 0
	// Sealed gives, for segments the relay wrote or stamped, the stamp of acceptance in nanoseconds since 1970; 0 on the
	// way to the relay. It lies in the header only for relay-written segments.
	Sealed int64 `cbor:"4,keyasint,omitempty"`
}

// Piece is one entry of a segment.
type Piece struct {
	Kind   PieceKind       `cbor:"1,keyasint"`
	Path   string          `cbor:"2,keyasint"`
	Upload proto.UploadID  `cbor:"3,keyasint,omitempty"` // the grant under which it is sent
	Epoch  proto.Epoch     `cbor:"4,keyasint"`
	Parent proto.VersionID `cbor:"5,keyasint,omitempty"`
	Offset int64           `cbor:"6,keyasint,omitempty"` // Range, Same: where in the object, a multiple of proto.BlockSize
	At     uint32          `cbor:"7,keyasint,omitempty"` // where in the payload
	Length uint32          `cbor:"8,keyasint,omitempty"` // bytes in the payload
	Blocks []proto.Digest  `cbor:"9,keyasint,omitempty"` // digest of each block of those bytes, or of the run
	Desc   *proto.Desc     `cbor:"10,keyasint,omitempty"`
	// ObjectSize is the declared size of the whole object, for Range and Same.
	ObjectSize int64 `cbor:"11,keyasint,omitempty"`
	// Version is the version that a Delete makes; 0 for all other kinds, whose version the relay gives at the seal.
	Version proto.VersionID `cbor:"12,keyasint,omitempty"`
	// Deleted is what a Delete deletes: a rebuild knows a copy that comes back for an older content, wherever its bytes went. Without
	// metadata; absent for directories and in segments of older releases.
	Deleted *proto.Desc `cbor:"13,keyasint,omitempty"`
	// Span is how many bytes of the object a Same stands for.
	Span int64 `cbor:"14,keyasint,omitempty"`
}

// Segment is a decoded segment. Header and Payload alias Raw.
type Segment struct {
	ID      proto.SegmentID
	Header  Header
	Payload []byte
	Raw     []byte // the whole: preamble, header, payload
}

// Encode writes a segment without id around payload. It fails when the result would break a limit or a rule that Decode
// checks, so that a sender learns it first.
func Encode(h Header, payload []byte) ([]byte, error) {
	front, err := front(h, payload)
	if err != nil {
		return nil, err
	}
	return append(slices.Grow(front, len(payload)), payload...), nil
}

// EncodeAt is Encode for a payload that is all of buf from at on. Preamble and header go directly before it, and the segment is a part of buf: a
// copy of payloads costs more than all else that is done with them but their digests. Where they do not fit there, it is a new one.
func EncodeAt(h Header, buf []byte, at int) ([]byte, error) {
	front, err := front(h, buf[at:])
	if err != nil {
		return nil, err
	}
	if len(front) > at {
		return append(front, buf[at:]...), nil
	}
	copy(buf[at-len(front):], front)
	return buf[at-len(front):], nil
}

// front returns preamble and header of a segment.
func front(h Header, payload []byte) ([]byte, error) {
	if err := check(h, payload); err != nil {
		return nil, err
	}
	head := proto.Marshal(h)
	if len(head) > proto.MaxHeader {
		return nil, proto.Errorf(proto.ClassPermanent, "segment header of %d bytes, at most %d are allowed", len(head), proto.MaxHeader)
	}
	raw := make([]byte, PreambleLen, PreambleLen+len(head))
	copy(raw, magic[:])
	binary.BigEndian.PutUint16(raw[4:], Format)
	binary.BigEndian.PutUint32(raw[24:], uint32(len(head)))
	binary.BigEndian.PutUint32(raw[28:], uint32(len(payload)))
	digest := proto.BlockDigest(head)
	copy(raw[32:], digest[:])
	binary.BigEndian.PutUint32(raw[64:], crc32.Checksum(raw[:64], castagnoli))
	return append(raw, head...), nil
}

// Stamp writes the id into an encoded segment. The relay does it once, before coding.
func Stamp(raw []byte, id proto.SegmentID) {
	copy(raw[8:24], id.Bytes())
	binary.BigEndian.PutUint32(raw[64:], crc32.Checksum(raw[:64], castagnoli))
}

// Len reads from a preamble how long the whole segment is. It fails with ClassPermanent on what is no segment of a known
// format or is over the limits, with ClassCorrupt when the preamble's checksum is wrong.
func Len(preamble []byte) (int, error) {
	if len(preamble) < PreambleLen {
		return 0, proto.Errorf(proto.ClassCorrupt, "segment of %d bytes is shorter than its preamble", len(preamble))
	}
	if [4]byte(preamble[:4]) != magic {
		return 0, proto.Errorf(proto.ClassPermanent, "not a segment: it begins with %q", preamble[:4])
	}
	if v := binary.BigEndian.Uint16(preamble[4:]); v != Format {
		return 0, proto.Errorf(proto.ClassPermanent, "segment format %d, this program knows %d: use a newer release", v, Format)
	}
	if got, want := crc32.Checksum(preamble[:64], castagnoli), binary.BigEndian.Uint32(preamble[64:]); got != want {
		return 0, proto.Errorf(proto.ClassCorrupt, "segment preamble has checksum %08x, says %08x", got, want)
	}
	if [4]byte(preamble[68:72]) != [4]byte{} {
		return 0, proto.Errorf(proto.ClassCorrupt, "segment preamble ends in %x, want zeros", preamble[68:72])
	}
	if preamble[6] != 0 || preamble[7] != 0 {
		return 0, proto.Errorf(proto.ClassPermanent, "segment with codec %d and cipher %d, this program knows 0 and 0: use a newer release", preamble[6], preamble[7])
	}
	h, p := binary.BigEndian.Uint32(preamble[24:]), binary.BigEndian.Uint32(preamble[28:])
	if h > proto.MaxHeader || p > proto.MaxPayload {
		return 0, proto.Errorf(proto.ClassPermanent, "segment with a header of %d and a payload of %d bytes, at most %d and %d are allowed", h, p, proto.MaxHeader, proto.MaxPayload)
	}
	return PreambleLen + int(h) + int(p), nil
}

// Decode reads and proves a whole segment: preamble, header digest, every rule of the header, every block of the payload.
// Bytes that are not what a digest says give ClassCorrupt, a header that breaks a rule ClassPermanent.
func Decode(raw []byte) (*Segment, error) {
	s, err := DecodeHeader(raw)
	if err != nil {
		return nil, err
	}
	for i := range s.Header.Pieces {
		if err := s.Prove(i); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// DecodeHeader is Decode without proving the payload's blocks: the reader proves each piece it uses with Prove.
func DecodeHeader(raw []byte) (*Segment, error) {
	want, err := Len(raw)
	if err != nil {
		return nil, err
	}
	if len(raw) != want {
		return nil, proto.Errorf(proto.ClassCorrupt, "segment has %d bytes, its preamble says %d", len(raw), want)
	}
	head := raw[PreambleLen : PreambleLen+int(binary.BigEndian.Uint32(raw[24:]))]
	if got := proto.BlockDigest(head); got != proto.Digest(raw[32:64]) {
		return nil, proto.Errorf(proto.ClassCorrupt, "segment header has digest %s, its preamble says %s", got.Short(), proto.Digest(raw[32:64]).Short())
	}
	id, err := proto.SegmentIDFromBytes(raw[8:24])
	if err != nil {
		return nil, err
	}
	s := &Segment{ID: id, Payload: raw[PreambleLen+len(head):], Raw: raw}
	if err := proto.Unmarshal(head, &s.Header); err != nil {
		return nil, fmt.Errorf("segment header: %w", err)
	}
	return s, check(s.Header, s.Payload)
}

// Bytes returns the payload bytes of piece i.
func (s *Segment) Bytes(i int) []byte {
	p := s.Header.Pieces[i]
	return s.Payload[p.At : p.At+p.Length]
}

// Prove checks the bytes of piece i against the digests in the header, and for a complete object also its content digest. A Same
// has none to check.
func (s *Segment) Prove(i int) error {
	p := &s.Header.Pieces[i]
	if p.Kind == PieceSame { // its blocks are elsewhere
		return nil
	}
	content := proto.NewContentHasher()
	rest := s.Bytes(i)
	for b, want := range p.Blocks {
		n := min(len(rest), proto.BlockSize)
		if got := proto.BlockDigest(rest[:n]); got != want {
			return proto.Errorf(proto.ClassCorrupt, "segment %s: block %d of %q has digest %s, its header says %s", s.ID, b, p.Path, got.Short(), want.Short())
		}
		content.Add(want)
		rest = rest[n:]
	}
	if p.Kind == PieceObject && p.Desc.Kind == proto.KindFile {
		if got := content.Sum(); got != p.Desc.Digest {
			return proto.Errorf(proto.ClassCorrupt, "segment %s: %q has content digest %s, its description says %s", s.ID, p.Path, got.Short(), p.Desc.Digest.Short())
		}
	}
	return nil
}
