package relay

import (
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// awaited is what was found, at the last look, to be asked for again from holders of which none is there, by dataset.
type awaited struct {
	mu  sync.Mutex
	all []nowhere
}

// nowhere is that of one dataset.
type nowhere struct {
	dataset proto.Dataset
	objects int64
	more    bool // there were too many to look at all
	path    string
	since   time.Time
}

const (
	// awaitedShown is after how long that is a problem: nodes restart. After awaitedRed it is one that an operator must know of: what
	// was acknowledged is nowhere within reach.
	awaitedShown = time.Minute
	awaitedRed   = 15 * time.Minute
	// awaitedPages bounds a look, of a thousand objects each.
	awaitedPages = 20
)

// lookAwaited looks which of the content that is asked for again no node that is there has, by what they told.
func (r *Relay) lookAwaited() error {
	datasets, err := ledger.Datasets(r.ledger)
	if err != nil {
		return err
	}
	var all []nowhere
	for _, d := range datasets {
		if d.Asked == 0 {
			continue
		}
		n, err := r.nowhere(d.ID)
		if err != nil {
			return err
		}
		if n.dataset, n.since = d.Name, r.now(); n.objects > 0 {
			all = append(all, n)
		}
	}
	w := &r.awaited
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, n := range all {
		for _, was := range w.all {
			if was.dataset == n.dataset && was.path == n.path {
				all[i].since = was.since
			}
		}
	}
	w.all = all
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
	w := &r.awaited
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.all {
		health, lasts := proto.Yellow, r.now().Sub(n.since)
		switch {
		case lasts < awaitedShown:
			continue
		case lasts >= awaitedRed:
			health = proto.Red
		}
		least := ""
		if n.more {
			least = "at least "
		}
		f.add("content-awaited", health, "bring back a node that has it; forebay where "+n.dataset.String()+"/"+n.path+" names them",
			"dataset %s: %s%d objects are owed whose content is not in the cache any more, and no node that is there has it, as %q", n.dataset, least, n.objects, n.path)
	}
}
