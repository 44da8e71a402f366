package settle

import (
	"forebay/agent/index"
	"forebay/proto"
)

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

// Have writes the report that this holder has the newest version that it heard of.
func Have(e index.Entry, sums [4]uint64) proto.HaveEntry {
	kept := e.Version != 0 && Changed(e, sums)&^proto.FieldMtime == 0
	return proto.HaveEntry{Version: e.Heard, MtimeNs: e.Stat.MtimeNs, MetaSum: sum(e.Kind, sums), Kept: kept}
}

// sum is what the relay is told of metadata. A hard link has its leader's.
func sum(kind proto.Kind, sums [4]uint64) uint64 {
	if kind == proto.KindHardlink {
		return 0
	}
	return proto.MetaSum(sums)
}

// SentAs is as what an object goes to the relay: alone, a hard link is a file of its own.
func SentAs(e index.Entry, alone bool) (kind proto.Kind, linkTo string) {
	if alone && e.Kind == proto.KindHardlink {
		return proto.KindFile, ""
	}
	return e.Kind, e.LinkTo
}

// Claim writes the claim for an entry with these metadata sums. changed and meta are given when metadata changed on this holder since
// Version.
func Claim(e index.Entry, sums [4]uint64, changed proto.MetaField, meta proto.Meta) proto.Claim {
	digest, known := Content(e)
	c := proto.Claim{
		Path: e.Path, Kind: e.Kind, MtimeNs: e.Stat.MtimeNs, Parent: e.Version,
		Digest: digest, HasDigest: known, LinkTo: e.LinkTo, Renewed: e.Renewed,
	}
	if known {
		c.MetaSum = sum(e.Kind, sums)
	}
	if e.Kind.HasContent() {
		c.Size = e.Stat.Size
	}
	if changed != 0 {
		c.Changed, c.Meta = changed, &meta
	}
	return c
}
