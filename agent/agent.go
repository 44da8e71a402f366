package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"forebay/agent/gossip"
	"forebay/agent/heard"
	"forebay/agent/index"
	"forebay/agent/scan"
	"forebay/agent/session"
	"forebay/agent/upload"
	"forebay/agent/watch"
	"forebay/agent/work"
	"forebay/fsmeta"
	"forebay/internal/faultpoint"
	"forebay/proto"
	"forebay/proto/bus"
)

// Deps is what an agent works with.
type Deps struct {
	Now func() time.Time
	Log zerolog.Logger
	// DialBus connects to the bus that the relay named; an error means that the agent does without (I4). Nil: always.
	DialBus func(urls []string, token string) (bus.Bus, error)
	// OpenWatch is watch.Open; nil means that scans alone find changes.
	OpenWatch func(root string, deps watch.Deps) (*watch.Watch, error)
	// SetPriority makes the process give way to others; a failure is logged. Nil: left as it is.
	SetPriority func(nice int, io string) error
	// Fault is told of the boundaries between durable steps; nil in the program that ships.
	Fault faultpoint.Hook
}

// maxLarge is how many large objects an agent sends at once, and maxCarried how many more that it carries on for others.
const (
	maxLarge   = 4
	maxCarried = 4
)

// maxConns is how many connections an agent keeps to its relay besides the one it polls on: one for each segment under way
// and some for calls.
const maxConns = 16

// maxNames is how many names of users and groups are remembered.
const maxNames = 4096

// Agent is the daemon.
type Agent struct {
	cfg      Config
	deps     Deps
	db       *index.DB
	instance string
	boot     string
	roots    []*root
	shared   work.Shared
	upload   *rate.Limiter
	gossip   *gossip.Teller
	started  time.Time
	run      relayRun     // whose running time the roots know; sessions' own
	listener net.Listener // of Config.Listen; nil: none

	mu      sync.Mutex
	session *session.Session // nil between sessions
	since   time.Time        // when it began
	bus     bus.Bus          // nil between sessions, and without a bus
	trouble string           // why there is no session
	notice  string           // see SetNotice
}

// New opens the agent's index, prepares its roots and binds Config.Listen. Nothing is scanned, sent or served before Run. It
// fails with ClassConflict when another process has the data folder. Run, or else Close, closes it.
func New(cfg Config, deps Deps) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "agent: %w", err)
	}
	instance, err := instanceID(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	db, err := openIndex(indexDir(cfg), deps.Log)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, deps: deps, db: db, instance: instance, boot: randomID(), gossip: gossip.New(), started: deps.Now(),
		upload: limiter(cfg.Limits.Upload), trouble: "no relay has been asked yet",
		shared: work.Shared{
			Now: deps.Now, Window: upload.NewWindow(0), Large: semaphore.NewWeighted(maxLarge), Carried: semaphore.NewWeighted(maxCarried), Read: limiter(cfg.Limits.Read), Fault: deps.Fault,
		},
	}
	for _, d := range cfg.Datasets {
		for _, p := range d.Paths {
			r, err := a.open(d, p)
			if err != nil {
				return nil, errors.Join(err, db.Close())
			}
			a.roots = append(a.roots, r)
		}
	}
	if err := a.listen(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return a, nil
}

// open prepares one root.
func (a *Agent) open(d Dataset, path string) (*root, error) {
	path = filepath.Clean(path)
	ix, err := a.db.Root(indexName(d, path))
	if err != nil {
		return nil, fmt.Errorf("index of dataset %s, root %s: %w", d.Name, path, err)
	}
	names := fsmeta.NewNames(maxNames)
	r := &root{
		tree:    func(dir *fsmeta.Root) upload.Tree { return upload.Dir{Root: dir, Names: names} },
		dataset: proto.Dataset{Cluster: a.cfg.Cluster, Name: d.Name}, path: path, every: d.Scan, ix: ix,
		heard: heard.New(maxHeard), reads: upload.NewReads(a.deps.Now), now: a.deps.Now, fault: a.deps.Fault, wake: make(chan struct{}, 1), desk: make(chan struct{}, 1),
		hints:    map[string]struct{}{},
		answered: ix.Counts().ScanToken, log: a.deps.Log.With().Str("dataset", d.Name).Str("root", path).Logger(),
	}
	for _, s := range []**scan.Scanner{&r.full, &r.part} {
		*s, err = scan.New(scan.Config{Dataset: r.dataset, Root: path, Include: d.Include, Exclude: d.Exclude},
			scan.Deps{Index: ix, Now: a.deps.Now, Moved: func(why string) {
				r.log.Warn().Str("proof", why).Msg("the root's file system has another device number than before: it is the same one")
			}})
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// openIndex opens the index. A corrupt one is put aside and made anew, for it can be, from a scan and the relay's feed; a
// newer one, or one in use, is somebody's and left alone.
func openIndex(dir string, log zerolog.Logger) (*index.DB, error) {
	db, err := index.Open(dir)
	if !errors.Is(err, index.ErrCorrupt) {
		return db, err
	}
	aside := dir + ".corrupt"
	log.Error().Err(err).Str("kept_at", aside).Msg("the index is corrupt: it is put aside and made anew by a scan")
	if err := errors.Join(os.RemoveAll(aside), os.Rename(dir, aside)); err != nil {
		return nil, fmt.Errorf("put the corrupt index aside: %w", err)
	}
	return index.Open(dir)
}

// limiter returns a limit of n bytes a second, nil for none.
func limiter(n int64) *rate.Limiter {
	if n <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(n), int(min(max(n/4, 64<<10), proto.BlockSize)))
}

// instanceID reads the agent's identity from its data folder, or draws one.
func instanceID(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the agent's data folder: %w", err)
	}
	file := filepath.Join(dir, "instance")
	b, err := os.ReadFile(file)
	if err == nil && len(b) == 2*idBytes {
		return string(b), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the agent's identity: %w", err)
	}
	id := randomID()
	if err := os.WriteFile(file, []byte(id), 0o600); err != nil {
		return "", fmt.Errorf("write the agent's identity: %w", err)
	}
	return id, nil
}

const idBytes = 16

func randomID() string {
	var b [idBytes]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

// Close closes an agent that was not run.
func (a *Agent) Close() error {
	if a.listener != nil {
		return errors.Join(a.listener.Close(), a.db.Close())
	}
	return a.db.Close()
}

// SetNotice sets what an operator should know of the agent beside its work, such as a configuration file that was not
// taken: it is a problem of its status and, from the next poll on, of the relay's. "" ends it.
func (a *Agent) SetNotice(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.notice = text
}

func (a *Agent) standing() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.notice
}

// Run works until ctx ends, and returns nil then. It fails when the index does.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.db.Close()) }()
	if l := a.cfg.Limits; a.deps.SetPriority != nil && (l.Nice != 0 || l.IO != "") {
		if err := a.deps.SetPriority(l.Nice, l.IO); err != nil {
			a.deps.Log.Warn().Err(err).Msg("cannot lower the agent's priority: the primary may feel it")
		}
	}
	group, run := errgroup.WithContext(ctx)
	for _, r := range a.roots {
		group.Go(func() error { return r.leave(run, "scanning", func() error { return r.scanLoop(run) }) })     // ends with run
		group.Go(func() error { return r.leave(run, "watching", func() error { return a.watchRoot(run, r) }) }) // ends with run
	}
	group.Go(func() error { return a.sessions(run) }) // ends with run
	group.Go(func() error { return a.serve(run) })    // ends with run
	group.Go(func() error {                           // ends with run, or with the index's disk
		select {
		case <-run.Done():
			return nil
		case <-a.db.Failed():
			return fmt.Errorf("the index failed: %w", a.db.Err())
		}
	})
	err = group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
