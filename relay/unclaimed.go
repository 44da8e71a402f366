package relay

import (
	"fmt"

	"forebay/ledger"
	"forebay/proto"
)

// An upload that lost its sender waits for a holder to carry it on. When its object was deleted meanwhile, or put back to what is
// published, nobody ever will: it would be shown, and waited for, for ever.

// dropUnclaimed forgets uploads that lost their sender before the last scan of every holder began, once all that those scans found is
// settled: whoever had the object would have claimed it. A holder that is away blocks that for the grace, as it does deletes.
func (r *Relay) dropUnclaimed() error {
	settled := map[proto.DatasetID]int64{}
	waiting := map[proto.UploadID]ledger.UploadRow{}
	err := ledger.EachUpload(r.ledger, func(id proto.UploadID, u ledger.UploadRow) (bool, error) {
		if r.leased(id) {
			return true, nil
		}
		o, known := r.waits.get(id)
		if !known {
			r.waits.note(id, orphan{dataset: u.Dataset, cause: "its lease was lost", since: r.now(), up: r.up()})
			return true, nil
		}
		if _, ok := settled[u.Dataset]; !ok {
			up, err := r.allSettledUp(u.Dataset)
			if err != nil {
				return false, err
			}
			settled[u.Dataset] = up
		}
		if o.up >= settled[u.Dataset] {
			return true, nil
		}
		obj, _, err := ledger.Object(r.ledger, u.Dataset, u.Path)
		if err != nil {
			return false, err
		}
		asked, err := ledger.IsAsked(r.ledger, u.Dataset, obj.Current.Version) // its holders have settled it, and send it all the same
		if err == nil && !asked {
			waiting[id] = u
		}
		return true, err
	})
	if err != nil {
		return err
	}
	for id, u := range waiting {
		if err := r.dropUnlessLeased(id, u); err != nil {
			return err
		}
	}
	return nil
}

// allSettledUp returns up to which running time everything that the holders of a dataset found is settled: 0 when not even one has said
// so, or one that counts is away.
func (r *Relay) allSettledUp(ds proto.DatasetID) (up int64, err error) {
	d, err := ledger.Dataset(r.ledger, ds)
	if err != nil {
		return 0, err
	}
	members, err := r.known(ds)
	if err != nil {
		return 0, err
	}
	grace, any := r.grace(d.Name), false
	for _, m := range members {
		switch {
		case !m.Alive && m.Away >= grace:
		case !m.Alive:
			return 0, nil
		case !any:
			up, any = m.SettledNs, true
		default:
			up = min(up, m.SettledNs)
		}
	}
	return up, nil
}

func (r *Relay) dropUnlessLeased(id proto.UploadID, u ledger.UploadRow) error {
	r.fence.Lock()
	defer r.fence.Unlock()
	r.tableMu.Lock()
	leased := r.table.Get(id) != nil || r.table.At(u.Dataset, u.Path) != nil
	r.tableMu.Unlock()
	if leased {
		return nil
	}
	if err := r.ledger.Update(&ledger.AbandonUpload{Upload: id}); err != nil {
		return err
	}
	r.waits.forget(id)
	r.event("upload-dropped", fmt.Sprintf("the upload of %q, of which %d of %d bytes had come: all holders have scanned since it lost its sender, and none has that content", u.Path, u.Acked, u.Size),
		map[string]string{"object": u.Path, "upload": fmt.Sprint(id)})
	return nil
}
