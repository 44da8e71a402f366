package proto

import (
	"github.com/fxamacker/cbor/v2"
)

// encoding is CBOR in Core Deterministic form (RFC 8949, section 4.2), so that equal values give equal bytes and a header's
// digest does not depend on who wrote it. decoding refuses what a sender could use against a reader: duplicate keys, deep
// nesting, huge arrays. Unknown keys are allowed: that is how a newer minor release adds a field.
var (
	encoding = must(encOptions().EncMode())
	decoding = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  16,
		MaxArrayElements: 1 << 20,
		MaxMapPairs:      1 << 16,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		UTF8:             cbor.UTF8DecodeInvalid, // paths are bytes
	}.DecMode())
)

// encOptions keeps fractions of seconds in times: how long a takeover took is told from two events.
func encOptions() cbor.EncOptions {
	o := cbor.CoreDetEncOptions()
	o.Time = cbor.TimeUnixDynamic
	return o
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options above are constants
	}
	return v
}

// Marshal encodes a message, row or header as CBOR. It panics when v cannot be encoded, which only a type that does not
// belong into a message brings about.
func Marshal(v any) []byte { return must(encoding.Marshal(v)) }

// Unmarshal decodes what Marshal wrote. Errors have ClassPermanent.
func Unmarshal(b []byte, v any) error {
	if err := decoding.Unmarshal(b, v); err != nil {
		return Errorf(ClassPermanent, "decode %T: %w", v, err)
	}
	return nil
}

// CheckVersion refuses a format or message newer than this program.
func CheckVersion(what string, v int) error {
	if v < 1 || v > Version {
		return Errorf(ClassPermanent, "%s has version %d, this program knows 1 to %d: use a newer release", what, v, Version)
	}
	return nil
}
