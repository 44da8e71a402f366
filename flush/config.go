package flush

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/flush/journal"
	"forebay/flush/policy"
	"forebay/flush/target"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// DefaultWorkers is Config.Workers where it is not set.
const DefaultWorkers = 4

// Config is what holds for all links. The zero value of a field means its default.
type Config struct {
	Relay proto.RelayID // who owns the mirrors; part of the owner mark
	// Workers stage contents of one link at a time, each with one segment in memory. Default DefaultWorkers.
	Workers int
	// BatchObjects bounds the objects of a batch beside the policy's batch_max. Default 4096.
	BatchObjects int
	// Reads bounds the segments that are read and proved at once, over all links. Default 4.
	Reads int
	// ProbeEvery is how often a target that is not there is looked for. Default 3s.
	ProbeEvery time.Duration
	// BackoffMin and BackoffMax bound the time until something that failed is tried again. Defaults 1s and 5m.
	BackoffMin, BackoffMax time.Duration
	// Grace is how long Run waits, after its context has ended, for links whose target hangs. Default 10s.
	Grace time.Duration
}

func (c Config) withDefaults() Config {
	or := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	orTime := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	or(&c.Workers, DefaultWorkers)
	or(&c.BatchObjects, 4096)
	or(&c.Reads, 4)
	orTime(&c.ProbeEvery, 3*time.Second)
	orTime(&c.BackoffMin, time.Second)
	orTime(&c.BackoffMax, 5*time.Minute)
	orTime(&c.Grace, 10*time.Second)
	return c
}

// Validate says what is wrong with a configuration.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.Relay == 0:
		return errors.New("flush: the relay has no id")
	case c.Workers < 0 || c.BatchObjects < 0 || c.Reads < 0:
		return fmt.Errorf("flush: workers %d, batch objects %d, reads %d: each must be 1 at least", c.Workers, c.BatchObjects, c.Reads)
	case c.BackoffMin < 0 || c.BackoffMax < c.BackoffMin:
		return fmt.Errorf("flush: back-off from %s to %s", c.BackoffMin, c.BackoffMax)
	}
	return nil
}

// LinkConfig is a link as the configuration file has it. Its row is in the ledger already.
type LinkConfig struct {
	ID     ledger.LinkID
	Name   string
	Target string // the target's name; for OpenTarget and messages
	Prefix string
	// Revision changes with the target's settings: the target is then opened anew.
	Revision string
	// Policy is the file's; what is set by hand comes on top of it from the ledger.
	Policy policy.Policy
}

// Ledger is what the flush uses of the ledger. When Update returns its entries are durable, and all that could be read when it
// was called: what can be read need not be. View is a view of one moment.
type Ledger interface {
	ledger.Rows
	Update(entries ...ledger.Entry) error
	View(fn func(ledger.Rows) error) error
}

// Cache gives segments from the stores. Read may be called concurrently. The segment's header is proved, its pieces are not;
// the caller only reads it. Errors: ClassCorrupt when too many shards are damaged or gone, ClassTransient when the stores
// cannot tell now.
type Cache interface {
	Read(ctx context.Context, seq uint64) (*segment.Segment, error)
}

// Clock is the time, for the loops. Durations are measured with it, so Now carries a monotonic reading where there is one.
type Clock interface {
	Now() time.Time
	// Timer returns a channel that receives once d has passed, and a function that gives the timer up.
	Timer(d time.Duration) (fired <-chan time.Time, stop func())
}

// SystemClock is the Clock of a running relay, around the clock that cmd hands in.
func SystemClock(now func() time.Time) Clock { return systemClock{now} }

type systemClock struct{ now func() time.Time }

func (c systemClock) Now() time.Time { return c.now() }
func (c systemClock) Timer(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// Unread is what no holder of a dataset can read.
type Unread struct {
	Objects []journal.UnreadObject // in the order of nodes and paths
	More    int64                  // that are not named
	Away    []string               // nodes that have not told: what they could not read last is taken to be so still
}

// Deps is what the flush works with. All but HighWater, LostSegment, Loose, Unread and Events must be set.
type Deps struct {
	Ledger Ledger
	Cache  Cache
	Clock  Clock
	// OpenTarget opens a link's target below its prefix. It must not block on a target that is not there for longer than
	// the driver's own deadlines. It is called again after each failure of the target as a whole.
	OpenTarget func(LinkConfig) (target.Target, error)
	// HighWater reports whether the cache is over its high water mark.
	HighWater func() bool
	// LostSegment is told of a segment that the ledger knows and that cannot be read or is not what it should be. The
	// relay heals it, or applies ledger.LoseSegment. It must not block.
	LostSegment func(seq uint64, err error)
	// Loose is told of a hard link whose leader has another content, so that its bytes have to come from a holder. It must not
	// block.
	Loose func(ds proto.DatasetID, path string, ver proto.VersionID)
	// Unread tells which objects of a link no holder can read. It is asked every few seconds. Nil: nothing is known of them.
	Unread func(link string) Unread
	// Events is told what happens. It must not block, and may be called from several goroutines.
	Events func(Event)
	// Fault is told of the boundaries between durable steps; nil in the program that ships.
	Fault faultpoint.Hook
}

func (d Deps) check() error {
	if d.Ledger == nil || d.Cache == nil || d.Clock == nil || d.OpenTarget == nil {
		return errors.New("flush: ledger, cache, clock and OpenTarget are needed")
	}
	return nil
}

func (d Deps) withDefaults() Deps {
	if d.HighWater == nil {
		d.HighWater = func() bool { return false }
	}
	if d.LostSegment == nil {
		d.LostSegment = func(uint64, error) {}
	}
	if d.Loose == nil {
		d.Loose = func(proto.DatasetID, string, proto.VersionID) {}
	}
	if d.Events == nil {
		d.Events = func(Event) {}
	}
	return d
}
