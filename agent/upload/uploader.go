package upload

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/proto"
)

// Job is one object with the relay's grant for it.
type Job struct {
	Entry  index.Entry     // as it was claimed
	Upload proto.UploadID  // the grant
	Epoch  proto.Epoch     // its fencing number
	Parent proto.VersionID // what the claim named; for Meta the version that gets new metadata
	Have   []proto.Range   // acknowledged before, under whatever grant
	Meta   bool            // send metadata only
	Sums   bool            // the relay tells what the blocks of Parent are
	Alone  bool            // a hard link goes with its content, as a file of its own
}

// kind is what the object is sent as.
func (j Job) kind() proto.Kind {
	kind, _ := settle.SentAs(j.Entry, j.Alone)
	return kind
}

// Large reports whether the object goes in ranges.
func (j Job) Large() bool {
	return !j.Meta && j.kind() == proto.KindFile && j.Entry.Stat.Size > proto.MaxPayload
}

// Outcome is what became of a job.
type Outcome uint8

// The outcomes.
const (
	Sealed Outcome = iota + 1 // it is Result.Version
	Lags                      // the relay knows its content as an older version
	Again                     // the grant is no longer in force, or the relay has other bytes: claim again
	Failed                    // Result.Bad says why; the grant is to be given back
	Lost                      // the session ended, or the agent stops: nothing is known, claim again in the next session
)

// Result is the end of a job.
type Result struct {
	Job     Job
	Outcome Outcome
	Version proto.VersionID // for Sealed
	// Known is set when the relay had the content as Version before: the metadata that was sent is not taken with it.
	Known bool
	Sent  index.Entry // Job.Entry with the digest that was read
	Sums  [4]uint64   // of the metadata that was sent, see proto.Meta.Sums
	Bad   *Spoiled    // for Failed
}

// Relay are the calls that an uploader makes.
type Relay interface {
	// Sums asks what the blocks of a path's current version are.
	Sums(ctx context.Context, q proto.SumsRequest) (proto.SumsReply, error)
	// Segment sends an encoded segment; see client.Client for its errors.
	Segment(ctx context.Context, session proto.SessionID, raw []byte) (proto.SegmentReply, error)
}

// Events is told what happens. Its methods are called from several goroutines and should not block for long.
type Events interface {
	// Done ends jobs. Each job is ended once, in whatever order.
	Done(results []Result)
	// Acked counts payload bytes that the relay acknowledged for the first time.
	Acked(payload int64)
	// Progress tells how far an object is.
	Progress(item proto.ProgressItem)
	// Paused says that the relay asked to be left alone for a while.
	Paused(d time.Duration)
	// Broken says that the relay no longer knows the session.
	Broken(err error)
}

// Deps is what an Uploader works with.
type Deps struct {
	Relay   Relay
	Session proto.SessionID
	Dataset proto.Dataset
	Tree    Tree
	Window  *Window
	Read    *rate.Limiter // bytes read from disk; nil = no limit
	// Reads are the root's. Patience is how long its disk may take to give anything of a content, 0: for ever; and Slow is asked then, and
	// again each Patience, whether another holder goes on: the lease is ended if so.
	Reads    *Reads
	Patience time.Duration
	Slow     func(ctx context.Context, j Job, waited time.Duration) bool
	Events   Events
}

// Uploader sends objects of one root within one session. It is safe for concurrent use.
type Uploader struct{ Deps }

// New returns an uploader.
func New(d Deps) *Uploader { return &Uploader{Deps: d} }

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
