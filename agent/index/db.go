package index

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"forebay/proto"
)

// format is the version of the keys and values; a higher one is refused.
const format = 1

// pebbleFormat is pinned, so that a release that knows a newer one does not lock out the release before it.
const pebbleFormat = pebble.FormatColumnarBlocks

// Why an index cannot be opened. ErrCorrupt and ErrNewer: move the folder aside and start with an empty one, which costs a
// scan and reading what the relay cannot place by size alone. ErrInUse: another agent has it; leave it alone. ErrClosed is what is told to
// those who use it after Close.
var (
	ErrInUse   = errors.New("another process has the index open")
	ErrNewer   = errors.New("the index has a newer format than this program knows")
	ErrCorrupt = errors.New("the index is corrupt")
	ErrClosed  = errors.New("the index is closed")
)

// DB holds the indexes of all roots of an agent in one pebble database, so that its few MiB of buffers are shared.
type DB struct {
	pdb  *pebble.DB
	lock *pebble.Lock

	mu    sync.Mutex
	roots map[string]*Root

	use    sync.Mutex
	gone   *sync.Cond // on use: the last user has left
	users  int
	closed bool

	failOnce sync.Once
	failed   chan struct{}
	err      error // set before failed is closed
}

// Open opens the database in dir, which is made when it is missing. Errors wrap ErrInUse, ErrNewer or ErrCorrupt where
// one of them is the cause; any other error (no rights, no space) says nothing about the index.
func Open(dir string) (*DB, error) { return OpenFS(dir, vfs.Default) }

// OpenFS is Open on a file system that is not the operating system's.
func OpenFS(dir string, disk vfs.FS) (*DB, error) {
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make index folder %s: %w", dir, err)
	}
	lock, err := pebble.LockDirectory(dir, disk)
	if err != nil {
		return nil, proto.Errorf(proto.ClassConflict, "lock index %s: %w: stop the other agent or give this one another data folder (%v)", dir, ErrInUse, err)
	}
	d := &DB{lock: lock, roots: map[string]*Root{}, failed: make(chan struct{})}
	d.gone = sync.NewCond(&d.use)
	if err := d.openLocked(dir, disk); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return d, nil
}

func (d *DB) openLocked(dir string, disk vfs.FS) (err error) {
	opts := d.options(disk)
	defer opts.Cache.Unref()
	// Opening replays the log and may meet what makes pebble call Fatalf, hence through do.
	err = d.do(func() (err error) {
		d.pdb, err = pebble.Open(dir, opts)
		return err
	})
	if err != nil {
		return fmt.Errorf("open index %s: %w", dir, classify(err))
	}
	if err := d.checkFormat(); err != nil {
		_ = d.pdb.Close()
		return fmt.Errorf("open index %s: %w", dir, err)
	}
	return nil
}

// options keeps pebble's memory to about 32 MiB whatever the index holds: the cache, from which the memtables (three of
// 4 MiB at most) take their share, and the open tables' descriptions.
func (d *DB) options(disk vfs.FS) *pebble.Options {
	flush := new(atomic.Pointer[error]) // how the last flush ended
	o := &pebble.Options{
		FS:                          logFS{disk, d},
		Lock:                        d.lock,
		Logger:                      fatal{d},
		FormatMajorVersion:          pebbleFormat,
		Cache:                       pebble.NewCache(28 << 20),
		MemTableSize:                4 << 20,
		MemTableStopWritesThreshold: 3,
		MaxOpenFiles:                128,
		L0CompactionThreshold:       4,
		LBaseMaxBytes:               32 << 20,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 1 },
		EventListener: &pebble.EventListener{
			// Without this, pebble ends the process. The read that met it returns the error too.
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				d.fail(fmt.Errorf("%w: %v", ErrCorrupt, i))
			},
			// A memtable that cannot be written out is tried again at once, and for ever: a full disk would keep a processor
			// busy and those who open or write waiting. Pebble tells of a failed flush twice, of one that had nothing to
			// write only here.
			FlushEnd: func(i pebble.FlushInfo) { flush.Store(&i.Err) },
			BackgroundError: func(err error) {
				if last := flush.Load(); last != nil && err == *last { //nolint:errorlint // the very same
					d.fail(fmt.Errorf("write a table: %w", err))
				}
			},
		},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most lookups of a first scan are for paths that are not there
	}
	return o
}

// fatal is pebble's logger. Fatalf must not return (the database would be ruined) and must not end the agent: it marks the
// database failed and ends the goroutine that met the fault.
type fatal struct{ d *DB }

func (fatal) Infof(string, ...any)  {}
func (fatal) Errorf(string, ...any) {}

func (f fatal) Fatalf(format string, args ...any) {
	f.d.fail(fmt.Errorf(format, args...))
	runtime.Goexit()
}

func (d *DB) fail(err error) {
	d.failOnce.Do(func() {
		d.err = fmt.Errorf("index failed, look at the disk of the agent's data folder and restart the agent: %w", err)
		close(d.failed)
		d.use.Lock()
		defer d.use.Unlock()
		d.gone.Broadcast()
	})
}

// Failed is closed when the disk under the index failed. Nothing works any more then; what it held up to its last writes
// is there after a restart of the process.
func (d *DB) Failed() <-chan struct{} { return d.failed }

// Err says why Failed is closed; nil before.
func (d *DB) Err() error {
	select {
	case <-d.failed:
		return d.err
	default:
		return nil
	}
}

// do runs fn, which may meet Fatalf, in a goroutine of its own, and returns early when the database fails.
func (d *DB) do(fn func() error) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	return d.guarded(fn)
}

// guarded is do for who has entered.
func (d *DB) guarded(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }() // ends with fn, or in Fatalf, which closes failed
	select {
	case err := <-done:
		return err
	case <-d.failed:
		return d.err
	}
}

// classify adds ErrCorrupt or ErrNewer to an error from opening.
func classify(err error) error {
	switch {
	// Pebble has no value for this one.
	case strings.Contains(err.Error(), "unknown format major version"):
		return proto.Errorf(proto.ClassPermanent, "%w: %v", ErrNewer, err)
	// A file that the manifest names and that is not there has no mark of corruption.
	case errors.Is(err, ErrCorrupt), pebble.IsCorruptionError(err), errors.Is(err, fs.ErrNotExist):
		return proto.Errorf(proto.ClassCorrupt, "%w: %v", ErrCorrupt, err)
	}
	return err
}

func (d *DB) checkFormat() error {
	v, err := d.get([]byte{kindFormat})
	switch {
	case err != nil:
		return classify(err)
	case v == nil:
		return d.setFormat()
	case len(v) != 1 || v[0] == 0:
		return proto.Errorf(proto.ClassCorrupt, "%w: format row %x", ErrCorrupt, v)
	case v[0] > format:
		return proto.Errorf(proto.ClassPermanent, "%w: it has %d, this program knows %d", ErrNewer, v[0], format)
	}
	return nil
}

// setFormat marks an empty database as ours.
func (d *DB) setFormat() error {
	it, err := d.pdb.NewIter(nil)
	if err != nil {
		return classify(err)
	}
	used := it.First()
	if err := it.Close(); err != nil {
		return classify(err)
	}
	if used {
		return proto.Errorf(proto.ClassCorrupt, "%w: it has rows but no format row", ErrCorrupt)
	}
	return d.do(func() error { return d.pdb.Set([]byte{kindFormat}, []byte{format}, pebble.Sync) })
}

// Root returns the index of the root of that name, made with a new id when the database has none.
func (d *DB) Root(name string) (*Root, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.roots[name]; r != nil {
		return r, nil
	}
	v, err := d.get(nameKey(name))
	if err != nil {
		return nil, fmt.Errorf("open index of root %q: %w", name, err)
	}
	r := &Root{d: d, name: name}
	if v == nil {
		err = r.create()
	} else {
		err = r.load(v)
	}
	if err != nil {
		return nil, fmt.Errorf("open index of root %q: %w", name, err)
	}
	d.roots[name] = r
	return r, nil
}

func nameKey(name string) []byte { return append([]byte{kindName}, name...) }

// Roots returns the names of all roots that the database knows, sorted.
func (d *DB) Roots() (names []string, err error) {
	err = d.each([]byte{kindName}, []byte{kindName + 1}, func(k, _ []byte) (bool, error) {
		names = append(names, string(k[1:]))
		return true, nil
	})
	return names, err
}

// Drop forgets a root and everything in its index. Its *Root must no longer be used. An unknown name is no error.
func (d *DB) Drop(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.get(nameKey(name))
	if err != nil || v == nil {
		return err
	}
	if len(v) != 4 {
		return fmt.Errorf("drop index of root %q: %w: number of %d bytes", name, ErrCorrupt, len(v))
	}
	b := d.pdb.NewBatch()
	_ = b.Delete(nameKey(name), nil) // writes to a batch do not fail
	for _, kind := range rootKinds {
		p := prefix(kind, binary.BigEndian.Uint32(v))
		_ = b.DeleteRange(p, end(p), nil)
	}
	delete(d.roots, name)
	return d.do(func() error { return b.Commit(pebble.Sync) })
}

// nextRoot is a number that no root of the database has.
func (d *DB) nextRoot() (uint32, error) {
	var highest uint32
	err := d.each([]byte{kindName}, []byte{kindName + 1}, func(_, v []byte) (bool, error) {
		if len(v) == 4 {
			highest = max(highest, binary.BigEndian.Uint32(v))
		}
		return true, nil
	})
	return highest + 1, err
}

// Close closes the database once those who are using it have done so. After a failure it leaves it as it is: pebble cannot be closed then,
// and its lock ends with the process.
func (d *DB) Close() error {
	if d.Err() != nil {
		return nil
	}
	d.use.Lock()
	was := d.closed
	d.closed = true
	for d.users > 0 && d.Err() == nil {
		d.gone.Wait()
	}
	d.use.Unlock()
	if was || d.Err() != nil {
		return nil
	}
	err := d.guarded(d.pdb.Close)
	if d.Err() == nil {
		err = errors.Join(err, d.lock.Close())
	}
	if err != nil {
		return fmt.Errorf("close index: %w", err)
	}
	return nil
}

// enter is called before pebble is used, and leave after it. Pebble panics when it is used once it is closed, and who was kept by the disk of
// a root may come back after that.
func (d *DB) enter() error {
	if err := d.Err(); err != nil {
		return err
	}
	d.use.Lock()
	defer d.use.Unlock()
	if d.closed {
		return ErrClosed
	}
	d.users++
	return nil
}

func (d *DB) leave() {
	d.use.Lock()
	defer d.use.Unlock()
	if d.users--; d.users == 0 {
		d.gone.Broadcast()
	}
}

// get returns a copy of a value, nil when there is none.
func (d *DB) get(key []byte) ([]byte, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	v, closer, err := d.pdb.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, closer.Close()
}

// each calls fn for each key in [from, to) until it returns false or an error. fn does not keep the slices.
func (d *DB) each(from, to []byte, fn func(k, v []byte) (bool, error)) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	it, err := d.pdb.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			break // Close reports it
		}
		if more, err := fn(it.Key(), v); err != nil {
			return errors.Join(err, it.Close())
		} else if !more {
			break
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	return nil
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
