package relay

import (
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// awaited is what was found, at the last look, to be asked for again from holders of which none is there.
type awaited struct {
	mu sync.Mutex
	by map[proto.DatasetID]nowhere
}

// nowhere is that of one dataset.
type nowhere struct {
	objects int64
	more    bool // there were too many to look at all
	path    string
	since   time.Time
}

const (
	// awaitedShown is after how long that is a problem: nodes restart.
	awaitedShown = time.Minute
	// awaitedPages bounds a look, of a thousand objects each.
	awaitedPages = 20
)

// lookAwaited looks which of the content that is asked for again no node that is there has, by what they told.
func (r *Relay) lookAwaited() error {
	datasets, err := ledger.Datasets(r.ledger)
	if err != nil {
		return err
	}
	now := map[proto.DatasetID]nowhere{}
	for _, d := range datasets {
		if d.Asked == 0 {
			continue
		}
		n, err := r.nowhere(d.ID)
		if err != nil {
			return err
		}
		if n.objects > 0 {
			now[d.ID] = n
		}
	}
	w := &r.awaited
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, n := range now {
		if n.since = r.now(); w.by[id].path == n.path {
			n.since = w.by[id].since
		}
		now[id] = n
	}
	w.by = now
	return nil
}

func (r *Relay) nowhere(ds proto.DatasetID) (n nowhere, err error) {
	keepers, err := r.keepers(ds)
	if err != nil {
		return n, err
	}
	above := proto.VersionID(0)
	for range awaitedPages {
		rep, err := r.asked(ds, above, proto.MaxClaims)
		if err != nil {
			return n, err
		}
		for _, it := range rep.Items {
			o, _, err := ledger.Object(r.ledger, ds, it.Path)
			if err != nil {
				return n, err
			}
			if keepers.have(&o) {
				continue
			}
			if n.objects++; n.path == "" {
				n.path = it.Path
			}
		}
		if rep.Next <= above {
			return n, nil
		}
		above = rep.Next
	}
	n.more = true
	return n, nil
}

// awaitedProblems tells of content that is owed, and neither in the cache nor with any node that is there.
func (r *Relay) awaitedProblems(f *finder) {
	datasets, err := ledger.Datasets(r.ledger)
	if err != nil {
		return // the ledger failed: Run ends with it
	}
	w := &r.awaited
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range datasets {
		n, ok := w.by[d.ID]
		if !ok || r.now().Sub(n.since) < awaitedShown {
			continue
		}
		least := ""
		if n.more {
			least = "at least "
		}
		f.add("content-awaited", proto.Yellow, "bring back a node that has it; forebay where "+d.Name.String()+"/"+n.path+" names them",
			"dataset %s: %s%d objects are owed whose content is not in the cache any more, and no node that is there has it, as %q", d.Name, least, n.objects, n.path)
	}
}
