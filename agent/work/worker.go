// Package work settles one root with the relay within one session: it follows the feed, proves what is equal by reading
// it, claims what is not when its turn comes, uploads, and reports what is gone or cannot be read. All it knows of objects
// lies in the index; what it decides is in package settle. It imports proto and the other packages of agent.
//
// A Worker runs a fixed number of goroutines (the queue, the carrier, the feed, the hasher, what is asked for, the reports, two packs
// and the large objects under way), whatever the number of objects.
package work

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"forebay/agent/heard"
	"forebay/agent/index"
	"forebay/agent/upload"
	"forebay/internal/faultpoint"
	"forebay/proto"
)

// Relay is the part of the agent API that a worker uses; see client.Client.
type Relay interface {
	upload.Relay
	Claim(ctx context.Context, b proto.ClaimBatch) (proto.ClaimReply, error)
	Feed(ctx context.Context, q proto.FeedRequest) (proto.FeedReply, error)
	Asked(ctx context.Context, q proto.FeedRequest) (proto.FeedReply, error)
	Report(ctx context.Context, r proto.Report) (proto.ReportReply, error)
	Abandon(ctx context.Context, a proto.Abandon) error
	Slow(ctx context.Context, s proto.Slow) (proto.SlowReply, error)
}

// Session is what a worker asks of the session that it runs in.
type Session interface {
	Members(dataset string) []proto.HolderID
	Dataset(name string) (proto.DatasetStatus, bool)
	Suspicion() time.Duration
	Broken(err error)
}

// Root is what a worker asks of its root beyond the index. Its methods may be called concurrently.
type Root interface {
	// Open opens the root for reading, after proving that it is the one the index belongs to. The tree is closed with the
	// returned function, soon: an open root cannot be unmounted.
	Open() (tree upload.Tree, done func(), err error)
	// Problem says why the root is left alone, "" when it is not.
	Problem() string
	// Rescan asks for a look at path and its folder soon.
	Rescan(path string)
	// Scans returns how many scans have been completed since the agent started, and the scan token that the last answers.
	Scans() (n int, token uint64, running bool)
	// ScanUp returns proto.Report.ScanUp and Bare of the last of them.
	ScanUp() (up int64, bare bool)
	// Reported says that the relay knows all that the scan with this token found.
	Reported(token uint64) error
}

// Shared is what all workers of an agent have in common.
type Shared struct {
	Now    func() time.Time
	Window *upload.Window
	Large  *semaphore.Weighted // how many large objects are under way at once
	// Carried is how many more may be when they are carried on for senders that were lost: those that are under way may take
	// hours, and what another holder had begun is not to wait for them.
	Carried *semaphore.Weighted
	Read    *rate.Limiter   // bytes read from disk; nil = no limit
	Fault   faultpoint.Hook // told of the boundaries between durable steps; nil in the program that ships
}

// Deps is what a Worker works with.
type Deps struct {
	Shared
	Log       zerolog.Logger
	Relay     Relay
	Session   Session
	SessionID proto.SessionID
	Dataset   proto.Dataset
	Holder    proto.HolderID
	Index     *index.Root
	Root      Root
	Heard     *heard.Log
	Reads     *upload.Reads            // the root's, over all sessions
	Tell      func(proto.ProgressItem) // gossip
}

// Worker settles one root. Its exported methods are safe for concurrent use.
type Worker struct {
	Deps
	busy   *busy
	packs  *semaphore.Weighted
	lot    chan index.Entry // entries to be hashed at the queue's word
	wake   chan struct{}    // the queue
	lost   chan struct{}    // the carrier
	news   chan struct{}    // the feed
	toHash chan struct{}    // the hasher
	haves  chan []claim     // what was proved, to be reported; busy

	passed  time.Time     // when the queue's last pass took all that was due, zero when it did not; the queue's own
	goneSeq uint64        // the last proto.Report.Seq; the reporting loop's own
	givenUp atomic.Uint64 // proto.Report.GivenUp
	haveSeq turns         // proto.Report.HaveSeq

	jobs    sync.WaitGroup // packs and large objects under way
	mu      sync.Mutex
	told    proto.VersionID // highest head that was told of
	until   time.Time       // no claims before: the relay asked for a pause
	waiting []index.Entry   // large objects whose turn has come but for a slot; busy
	carry   map[string]bool // large objects whose senders were lost, until they are under way
	looks   []proto.Look    // what the relay asks this root to look for
	looksUp int64           // and when, in its running time
	noted   uint64          // index.Counts.Told as this session made it durable last; 0: not yet
	notedAt time.Time
}

// The bounds of what one worker has in memory.
const (
	maxPacks   = 2    // claim answers being packed or sent
	maxWaiting = 64   // large objects waiting for a slot, besides those that are carried on
	maxCarry   = 1024 // objects remembered as carried on
	maxLot     = 64   // objects waiting to be hashed at the queue's word
	feedPage   = 1000
)

// New returns a worker; Run starts it.
func New(d Deps) *Worker {
	return &Worker{
		Deps: d, busy: newBusy(), packs: semaphore.NewWeighted(maxPacks), lot: make(chan index.Entry, maxLot),
		wake: make(chan struct{}, 1), lost: make(chan struct{}, 1), news: make(chan struct{}, 1), toHash: make(chan struct{}, 1), haves: make(chan []claim, 1),
	}
}

// Run works until ctx ends or the index fails, which is its error. Everything it started has ended when it returns.
func (w *Worker) Run(ctx context.Context) error {
	group, run := errgroup.WithContext(ctx)
	group.Go(func() error { return rounds(run, w.wake, w.pass) })    // each ends with run
	group.Go(func() error { return rounds(run, w.lost, w.carryOn) }) //
	group.Go(func() error { return w.follow(run) })                  //
	group.Go(func() error { return w.hasher(run) })                  //
	group.Go(func() error { return w.reports(run) })                 //
	group.Go(func() error { return w.proved(run) })                  //
	group.Go(func() error { return w.asked(run) })                   //
	err := group.Wait()
	w.jobs.Wait()
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// Wake makes the worker look at the queue: the scan found something, or time has come.
func (w *Worker) Wake() { poke(w.wake) }

// stir is Wake for all that claims: a slot is free, or a path is.
func (w *Worker) stir() {
	poke(w.wake)
	poke(w.lost)
}

// News makes the worker ask the feed, if the last poll showed a higher head.
func (w *Worker) News() { poke(w.news) }

// Heads makes the worker ask the feed up to a head that somebody told of before a poll did.
func (w *Worker) Heads(head proto.VersionID) {
	w.mu.Lock()
	w.told = max(w.told, head)
	w.mu.Unlock()
	w.News()
}

// poke sends a signal that is remembered once.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// rounds does rounds until ctx ends or one of them fails, with as long a sleep after each as it says, or until there is a signal.
func rounds(ctx context.Context, signal <-chan struct{}, round func(context.Context) (time.Duration, error)) error {
	for {
		wait, err := round(ctx)
		if err != nil {
			return err
		}
		if !sleep(ctx, signal, wait) {
			return ctx.Err()
		}
	}
}

// sleep waits for a signal, at most d; it reports false when ctx has ended.
func sleep(ctx context.Context, c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// idle is how long a part sleeps when nothing wakes it.
const idle = time.Second

// failed handles the error of a call: it ends the session where the relay no longer knows it, honours a wish for a pause,
// and otherwise waits a moment. What was to be done is done again later, from the index.
func (w *Worker) failed(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	switch proto.ClassOf(err) {
	case proto.ClassConflict:
		w.Session.Broken(err)
	case proto.ClassOverload:
		w.Paused(retryAfter(err))
		return
	default:
		w.Log.Warn().Err(err).Str("dataset", w.Dataset.Name).Msg(what + " failed, will be tried again")
	}
	sleep(ctx, nil, idle)
}

func retryAfter(err error) time.Duration {
	var e *proto.Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		return e.RetryAfter
	}
	return idle
}

// edit changes the entries of paths, as they are now. fn returns the entry to write; false leaves it.
func (w *Worker) edit(paths []string, fn func(i int, cur index.Entry) (index.Entry, bool)) error {
	if len(paths) == 0 {
		return nil
	}
	return w.Index.Edit(func(tx *index.Tx) error { return editEach(tx, paths, fn) })
}

// editEach changes those of paths that have an entry, where fn says so.
func editEach(tx *index.Tx, paths []string, fn func(i int, cur index.Entry) (index.Entry, bool)) error {
	for i, p := range paths {
		cur, ok, err := tx.Get(p)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		next, write := fn(i, cur)
		if !write {
			continue
		}
		if err := tx.Put(next); err != nil {
			return err
		}
	}
	return nil
}

// paths returns the paths of entries.
func paths(list []index.Entry) []string {
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = e.Path
	}
	return out
}
