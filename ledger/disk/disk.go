// Package disk keeps the ledger's rows in pebble: one of the three doors to it. Entries are applied one after the other in a
// batch each, and a caller is answered when the batch is in the synced write-ahead log; callers that come together share the
// sync. It imports ledger and pebble.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// FS is pebble's file system, named here for those that hand one in and must not import pebble.
type FS = vfs.FS

// Config says where the ledger lies. FS nil means the operating system's.
type Config struct {
	Dir string
	FS  FS
	// Fatal is called once, from any goroutine, when the ledger can no longer be written or read: nothing is acknowledged
	// after that, and only a new process that opens it again, from disk, can help. It must not block.
	Fatal func(error)
	// Fault is told of the boundaries between durable steps; nil in the program that ships.
	Fault faultpoint.Hook
	// OpenFiles is how many tables may be kept open; 0 means pebble's default.
	OpenFiles int
	// Blocks is how many bytes of blocks are held in memory; 0 means pebble's default.
	Blocks int64
}

// format is the version of pebble's files. It is named, not the newest, so that a newer pebble alone writes nothing that the
// release before cannot read (I19).
const format = pebble.FormatTableFormatV6

// Ledger is an open ledger.
type Ledger struct {
	db   *pebble.DB
	lock *pebble.Lock
	mu   sync.Mutex // held while an entry is applied, not while its sync is awaited
	// Guarded by mu: applied counts the batches that can be read, synced is up to which of them a sync has come back.
	applied, synced uint64
	// As opening found them, see mark.go.
	mark     *mark
	lacks    uint64
	unmarked error

	waits  waits
	fatal  atomic.Pointer[error]
	broken chan struct{} // closed once fatal is set
	tell   func(error)
	fault  faultpoint.Hook
	once   sync.Once

	openFiles int
	blocks    int64
}

// Open opens the ledger, making a new one in an empty directory. It fails with ClassConflict when another relay has it open,
// and with ClassPermanent when it may not be read or its format is newer than this program.
func Open(cfg Config) (*Ledger, error) {
	l := &Ledger{tell: cfg.Fatal, fault: cfg.Fault, openFiles: cfg.OpenFiles, blocks: cfg.Blocks, broken: make(chan struct{})}
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	var err error
	if l.lock, err = lock(cfg.FS, cfg.Dir); err != nil {
		return nil, err
	}
	marked, unmarked := readMark(cfg.FS, cfg.FS.PathJoin(cfg.Dir, markName))
	l.unmarked = unmarked
	files := &files{FS: cfg.FS, l: l}
	files.opening.Store(true)
	err = l.guarded(func() error { return l.open(cfg.Dir, files) })
	files.opening.Store(false)
	if err != nil && l.failed() != nil {
		return nil, err // pebble may still hold on to the directory
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger %s: %w", cfg.Dir, remedied(err)), l.lock.Close())
	}
	m, err := ledger.ReadMeta(l)
	if err == nil && m.Format > ledger.Format {
		err = proto.Errorf(proto.ClassPermanent, "ledger %s has format %d, this program knows up to %d: use a newer release", cfg.Dir, m.Format, ledger.Format)
	}
	if err == nil {
		err = l.count(cfg, marked)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// count finds the number of the last batch, and compares it with the mark: what is above it was durable, and is not there any more.
func (l *Ledger) count(cfg Config, marked uint64) (err error) {
	if l.applied, err = readCount(l); err != nil {
		return err
	}
	if marked > l.applied {
		l.lacks = marked - l.applied
		l.applied = marked // a later look at this opening's batches must not take them for those that are lacking
	}
	l.synced = l.applied
	l.mark, err = openMark(cfg.FS, cfg.Dir, l.applied)
	l.unmarked = errors.Join(l.unmarked, err)
	return nil
}

// Unmarked returns why there is no mark beside the ledger, or why the one that was there could not be read. Nothing else depends on it.
func (l *Ledger) Unmarked() error { return l.unmarked }

// Lacks returns how many batches that were durable the ledger has lost: its log was cut, or its last records cannot be read. It is 0
// after any crash on a disk that keeps what it said it has, and on the next opening after the first batch that follows this one.
func (l *Ledger) Lacks() uint64 { return l.lacks }

// remedied says of damage, which no restart mends, what does.
func remedied(err error) error {
	if pebble.IsCorruptionError(err) {
		return proto.Errorf(proto.ClassCorrupt, "%w: it is damaged; rebuild it from the stores and the targets: forebay relay --recover-ledger --config FILE", err)
	}
	return err
}

// open opens pebble. A new database is opened twice: its first log is made before the format is raised, so it lacks what tells damage
// in the middle of a log from an end that a crash cut off, and rows behind a rotten bit would be gone without a word.
func (l *Ledger) open(dir string, fs vfs.FS) error {
	was, err := pebble.Peek(dir, fs)
	if err != nil {
		return err
	}
	if l.db, err = pebble.Open(dir, l.options(fs)); err != nil || was.Exists {
		return err
	}
	if err = l.db.Close(); err != nil {
		return err
	}
	l.db, err = pebble.Open(dir, l.options(fs))
	return err
}

func (l *Ledger) options(fs vfs.FS) *pebble.Options {
	flush := new(atomic.Pointer[error]) // how the last flush ended
	return &pebble.Options{
		FS:                 fs,
		Lock:               l.lock,
		FormatMajorVersion: format,
		Logger:             logger{l},
		MemTableSize:       16 << 20,
		MaxOpenFiles:       l.openFiles,
		CacheSize:          l.blocks,
		EventListener: &pebble.EventListener{
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				l.fail(remedied(fmt.Errorf("corrupt table %s: %w", info.Path, info.Details)))
			},
			// A memtable that cannot be written out is tried again at once, and for ever: a full disk would keep a processor
			// busy and those who open or write waiting. Pebble tells of a failed flush twice, of one that had nothing to
			// write only here.
			FlushEnd: func(info pebble.FlushInfo) { flush.Store(&info.Err) },
			BackgroundError: func(err error) {
				last := flush.Load()
				if errors.Is(err, pebble.ErrCorruption) || last != nil && err == *last { //nolint:errorlint // the very same
					l.fail(err)
				}
			},
		},
	}
}

// lock makes the directory this ledger's alone.
func lock(fsys vfs.FS, dir string) (*pebble.Lock, error) {
	err := fsys.MkdirAll(dir, 0o750)
	if err != nil {
		return nil, openError(dir, err)
	}
	if err := syncAbove(fsys, dir); err != nil {
		return nil, openError(dir, err)
	}
	held, err := pebble.LockDirectory(dir, fsys)
	var file *fs.PathError
	if errors.As(err, &file) { // of the lock file itself
		return nil, openError(dir, err)
	}
	if err != nil {
		return nil, proto.Errorf(proto.ClassConflict, "the data directory %s is in use by another relay: stop it, or give this one a directory of its own (%w)", dir, err)
	}
	return held, nil
}

// syncAbove makes the names of dir and of the directories above it durable, whoever made them: a power cut that takes the
// name of a ledger takes all that was ever synced below it.
func syncAbove(fsys vfs.FS, dir string) error {
	for parent := fsys.PathDir(dir); ; dir, parent = parent, fsys.PathDir(parent) {
		if parent == dir {
			return nil
		}
		err := syncDir(fsys, parent)
		// One that this user may not read, or whose file system syncs no directories, is not one that this user made.
		if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sync %s: %w", parent, err)
		}
	}
}

func openError(dir string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return proto.Errorf(proto.ClassPermanent, "open ledger %s: %w: give the relay's user the right to write there", dir, err)
	}
	return fmt.Errorf("open ledger %s: %w", dir, err)
}

// Update applies entries as one and returns when they, and all that could be read when it was called, are durable. Without
// entries it is for who is about to let something out that a power cut must not leave without its rows: it costs nothing when
// all is durable already. When it fails nothing of the entries is seen, except that a failure of the whole ledger leaves open
// what the next start finds of them.
func (l *Ledger) Update(entries ...ledger.Entry) error {
	if err := l.failed(); err != nil {
		return err
	}
	return l.guarded(func() error { return l.update(entries) })
}

// guarded runs what writes by pebble. When a file cannot be written, pebble ends the goroutine (see logger), panics, or leaves
// it waiting for ever: none of which must happen to the caller. A disk that hangs is another matter, see waits.
func (l *Ledger) guarded(fn func() error) error {
	defer l.waits.begin()()
	done := make(chan error, 1)
	go func() { // ends with fn, or is given up with the ledger
		defer func() {
			if p := recover(); p != nil {
				l.fail(fmt.Errorf("%v\n%s", p, debug.Stack()))
			}
		}()
		done <- fn()
	}()
	select {
	case err := <-done:
		return err
	case <-l.broken:
		return l.failed()
	}
}

// Apply applies entries as one and does not wait for the disk: they can be read, and are durable when a later Update returns. It is for
// who holds others up while it writes, and waits once it does not. It fails as Update does.
func (l *Ledger) Apply(entries ...ledger.Entry) error {
	if err := l.failed(); err != nil {
		return err
	}
	return l.guarded(func() error {
		if _, _, err := l.apply(entries); err != nil {
			return err
		}
		l.fault.At(faultpoint.LedgerApplied)
		return nil
	})
}

func (l *Ledger) update(entries []ledger.Entry) error {
	upTo, durable, err := l.apply(entries)
	if err != nil || durable {
		return err
	}
	l.fault.At(faultpoint.LedgerApplied)
	// A log record with a sync makes every batch before it durable; pebble lets those who wait together share one.
	if err := l.db.LogData(nil, pebble.Sync); err != nil {
		l.fail(err)
	}
	if err := l.failed(); err != nil {
		return err
	}
	l.mu.Lock()
	l.synced = max(l.synced, upTo)
	l.mu.Unlock()
	l.mark.durable(upTo)
	l.fault.At(faultpoint.LedgerSynced)
	return nil
}

// apply makes entries readable and returns up to which batch the log must be synced, and whether that is done already, for all
// that can be read to be durable.
func (l *Ledger) apply(entries []ledger.Entry) (upTo uint64, durable bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failed(); err != nil || len(entries) == 0 {
		return l.applied, l.applied == l.synced, err
	}
	b := l.db.NewIndexedBatch()
	defer func() { _ = b.Close() }() // a committed batch has nothing left to report
	tx := batch{b}
	for _, e := range entries {
		if err := ledger.Apply(tx, e); err != nil {
			return 0, false, fmt.Errorf("apply %T: %w", e, err)
		}
	}
	if err := b.Set([]byte{ledger.DoorKey}, encodeCount(l.applied+1), nil); err != nil {
		return 0, false, fmt.Errorf("count a batch: %w", err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		l.fail(err)
		return 0, false, l.failed()
	}
	l.applied++
	return l.applied, false, nil
}

// Get implements ledger.Rows.
func (l *Ledger) Get(key []byte) ([]byte, error) { return read(l.db, key) }

// Scan implements ledger.Rows.
func (l *Ledger) Scan(lo, hi []byte, fn func(k, v []byte) (bool, error)) error {
	return scan(l.db, lo, hi, fn)
}

// View calls fn with a view of the ledger as it is now, whatever is written meanwhile.
func (l *Ledger) View(fn func(ledger.Rows) error) error {
	s := l.db.NewSnapshot()
	defer func() { _ = s.Close() }()
	return fn(snapshot{s})
}

// Close closes the ledger, once. Everything that Update returned for is durable already. A ledger that has failed is left
// alone, locked until the process ends: parts of pebble may still hold on to it.
func (l *Ledger) Close() error {
	if err := l.failed(); err != nil {
		return err
	}
	return l.guarded(func() error {
		err := l.db.Close()
		l.mark.close()
		return errors.Join(err, l.lock.Close())
	})
}

func (l *Ledger) failed() error {
	if e := l.fatal.Load(); e != nil {
		return *e
	}
	return nil
}

func (l *Ledger) fail(err error) {
	l.once.Do(func() {
		err = fmt.Errorf("ledger failed, restart the relay: %w", err)
		if l.tell != nil {
			l.tell(err) // before anybody gets it as an answer
		}
		l.fatal.Store(&err)
		close(l.broken)
	})
}

type snapshot struct{ s *pebble.Snapshot }

func (s snapshot) Get(key []byte) ([]byte, error) { return read(s.s, key) }
func (s snapshot) Scan(lo, hi []byte, fn func(k, v []byte) (bool, error)) error {
	return scan(s.s, lo, hi, fn)
}

type batch struct{ b *pebble.Batch }

func (b batch) Get(key []byte) ([]byte, error) { return read(b.b, key) }
func (b batch) Scan(lo, hi []byte, fn func(k, v []byte) (bool, error)) error {
	return scan(b.b, lo, hi, fn)
}
func (b batch) Set(k, v []byte) error { return b.b.Set(k, v, nil) }
func (b batch) Delete(k []byte) error { return b.b.Delete(k, nil) }

func read(r pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, closer.Close()
}

func scan(r pebble.Reader, lo, hi []byte, fn func(k, v []byte) (bool, error)) (err error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return fmt.Errorf("scan ledger: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("scan ledger: %w", err)
		}
		more, err := fn(it.Key(), v)
		if err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// logger hears from pebble what it cannot return. Pebble calls Fatalf when the write-ahead log or the manifest cannot be
// written and expects it not to return: returning would go on without them.
type logger struct{ l *Ledger }

func (logger) Infof(string, ...any)  {}
func (logger) Errorf(string, ...any) {} // repeated by the events and errors handled above
func (g logger) Fatalf(format string, args ...any) {
	g.l.fail(fmt.Errorf(format, args...))
	runtime.Goexit()
}
