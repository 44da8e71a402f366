package store

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"forebay/internal/faultpoint"
	"forebay/proto"
)

// errLocked is a store that another process, or another Set of this one, has open.
var errLocked = errors.New("the store is in use by another relay")

// bringing is what came of bringing a store up.
type bringing struct {
	state Health
	kind  EventKind
	id    Identity
	err   error
}

// bringUp opens the store in d.path into in, or says why not. An empty directory that the ledger does not know is
// initialised; a known one never is.
func (d *disk) bringUp(in *instance) bringing {
	d.mu.Lock()
	known, roles, generation := d.known, d.roles, d.generation
	if d.renewing {
		roles.GivenUp = slices.Clone(roles.GivenUp)
		for i := range roles.GivenUp {
			roles.GivenUp[i].Path = "" // the place is free
		}
	}
	d.mu.Unlock()
	d.unlock()
	// Look first: where a store is missing, or where something else is, nothing is written, no lock either.
	if _, _, down := d.consider(known, roles); down.err != nil {
		return down
	}
	if err := d.takeLock(); err != nil {
		return bringing{Failed, StoreFailed, Identity{}, err}
	}
	v, id, down := d.consider(known, roles)
	if down.err != nil {
		return down
	}
	var err error
	if v == initialise {
		err = d.initialise(id)
	}
	if err == nil {
		err = d.prepare()
	}
	if err == nil {
		err = d.openDB(in, v != initialise)
	}
	if errors.Is(err, pebble.ErrDBDoesNotExist) {
		return bringing{Missing, StoreMissing, id, proto.Errorf(proto.ClassTransient, "store %s at %s has lost its database: restore the disk; it is never initialised anew by itself", id.ID, d.path)}
	}
	if err != nil {
		return bringing{Failed, StoreFailed, id, err}
	}
	d.fault.At(faultpoint.StoreOpened)
	for _, k := range known {
		if k.ID == id.ID {
			id.Opened = max(id.Opened, k.Opened)
		}
	}
	id.Opened++
	id.Generation = max(id.Generation, generation)
	if err := writeIdentity(d.fs, d.path, id); err != nil {
		return bringing{Failed, StoreFailed, id, err}
	}
	d.fault.At(faultpoint.StoreCounted)
	return bringing{OK, StoreOpened, id, nil}
}

// consider decides what to do with what is in the directory; down.err is set when the store cannot be brought up.
func (d *disk) consider(known []Identity, roles Roles) (v verdict, id Identity, down bringing) {
	found, ok, err := readIdentity(d.raw, d.path)
	if err != nil {
		kind := StoreRefused
		if proto.ClassOf(err) == proto.ClassTransient { // it could not be read
			kind = StoreFailed
		}
		return refused, id, bringing{Failed, kind, Identity{}, err}
	}
	v, id, err = admit(d.path, d.relay, found, ok, known, roles)
	switch v {
	case missing:
		return v, id, bringing{Missing, StoreMissing, id, err}
	case refused:
		return v, id, bringing{Failed, StoreRefused, id, err}
	case admitted, initialise:
	}
	return v, id, bringing{}
}

// unlock lets the lock go that was held so far: no instance is open, and another disk may be mounted there by now, or somebody
// wants to unmount this one.
func (d *disk) unlock() {
	if lock := d.lock; lock != nil {
		d.lock = nil
		_ = lock.Close() // the file may be gone with its disk
	}
}

// takeLock locks the directory, once there is one.
func (d *disk) takeLock() error {
	if d.lock != nil {
		return nil
	}
	if _, err := d.raw.Stat(d.path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := d.raw.Lock(d.raw.PathJoin(d.path, "LOCK"))
	if isLocked(err) {
		return proto.Errorf(proto.ClassPermanent, "%s: %w: stop that one, or give this relay a directory of its own", d.path, errLocked)
	}
	if err != nil {
		return fmt.Errorf("lock store %s: %w", d.path, err)
	}
	d.lock = lock
	return nil
}

// isLocked tells a lock that is held from one that cannot be tried. Pebble has no error of its own for the former.
func isLocked(err error) bool {
	return err != nil && (errors.Is(err, syscall.EAGAIN) || strings.Contains(err.Error(), "lock held by current process"))
}

// initialise makes the directory and a provisional identity. Only with the first counted opening is the store complete; what
// a crash left before that holds nothing and is begun anew (pebble refuses a database that was half made).
func (d *disk) initialise(id Identity) error {
	if parent := d.raw.PathDir(d.path); d.path != parent {
		if _, err := d.raw.Stat(parent); errors.Is(err, os.ErrNotExist) {
			return proto.Errorf(proto.ClassTransient, "neither %s nor %s to make it in is there: mount the disk, or make the directory", d.path, parent)
		}
	}
	if err := makeDirs(d.raw, d.path); err != nil {
		return fmt.Errorf("make store %s: %w", d.path, err)
	}
	if err := syncDir(d.raw, d.raw.PathDir(d.path)); err != nil { // a killed process may have left it unsynced
		return err
	}
	if err := d.takeLock(); err != nil {
		return err
	}
	if err := d.raw.RemoveAll(d.raw.PathJoin(d.path, dbName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("clear the half-made store %s: %w", d.path, err)
	}
	if err := writeIdentity(d.fs, d.path, id); err != nil {
		return err
	}
	d.fault.At(faultpoint.StoreInitialised)
	return nil
}

// prepare makes the inner directories. What is staged is nobody's any more.
func (d *disk) prepare() error {
	stage := d.raw.PathJoin(d.path, stageName)
	if err := d.raw.RemoveAll(stage); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("clear %s: %w", stage, err)
	}
	for _, dir := range []string{stage, d.raw.PathJoin(d.path, dbName)} {
		if err := d.raw.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	return syncDir(d.raw, d.path)
}

func (d *disk) openDB(in *instance, mustExist bool) error {
	if err := d.dropLogs(); err != nil {
		return err
	}
	opts := pebbleOptions(unlockedFS{d.fs}, mustExist, d.openFiles,
		func(err error) { d.event(Event{Kind: Corruption, Path: d.path, Store: d.storeID(), Err: err}) },
		func(err error) { d.fail(in, err) })
	db, err := pebble.Open(d.raw.PathJoin(d.path, dbName), opts)
	if err != nil {
		return fmt.Errorf("open store %s: %w", d.path, err)
	}
	in.db, in.tables = db, opts.MakeWriterOptions(lowest, format.MaxTableFormat())
	return nil
}

// dropLogs removes pebble's write-ahead logs. Each opening makes one, and nothing is ever written to it. Where pebble finds
// one it replays and flushes it, empty as it is, on a goroutine that Open waits for without end when MANIFEST fails.
func (d *disk) dropLogs() error {
	dir := d.raw.PathJoin(d.path, dbName)
	names, err := d.raw.List(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".log") {
			continue
		}
		if err := d.raw.Remove(d.raw.PathJoin(dir, name)); err != nil {
			return fmt.Errorf("remove the empty log %s: %w", name, err)
		}
	}
	return nil
}

func (d *disk) storeID() StoreID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id.ID
}

// noSpace reports whether err says that a disk or quota is full.
func noSpace(err error) bool {
	return vfs.IsNoSpaceError(err) || errors.Is(err, syscall.EDQUOT)
}
