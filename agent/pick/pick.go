// Package pick says which of several holders goes first for a path. It is a pure function of the path and the live
// members, so that all holders come to the same order without asking each other. It imports proto only.
package pick

import (
	"encoding/binary"
	"slices"

	"github.com/zeebo/blake3"

	"forebay/proto"
)

// Weight is the rendezvous weight of a holder for a path: the first eight bytes, big endian, of the BLAKE3-256 of the
// holder's number (four bytes, big endian) followed by the path's bytes. All releases must compute the same, or holders
// of different releases would disagree on who goes first; a disagreement costs bytes, never correctness.
func Weight(path string, holder proto.HolderID) uint64 {
	buf := make([]byte, 4, 4+256)
	binary.BigEndian.PutUint32(buf, uint32(holder))
	sum := blake3.Sum256(append(buf, path...))
	return binary.BigEndian.Uint64(sum[:8])
}

// Rank returns how many of members go before holder for path: 0 for the first. Equal weights are ordered by number, lower
// first. A holder that is not a member (cordoned, or not in the list yet) comes after all members. The order of members
// does not matter; when one goes away, only the paths it was first for change hands (highest random weight hashing:
// Thaler and Ravishankar, 1998).
func Rank(path string, holder proto.HolderID, members []proto.HolderID) int {
	own, rank, listed := Weight(path, holder), 0, false
	for _, m := range members {
		if m == holder {
			listed = true
			continue
		}
		if w := Weight(path, m); w > own || w == own && m < holder {
			rank++
		}
	}
	if !listed {
		return len(members)
	}
	return rank
}

// Next returns how many of members go before holder once a lease has ended, which is for how many suspicion times it waits: none of
// those that had it or gave it back before is waited for, and they come last.
func Next(holder proto.HolderID, members []proto.HolderID, e proto.LeaseEnded) int {
	rest := make([]proto.HolderID, 0, len(members))
	for _, m := range members {
		if m != e.Holder && !slices.Contains(e.Unable, m) {
			rest = append(rest, m)
		}
	}
	return Rank(e.Path, holder, rest)
}
