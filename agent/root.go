package agent

import (
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"forebay/agent/heard"
	"forebay/agent/index"
	"forebay/agent/scan"
	"forebay/agent/upload"
	"forebay/agent/watch"
	"forebay/agent/work"
	"forebay/fsmeta"
	"forebay/internal/faultpoint"
	"forebay/proto"
)

// maxHeard is how many paths a root remembers that other holders said to be uploading.
const maxHeard = 16384

// maxHints is how many directories wait for a look; more make a full scan of it.
const maxHints = 4096

// root is one root of one dataset: a holder. Its index and scans live as long as the agent, its worker as long as a
// session.
type root struct {
	dataset proto.Dataset
	path    string
	every   time.Duration // full scans; 0 = auto
	ix      *index.Root
	full    *scan.Scanner
	part    *scan.Scanner // of hints, also in the pauses of a full scan
	heard   *heard.Log
	reads   *upload.Reads
	log     zerolog.Logger
	fault   faultpoint.Hook
	now     func() time.Time
	wake    chan struct{} // the scan loop
	desk    chan struct{} // has one place: a worker at a time
	// tree makes of the opened root what is read from: Dir, a snapshot's, or a test's failing one.
	tree func(*fsmeta.Root) upload.Tree

	mu        sync.Mutex
	worker    *work.Worker // nil between sessions
	problem   string
	scans     int // completed since the start
	answered  uint64
	up        int64  // the relay's running time as last told in this run of it; 0: not yet
	scanUp    int64  // up as it was when the last completed scan began
	scanBare  bool   // that scan found nothing at all
	runningUp int64  // up as it was when the scan that is being made began; 0: none is, or it proves nothing
	run       int    // counts runs of relays
	wanted    uint64 // scan token that the relay waits for
	running   bool
	watch     *watch.Watch // nil: none
	hints     map[string]struct{}
	overflow  bool // hints were lost
}

var errUnscanned = errors.New("the root has not been scanned yet")

// Open opens the root for reading, if it is still the one that was scanned.
func (r *root) Open() (upload.Tree, func(), error) {
	dir, err := fsmeta.OpenRoot(r.path, fsmeta.NoXDev)
	if err != nil {
		return nil, nil, err
	}
	err = r.recognise(dir)
	if err != nil {
		_ = dir.Close()
		return nil, nil, err
	}
	return r.tree(dir), func() { _ = dir.Close() }, nil
}

// recognise proves that dir is what the index belongs to: else what was found in one file system would be looked for, and
// missed, in another.
func (r *root) recognise(dir *fsmeta.Root) error {
	if _, ok := r.ix.Identity(); !ok {
		return errUnscanned
	}
	known, err := r.full.Knows(dir)
	if err != nil {
		return err
	}
	if !known {
		r.Rescan("") // it says what is wrong, and what to do
		return proto.Errorf(proto.ClassPermanent, "root %s is not what was scanned: it was unmounted or exchanged", r.path)
	}
	return nil
}

// Problem says why the root is left alone.
func (r *root) Problem() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
}

// Scans returns how many scans were completed, the token that the last one answers, and whether one is running.
func (r *root) Scans() (n int, token uint64, running bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.scans, r.answered, r.running
}

// ScanUp returns the relay's running time that was known when the last completed scan began, 0 when none was, and whether that scan
// found nothing at all.
func (r *root) ScanUp() (up int64, bare bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.scanUp, r.scanBare
}

// heardUp takes a relay's running time as the newest known. 0 is a beginning: the relay is another than before, or another run of
// it, and its running time and that of scans until now have nothing to do with each other.
func (r *root) heardUp(up int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up = up
	if up == 0 {
		r.scanUp, r.runningUp, r.run = 0, 0, r.run+1
	}
}

// Reported notes that the relay knows all that the scan with this token found; polls then say so.
func (r *root) Reported(token uint64) error {
	if r.ix.Counts().ScanToken == token {
		return nil
	}
	return r.ix.SetAnswered(token)
}

// Rescan asks for a look at path's folder soon.
func (r *root) Rescan(path string) {
	dir := ""
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			dir = path[:i]
			break
		}
	}
	r.hint(dir)
}

// hint notes that something may have changed in a directory.
func (r *root) hint(dir string) {
	r.mu.Lock()
	if len(r.hints) >= maxHints {
		r.hints, r.overflow = map[string]struct{}{}, true
	}
	r.hints[dir] = struct{}{}
	r.mu.Unlock()
	r.poke()
}

// lostHints notes that changes went unseen: a full scan is due.
func (r *root) lostHints() {
	r.mu.Lock()
	r.overflow = true
	r.mu.Unlock()
	r.poke()
}

func (r *root) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// proveSoon has the root scanned soon, as after lost hints, if no scan was made in this run of the relay that proves anything of what
// is not there, or is being made.
func (r *root) proveSoon() {
	r.mu.Lock()
	news := r.scanUp == 0 && r.runningUp == 0 && !r.overflow
	r.overflow = r.overflow || news
	r.mu.Unlock()
	if news {
		r.poke()
	}
}

// takeHints returns the directories to look at, and forgets them.
func (r *root) takeHints() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	dirs := make([]string, 0, len(r.hints))
	for d := range r.hints {
		dirs = append(dirs, d)
	}
	clear(r.hints)
	return dirs
}

// want asks for a fresh full scan.
func (r *root) want(token uint64) {
	r.mu.Lock()
	news := token > r.wanted
	r.wanted = max(r.wanted, token)
	r.mu.Unlock()
	if news {
		r.poke()
	}
}

// forget makes the root settle everything anew: another relay is in charge, which knows nothing of it.
func (r *root) forget() error {
	r.heard.Reset()
	if err := work.Rewind(r.ix, 0, r.now()); err != nil {
		return err
	}
	return r.unanswered()
}

// renew makes the root settle everything again with a relay that rebuilt its ledger.
func (r *root) renew() error {
	if err := work.Renew(r.ix, r.now()); err != nil {
		return err
	}
	return r.unanswered()
}

// unanswered forgets which scans the relay asked for: its tokens may begin anew.
func (r *root) unanswered() error {
	r.mu.Lock()
	r.wanted, r.answered = 0, 0
	r.mu.Unlock()
	return r.ix.SetAnswered(0)
}

// wakeWorker has the present worker look at the queue.
func (r *root) wakeWorker() {
	if w := r.current(); w != nil {
		w.Wake()
	}
}

func (r *root) current() *work.Worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.worker
}

func (r *root) employ(w *work.Worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.worker = w
}

// status is what polls say of the root.
func (r *root) status() proto.RootStatus {
	r.mu.Lock()
	scans := r.scans // before the counts: they are of these scans then, at least
	r.mu.Unlock()
	c := r.ix.Counts()
	s := proto.RootStatus{
		Cursor: c.Cursor, LastScanNs: c.LastScanNs, ScanToken: c.ScanToken, UnsentCount: c.UnsentCount, UnsentBytes: c.UnsentBytes,
		Objects: c.Objects, Bytes: c.Bytes, Skipped: c.Skipped, Unreadable: c.Unreadable, Unsettled: c.Unsettled,
		Lagging: c.Lagging, Divergent: c.Divergent, UploadedBytes: c.UploadedBytes, Scans: uint64(scans), ReadBytes: r.reads.Bytes(), SlowFor: r.reads.Slow(),
	}
	if at, ok, err := r.ix.OldestUnsent(); err == nil && ok {
		s.OldestUnsent = at.UnixNano()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Problem, s.Scanning, s.Watch = r.problem, r.running, r.mode()
	if s.Problem == "" {
		s.Problem = r.hung()
	}
	return s
}
