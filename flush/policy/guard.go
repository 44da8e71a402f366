package policy

import (
	"fmt"

	"forebay/units"
)

// Guard bounds the deletes that are copied to a target within 24 hours, or since an operator last approved held ones.
type Guard struct {
	Share   units.Percent // of the objects that were on the target; 100% = no bound
	Objects int64         // deletes; NoGuard = no bound, 0 = each delete waits for approval
}

// NoGuard as Guard.Objects sets no bound on the number.
const NoGuard int64 = -1

// GuardFloor is the number of deletes from which on Guard.Share counts. Below it a share says nothing: one delete of four
// objects is a quarter. Guard.Objects always counts, and a share of 0% too.
const GuardFloor = 10

// Allow decides about a batch of deletes: all of it goes, or all of it is held. recent is the number of deletes carried out
// in the last 24 hours or since the last approval, whichever is shorter; wanted is the number of all deletes that are due
// now, not only those of the next batch, since otherwise a mass delete goes through in slices until the bound is reached;
// onTarget is how many objects the target has now, deletes already carried out not counted. It returns how many may go,
// how many are held, and for held ones the reason for the operator.
func Allow(g Guard, recent, wanted, onTarget int64) (allowed, held int64, reason string) {
	if wanted <= 0 {
		return 0, 0, ""
	}
	total, before := recent+wanted, onTarget+recent
	if g.Objects != NoGuard && total > g.Objects {
		return 0, wanted, fmt.Sprintf("%s would make %d within 24h, delete.guard.objects allows %d", deletes(wanted), total, g.Objects)
	}
	counts := total >= GuardFloor || g.Share == 0
	if counts && g.Share < units.Hundred && total > g.Share.Of(before) {
		return 0, wanted, fmt.Sprintf("%s would make %d of %d objects within 24h, delete.guard.share allows %s", deletes(wanted), total, before, g.Share)
	}
	return wanted, 0, ""
}

func deletes(n int64) string {
	if n == 1 {
		return "1 delete"
	}
	return fmt.Sprintf("%d deletes", n)
}
