package relay

import (
	"fmt"
	"math"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/arbiter"
)

// An upload that lost its sender waits for a holder to carry it on. When its object was deleted meanwhile, or put back to what is
// published, nobody ever will: it would be shown, and waited for, for ever.

// dropUnclaimed forgets uploads that lost their sender before the last scan of every holder began, once all that those scans found is
// settled: whoever had the object would have claimed it. A holder that is away blocks that for the grace, as it does deletes. One that
// has claimed another content for the path since need not have settled: what is received may be just what it has no room beside.
//
// While the cache is too full for what is claimed, nobody settles. When nothing is being sent for that any more, one upload after the
// other goes, the longest without a sender first, if all holders have scanned since and had a while to claim it. Its content may still
// be a holder's that had no turn: then it is sent from its beginning.
func (r *Relay) dropUnclaimed() error {
	if r.waits.lookAll(r.up()) { // there were too many once to remember all
		if err := r.rememberUploads(leaseLost); err != nil {
			return err
		}
	}
	ids := r.waits.ids()
	if len(ids) == 0 {
		return nil
	}
	_, _, pressed := r.admission.pressure()
	pressed = pressed && r.waits.mayPress(r.up()) && r.idle()
	judges := map[proto.DatasetID]*witnesses{}
	for _, id := range ids {
		o, known := r.waits.get(id)
		if !known || r.leased(id) {
			continue
		}
		if judges[o.dataset] == nil {
			w, err := r.witnesses(o.dataset)
			if err != nil {
				return err
			}
			judges[o.dataset] = w
		}
		late := pressed && r.up()-o.up >= int64(pressAfter)
		if o.up >= judges[o.dataset].settledUp(o, late) {
			continue
		}
		dropped, err := r.dropUnlessCarriedOn(id, o)
		if err != nil {
			return err
		}
		if dropped && pressed {
			r.waits.press(r.up()) // its room is free soon
			pressed = false
		}
	}
	return nil
}

// pressAfter is how long an upload without a sender stays although the cache is full and nothing is being sent.
const pressAfter = 5 * time.Minute

// idle reports whether nothing is being sent.
func (r *Relay) idle() bool {
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	return r.table.Len() == 0
}

// witnesses are the holders of a dataset whose word on an upload counts.
type witnesses struct {
	members []arbiter.Member
	grace   time.Duration
}

func (r *Relay) witnesses(ds proto.DatasetID) (*witnesses, error) {
	d, err := ledger.Dataset(r.ledger, ds)
	if err != nil {
		return nil, err
	}
	members, err := r.known(ds)
	return &witnesses{members, r.grace(d.Name)}, err
}

// settledUp returns up to which running time everything that the holders found is settled: 0 when not even one has said so, or the word
// of one that counts is lacking, or one has claimed what was lost. Holders that have claimed another content are not waited for; where a
// scan will do, it need not be settled.
func (w *witnesses) settledUp(o orphan, scanned bool) int64 {
	up, one := int64(math.MaxInt64), false
	for _, m := range w.members {
		c, claimed := o.claims[m.Row.ID]
		switch {
		case !m.Alive && m.Away >= w.grace:
		case !m.Alive || m.Empty: // an index that was made anew and found nothing may have looked at a disk that is not mounted
			return 0
		case claimed && c.this: // what it has found since is settled once it has that content no more
			if m.SettledNs <= c.up {
				return 0
			}
			up, one = min(up, m.SettledNs), true
		case claimed:
			one = true
		case scanned && m.Row.ScannedGen == m.Row.IndexGen:
			up, one = min(up, max(m.SettledNs, m.Row.ScannedNs)), true
		default:
			up, one = min(up, m.SettledNs), true
		}
	}
	if !one {
		return 0
	}
	return up
}

// dropUnlessCarriedOn drops an upload that has been without a sender since o.
func (r *Relay) dropUnlessCarriedOn(id proto.UploadID, o orphan) (dropped bool, err error) {
	r.fence.Lock()
	defer r.fence.Unlock()
	u, ok, err := ledger.Upload(r.ledger, id)
	if err != nil {
		return false, err
	}
	if !ok || u.Sealed {
		r.waits.forget(id)
		return false, nil
	}
	obj, _, err := ledger.Object(r.ledger, u.Dataset, u.Path)
	if err != nil {
		return false, err
	}
	asked, err := ledger.IsAsked(r.ledger, u.Dataset, obj.Current.Version)
	if err != nil {
		return false, err
	}
	if asked { // its holders have settled it, and send it all the same, if there are any yet
		keepers, err := r.keepers(u.Dataset)
		if err != nil {
			return false, err
		}
		asked = keepers.have(&obj)
	}
	r.tableMu.Lock()
	leased := r.table.Get(id) != nil || r.table.At(u.Dataset, u.Path) != nil
	r.tableMu.Unlock()
	if still, ok := r.waits.get(id); asked || leased || !ok || still.up != o.up {
		return false, nil
	}
	if err := r.ledger.Apply(&ledger.AbandonUpload{Upload: id}); err != nil { // a power cut brings it back, and it is dropped again
		return false, err
	}
	r.waits.forget(id)
	r.event("upload-dropped", fmt.Sprintf("the upload of %q, of which %d of %d bytes had come: it lost its sender, and no holder has claimed it since", u.Path, u.Acked, u.Size),
		map[string]string{"object": u.Path, "upload": fmt.Sprint(id)})
	return true, nil
}
