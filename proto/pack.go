package proto

import (
	"bytes"

	"github.com/klauspost/compress/zstd"
)

// How messages are put into bytes beyond CBOR. Each side tells the highest coding that it reads (Hello, HelloReply, Member); who tells
// nothing is of a release that reads plain CBOR alone, and gets that.
const (
	CodingPlain = 0
	CodingZstd  = 1 // a message of PackFrom bytes or more may be a zstd frame: over HTTP as Content-Encoding says, on the bus by its first bytes
	Coding      = CodingZstd
)

// EncodingZstd is CodingZstd as HTTP's headers name it (RFC 8878).
const EncodingZstd = "zstd"

// PackFrom is the size from which a message is worth packing: below, headers are most of what travels.
const PackFrom = 512

// packWindow bounds the memory of packing, and is most of what there is to find: what is alike in a message stands close together.
const packWindow = 256 << 10

// packing and unpacking have no state between messages and are safe for concurrent use. The fastest level does: paths that begin alike
// are most of what can be saved, and digests, most of what is left, cannot be packed by any.
var (
	packing = must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(packWindow), zstd.WithEncoderConcurrency(2),
		zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false)))
	unpacking = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(MaxMessage),
		zstd.WithDecoderMaxWindow(MaxMessage)))
)

// packed is how a zstd frame begins. No message in CBOR does: they are maps.
var packed = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Pack packs a message that Marshal wrote; ok is false, and out b itself, when that is not worth it.
func Pack(b []byte) (out []byte, ok bool) {
	if len(b) < PackFrom {
		return b, false
	}
	if out = packing.EncodeAll(b, make([]byte, 0, len(b)/2)); len(out) >= len(b) {
		return b, false
	}
	return out, true
}

// Unpack reads what Pack packed. A message of more than MaxMessage bytes fails with ClassPermanent, before it takes more memory than that.
func Unpack(b []byte) ([]byte, error) {
	out, err := unpacking.DecodeAll(b, nil)
	if err == nil && len(out) > MaxMessage {
		err = zstd.ErrDecoderSizeExceeded
	}
	if err != nil {
		return nil, Errorf(ClassPermanent, "unpack message: %w", err)
	}
	return out, nil
}

// UnpackHint returns a message on the bus as Marshal wrote it, whether it was packed or not.
func UnpackHint(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, packed) {
		return b, nil
	}
	return Unpack(b)
}
