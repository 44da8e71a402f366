package work

import (
	"context"
	"time"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/internal/faultpoint"
	"forebay/proto"
)

// reportPage is how many gone objects one message names at most.
const reportPage = 1000

// failuresEvery is how often a changed list of failures is sent between two scans.
const failuresEvery = 5 * time.Second

// reported is what the relay was told of this root in this session.
type reported struct {
	scans    int       // completed scans
	untold   bool      // of what the last of them found gone, some was not reported then
	failures [5]int64  // counts of what the list named
	at       time.Time // when the list was sent
}

// reports tells the relay of what is gone, of failures, and of completed scans.
func (w *Worker) reports(ctx context.Context) error {
	var last reported
	for {
		if err := w.report(ctx, &last); err != nil {
			return err
		}
		if err := w.revive(ctx); err != nil {
			return err
		}
		if err := w.lookFor(ctx); err != nil {
			return err
		}
		if !sleep(ctx, nil, idle/2) {
			return ctx.Err()
		}
	}
}

func (w *Worker) report(ctx context.Context, last *reported) error {
	if w.Root.Problem() != "" {
		return nil // what is true of an unmounted root is no news of the objects
	}
	scans, token, running := w.Root.Scans() // before the gone ones are read: they are all of the scans so far
	scanNs := w.Index.Counts().LastScanNs
	scanUp, bare := w.Root.ScanUp()
	done, left, err := w.reportGone(ctx)
	if err != nil || !done || scans == 0 {
		return err
	}
	counts := w.failureCounts()
	stale := counts != last.failures && !running && w.Now().Sub(last.at) >= failuresEvery
	if scans == last.scans && !stale {
		if !last.untold || left {
			return nil
		}
		last.untold = false
		return w.Root.Reported(token)
	}
	failed, err := w.failures()
	if err != nil {
		return err
	}
	r := proto.Report{Session: w.SessionID, Holder: w.Holder, Failed: failed, First: true, ScanDone: scans != last.scans, Listed: true, ScanNs: scanNs, ScanUp: scanUp, Bare: bare && scans != last.scans, Scans: uint64(scans), GivenUp: w.givenUp.Load()}
	if _, err := w.Relay.Report(ctx, r); err != nil {
		w.failed(ctx, "reporting a scan", err)
		return nil
	}
	w.Fault.At(faultpoint.AgentScanReported)
	if w.failureCounts() != counts { // they changed under the list: it is sent again
		counts = [5]int64{-1}
	}
	*last = reported{scans: scans, untold: left, failures: counts, at: w.Now()}
	if left { // whoever asked for the scan waits for what it found gone, too
		return nil
	}
	return w.Root.Reported(token)
}

// revive queues what was left alone because no link named the dataset, once one does.
func (w *Worker) revive(ctx context.Context) error {
	status, ok := w.Session.Dataset(w.Dataset.Name)
	if !ok || !status.Wanted {
		return nil
	}
	for ctx.Err() == nil && w.Index.Counts().Unwanted > 0 {
		page, err := w.Index.InState(index.StateUnwanted, "", reportPage)
		if err != nil || len(page) == 0 {
			return err
		}
		now := w.Now()
		err = w.edit(paths(page), func(_ int, cur index.Entry) (index.Entry, bool) { return settle.Wanted(cur, now) })
		if err != nil {
			return err
		}
		w.Wake()
	}
	return nil
}

// reportGone reports what completed scans did not find, and removes it from the index once the relay knows. done is false
// when the relay did not take it; left is true when others were busy with some of it.
func (w *Worker) reportGone(ctx context.Context) (done, left bool, err error) {
	for after := ""; ctx.Err() == nil && w.Index.Counts().Gone > 0; {
		page, err := w.Index.InState(index.StateGone, after, reportPage)
		if err != nil || len(page) == 0 {
			return err == nil, left, err
		}
		after = page[len(page)-1].Path
		kept, busy, err := w.takeGone(page)
		if err != nil {
			return false, left, err
		}
		left = left || busy
		if done, err := w.tellGone(ctx, kept); err != nil || !done {
			return false, left, err
		}
	}
	return ctx.Err() == nil, left, nil
}

// takeGone makes gone entries busy until the relay has answered: when one is back meanwhile, what is told of that must not reach
// the relay before the message that it is gone. Those that others are busy with, if only the queue for a moment, are left for
// the next round; until then the relay takes them for being here. What it returns is as the index has it now.
func (w *Worker) takeGone(page []index.Entry) (kept []index.Entry, left bool, err error) {
	for _, e := range page {
		if !w.unwait(e.Path) && !w.busy.take(e.Path) {
			left = true
			continue
		}
		cur, ok, err := w.Index.Get(e.Path)
		if err != nil || !ok || cur.State != index.StateGone {
			w.busy.done(e.Path)
			if err != nil {
				w.free(kept)
				return nil, left, err
			}
			continue
		}
		kept = append(kept, cur)
	}
	return kept, left, nil
}

// tellGone reports busy entries as gone, removes them from the index once the relay knows, and frees them.
func (w *Worker) tellGone(ctx context.Context, page []index.Entry) (done bool, err error) {
	defer w.free(page)
	r := proto.Report{Session: w.SessionID, Holder: w.Holder, GivenUp: w.givenUp.Load()}
	for _, e := range page {
		had := e.Version
		if had == 0 {
			had = e.Heard // it may have been sealed from here without this agent's seeing the answer
		}
		if had != 0 || e.Claimed {
			r.Gone = append(r.Gone, proto.GoneEntry{Path: e.Path, Version: had})
		}
	}
	if len(r.Gone) > 0 {
		if err := w.tell(); err != nil {
			return false, err
		}
		r.Told = w.lastNote()
		w.goneSeq++
		r.Seq, r.HavePast = w.goneSeq, w.haveSeq.past()
		_, err := w.Relay.Report(ctx, r)
		w.givenUp.Store(r.Seq) // before the entries are free: what comes after may tell that they are back
		if err != nil {
			w.failed(ctx, "reporting what is gone", err)
			return false, nil
		}
		w.Fault.At(faultpoint.AgentGoneReported)
	}
	return true, w.forget(page)
}

// failing are the states whose objects are listed, with the kind of their failure.
var failing = [5]struct {
	state index.State
	kind  proto.FailureKind
}{
	{index.StateUnreadable, proto.FailUnreadable},
	{index.StateUnsettled, proto.FailUnsettled},
	{index.StateDivergent, proto.FailDivergent},
	{index.StateLagging, proto.FailLagging},
	{index.StateSkipped, proto.FailSkipped},
}

func (w *Worker) failureCounts() [5]int64 {
	c := w.Index.Counts()
	return [5]int64{c.Unreadable, c.Unsettled, c.Divergent, c.Lagging, c.Skipped}
}

// failures lists up to proto.MaxFailures objects that are not backed up from here, in the order of failing.
func (w *Worker) failures() (list []proto.Failure, err error) {
	for _, f := range failing {
		left := proto.MaxFailures - len(list)
		if left == 0 {
			break
		}
		page, err := w.Index.InState(f.state, "", left)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			since := e.FirstSeen
			list = append(list, proto.Failure{Path: e.Path, Kind: f.kind, Reason: e.Reason, SinceNs: since})
		}
	}
	return list, nil
}
