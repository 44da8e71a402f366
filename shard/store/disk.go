package store

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"forebay/internal/faultpoint"
	"forebay/proto"
)

// Health is the state of a store, in the words of the contract.
type Health string

// The states of a store.
const (
	OK       Health = "ok"       // reads and writes
	Degraded Health = "degraded" // reads and frees, but takes nothing new: its disk is full
	Failed   Health = "failed"   // does not work, or is not the store that belongs there
	Missing  Health = "missing"  // known, but its directory is absent or empty
	Drained  Health = "drained"  // empty and closed, see Set.Drained
)

// instance is one opening of a store's database. When it fails it is left alone until its last call has ended, then
// closed; the next opening is another instance.
type instance struct {
	db     *pebble.DB // nil until it is open
	tables sstable.WriterOptions

	// What may go on at the same time. A call that hangs keeps its place; those behind it are let go by gone.
	reading chan struct{}
	staging chan struct{}
	writing chan struct{} // one: pebble's ingest hangs for good behind one whose goroutine was ended
	gone    chan struct{} // closed when dead is set

	calls  int   // that have not ended; guarded by disk.mu
	dead   error // why it must not be used any more; guarded by disk.mu
	faults int   // reads in a row that the disk did not answer; guarded by disk.mu
}

// Calls of a kind that may go on at the same time in one store.
const (
	readers = 4
	stagers = 2 // the next group's tables are written while one is ingested
)

func newInstance() *instance {
	return &instance{
		reading: make(chan struct{}, readers),
		staging: make(chan struct{}, stagers),
		writing: make(chan struct{}, 1),
		gone:    make(chan struct{}),
	}
}

// disk is one store: its directory, its lock, and the instance that is open.
type disk struct {
	path      string
	raw       vfs.FS // counts bytes; a full disk is an error here
	fs        vfs.FS // as raw, but a full disk lets the ballast go and tries once more: for pebble and the identity
	event     func(Event)
	fault     faultpoint.Hook
	now       func() time.Time
	relay     proto.RelayID
	deadline  time.Duration
	ballast   int64 // bytes to keep back
	openFiles int   // by pebble

	lock    io.Closer // used by one goroutine at a time: opening, then shutting
	written atomic.Int64
	serial  atomic.Uint64 // names staged tables

	mu        sync.Mutex
	idle      sync.Cond // a call has ended
	state     Health
	err       error // why state is not OK, or the last fault
	full      bool  // the disk was full, and room has not been seen since
	noBallast bool  // the ballast is not there
	id        Identity
	known     []Identity // what the ledger remembers; with our own openings since
	roles     Roles      // of the whole set
	role      Role       // its own
	renewing  bool       // an operator asked for a new store in the place of one given up
	// unconfigured is set at the start, for a store that only the ledger names.
	unconfigured bool
	generation   uint32
	current      *instance
	old          *instance // failed, still to be closed
	again        time.Time // when to try to open next
	wait         time.Duration
	used         int64 // bytes in the store as of the last look
	free         int64 // bytes free in its file system as of the last look; -1 when that cannot be known
	total        int64 // bytes of its file system; 0 when that cannot be known
	device       vfs.DeviceID
}

// How long a failed store is left alone, doubled from try to try.
const (
	waitLow  = time.Second
	waitHigh = time.Minute
)

// fail takes an instance out of use. It may be called by pebble itself, from anywhere, so it touches nothing of pebble's.
func (d *disk) fail(in *instance, err error) {
	d.mu.Lock()
	if in.dead != nil {
		d.mu.Unlock()
		return
	}
	in.dead = err
	close(in.gone)
	if d.current != in { // it died while it was being opened; open sees that
		d.mu.Unlock()
		return
	}
	d.current, d.old = nil, in
	d.state, d.err = Failed, err
	if noSpace(err) {
		d.full, d.again = true, d.now() // nothing is broken
	} else {
		d.backOff()
	}
	id := d.id.ID
	d.mu.Unlock()
	d.event(Event{Kind: StoreFailed, Path: d.path, Store: id, Err: err})
}

// backOff sets when the store is tried again. d.mu is held.
func (d *disk) backOff() {
	d.wait = min(max(2*d.wait, waitLow), waitHigh)
	d.again = d.now().Add(d.wait)
}

// tend does what is due: opens a store that is not in use, looks at the space, sees to the ballast. It is called by one
// goroutine at a time.
func (d *disk) tend() {
	d.mu.Lock()
	due := d.current == nil && d.role != RoleDrained && !d.now().Before(d.again)
	d.mu.Unlock()
	if due {
		d.open()
	}
	d.look()
	d.restoreBallast()
}

// open tries to bring the store into use. What can hang or die runs beside it: reading and writing the identity, pebble.
func (d *disk) open() {
	if !d.closeOld() {
		return
	}
	in := newInstance()
	in.calls = 1
	up := &bringing{}
	err := await(start(func() error {
		*up = d.bringUp(in)
		return up.err
	}, func(error) { d.leave(in) }), d.deadline)
	if errors.Is(err, errHung) {
		up = &bringing{} // the other one may still be written to
	}
	d.mu.Lock()
	if err == nil {
		err = in.dead
	} else if in.dead != nil && errors.Is(err, errEnded) {
		err = in.dead
	}
	if err != nil {
		if in.dead == nil {
			in.dead = err
			close(in.gone)
		}
		d.old = in
		d.mu.Unlock()
		d.down(up.state, up.kind, err)
		return
	}
	d.current, d.id, d.state, d.err, d.wait = in, up.id, OK, nil, 0
	if d.full {
		d.err = errFull
	}
	d.remember(up.id)
	d.mu.Unlock()
	d.event(Event{Kind: StoreOpened, Path: d.path, Store: up.id.ID})
}

// remember puts our own identity in place of the ledger's, so that a disk exchanged under us is noticed at the next
// opening. d.mu is held.
func (d *disk) remember(id Identity) {
	d.known = slices.DeleteFunc(slices.Clone(d.known), func(k Identity) bool { return k.ID == id.ID })
	d.known = append(d.known, id)
}

// down records why the store is not in use; the event is sent only when that is news.
func (d *disk) down(state Health, kind EventKind, err error) {
	if kind == 0 {
		state, kind = Failed, StoreFailed
	}
	d.mu.Lock()
	news := d.state != state || d.err == nil || d.err.Error() != err.Error()
	d.state, d.err = state, err
	d.backOff()
	id := d.id.ID
	d.mu.Unlock()
	if news {
		d.event(Event{Kind: kind, Path: d.path, Store: id, Err: err})
	}
}

// closeOld closes the instance that failed. It reports false while a call of it has not ended: a second instance beside it
// could have two of them write.
func (d *disk) closeOld() bool {
	d.mu.Lock()
	in := d.old
	if in != nil && in.calls > 0 {
		d.backOff()
		d.mu.Unlock()
		return false
	}
	d.old = nil
	d.mu.Unlock()
	if in == nil || in.db == nil {
		return true
	}
	d.mu.Lock()
	d.old = in
	in.calls = 1
	d.mu.Unlock()
	// An error or a panic is expected of an instance that failed, and what counts is on disk.
	err := await(start(in.db.Close, func(error) {
		d.mu.Lock()
		in.db = nil
		d.mu.Unlock()
		d.leave(in)
	}), d.deadline)
	if errors.Is(err, errHung) {
		return false
	}
	d.mu.Lock()
	d.old = nil
	d.mu.Unlock()
	return true
}

// shut closes the store for good, when its calls have ended or the deadline has passed.
func (d *disk) shut() error {
	d.mu.Lock()
	if in := d.current; in != nil {
		d.current, d.old = nil, in
		in.dead = errClosed
		close(in.gone)
	}
	d.state, d.err = Failed, errClosed
	in := d.old
	d.mu.Unlock()
	if in != nil {
		_ = await(start(func() error {
			d.mu.Lock()
			defer d.mu.Unlock()
			for in.calls > 0 {
				d.idle.Wait()
			}
			return nil
		}, func(error) {}), d.deadline)
	}
	if !d.closeOld() {
		return fmt.Errorf("close store %s: %w", d.path, errHung) // the lock is kept: something may still write
	}
	lock := d.lock
	if d.lock = nil; lock == nil {
		return nil
	}
	if err := lock.Close(); err != nil {
		return fmt.Errorf("unlock store %s: %w", d.path, err)
	}
	return nil
}
