package proto

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// RelayID names one relay for ever. It is drawn at random when a data directory is initialised and is part of every
// segment id, so that several relays can never issue the same id.
type RelayID uint64

// String returns 16 lower-case hex digits.
func (r RelayID) String() string { return fmt.Sprintf("%016x", uint64(r)) }

// ParseRelayID reads what String wrote; else ClassCorrupt.
func ParseRelayID(s string) (RelayID, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if r := RelayID(n); err == nil && r != 0 && r.String() == s {
		return r, nil
	}
	return 0, Errorf(ClassCorrupt, "%q is no relay's id: that has 16 hex digits", s)
}

// SegmentID names a segment: the relay that accepted it and a sequence number that this relay never uses twice.
type SegmentID struct {
	Relay RelayID `cbor:"1,keyasint"`
	Seq   uint64  `cbor:"2,keyasint"`
}

// SegmentIDLen is the length in bytes of a segment id as a key.
const SegmentIDLen = 16

// Bytes returns the id as a key: relay then sequence, big endian, so that keys sort in the order of acceptance.
func (s SegmentID) Bytes() []byte {
	b := make([]byte, SegmentIDLen)
	binary.BigEndian.PutUint64(b, uint64(s.Relay))
	binary.BigEndian.PutUint64(b[8:], s.Seq)
	return b
}

// SegmentIDFromBytes reads what Bytes wrote. It fails when b is not SegmentIDLen long.
func SegmentIDFromBytes(b []byte) (SegmentID, error) {
	if len(b) != SegmentIDLen {
		return SegmentID{}, fmt.Errorf("segment id of %d bytes, want %d", len(b), SegmentIDLen)
	}
	return SegmentID{Relay: RelayID(binary.BigEndian.Uint64(b)), Seq: binary.BigEndian.Uint64(b[8:])}, nil
}

// String returns relay and sequence as they are printed everywhere: 00c0ffee00c0ffee-42.
func (s SegmentID) String() string { return fmt.Sprintf("%s-%d", s.Relay, s.Seq) }

// Less orders segments of one relay by acceptance.
func (s SegmentID) Less(o SegmentID) bool {
	if s.Relay != o.Relay {
		return s.Relay < o.Relay
	}
	return s.Seq < o.Seq
}

// Epoch is the fencing number of a lease. Generation grows by one with each start of the relay and is durable before the
// first grant; Counter grows with each grant. A lower epoch than the one in force changes nothing (I7).
type Epoch struct {
	Generation uint32 `cbor:"1,keyasint"`
	Counter    uint64 `cbor:"2,keyasint"`
}

// Less reports whether e was granted before o.
func (e Epoch) Less(o Epoch) bool {
	if e.Generation != o.Generation {
		return e.Generation < o.Generation
	}
	return e.Counter < o.Counter
}

// Compare orders epochs: negative when e was granted before o, 0 when they are the same.
func (e Epoch) Compare(o Epoch) int {
	return cmp.Or(cmp.Compare(e.Generation, o.Generation), cmp.Compare(e.Counter, o.Counter))
}

// IsZero reports whether e was never granted.
func (e Epoch) IsZero() bool { return e == Epoch{} }

// String returns generation.counter.
func (e Epoch) String() string { return fmt.Sprintf("%d.%d", e.Generation, e.Counter) }

// VersionID is the sequence number within its dataset under which a version was sealed. It only grows; 0 is "none". The
// dataset's highest VersionID is the cut that a recovery point names.
type VersionID uint64

// UploadID names an upload from its grant until it is sealed or abandoned. It is unique within a relay.
type UploadID uint64

// HolderID numbers a holder: one root on one node for one dataset. The relay assigns it once and never reuses it; 0 is
// "none".
type HolderID uint32

// DatasetID numbers a dataset within a relay's ledger; 0 is "none".
type DatasetID uint32

// Dataset names a tree of objects in a cluster. Both parts match Name.
type Dataset struct {
	Cluster string `cbor:"1,keyasint" json:"cluster"`
	Name    string `cbor:"2,keyasint" json:"name"`
}

// String returns cluster/name.
func (d Dataset) String() string { return d.Cluster + "/" + d.Name }

// ParseDataset reads cluster/name and checks both names.
func ParseDataset(s string) (Dataset, error) {
	cluster, name, ok := strings.Cut(s, "/")
	if !ok {
		return Dataset{}, fmt.Errorf("dataset %q: want CLUSTER/DATASET", s)
	}
	d := Dataset{Cluster: cluster, Name: name}
	if err := CheckName(cluster); err != nil {
		return Dataset{}, fmt.Errorf("dataset %q: cluster: %w", s, err)
	}
	if err := CheckName(name); err != nil {
		return Dataset{}, fmt.Errorf("dataset %q: %w", s, err)
	}
	return d, nil
}

// MaxName is the longest name of a cluster, node, dataset, link, target or relay, in bytes.
const MaxName = 64

// CheckName says why s cannot be the name of a cluster, node, dataset, link, target or relay: 1 to MaxName letters,
// digits, '.', '_' or '-', the first a letter or digit. Such names are safe in URLs, bus subjects and file names.
func CheckName(s string) error {
	if s == "" {
		return errors.New("name is empty")
	}
	if len(s) > MaxName {
		return fmt.Errorf("name %q has %d bytes, at most %d are allowed", s, len(s), MaxName)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if alnum || i > 0 && (c == '.' || c == '_' || c == '-') {
			continue
		}
		return fmt.Errorf("name %q: character %q is not allowed at position %d (letters, digits, and after the first also . _ -)", s, c, i)
	}
	return nil
}

// DigestLen is the length of a digest in bytes (BLAKE3-256).
const DigestLen = 32

// Digest is a BLAKE3-256. A content digest is the digest over the digests of fixed blocks, see package digest.
type Digest [DigestLen]byte

// IsZero reports whether d is unset.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short returns the first 12 hex digits, for messages.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// MarshalText returns hex, so that JSON shows digests as people compare them.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *Digest) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil {
		return fmt.Errorf("digest %q: %w", b, err)
	}
	if len(raw) != DigestLen {
		return fmt.Errorf("digest %q has %d bytes, want %d", b, len(raw), DigestLen)
	}
	copy(d[:], raw)
	return nil
}
