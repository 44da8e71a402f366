package relay

import (
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// recorder adds up what is acknowledged, by dataset, and writes it into the ledger once a slot is over: what flush policies can be
// tried on. A relay that is killed loses the slot that is under way.
type recorder struct {
	mu   sync.Mutex
	slot uint64
	sums map[proto.DatasetID]ledger.InflowRow
}

func slotAt(now time.Time) uint64 { return uint64(max(now.Unix(), 0)) / ledger.InflowStep }

// add counts what was acknowledged at now. What comes in the first moments of a slot may be counted for the one before.
func (c *recorder) add(ds proto.DatasetID, bytes, objects int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sums == nil {
		c.sums = map[proto.DatasetID]ledger.InflowRow{}
	}
	s := c.sums[ds]
	c.sums[ds] = ledger.InflowRow{Bytes: s.Bytes + bytes, Objects: s.Objects + objects}
}

// take returns what there is to be written, nil when nothing is: the slot is not over, unless whole is set, or nothing came.
func (c *recorder) take(now time.Time, whole bool) *ledger.NoteInflow {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, slot := c.slot, slotAt(now)
	if before == slot && !whole {
		return nil
	}
	c.slot = slot
	if len(c.sums) == 0 {
		return nil
	}
	if before == 0 {
		before = slot
	}
	e := &ledger.NoteInflow{Slot: before, Sums: c.sums}
	c.sums = nil
	return e
}

// recordInflow writes what the slot that ended brought.
func (r *Relay) recordInflow(whole bool) {
	if e := r.recorder.take(r.now(), whole); e != nil {
		if err := r.ledger.Update(e); err != nil {
			r.deps.Log.Warn().Err(err).Msg("the inflow was not recorded") // Run ends with the ledger
		}
	}
}

// Inflow returns what is recorded of the inflow of a link's dataset.
func (r *Relay) Inflow(link string) (proto.Inflow, error) {
	l, err := r.linkRow(link)
	if err != nil {
		return proto.Inflow{}, err
	}
	now := slotAt(r.now())
	slots, err := ledger.Inflow(r.ledger, l.Dataset, max(now, ledger.InflowKept)-ledger.InflowKept, now)
	out := proto.Inflow{Schema: proto.InflowSchema, Dataset: l.From.String(), StepSeconds: ledger.InflowStep, Slots: []proto.InflowSlot{}}
	for _, s := range slots {
		out.Slots = append(out.Slots, proto.InflowSlot{At: stamp(time.Unix(int64(s.Slot)*ledger.InflowStep, 0)), Bytes: s.Bytes, Objects: s.Objects})
	}
	return out, err
}
