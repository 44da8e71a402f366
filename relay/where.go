package relay

import (
	"fmt"
	"slices"
	"strings"

	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/arbiter"
)

// Where says where one object is. object is CLUSTER/DATASET/PATH.
func (r *Relay) Where(object string) (proto.Where, error) {
	parts := strings.SplitN(object, "/", 3)
	if len(parts) < 3 {
		return proto.Where{}, proto.Errorf(proto.ClassPermanent, "object %q: want CLUSTER/DATASET/PATH", object)
	}
	name, err := proto.ParseDataset(parts[0] + "/" + parts[1])
	if err != nil {
		return proto.Where{}, proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	d, err := ledger.DatasetByName(r.ledger, name)
	if err != nil {
		return proto.Where{}, err
	}
	if d.ID == 0 {
		return proto.Where{}, &NotFoundError{What: "dataset", Name: name.String(), Known: r.datasetNames()}
	}
	path := parts[2]
	o, known, err := ledger.Object(r.ledger, d.ID, path)
	if err != nil {
		return proto.Where{}, err
	}
	w := proto.Where{Object: object, Holders: []proto.WhereHolder{}, Links: []proto.WhereLink{}}
	r.tableMu.Lock()
	lease := r.table.At(d.ID, path)
	if lease != nil {
		copied := *lease
		lease = &copied
	}
	r.tableMu.Unlock()
	if !known && lease == nil {
		return w, &NotFoundError{What: "object", Name: object, Hint: r.whyUnknown(d.ID, path)}
	}
	if err := r.whereUpload(&w, d.ID, o, lease); err != nil {
		return w, err
	}
	if o.Current.Version != 0 {
		if err := r.whereVersion(&w, d.ID, o); err != nil {
			return w, err
		}
	}
	return w, r.whereHolders(&w, d.ID, o)
}

// whyUnknown says what is known of a path that the relay has never had.
func (r *Relay) whyUnknown(ds proto.DatasetID, path string) string {
	for _, f := range r.datasetFailures(ds) {
		if f.Path == path {
			return fmt.Sprintf("it is %s on %s (%s), and was never backed up", f.Kind, f.Node, f.Reason)
		}
	}
	return "no agent has told of it; forebay wait has them look, and lists what they cannot read"
}

func (r *Relay) datasetNames() (out []string) {
	ds, err := ledger.Datasets(r.ledger)
	if err != nil {
		return nil
	}
	for _, d := range ds {
		out = append(out, d.Name.String())
	}
	return out
}

func (r *Relay) whereUpload(w *proto.Where, ds proto.DatasetID, o ledger.ObjectRow, lease *arbiter.Lease) error {
	if o.Upload != 0 {
		u, ok, err := ledger.Upload(r.ledger, o.Upload)
		if err != nil {
			return err
		}
		if ok {
			w.Uploading = &proto.WhereUpload{Upload: o.Upload, Epoch: u.Epoch.String(), Acked: u.Acked, Size: u.Size, Streaming: u.Stream, Released: u.Gone}
		}
	}
	if lease == nil {
		if w.Uploading == nil {
			return nil
		}
		var err error
		w.Uploading.Why, err = r.whyWaiting(ds, o.Upload)
		return err
	}
	if w.Uploading == nil {
		w.Uploading = &proto.WhereUpload{Size: lease.Size}
	}
	w.Uploading.Upload, w.Uploading.Epoch = lease.Upload, lease.Epoch.String()
	h, err := r.roster.holder(r.ledger, lease.Holder)
	w.Uploading.Node, w.Uploading.Root = h.Node, h.Root
	return err
}

func (r *Relay) whereVersion(w *proto.Where, ds proto.DatasetID, o ledger.ObjectRow) error {
	v, ok, err := ledger.Version(r.ledger, ds, o.Current.Version)
	if err != nil || !ok {
		return err
	}
	w.Current = &proto.WhereVersion{Version: o.Current.Version, Kind: v.Desc.Kind.String(), Size: v.Desc.Size, Digest: v.Desc.Digest.String(),
		Mtime: stampNs(v.Desc.Meta.MtimeNs), AckedAt: stampNs(v.SealedNs), Cached: v.Cached && v.Need > 0}
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return err
	}
	for _, l := range rows {
		if l.Dataset != ds {
			continue
		}
		wl, err := r.whereLink(l, o)
		if err != nil {
			return err
		}
		w.Links = append(w.Links, wl)
	}
	return nil
}

func (r *Relay) whereLink(l ledger.LinkRow, o ledger.ObjectRow) (proto.WhereLink, error) {
	wl := proto.WhereLink{Link: l.Name, State: "confirmed", Version: o.Current.Version}
	if o.Current.Version > l.SeedCursor && o.Current.Version <= l.SeedHead {
		wl.State, wl.Version, wl.Why = "owed", 0, "the link is being seeded and has not come to it yet"
		return wl, nil
	}
	q, ok, err := ledger.OwedAt(r.ledger, l.ID, o.Current.Version)
	if err != nil || !ok {
		return wl, err
	}
	wl.Version = 0
	switch {
	case q.Parked:
		wl.State, wl.Why = "parked", q.Reason
	case q.State == ledger.OwedReleased:
		wl.State, wl.Why = "released", "the cache no longer has it: it is asked for again from a holder"
	default:
		wl.State = "owed"
	}
	if wl.Why == "" && r.flush != nil {
		var s proto.LinkStatus
		r.flush.Status(l.Name, &s)
		wl.Why, wl.NextTry = s.State+": "+s.Reason, s.NextTry
	}
	return wl, nil
}

var holdingNames = map[ledger.HoldingState]string{
	ledger.HoldingHas: "has", ledger.HoldingGone: "gone", ledger.HoldingLags: "lags", ledger.HoldingDivergent: "divergent",
}

func (r *Relay) whereHolders(w *proto.Where, ds proto.DatasetID, o ledger.ObjectRow) error {
	hs, err := ledger.Holders(r.ledger)
	if err != nil {
		return err
	}
	alive := r.alive(ds)
	for _, h := range hs {
		had := o.Holding(h.ID)
		if h.Dataset != ds || had == nil {
			continue
		}
		st := holdingNames[had.State]
		if had.State == ledger.HoldingHas && had.Version != o.Current.Version {
			st = "lags"
		}
		w.Holders = append(w.Holders, proto.WhereHolder{Node: h.Node, Root: h.Root, State: st, Version: had.Version, Alive: slices.Contains(alive, h.ID)})
	}
	return nil
}
