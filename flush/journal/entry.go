package journal

import (
	"cmp"
	"slices"

	"forebay/flush/target"
	"forebay/proto"
)

// State says what a target has of a path.
type State uint8

// The states. Their numbers are on disk.
const (
	StateNone    State = 0 // the path is in an intent only
	StatePresent State = 1 // the mirror has Desc
	StateDeleted State = 2 // the mirror has nothing
	StateKept    State = 3 // deleted at the source, but deletes are not propagated: the mirror still has Desc
	StateParked  State = 4 // Version could not be written: the mirror still has Desc, of an older version, or nothing
	StatePast    State = 5 // the mirror had Desc once; in past files only
)

// String returns the state as people write it.
func (s State) String() string {
	switch s {
	case StateNone:
		return "pending"
	case StatePresent:
		return "present"
	case StateDeleted:
		return "deleted"
	case StateKept:
		return "kept"
	case StateParked:
		return "parked"
	case StatePast:
		return "past"
	}
	return "unknown"
}

// Entry is what the journal knows of one path.
type Entry struct {
	Path string `cbor:"1,keyasint"`
	// Version is the newest version of the path that the flush has dealt with at this target.
	Version proto.VersionID `cbor:"2,keyasint"`
	State   State           `cbor:"3,keyasint"`
	// Holds is the version that the mirror has at the path and Desc its description; 0 and KindNone when it has none.
	// Present entries have Holds equal to Version. A kept or parked entry may be written without them: they are then taken
	// from the newest older entry of the path when the journal is read.
	Holds proto.VersionID `cbor:"4,keyasint,omitempty"`
	Desc  proto.Desc      `cbor:"5,keyasint"`
	// Stage names the staged content in an intent.
	Stage target.StageID `cbor:"6,keyasint,omitempty"`
	// AckedNs is when Version was acknowledged, by the relay's stamp; of a past entry, its own. Written while versions are kept; 0:
	// before.
	AckedNs int64 `cbor:"7,keyasint,omitempty"`
	// HeldNs is the same of Holds, where that is another version: kept and parked entries.
	HeldNs int64 `cbor:"8,keyasint,omitempty"`
	// Ended is set in past entries.
	Ended *End `cbor:"9,keyasint,omitempty"`
}

// InMirror reports whether the mirror should have something at the path.
func (e Entry) InMirror() bool {
	return e.Desc.Kind != proto.KindNone && e.State != StateDeleted && e.State != StatePast
}

// normal returns e with the fields that its state decides.
func (e Entry) normal() Entry {
	switch e.State {
	case StatePresent:
		e.Holds = e.Version
	case StateDeleted:
		e.Holds, e.Desc = 0, proto.Desc{}
	case StateKept, StateParked:
		if e.Desc.Kind == proto.KindTombstone {
			e.Desc = proto.Desc{}
		}
	}
	return e
}

// open reports whether e leaves it to an older entry to say what the mirror has.
func (e Entry) open() bool {
	return (e.State == StateKept || e.State == StateParked) && e.Desc.Kind == proto.KindNone
}

// resolve folds all entries of one path, in any order of versions but with later written ones first among equals, into
// the one that counts.
func resolve(group []Entry) Entry {
	slices.SortStableFunc(group, func(a, b Entry) int { return cmp.Compare(b.Version, a.Version) })
	top := group[0]
	if !top.open() {
		return top
	}
	for _, older := range group[1:] {
		if older.State == StateDeleted {
			break
		}
		if older.Desc.Kind != proto.KindNone {
			top.Desc, top.Holds, top.HeldNs = older.Desc, older.Holds, older.HoldsNs()
			break
		}
	}
	return top
}

// sorted returns the entries in path order, one a path; of several for a path the later in the slice counts as written
// later.
func sorted(entries []Entry) []Entry {
	all := make([]Entry, 0, len(entries))
	for i := len(entries) - 1; i >= 0; i-- {
		all = append(all, entries[i].normal())
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	out := all[:0]
	for i := 0; i < len(all); {
		n := i + 1
		for n < len(all) && all[n].Path == all[i].Path {
			n++
		}
		out = append(out, resolve(all[i:n]))
		i = n
	}
	return out
}
