package agent

import (
	"context"
	"time"

	"forebay/agent/watch"
)

// look is how often a watch is compared with the state of its root.
const look = time.Second

// watchRoot keeps a watch on a root while the root is what was scanned: one on an unmounted or exchanged directory sees
// nothing, and would keep what it watches from being unmounted.
func (a *Agent) watchRoot(ctx context.Context, r *root) error {
	if a.deps.OpenWatch == nil {
		return nil
	}
	for said := ""; ctx.Err() == nil; {
		if _, known := r.ix.Identity(); known && r.Problem() == "" {
			why := a.watchOnce(ctx, r)
			if why != "" && why != said {
				r.log.Warn().Str("reason", why).Msg("changes are found by scans alone")
			}
			said = why
			if err := rest(ctx, retryProblem); err != nil {
				return err
			}
		}
		if err := rest(ctx, look); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// watchOnce watches until ctx ends, the root has a problem, or no watch works here. It returns why there is no better one.
func (a *Agent) watchOnce(ctx context.Context, r *root) (why string) {
	w, err := a.deps.OpenWatch(r.path, watch.Deps{Wanted: func(dir string) bool { return r.full.Rules().Wanted(dir, true) }})
	if err != nil {
		return err.Error()
	}
	r.watched(w)
	r.lostHints() // whatever changed before the watch was there
	run, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // ends with run
		defer close(done)
		_ = w.Run(run, r.hinted) // its only error is none
	}()
	for r.Problem() == "" && w.Mode() != watch.ModeScan && rest(ctx, look) == nil {
	}
	cancel()
	<-done
	r.watched(nil)
	why = w.Reason()
	if err := w.Close(); err != nil {
		r.log.Warn().Err(err).Msg("cannot close the watch")
	}
	return why
}

// hinted follows a watch's word.
func (r *root) hinted(h watch.Hint) {
	if h.Everything {
		r.lostHints()
	}
	for _, dir := range h.Dirs {
		r.hint(dir)
	}
}

// watched notes the watch in use; nil for none.
func (r *root) watched(w *watch.Watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watch = w
}

// mode says how changes are found. The caller holds mu.
func (r *root) mode() string {
	if r.watch == nil {
		return watch.ModeScan
	}
	return r.watch.Mode()
}
