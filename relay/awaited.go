package relay

import (
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// awaited follows, for each dataset, the first version that is asked for again: when nothing of it comes for long, nobody there has it.
type awaited struct {
	mu sync.Mutex
	by map[proto.DatasetID]asking
}

// asking is the first of a dataset's versions that are asked for again.
type asking struct {
	version proto.VersionID
	path    string
	upload  proto.UploadID // what is being received of its path
	acked   int64          // of that, bytes
	objects int64          // all that the dataset's links ask for
	since   time.Time      // nothing of it has come since
}

// awaitedShown is after how long without a byte content that is asked for again is a problem.
const awaitedShown = 10 * time.Minute

// lookAwaited looks what is asked for again.
func (r *Relay) lookAwaited() error {
	datasets, err := ledger.Datasets(r.ledger)
	if err != nil {
		return err
	}
	now := map[proto.DatasetID]asking{}
	for _, d := range datasets {
		rep, err := r.asked(d.ID, 0, 1000)
		if err != nil {
			return err
		}
		if len(rep.Items) == 0 {
			continue
		}
		it := rep.Items[0]
		a := asking{version: it.Version, path: it.Path, objects: d.Asked, since: r.now()}
		o, _, err := ledger.Object(r.ledger, d.ID, it.Path)
		if err != nil {
			return err
		}
		if a.upload = o.Upload; a.upload != 0 {
			u, _, err := ledger.Upload(r.ledger, a.upload)
			if err != nil {
				return err
			}
			a.acked = u.Acked
		}
		now[d.ID] = a
	}
	w := &r.awaited
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, a := range now {
		if was, ok := w.by[id]; ok && was.version == a.version && was.upload == a.upload && was.acked == a.acked && was.since.Before(a.since) {
			a.since = was.since
			now[id] = a
		}
	}
	w.by = now
	return nil
}

// awaitedProblems tells of content that is asked for again and does not come.
func (r *Relay) awaitedProblems(f *finder) {
	datasets, err := ledger.Datasets(r.ledger)
	if err != nil {
		return // the ledger failed: Run ends with it
	}
	w := &r.awaited
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range datasets {
		if a, ok := w.by[d.ID]; ok && r.now().Sub(a.since) > awaitedShown {
			f.add("content-awaited", proto.Yellow, "bring back a node that has it, see forebay where "+d.Name.String()+"/"+a.path,
				"dataset %s: %d objects are owed whose content the cache let go of, and no node sends them: nothing of %q has come since %s", d.Name, a.objects, a.path, stamp(a.since))
		}
	}
}
