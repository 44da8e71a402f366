package shard

import (
	"fmt"
	"strconv"
	"strings"

	"forebay/proto"
)

// Limits of a geometry. Wider codes cost more seeks a read and gain little space.
const (
	MaxData   = 64
	MaxParity = 16
)

// Geometry is a Reed-Solomon code: a segment is cut into Data pieces, to which Parity pieces are added. Any Data of the
// Data+Parity shards give the segment back.
type Geometry struct {
	Data   int `cbor:"1,keyasint"`
	Parity int `cbor:"2,keyasint"`
}

// String returns the form operators write: 4+2.
func (g Geometry) String() string { return fmt.Sprintf("%d+%d", g.Data, g.Parity) }

// Shards returns how many shards a segment has, each on a store of its own.
func (g Geometry) Shards() int { return g.Data + g.Parity }

// IsZero reports whether g is unset.
func (g Geometry) IsZero() bool { return g == Geometry{} }

// Validate says what is wrong with g, with ClassPermanent.
func (g Geometry) Validate() error {
	if g.Data < 1 || g.Data > MaxData || g.Parity < 0 || g.Parity > MaxParity {
		return proto.Errorf(proto.ClassPermanent, "coding %s: want 1 to %d data and 0 to %d parity shards", g, MaxData, MaxParity)
	}
	return nil
}

// ShardLen returns the length in bytes of each shard's body for a segment of length bytes.
func (g Geometry) ShardLen(length int) int { return (length + g.Data - 1) / g.Data }

// ParseGeometry reads "4+2": data shards, a plus, parity shards. Errors have ClassPermanent.
func ParseGeometry(s string) (Geometry, error) {
	data, parity, ok := strings.Cut(s, "+")
	if !ok {
		return Geometry{}, proto.Errorf(proto.ClassPermanent, "coding %q: want DATA+PARITY, for example 2+1", s)
	}
	var g Geometry
	for _, part := range []struct {
		text string
		into *int
	}{{data, &g.Data}, {parity, &g.Parity}} {
		n, err := strconv.ParseUint(part.text, 10, 16)
		if err != nil || part.text != strconv.FormatUint(n, 10) {
			return Geometry{}, proto.Errorf(proto.ClassPermanent, "coding %q: %q is not a number of shards; want DATA+PARITY, for example 2+1", s, part.text)
		}
		*part.into = int(n)
	}
	return g, g.Validate()
}

// Default returns the coding for a number of configured stores when the operator names none: the loss of one store is
// survived from two stores on, of two from six on. One store cannot survive its loss, and the coding says so.
func Default(stores int) Geometry {
	switch {
	case stores >= 6:
		return Geometry{Data: 4, Parity: 2}
	case stores >= 3:
		return Geometry{Data: 2, Parity: 1}
	case stores == 2:
		return Geometry{Data: 1, Parity: 1}
	}
	return Geometry{Data: 1, Parity: 0}
}

// Narrow returns the geometry for new segments while only healthy stores can be written: at most as wide as want, with the
// same parity, so that a degraded relay keeps the promise about losses and pays with space. It reports false when none fits.
// Without parity nothing is narrowed: the operator chose to rest on all Data stores, and fewer are a fault to be shown.
func Narrow(want Geometry, healthy int) (Geometry, bool) {
	data := min(want.Data, healthy-want.Parity)
	if data < 1 || want.Parity == 0 && data < want.Data {
		return Geometry{}, false
	}
	return Geometry{Data: data, Parity: want.Parity}, true
}
