package ledger

import (
	"encoding/binary"

	"forebay/proto"
)

// linkDataset reads the dataset out of an encoded LinkRow without decoding the rest, which takes fifty times as long: it is asked of
// every link for each segment. The row is a CBOR map with its keys in order (RFC 8949, section 4.2.1):
//
//	map header | 1 ID uint | 2 Name text | 3 Dataset uint | …
//
// ok is false for anything else; the row is then to be decoded.
func linkDataset(row []byte) (ds proto.DatasetID, ok bool) {
	const uintType, textType, mapType = 0, 3, 5
	kind, _, rest, ok := head(row)
	if !ok || kind != mapType {
		return 0, false
	}
	for field := uint64(1); field <= 3; field++ {
		kind, n, after, ok := head(rest)
		if !ok || kind != uintType || n != field {
			return 0, false
		}
		kind, n, rest, ok = head(after)
		switch {
		case !ok:
			return 0, false
		case field == 3 && kind == uintType:
			return proto.DatasetID(n), true
		case kind == textType && n <= uint64(len(rest)):
			rest = rest[n:]
		case kind != uintType:
			return 0, false
		}
	}
	return 0, false
}

// head reads the head of a CBOR item: its major type, and its value or length.
func head(b []byte) (kind byte, n uint64, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, 0, nil, false
	}
	kind, info, rest := b[0]>>5, b[0]&31, b[1:]
	size := 0
	switch {
	case info < 24:
		return kind, uint64(info), rest, true
	case info < 28:
		size = 1 << (info - 24)
	}
	if size == 0 || len(rest) < size {
		return 0, 0, nil, false
	}
	var wide [8]byte
	copy(wide[8-size:], rest)
	return kind, binary.BigEndian.Uint64(wide[:]), rest[size:], true
}
