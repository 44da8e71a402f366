package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"forebay/proto"
	"forebay/shard"
)

// Set is a relay's stores. All methods are safe for concurrent use; a store that hangs or dies delays a call by at most the
// deadline and ends neither the call nor the process.
type Set struct {
	cfg   Config
	deps  Deps
	coder shard.Coder

	change sync.Mutex   // one operator's change at a time
	mu     sync.RWMutex // guards the fields up to turn; slices are replaced, not changed
	disks  []*disk
	gone   []Identity // known, but no longer configured
	roles  Roles      // but for what disks say themselves: Draining, Drained

	turn  atomic.Uint64 // rotates the placement
	limit atomic.Int64  // Config.Capacity, as SetCapacity left it
	// generation is the relay's, for stores that are added.
	generation atomic.Uint32
	stop       func() // ends the tending
	tends      sync.WaitGroup
	tend       sync.Mutex // one round at a time
}

// State is what an operator sees of a store.
type State struct {
	Path          string
	ID            StoreID // zero while unknown
	State         Health
	UsedBytes     int64  // by the store
	CapacityBytes int64  // of its file system; 0 when unknown
	FreeBytes     int64  // in its file system; -1 when unknown
	WrittenBytes  int64  // to the store since Open, tables and all else
	LastError     string // why it is not ok
	Role          Role
	Unconfigured  bool // in use, or known, and the configuration does not name it
}

// Open opens the stores, each on its own: a store that is missing, foreign, old or broken does not keep the others from
// work, States tells. It fails on a wrong configuration and on a store that another relay has open, both with
// ClassPermanent. The caller records Identities before it goes on, and Closes the Set in the end.
func Open(cfg Config, deps Deps) (*Set, error) {
	cfg, deps = cfg.withDefaults(), deps.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Set{cfg: cfg, deps: deps, roles: cfg.Roles}
	s.limit.Store(cfg.Capacity)
	s.begin()
	s.Tend()
	for _, d := range s.all() {
		if err := d.trouble(); errors.Is(err, errLocked) {
			_ = s.Close()
			return nil, err
		}
	}
	s.settle()
	s.keepTending()
	return s, nil
}

// all returns the stores. The slice must not be changed.
func (s *Set) all() []*disk {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.disks
}

// Coding returns the geometry that segments are to have.
func (s *Set) Coding() shard.Geometry { return s.cfg.Coding }

var errUnconfigured = errors.New("the ledger knows this store, but the configuration does not name it: what lies only there cannot be read")

func newDisk(path string, cfg Config, deps Deps) *disk {
	d := &disk{
		path: path, event: deps.Event, fault: deps.Fault, now: deps.Now, relay: cfg.Relay, deadline: cfg.Deadline, ballast: cfg.Ballast, openFiles: cfg.OpenFiles,
		state: Failed, err: errors.New("not opened yet"), known: cfg.Known, generation: cfg.Generation,
		free: -1, again: deps.Now(),
	}
	d.idle.L = &d.mu
	d.raw = countingFS{deps.FS, &d.written}
	d.fs = vfs.OnDiskFull(d.raw, d.releaseBallast)
	return d
}

// keepTending tends the stores at intervals until Close.
func (s *Set) keepTending() {
	if s.cfg.Tend < 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.tends.Add(1)
	// Ends when Close cancels ctx.
	go func() {
		defer s.tends.Done()
		tick := time.NewTicker(s.cfg.Tend)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				s.Tend()
			}
		}
	}()
}

// Tend does what is due in each store: it closes and opens again what failed, looks for what is missing, takes note of
// free space and makes the ballast again. The Set does it by itself at Config.Tend; calling it hurries it.
func (s *Set) Tend() {
	s.tend.Lock()
	defer s.tend.Unlock()
	var all sync.WaitGroup
	for _, d := range s.all() {
		all.Go(d.tend) // each ends at the deadlines of its calls
	}
	all.Wait()
}

// Close waits for the calls in progress, at most for the deadline, and closes the stores. It fails when one hangs.
func (s *Set) Close() error {
	if s.stop != nil {
		s.stop()
	}
	s.tends.Wait()
	s.tend.Lock()
	defer s.tend.Unlock()
	disks := s.all()
	errs := make([]error, len(disks))
	var all sync.WaitGroup
	for i, d := range disks {
		all.Go(func() { errs[i] = d.shut() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// States returns the stores in the order of the configuration, then those known but no longer configured. It asks no disk.
func (s *Set) States() []State {
	s.mu.RLock()
	disks, gone := s.disks, s.gone
	s.mu.RUnlock()
	out := make([]State, 0, len(disks)+len(gone))
	for _, d := range disks {
		out = append(out, d.report())
	}
	for _, k := range gone {
		out = append(out, State{Path: k.Path, ID: k.ID, State: Missing, FreeBytes: -1, LastError: errUnconfigured.Error(), Unconfigured: true})
	}
	return out
}

func (d *disk) report() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := State{
		Path: d.path, ID: d.lastID(), State: d.health(), UsedBytes: d.used, CapacityBytes: d.total, FreeBytes: d.free,
		WrittenBytes: d.written.Load(), LastError: d.describe(), Role: d.role, Unconfigured: d.unconfigured,
	}
	if d.role == RoleDrained {
		s.UsedBytes = 0
	}
	return s
}

// health is the state with the space taken into account. d.mu is held.
func (d *disk) health() Health {
	if d.state == OK && d.full {
		return Degraded
	}
	return d.state
}

// trouble returns why the store is not in use, nil when it is.
func (d *disk) trouble() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == OK {
		return nil
	}
	return d.err
}

// Identities returns who the stores are, for the ledger to record; with them goes what it knew of stores that are not in
// use now.
func (s *Set) Identities() []Identity {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Concat(s.identities(), s.gone)
}

// identities returns who the stores are that are configured. s.mu is held.
func (s *Set) identities() (out []Identity) {
	for _, d := range s.disks {
		d.mu.Lock()
		for _, k := range d.known {
			if k.ID == d.id.ID || d.id.ID.IsZero() && k.Path == d.path {
				out = append(out, k)
			}
		}
		d.mu.Unlock()
	}
	return out
}

// SetGeneration writes the relay's generation, durably, into each store in use; stores that come later get it when they are
// opened. It fails when no store took it.
func (s *Set) SetGeneration(generation uint32) error {
	s.generation.Store(max(s.generation.Load(), generation))
	disks := s.all()
	errs := make([]error, len(disks))
	var all sync.WaitGroup
	for i, d := range disks {
		all.Go(func() { errs[i] = d.setGeneration(generation) })
	}
	all.Wait()
	if slices.Contains(errs, nil) {
		return nil
	}
	return fmt.Errorf("write generation %d into the stores: %w", generation, errors.Join(errs...))
}

// Generations returns the generation that each store in use remembers. After the loss of the ledger the highest, plus one,
// is the next (I7).
func (s *Set) Generations() map[StoreID]uint32 {
	out := make(map[StoreID]uint32)
	for _, d := range s.all() {
		d.mu.Lock()
		if d.current != nil {
			out[d.id.ID] = d.id.Generation
		}
		d.mu.Unlock()
	}
	return out
}

// Healthy returns how many stores take new shards.
func (s *Set) Healthy() int { return len(s.writable(nil)) }

// writable returns the stores that take new shards, but for those excluded.
func (s *Set) writable(excluded map[*disk]bool) []*disk {
	var out []*disk
	for _, d := range s.all() {
		d.mu.Lock()
		ok := d.current != nil && !d.full && d.role == RoleNone && !excluded[d]
		d.mu.Unlock()
		if ok {
			out = append(out, d)
		}
	}
	return out
}

// Accepting returns the geometry that new segments get now. It fails with ClassOverload when too few stores are left for
// the wanted parity: what is accepted then would not survive what it promises to.
func (s *Set) Accepting() (shard.Geometry, error) {
	return s.geometry(len(s.writable(nil)))
}

func (s *Set) geometry(healthy int) (shard.Geometry, error) {
	g, ok := shard.Narrow(s.Coding(), healthy)
	if ok {
		return g, nil
	}
	var why []error
	for _, d := range s.all() {
		d.mu.Lock()
		if h := d.health(); h != OK {
			why = append(why, fmt.Errorf("%s is %s (%w)", d.path, h, d.err))
		} else if d.role != RoleNone {
			why = append(why, fmt.Errorf("%s is %s", d.path, d.role))
		}
		d.mu.Unlock()
	}
	return g, proto.Errorf(proto.ClassOverload, "%d of %d stores take data, coding %s cannot be kept with that: %w",
		healthy, len(s.all()), s.Coding(), errors.Join(why...))
}

// Capacity returns how many raw bytes the stores may hold: what is configured, else 90 % of their file systems, each
// counted once. It is 0 when neither is known.
func (s *Set) Capacity() int64 {
	if n := s.limit.Load(); n > 0 {
		return n
	}
	total, seen := int64(0), make(map[vfs.DeviceID]bool)
	for _, d := range s.all() {
		d.mu.Lock()
		if d.total > 0 && d.role == RoleNone && !seen[d.device] {
			seen[d.device] = true
			total += d.total
		}
		d.mu.Unlock()
	}
	return int64(float64(total) * capacityShare)
}

// SetCapacity changes the configured capacity; 0 means 90 % of the file systems.
func (s *Set) SetCapacity(n int64) { s.limit.Store(n) }

// Used returns how many raw bytes the stores hold.
func (s *Set) Used() int64 {
	used := int64(0)
	for _, d := range s.all() {
		d.mu.Lock()
		used += d.used
		d.mu.Unlock()
	}
	return used
}

// disk returns the store with that id, nil when it is not in use.
func (s *Set) disk(id StoreID) *disk {
	for _, d := range s.all() {
		d.mu.Lock()
		ok := d.current != nil && d.id.ID == id
		d.mu.Unlock()
		if ok {
			return d
		}
	}
	return nil
}
