package ledger

import (
	"maps"
	"slices"

	"forebay/proto"
)

// InflowRow is what was acknowledged of a dataset in one slot of time: policies are tried on it.
type InflowRow struct {
	Bytes   int64 `cbor:"1,keyasint"` // of content, without what came for nothing
	Objects int64 `cbor:"2,keyasint"` // versions that were sealed
}

// Slots of inflow are numbered by the clock, from its beginning.
const (
	InflowStep = 5 * 60                      // seconds of a slot
	InflowKept = 35 * 24 * 3600 / InflowStep // slots
)

// NoteInflow adds to what was acknowledged in a slot.
type NoteInflow struct {
	Slot uint64
	Sums map[proto.DatasetID]InflowRow
}

// inflowPruned bounds the slots that one entry forgets for each one that it adds to: a clock that is far ahead for a while takes
// little of what was recorded.
const inflowPruned = 2

func (e *NoteInflow) apply(tx *txn) error {
	for _, ds := range slices.Sorted(maps.Keys(e.Sums)) {
		k, sum := key(pInflow, ds, e.Slot), e.Sums[ds]
		var row InflowRow
		if _, err := get(tx, k, &row); err != nil {
			return err
		}
		row.Bytes, row.Objects = row.Bytes+sum.Bytes, row.Objects+sum.Objects
		if err := put(tx, k, &row); err != nil {
			return err
		}
		if e.Slot < InflowKept {
			continue
		}
		if _, err := deleteRows(tx, key(pInflow, ds), key(pInflow, ds, e.Slot-InflowKept+1), inflowPruned); err != nil {
			return err
		}
	}
	return nil
}

// InflowSlot is an InflowRow with its slot.
type InflowSlot struct {
	Slot uint64
	InflowRow
}

// Inflow returns what is recorded of a dataset in slots from to to, in their order; slots without inflow are left out.
func Inflow(r Rows, ds proto.DatasetID, from, to uint64) (out []InflowSlot, err error) {
	err = r.Scan(key(pInflow, ds, from), key(pInflow, ds, to+1), func(k, b []byte) (bool, error) {
		s := InflowSlot{Slot: tail64(k)}
		out = append(out, s)
		return true, proto.Unmarshal(b, &out[len(out)-1].InflowRow)
	})
	return out, err
}
