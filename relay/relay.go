// Package relay is the cache between agents and backups: it arbitrates who uploads which version, takes segments in, keeps
// them in the stores, judges deletes, lets space go, and says how things are. It fills the ledger; package flush empties it,
// and neither imports the other. Its HTTP face is relay/api. It imports ledger, shard and proto.
package relay

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/ledger/disk"
	"forebay/proto"
	"forebay/proto/bus"
	"forebay/relay/arbiter"
	"forebay/relay/ingest"
	"forebay/relay/repair"
	"forebay/relay/session"
	"forebay/shard"
	"forebay/shard/store"
)

// Config is the relay's part of the configuration.
type Config struct {
	Name      string
	Data      string // directory of the ledger
	Stores    []string
	Coding    shard.Geometry // zero: by the number of stores
	Capacity  int64          // raw bytes; 0: 90 % of the stores' file systems
	High, Low float64        // of the capacity: stop and resume accepting
	Ballast   int64
	Suspicion time.Duration
	Upkeep    Upkeep // zero: the defaults
	Links     []Link
	// Insecure is set when the relay listens off loopback without TLS: a standing red problem.
	Insecure bool
	Software string
	// FileLimit is how many files the process may have open; 0 leaves that out of account.
	FileLimit int
	// Memory is how many bytes the process keeps within; 0: as many as there are.
	Memory int64
}

// Link is what the relay itself needs to know of a link.
type Link struct {
	Name     string
	From     proto.Dataset
	Target   string // identity of the target: type and place
	To       string // name of the target, for status
	Prefix   string
	Coalesce bool
	Grace    time.Duration // delete.grace
	Share    float64       // of the capacity; 0: equal parts
	Hold     bool          // when_full: hold
}

// Deps are what the relay is given to work with.
type Deps struct {
	Log zerolog.Logger
	Now func() time.Time // wall clock with a monotonic reading
	// Mono is a clock that no setting of the wall clock moves, from any beginning. Nil: the monotonic reading of Now.
	Mono func() time.Duration
	// Bus connects to the bus once it runs; nil works without one (I4).
	Bus func() (bus.Bus, error)
	// BusURLs and BusToken tell agents where the bus is. host is the address under which the agent reached the relay.
	BusURLs  func(host string) []string
	BusToken string
	// FS holds the ledger and the stores; nil is the operating system's. The data directory's lock is always on the latter.
	FS disk.FS
	// Driven is set by who calls Round instead of Run: nothing is then done in the background, and everything that is asked
	// for is done in the goroutine that asks.
	Driven bool
	// Fault is told of the boundaries between durable steps; nil in the program that ships.
	Fault faultpoint.Hook
}

// Relay is an open relay.
type Relay struct {
	cfg    Config
	deps   Deps
	ledger *disk.Ledger
	stores *store.Set
	files  int // that the ledger, and each store, may keep open
	meta   ledger.Meta
	ingest *ingest.Ingest
	book   *session.Book
	roster roster
	lock   *os.File
	flush  Flusher

	// fence orders grants and the writing of rows: granting takes it whole, the ingest shares it while a group goes into the
	// ledger, so that nothing sent under an ended lease is written after the next one was granted (I7).
	fence sync.RWMutex
	loose looseLinks
	table *arbiter.Table // guarded by fence and tableMu
	// tableMu guards the table, and begun, against the sharers of fence.
	tableMu   sync.Mutex
	begun     map[*ingest.Job][]*arbiter.Lease // takeovers whose first bytes came with a job, until they are durable
	looks     looks
	waitedFor waitedFor
	returned  returned
	slowed    slowed
	waits     waiting
	awaited   awaited

	admission admission
	laggards  laggards
	streaming streaming
	cache     segments
	problems  problems
	stall     stall
	coming    coming
	inflow    meter // payload, of the last minute
	growth    meter // what it takes in the stores, of the last five
	recorder  recorder
	blocked   blockedDeletes
	nudges    nudger
	fatal     chan error
	now       func() time.Time
	linkMu    sync.RWMutex
	links     []Link
	judge     chan struct{}
	// gone is shared while a report of gone paths is recorded: whoever gives such reports up takes it whole, so that one that is late
	// is recorded before that, or not at all.
	gone      reporting // see giveUpGone
	eventsUp  atomic.Pointer[chan struct{}]
	notes     eventQueue
	suspects  chan suspect
	twins     twins
	running   running
	memo      keeper // what is kept in the stores besides shards
	burials   burials
	rounds    rounds
	upkeep    upkeep
	rebuilder *rebuilder // its loop's own
	scrubber  *scrubber  // its loop's own
}

// suspect is a segment whose bytes are not what they should be, as a reader found.
type suspect struct {
	seq uint64
	err error
}

// Open opens the ledger and the stores and starts a new generation. It fails with ClassConflict when another relay has the
// data directory.
func Open(cfg Config, deps Deps) (*Relay, error) {
	if err := os.MkdirAll(filepath.Join(cfg.Data, "ledger"), 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := lockDir(cfg.Data)
	if err != nil {
		return nil, err
	}
	r := &Relay{cfg: cfg, deps: deps, lock: lock, now: deps.Now, fatal: make(chan error, 1), judge: make(chan struct{}, 1), suspects: make(chan suspect, 64)}
	r.links = cfg.Links
	r.notes.init()
	r.upkeep.init(cfg.Upkeep.withDefaults())
	if err := r.open(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *Relay) open() error {
	var err error
	if r.files, err = r.cfg.openFiles(); err != nil {
		return err
	}
	r.ledger, err = disk.Open(disk.Config{Dir: filepath.Join(r.cfg.Data, "ledger"), FS: r.deps.FS, Fatal: r.fail, Fault: r.deps.Fault, OpenFiles: r.files, Blocks: r.cfg.blockCache()})
	if err != nil {
		return err
	}
	old, err := ledger.ReadMeta(r.ledger)
	if err != nil {
		return err
	}
	r.deps.Fault.At(faultpoint.RelayLedgerOpen)
	relayID, lacks := old.Relay, r.ledger.Lacks()
	if err := r.ledger.Unmarked(); err != nil {
		r.deps.Log.Warn().Err(err).Msg("how far the ledger is durable cannot be noted: a log that loses its end would not be told from one that crashed")
	}
	if lacks > 0 {
		r.deps.Log.Error().Uint64("updates", lacks).Msg("the ledger has lost its last updates, which were durable: its log was cut or cannot be read to its end")
	}
	if old.Format == 0 {
		if lacks > 0 {
			return proto.Errorf(proto.ClassCorrupt, "the ledger in %s has lost all that was in it: rebuild it from the stores and the targets: forebay relay --recover-ledger --config FILE", r.cfg.Data)
		}
		if err := r.refuseOthersStores(); err != nil {
			return err
		}
		if relayID, err = newRelayID(); err != nil {
			return err
		}
		// Before a store carries the id: one that does, and a ledger that knows none, would not fit after a crash.
		if err := r.ledger.Update(&ledger.Start{Relay: relayID, Name: r.cfg.Name}); err != nil {
			return err
		}
		r.deps.Fault.At(faultpoint.RelayNamed)
	}
	if err := r.openStores(relayID, old); err != nil {
		return err
	}
	r.deps.Fault.At(faultpoint.RelayStoresOpen)
	start := &ledger.Start{Relay: relayID, Name: r.cfg.Name, AtLeast: highestGeneration(r.stores), Outdated: lacks > 0 || r.behind(old)}
	if err := r.ledger.Update(start); err != nil {
		return err
	}
	r.meta = start.Meta
	r.deps.Fault.At(faultpoint.RelayGenerationLedger)
	if err := r.stores.SetGeneration(r.meta.Generation); err != nil && r.stores.Healthy() > 0 {
		return fmt.Errorf("write the generation to the stores: %w", err)
	} // without a store in use nothing is accepted; each gets the generation when it is opened
	r.deps.Fault.At(faultpoint.RelayGenerationStores)
	if err := r.rememberStores(); err != nil {
		return err
	}
	r.deps.Fault.At(faultpoint.RelayStoresKnown)
	if err := r.startRunning(); err != nil {
		return err
	}
	r.book = session.NewBook(r.cfg.Suspicion, proto.SessionID(uint64(r.meta.Generation)<<32))
	r.table, r.begun = arbiter.NewTable(r.meta.Generation), map[*ingest.Job][]*arbiter.Lease{}
	if err := r.rememberUploads("the relay was restarted"); err != nil {
		return err
	}
	r.ingest = ingest.New(relayID, r.meta.Generation, r.stores, r.ledger, guard{r}, func() int64 { return r.now().UnixNano() }, r.deps.Fault)
	r.cache.init(r)
	r.admission.init(r)
	r.laggards.init()
	r.inflow.init(r.now(), time.Second, false)
	r.growth.init(r.now(), 5*time.Second, true)
	r.rebuilder = &rebuilder{r: r, pace: repair.NewPace()}
	r.sweepAll()
	r.scrubber = &scrubber{r: r, pace: repair.NewPace()}
	if err := r.scrubber.load(); err != nil {
		return err
	}
	return r.setLinks(r.cfg.Links)
}

func newRelayID() (proto.RelayID, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("draw a relay id: %w", err)
	}
	return proto.RelayID(binary.BigEndian.Uint64(b[:])), nil
}

// ID is the relay's id.
func (r *Relay) ID() proto.RelayID { return r.meta.Relay }

// Ledger is the door through which the flush reads and writes the ledger.
func (r *Relay) Ledger() *disk.Ledger { return r.ledger }

// SetFlusher connects the flush, before Run.
func (r *Relay) SetFlusher(f Flusher) { r.flush = f }

// fail is told when the ledger cannot be written any more: the relay must stop.
func (r *Relay) fail(err error) {
	select {
	case r.fatal <- err:
	default:
	}
}

// Run works until ctx ends or the ledger fails. Commit groups that were begun are finished.
func (r *Relay) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { // ends when ctx does
		select {
		case err := <-r.fatal:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error { return r.ingest.Run(ctx) })    // ends when ctx does, after the groups under way
	g.Go(func() error { return r.watchSessions(ctx) }) // ends when ctx does
	g.Go(func() error { return r.judgeDeletes(ctx) })  // ends when ctx does
	g.Go(func() error { return r.sweep(ctx) })         // ends when ctx does
	g.Go(func() error { return r.keepStores(ctx) })    // ends when ctx does
	g.Go(func() error { return r.scrub(ctx) })         // ends when ctx does
	g.Go(func() error { return r.runBus(ctx) })        // ends when ctx does
	g.Go(func() error { return r.watchProblems(ctx) }) // ends when ctx does
	g.Go(func() error { return r.watchLedger(ctx) })   // ends when ctx does
	g.Go(func() error { return r.judgeSuspects(ctx) }) // ends when ctx does
	g.Go(func() error { return r.writeEvents(ctx) })   // ends when ctx does
	if err := g.Wait(); err != nil {
		return err
	}
	r.recordInflow(true)
	r.memo.again.Store(true) // so that a copy of the ledger from before is known for one
	r.keepMemo()
	return nil
}

// Close closes stores and ledger. Call it when Run and the flush have returned.
func (r *Relay) Close() error { return r.close() }

func (r *Relay) close() error {
	var errs []error
	if r.stores != nil {
		errs = append(errs, r.stores.Close())
	}
	if r.ledger != nil {
		errs = append(errs, r.ledger.Close())
	}
	if r.lock != nil {
		errs = append(errs, r.lock.Close())
	}
	return errors.Join(errs...)
}
