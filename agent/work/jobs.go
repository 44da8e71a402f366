package work

import (
	"context"
	"time"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/agent/upload"
	"forebay/internal/faultpoint"
	"forebay/proto"
)

// uploader opens the root and returns an uploader for these jobs. ok is false when the root cannot be used, or its disk hangs and another holder
// goes on with the first of the jobs; they are then put back, and the scan finds out what is wrong.
func (w *Worker) uploader(ctx context.Context, jobs []upload.Job) (u *upload.Uploader, done func(), ok bool) {
	var tree upload.Tree
	var closeTree func() // not done: what is left behind must not write to what is returned
	give := func(waited time.Duration) bool { return w.slow(ctx, jobs[0], waited) }
	over, err := w.Reads.Open(ctx, w.patience(), give, func() (err error) {
		tree, closeTree, err = w.Root.Open()
		return err
	}, func() {
		if closeTree != nil {
			closeTree()
		}
	})
	if err != nil {
		if ctx.Err() == nil {
			w.Log.Warn().Err(err).Str("dataset", w.Dataset.Name).Msg("cannot read the root")
		}
		return nil, nil, false
	}
	if !over {
		return nil, nil, false
	}
	return upload.New(upload.Deps{
		Relay: w.Relay, Session: w.SessionID, Dataset: w.Dataset, Tree: tree, Window: w.Window, Read: w.Read, Events: (*events)(w),
		Reads: w.Reads, Patience: w.patience(), Slow: w.slow,
	}), closeTree, true
}

// slowTurns is after how many suspicion times a disk that has given nothing of a content is slow, and slowLeast after how long at least.
const (
	slowTurns = 4
	slowLeast = 5 * time.Second
)

func (w *Worker) patience() time.Duration { return max(slowTurns*w.Session.Suspicion(), slowLeast) }

// slow asks the relay whether another holder goes on with an object whose read hangs here. Without an answer the read is waited for, and it is
// asked again.
func (w *Worker) slow(ctx context.Context, j upload.Job, waited time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, giveBackTimeout)
	defer cancel()
	reply, err := w.Relay.Slow(ctx, proto.Slow{Session: w.SessionID, Holder: w.Holder, Upload: j.Upload, Epoch: j.Epoch, Waited: waited})
	if err != nil {
		w.Log.Warn().Err(err).Str("dataset", w.Dataset.Name).Msg("the relay was not told that a read hangs")
		return false
	}
	return reply.Ended
}

// startPack sends small objects in the background; it gives the pack's slot back.
func (w *Worker) startPack(ctx context.Context, jobs []upload.Job) {
	w.tellStart(jobs)
	w.jobs.Add(1)
	go func() { // ends when every object has ended, which ctx brings about
		defer w.jobs.Done()
		defer w.packs.Release(1)
		defer w.Wake()
		u, done, ok := w.uploader(ctx, jobs)
		if !ok {
			w.unsent(ctx, jobs)
			return
		}
		defer done()
		u.Pack(ctx, jobs)
	}()
}

// startLarge sends large objects in the background, each in a slot that it gives back.
func (w *Worker) startLarge(ctx context.Context, grants []grant) {
	for _, g := range grants {
		w.tellStart([]upload.Job{g.Job})
		w.started(g.Entry.Path)
		w.jobs.Add(1)
		go func() { // ends with the upload, which ctx ends
			defer w.jobs.Done()
			defer w.stir()
			if g.slot == nil {
				if w.Large.Acquire(ctx, 1) != nil {
					w.unsent(ctx, []upload.Job{g.Job})
					return
				}
				g.slot = w.Large
			}
			defer g.slot.Release(1)
			u, done, ok := w.uploader(ctx, []upload.Job{g.Job})
			if !ok {
				w.unsent(ctx, []upload.Job{g.Job})
				return
			}
			defer done()
			u.Large(ctx, g.Job)
		}()
	}
}

// tellStart lets the other holders know what is on its way, so that they do not ask for it.
func (w *Worker) tellStart(jobs []upload.Job) {
	for _, j := range jobs {
		w.Tell(proto.ProgressItem{Path: j.Entry.Path, Upload: j.Upload, Epoch: j.Epoch, Size: j.Entry.Stat.Size})
	}
}

// unsent puts jobs back that could not be started, and their leases too.
func (w *Worker) unsent(ctx context.Context, jobs []upload.Job) {
	back := proto.Abandon{}
	for _, j := range jobs {
		back.Uploads = append(back.Uploads, j.Upload)
		w.busy.done(j.Entry.Path)
	}
	w.giveBack(ctx, back)
}

// events carries what happens to uploads into the index.
type events Worker

func (e *events) worker() *Worker { return (*Worker)(e) }

// Acked counts acknowledged bytes.
func (e *events) Acked(payload int64) {
	e.Fault.At(faultpoint.AgentAcked)
	if err := e.Index.AddUploaded(payload); err != nil {
		e.Log.Error().Err(err).Msg("cannot count uploaded bytes")
	}
}

// Progress passes gossip on.
func (e *events) Progress(item proto.ProgressItem) { e.Tell(item) }

// Paused stops claims for a while.
func (e *events) Paused(d time.Duration) { e.worker().Paused(d) }

// Broken ends the session.
func (e *events) Broken(err error) { e.Session.Broken(err) }

// Done writes the ends of jobs into the index, gives leases back where the jobs failed, and frees their paths.
func (e *events) Done(results []upload.Result) {
	w := e.worker()
	defer w.stir()
	names := make([]string, len(results))
	for i, r := range results {
		names[i] = r.Job.Entry.Path
		defer w.busy.done(names[i])
	}
	now := w.Now()
	w.Fault.At(faultpoint.AgentUploadEnded)
	err := w.edit(names, func(i int, cur index.Entry) (index.Entry, bool) {
		next := w.ended(cur, results[i], now)
		return next, next != cur
	})
	if err != nil {
		// The index fails for good with its disk; the agent ends for that. What the relay has, it has.
		w.Log.Error().Err(err).Msg("cannot note the end of uploads in the index")
	}
	w.Fault.At(faultpoint.AgentUploadNoted)
	w.returnFailed(results)
}

// ended returns the entry after its job ended.
func (w *Worker) ended(cur index.Entry, r upload.Result, now time.Time) index.Entry {
	switch r.Outcome {
	case upload.Sealed:
		if r.Known {
			return settle.Brought(cur, r.Sent, r.Version, now)
		}
		return settle.Agree(cur, r.Sent, r.Version, r.Sums, now)
	case upload.Lags:
		return settle.Lagged(cur, r.Sent)
	case upload.Again:
		return settle.Requeue(cur, now.Add(w.Session.Suspicion()/10))
	case upload.Failed:
		if r.Bad.Gone {
			return settle.Vanished(cur, now)
		}
		return settle.Failed(cur, r.Job.Entry, r.Bad.Fault, r.Bad.Reason, r.Bad.Fresh, now)
	}
	return cur // lost: the queue offers it again
}

// returnFailed gives the leases of failed jobs back, so that other holders need not wait for the session's end.
func (w *Worker) returnFailed(results []upload.Result) {
	changed := proto.Abandon{Changed: true}
	unread := proto.Abandon{}
	var refused proto.Abandon
	for _, r := range results {
		if r.Outcome != upload.Failed {
			continue
		}
		if r.Bad.Gone {
			w.Root.Rescan(r.Job.Entry.Path)
		}
		switch r.Bad.Fault {
		case settle.FaultChanged:
			changed.Uploads = append(changed.Uploads, r.Job.Upload)
		case settle.FaultRead:
			unread.Uploads, unread.ReadError = append(unread.Uploads, r.Job.Upload), r.Bad.Reason
		default:
			refused.Uploads = append(refused.Uploads, r.Job.Upload)
		}
	}
	// The answer to a job may come while the session ends, so there is no context to take this from; the calls are bounded.
	ctx, cancel := context.WithTimeout(context.Background(), giveBackTimeout)
	defer cancel()
	for _, a := range []proto.Abandon{changed, unread, refused} {
		w.giveBack(ctx, a)
	}
}

const giveBackTimeout = 5 * time.Second
