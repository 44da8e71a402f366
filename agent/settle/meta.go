package settle

import (
	"encoding/binary"

	"github.com/zeebo/blake3"

	"forebay/agent/index"
	"forebay/proto"
)

// Sums returns a sum of each metadata field, in the order of index.Entry.MetaSum: mode, owner, mtime, xattrs. They are
// compared with sums of the same object on the same node only.
func Sums(m proto.Meta) [4]uint64 {
	owner := binary.BigEndian.AppendUint64(nil, uint64(m.UID)<<32|uint64(m.GID))
	owner = append(append(append(owner, m.User...), 0), m.Group...)
	return [4]uint64{
		sum(binary.BigEndian.AppendUint32(nil, m.Mode)),
		sum(owner),
		sum(binary.BigEndian.AppendUint64(nil, uint64(m.MtimeNs))),
		sum(proto.Marshal(m.Xattrs)),
	}
}

func sum(b []byte) uint64 {
	s := blake3.Sum256(b)
	return binary.BigEndian.Uint64(s[:8])
}

// fields are the metadata fields in the order of index.Entry.MetaSum.
var fields = [4]proto.MetaField{proto.FieldMode, proto.FieldOwner, proto.FieldMtime, proto.FieldXattrs}

// Changed returns the fields that this holder changed since it last agreed with the relay; none when it never did.
func Changed(e index.Entry, sums [4]uint64) (changed proto.MetaField) {
	if e.Version == 0 {
		return 0
	}
	for i := range sums {
		if sums[i] != e.MetaSum[i] {
			changed |= fields[i]
		}
	}
	return changed
}

// Outcome is what follows from a StepMatch.
type Outcome uint8

// The outcomes.
const (
	OutcomeSettled Outcome = iota + 1 // nothing differs from Version: no message is needed
	OutcomeHave                       // tell the relay that this holder has Heard
	OutcomeClaim                      // metadata changed here: claim with the changed fields
)

// Match says what an entry whose content is that of the newest known version needs, given the sums of its metadata now,
// and which fields to name in a claim. A new mtime on top of a version that another holder made travels with the Have:
// the relay publishes the newest.
func Match(e index.Entry, sums [4]uint64) (Outcome, proto.MetaField) {
	changed := Changed(e, sums)
	switch {
	case e.Heard == 0 && changed == 0:
		return OutcomeSettled, 0
	case e.Heard == 0 || changed&^proto.FieldMtime != 0:
		return OutcomeClaim, changed
	}
	return OutcomeHave, 0
}

// Claim writes the claim for an entry. changed and meta are given when metadata changed on this holder since Version.
func Claim(e index.Entry, changed proto.MetaField, meta proto.Meta) proto.Claim {
	digest, known := Content(e)
	c := proto.Claim{
		Path: e.Path, Kind: e.Kind, MtimeNs: e.Stat.MtimeNs, Parent: e.Version,
		Digest: digest, HasDigest: known, LinkTo: e.LinkTo, Renewed: e.Renewed,
	}
	if e.Kind.HasContent() {
		c.Size = e.Stat.Size
	}
	if changed != 0 {
		c.Changed, c.Meta = changed, &meta
	}
	return c
}
