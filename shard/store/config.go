package store

import (
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"forebay/internal/faultpoint"
	"forebay/proto"
	"forebay/shard"
)

// Defaults of Config.
const (
	DefaultBallast = 256 << 20
	// DefaultOpenFiles is how many files each store may keep open, LeastOpenFiles how many pebble keeps open in any case.
	DefaultOpenFiles = 256
	LeastOpenFiles   = 74
	DefaultDeadline  = 30 * time.Second
	DefaultTend      = time.Second
	capacityShare    = 0.9 // of the file systems, when no capacity is configured
)

// Config says which stores there are and how they are used.
type Config struct {
	Paths    []string       // one directory per store
	Known    []Identity     // what the ledger remembers of its stores
	Roles    Roles          // and of what operators decided about them
	Relay    proto.RelayID  // whose stores these are
	Coding   shard.Geometry // wanted; zero means shard.Default for the number of paths
	Ballast  int64          // bytes kept back on each store; 0 keeps none
	Capacity int64          // raw bytes over all stores; 0 means 90 % of their file systems
	// Generation is the relay's, written to each store whenever it is opened; SetGeneration changes it.
	Generation uint32
	Deadline   time.Duration // after which a call to a disk counts as hung and its store as failed; 0 means DefaultDeadline
	OpenFiles  int           // tables that each store may keep open; 0 means DefaultOpenFiles
	Tend       time.Duration // how often failed stores are tried again and ballast is seen to; 0 means DefaultTend, negative never
}

// Validate says what is wrong with c, with ClassPermanent.
func (c Config) Validate() error {
	if len(c.Paths) == 0 {
		return proto.Errorf(proto.ClassPermanent, "no stores configured: name at least one directory")
	}
	seen := make(map[string]bool)
	for _, p := range c.Paths {
		if p == "" || seen[p] {
			return proto.Errorf(proto.ClassPermanent, "store %q is empty or named twice: each store needs a directory of its own", p)
		}
		seen[p] = true
	}
	if c.Ballast < 0 || c.Capacity < 0 {
		return proto.Errorf(proto.ClassPermanent, "ballast of %d and capacity of %d bytes: negative sizes make no sense", c.Ballast, c.Capacity)
	}
	if err := c.Coding.Validate(); err != nil {
		return err
	}
	if n := len(c.Paths); c.Coding.Shards() > n {
		return proto.Errorf(proto.ClassPermanent, "coding %s needs %d stores, %d are configured: add stores or choose a narrower coding, for example %s",
			c.Coding, c.Coding.Shards(), n, shard.Default(n))
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Coding.IsZero() {
		c.Coding = shard.Default(len(c.Paths))
	}
	if c.Deadline == 0 {
		c.Deadline = DefaultDeadline
	}
	if c.OpenFiles == 0 {
		c.OpenFiles = DefaultOpenFiles
	}
	if c.Tend == 0 {
		c.Tend = DefaultTend
	}
	return c
}

// Deps are what the Set is given to work with.
type Deps struct {
	FS  vfs.FS           // nil means the operating system's
	Now func() time.Time // for when a failed store is tried again; required
	// Event is told what happened to the stores; nil drops it. It may be called from any goroutine, must not block and must
	// not call the Set.
	Event func(Event)
	// Fault is told of the boundaries between durable steps; nil in the program that ships.
	Fault faultpoint.Hook
}

func (d Deps) withDefaults() Deps {
	if d.FS == nil {
		d.FS = vfs.Default
	}
	if d.Event == nil {
		d.Event = func(Event) {}
	}
	return d
}

// EventKind says what happened.
type EventKind uint8

// The event kinds.
const (
	StoreOpened     EventKind = iota + 1 // a store is in use, at the start or again
	StoreFailed                          // a store does not work; it is closed and tried again
	StoreMissing                         // a known store's directory is absent or empty
	StoreRefused                         // the directory holds something that is not this relay's present store
	StoreFull                            // a disk is full; nothing more is put on it until there is room
	BallastReleased                      // the ballast was let go so that freeing can go on
	BallastRestored                      // and is back
	Corruption                           // pebble found damage; reads of the segment will name the shard
	ShardBad                             // a shard is damaged, or absent where it should be
)

var eventNames = map[EventKind]string{
	StoreOpened: "store-opened", StoreFailed: "store-failed", StoreMissing: "store-missing", StoreRefused: "store-refused",
	StoreFull: "store-full", BallastReleased: "ballast-released", BallastRestored: "ballast-restored",
	Corruption: "corruption", ShardBad: "shard-bad",
}

// String returns the kind in the words of the event log.
func (k EventKind) String() string {
	if s, ok := eventNames[k]; ok {
		return s
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// Event tells what happened to a store or to a shard in it.
type Event struct {
	Kind    EventKind
	Path    string          // the store
	Store   StoreID         // zero while it is not known
	Segment proto.SegmentID // ShardBad
	Shard   int             // ShardBad: its index
	Err     error           // why; nil for good news
}
