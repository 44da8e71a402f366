package relay

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// waiting remembers uploads that lost their sender, until another holder carries them on: why, for the takeover's event, and
// since when, for who looks. Bounded: the oldest are forgotten, which costs a word of explanation.
type waiting struct {
	mu      sync.Mutex
	by      map[proto.UploadID]orphan
	order   []proto.UploadID
	all     int64 // the running time of the last look at all uploads
	pressed int64 // and of when one was last dropped for its room; 0: never
}

// orphan is an upload that lost its sender.
type orphan struct {
	dataset proto.DatasetID
	cause   string
	since   time.Time
	up      int64 // the running time then
	// claims are what holders have claimed for the path since, without finding room for it: what each did last.
	claims map[proto.HolderID]pathClaim
}

// pathClaim is a claim for the path of an upload without a sender.
type pathClaim struct {
	this bool  // of what may be its content
	up   int64 // the running time then
}

// leaseLost is the cause of what is not remembered.
const leaseLost = "its lease was lost"

// maxWaiting is how many are remembered.
const maxWaiting = 4096

func (w *waiting) note(id proto.UploadID, o orphan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[proto.UploadID]orphan{}
	}
	if _, ok := w.by[id]; !ok {
		w.order = append(w.order, id)
	}
	w.by[id] = o
	if len(w.order) > maxWaiting {
		delete(w.by, w.order[0])
		w.order = w.order[1:]
	}
}

// claimed is told that a holder had no room for what it claimed for the path of an upload.
func (w *waiting) claimed(id proto.UploadID, h proto.HolderID, c pathClaim) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.by[id]
	if !ok {
		return
	}
	claims := map[proto.HolderID]pathClaim{h: c}
	for other, c := range o.claims { // a new map: get has handed out the old one
		if other != h {
			claims[other] = c
		}
	}
	o.claims = claims
	w.by[id] = o
}

// forget is told that an upload has a sender again, or is no more.
func (w *waiting) forget(id proto.UploadID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.by[id]; ok {
		delete(w.by, id)
		w.order = slices.DeleteFunc(w.order, func(x proto.UploadID) bool { return x == id })
	}
}

func (w *waiting) cause(id proto.UploadID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o, ok := w.by[id]; ok {
		return o.cause
	}
	return leaseLost
}

// recallEvery is how often all uploads are looked at, of which one at least is remembered else.
const recallEvery = 10 * time.Minute

// lookAll reports whether it is time to look at all uploads: there is room to remember more.
func (w *waiting) lookAll(up int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if up-w.all < int64(recallEvery) || len(w.order) > maxWaiting/2 {
		return false
	}
	w.all = up
	return true
}

// mayPress reports whether the room of what was dropped for that is free by now.
func (w *waiting) mayPress(up int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pressed == 0 || up-w.pressed >= int64(roomLife)
}

// press notes that one is dropped for its room.
func (w *waiting) press(up int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pressed = up
}

// ids returns the remembered uploads, those that wait longest first.
func (w *waiting) ids() []proto.UploadID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.order)
}

func (w *waiting) get(id proto.UploadID) (orphan, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.by[id]
	return o, ok
}

// rememberUploads notes what is being received, has no sender and is not remembered: all of it when the relay starts.
func (r *Relay) rememberUploads(cause string) error {
	return ledger.EachUpload(r.ledger, func(id proto.UploadID, u ledger.UploadRow) (bool, error) {
		if _, known := r.waits.get(id); !known && !r.leased(id) {
			r.waits.note(id, orphan{dataset: u.Dataset, cause: cause, since: r.now(), up: r.up()})
		}
		return true, nil
	})
}

// waitsShown is after how many suspicion times an upload that nobody carries on is a problem although holders are there. Where
// none is, it is one at once.
const waitsShown = 10

// waitingProblems tells of uploads that no holder carries on, one problem a dataset.
func (r *Relay) waitingProblems(f *finder) {
	type found struct {
		n     int
		first string
	}
	by := map[proto.DatasetID]*found{}
	var order []proto.DatasetID
	for _, id := range r.waits.ids() {
		o, ok := r.waits.get(id)
		if !ok {
			continue
		}
		u, known, err := ledger.Upload(r.ledger, id)
		if err == nil && (!known || u.Sealed) {
			r.waits.forget(id)
			continue
		}
		if err != nil || r.leased(id) || len(r.alive(o.dataset)) > 0 && r.now().Sub(o.since) < waitsShown*r.book.Suspicion() {
			continue
		}
		if by[o.dataset] == nil {
			by[o.dataset] = &found{first: fmt.Sprintf("%q has %d of %d bytes since %s (%s)", u.Path, u.Acked, u.Size, stamp(o.since), o.cause)}
			order = append(order, o.dataset)
		}
		by[o.dataset].n++
	}
	for _, ds := range order {
		d, err := ledger.Dataset(r.ledger, ds)
		if err != nil || d.ID == 0 {
			continue
		}
		why, err := r.nobodyCarriesOn(ds)
		if err != nil {
			continue
		}
		f.add("upload-waiting", proto.Yellow, "bring a node back that has it; it goes on by itself from where it was", "dataset %s: %d uploads wait for a holder to carry them on, %s: %s", d.Name, by[ds].n, why, by[ds].first)
	}
}

func (r *Relay) leased(id proto.UploadID) bool {
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	return r.table.Get(id) != nil
}

// whyWaiting says why nobody sends an upload.
func (r *Relay) whyWaiting(ds proto.DatasetID, id proto.UploadID) (string, error) {
	why, err := r.nobodyCarriesOn(ds)
	if o, ok := r.waits.get(id); ok {
		why += fmt.Sprintf("; its sender was lost at %s: %s", stamp(o.since), o.cause)
	}
	return why, err
}

// nobodyCarriesOn says who is not there that could carry an upload of a dataset on.
func (r *Relay) nobodyCarriesOn(ds proto.DatasetID) (string, error) {
	hs, err := ledger.Holders(r.ledger)
	if err != nil {
		return "", err
	}
	alive, away := r.alive(ds), []string{}
	for _, h := range hs {
		if h.Dataset == ds && !slices.Contains(alive, h.ID) && !slices.Contains(away, h.Node) {
			away = append(away, h.Node)
		}
	}
	slices.Sort(away)
	switch {
	case len(alive) == 0:
		return "none of its holders is there (" + strings.Join(away, ", ") + ")", nil
	case len(away) > 0:
		return "no holder that is there has claimed it (away: " + strings.Join(away, ", ") + ")", nil
	}
	return "no holder has claimed it yet", nil
}
