package proto

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

// Sums returns a sum of each field that MetaField names, in that order: mode, owner, mtime, xattrs.
func (m Meta) Sums() [4]uint64 {
	owner := binary.BigEndian.AppendUint64(nil, uint64(m.UID)<<32|uint64(m.GID))
	owner = append(append(append(owner, m.User...), 0), m.Group...)
	xattrs := m.Xattrs
	if len(xattrs) == 0 {
		xattrs = nil // the encoding of none is another than that of an empty list
	}
	return [4]uint64{
		sum64(binary.BigEndian.AppendUint32(nil, m.Mode)),
		sum64(owner),
		sum64(binary.BigEndian.AppendUint64(nil, uint64(m.MtimeNs))),
		sum64(Marshal(xattrs)),
	}
}

// MetaSum is one sum of what the replicas of an object have in common as a rule, from its Sums: mode, owner, xattrs. An mtime may be
// each replica's own. It is never 0.
func MetaSum(sums [4]uint64) uint64 {
	b := binary.BigEndian.AppendUint64(nil, sums[0])
	b = binary.BigEndian.AppendUint64(b, sums[1])
	return max(sum64(binary.BigEndian.AppendUint64(b, sums[3])), 1)
}

func sum64(b []byte) uint64 {
	s := blake3.Sum256(b)
	return binary.BigEndian.Uint64(s[:8])
}
