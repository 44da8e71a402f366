// Package pick says which of several holders goes first for a path. It is a pure function of the path and the live
// members, so that all holders come to the same order without asking each other. It imports proto only.
package pick

import (
	"encoding/binary"
	"slices"
	"time"

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

// The waits are bounded, however many members there are: of many nodes, most may not have the object, and nobody knows which.
const (
	most  = 3 // suspicion times that the last of the members waits for all others
	quick = 4 // the part of a suspicion time that the last waits once a lease has ended
)

// Turn returns for how long holder leaves path to those that go before it, from when it could claim. The first goes at once, the second after
// the suspicion time: by then it has heard of what the first began. The others share two more such times, so that of three members each waits
// one longer than the one before, and of the holders among many each about as much as that.
func Turn(path string, holder proto.HolderID, members []proto.HolderID, suspicion time.Duration) time.Duration {
	return turn(Rank(path, holder, members), len(members), suspicion)
}

func turn(rank, members int, suspicion time.Duration) time.Duration {
	if rank == 0 {
		return 0
	}
	return suspicion + time.Duration(rank-1)*(most-1)*suspicion/time.Duration(max(members, most)-1)
}

// Next is Turn once a lease has ended. Those that had it or gave it back before come last, as if they were none of the members, and are not
// waited for; the others follow each other within a part of the suspicion time: two that claim together cost one question, and what was begun
// is not to wait for nodes that do not have it.
func Next(holder proto.HolderID, members []proto.HolderID, e proto.LeaseEnded, suspicion time.Duration) time.Duration {
	rest := make([]proto.HolderID, 0, len(members))
	for _, m := range members {
		if m != e.Holder && !slices.Contains(e.Unable, m) {
			rest = append(rest, m)
		}
	}
	if !slices.Contains(rest, holder) {
		return turn(max(len(rest), 1), len(rest), suspicion)
	}
	rank := Rank(e.Path, holder, rest)
	return time.Duration(rank) * suspicion / time.Duration(quick*len(rest))
}
