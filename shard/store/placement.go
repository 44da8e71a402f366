package store

import (
	"slices"

	"github.com/google/uuid"

	"forebay/proto"
	"forebay/shard"
)

// StoreID names a store for ever. It is drawn when a store is initialised.
type StoreID [16]byte

// String returns the id in the usual form of a UUID.
func (s StoreID) String() string { return uuid.UUID(s).String() }

// IsZero reports whether s is unset.
func (s StoreID) IsZero() bool { return s == StoreID{} }

// Placement says where a segment lies: all that is needed to read it back. The ledger keeps it with the segment.
type Placement struct {
	Geometry shard.Geometry `cbor:"1,keyasint"`
	Stores   []StoreID      `cbor:"2,keyasint"` // by shard index
	Length   int64          `cbor:"3,keyasint"` // bytes of the whole segment
	Tag      shard.Tag      `cbor:"4,keyasint"` // of its content
}

// Code returns what the segment was coded into.
func (p Placement) Code(id proto.SegmentID) shard.Code {
	return shard.Code{ID: id, Geometry: p.Geometry, Length: int(p.Length), Tag: p.Tag}
}

// RawBytes returns how many bytes the shards take up over all stores, without the tables' overhead.
func (p Placement) RawBytes() int64 {
	return int64(p.Geometry.Shards()) * int64(p.Geometry.ShardLen(int(p.Length)))
}

// check says why p cannot be read.
func (p Placement) check(id proto.SegmentID) error {
	if err := p.Code(id).Validate(); err != nil {
		return err
	}
	if len(p.Stores) != p.Geometry.Shards() {
		return proto.Errorf(proto.ClassPermanent, "placement of segment %s names %d stores for %s", id, len(p.Stores), p.Geometry)
	}
	return nil
}

// roomGrain is how much more room a store must have to be preferred: below it stores count as equal and take turns, so
// that data and parity are spread alike.
const roomGrain = 64 << 20

// choose picks n of the stores whose free bytes are given, those with the most room first; turn rotates the order among
// equals and the role (data or parity) among the chosen. It returns indices into room, by shard index.
func choose(room []int64, n int, turn uint64) []int {
	order := make([]int, len(room))
	for i := range order {
		order[i] = (i + int(turn%uint64(len(room)))) % len(room)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		ga, gb := room[a]/roomGrain, room[b]/roomGrain
		switch {
		case ga > gb:
			return -1
		case ga < gb:
			return 1
		}
		return 0
	})
	picked := order[:n]
	slices.Sort(picked)
	shift := int(turn % uint64(n))
	return slices.Concat(picked[shift:], picked[:shift])
}
