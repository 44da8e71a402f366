package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"forebay/internal/faultpoint"
	"forebay/proto"
)

const ballastName = "ballast"

// errFull is a disk without room.
var errFull = errors.New("the disk is full")

// releaseBallast lets the ballast go: freeing space appends to MANIFEST, which a full disk does not allow. It is called by
// the file system under pebble at the first write that found the disk full, and before space is freed on a disk known to
// be full.
func (d *disk) releaseBallast() {
	err := d.raw.Remove(d.raw.PathJoin(d.path, ballastName))
	d.markFull(nil)
	d.mu.Lock()
	news := !d.noBallast && err == nil
	d.noBallast = true
	id := d.id.ID
	d.mu.Unlock()
	if news {
		d.event(Event{Kind: BallastReleased, Path: d.path, Store: id})
	}
}

// markFull keeps new data away until there is room again.
func (d *disk) markFull(err error) {
	d.mu.Lock()
	news := !d.full
	d.full = true
	if err == nil {
		err = errFull
	}
	if d.state == OK {
		d.err = err
	}
	id := d.id.ID
	d.mu.Unlock()
	if news {
		d.event(Event{Kind: StoreFull, Path: d.path, Store: id, Err: err})
	}
}

// headroom is what must be free, beside the ballast, before a disk that was full takes data again: room for more than one
// shard, or it would be full again with the next one, and again with each try.
func headroom(total int64) int64 { return min(max(total/20, 16<<20), total/4, 64<<20) }

// restoreBallast makes the ballast again when there is room for it, and lets a disk that was full take data again. A
// ballast that the file system has not really set aside helps nobody, so it is preallocated, or written where that is
// unknown.
func (d *disk) restoreBallast() {
	d.mu.Lock()
	wanting := d.current != nil && (d.full || d.noBallast)
	room, needed := d.free < 0 || d.free >= d.needed(), d.needed()
	d.mu.Unlock()
	if !wanting {
		return
	}
	if !room {
		d.markFull(fmt.Errorf("%w: %d bytes must be free before it takes data, ballast included", errFull, needed))
		return
	}
	var err error
	if d.ballast > 0 {
		err = d.serve(context.Background(), anyCall, "make the ballast", func(in *instance) error {
			if err := d.stillHere(in); err != nil {
				return err
			}
			return d.makeBallast()
		})
	}
	if err == nil {
		err = d.serve(context.Background(), anyCall, "look for inodes", func(*instance) error { return d.spareFiles() })
	}
	if err != nil {
		d.markFull(err) // without it, freeing space could not be relied on
		return
	}
	d.mu.Lock()
	news := d.noBallast && d.full
	d.full, d.noBallast = false, false
	if d.state == OK {
		d.err = nil
	}
	id := d.id.ID
	d.mu.Unlock()
	if news {
		d.event(Event{Kind: BallastRestored, Path: d.path, Store: id})
	}
}

// needed returns the bytes that must be free before the store takes data again. d.mu is held.
func (d *disk) needed() int64 {
	if d.noBallast {
		return d.ballast + headroom(d.total)
	}
	return headroom(d.total)
}

// spare is how many files must fit before a disk that was full takes data again: it may have bytes and no inodes.
const spare = 16

// spareFiles fails unless some more files can be made. Nothing but making them tells that on every file system.
func (d *disk) spareFiles() (err error) {
	made := 0
	for ; made < spare && err == nil; made++ {
		var f vfs.File
		if f, err = d.raw.Create(d.spareName(made), vfs.WriteCategoryUnspecified); err == nil {
			err = f.Close()
		}
	}
	for i := range made {
		if gone := d.raw.Remove(d.spareName(i)); gone != nil && !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %d files must fit before it takes data: %w", errFull, spare, err)
	}
	return nil
}

// spareName is in the directory that is emptied when the store is opened.
func (d *disk) spareName(i int) string {
	return d.raw.PathJoin(d.path, stageName, fmt.Sprintf("spare-%d", i))
}

func (d *disk) makeBallast() error {
	if _, err := d.raw.Stat(d.raw.PathJoin(d.path, ballastName)); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for the ballast of %s: %w", d.path, err)
	}
	tmp := d.raw.PathJoin(d.path, ballastName+newSuffix)
	f, err := d.raw.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("make the ballast of %s: %w", d.path, err)
	}
	if err = f.Preallocate(0, d.ballast); err != nil && !noSpace(err) {
		err = fill(f, d.ballast)
	}
	if err != nil {
		_ = f.Close()
	} else {
		err = publish(d.raw, f, d.path, ballastName)
	}
	if err != nil {
		_ = d.raw.Remove(tmp)
		return fmt.Errorf("make the ballast of %s: %w", d.path, err)
	}
	d.fault.At(faultpoint.StoreBallast)
	return nil
}

// fill writes n bytes that no file system can compress away.
func fill(f vfs.File, n int64) error {
	noise := rand.NewChaCha8([32]byte{})
	buf := make([]byte, 1<<20)
	for n > 0 {
		_, _ = noise.Read(buf) // never fails
		k, err := f.Write(buf[:min(n, int64(len(buf)))])
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}

// look takes note of the space in the store and its file system, if that is still there.
func (d *disk) look() {
	_ = d.serve(context.Background(), anyCall, "look at the space", func(in *instance) error {
		if err := d.stillHere(in); err != nil {
			return err
		}
		used := usage(in.db.Metrics())
		free, total, device := int64(-1), int64(0), vfs.DeviceID{}
		if u, err := d.raw.GetDiskUsage(d.path); err == nil {
			free, total = int64(u.AvailBytes), int64(u.TotalBytes)
		}
		if fi, err := d.raw.Stat(d.path); err == nil {
			device = fi.DeviceID()
		}
		_, ballastErr := d.raw.Stat(d.raw.PathJoin(d.path, ballastName))
		d.mu.Lock()
		d.used, d.free, d.total, d.device = used, free, total, device
		d.noBallast = d.ballast > 0 && errors.Is(ballastErr, os.ErrNotExist)
		d.mu.Unlock()
		return nil
	})
}

// usage is how many bytes a store holds. Tables that nothing needs any more are not counted: pebble removes them behind our back, at
// a pace of its own, and until then what was freed would still fill the cache.
func usage(m *pebble.Metrics) int64 {
	return int64(m.DiskSpaceUsage() - m.Table.Local.ObsoleteSize - m.BlobFiles.Local.ObsoleteSize - m.WAL.ObsoletePhysicalSize)
}

// stillHere fails the instance when the directory is not the store's any more: nothing is to be written into what may be the empty
// mount point of its disk.
func (d *disk) stillHere(in *instance) error {
	err := d.recognise()
	if err != nil {
		d.fail(in, err)
	}
	return err
}

// recognise notices that the directory went away or was exchanged under an open store, as by an unmount: pebble's open files
// would not tell, and its next ones would be made somewhere else.
func (d *disk) recognise() error {
	id, ok, err := readIdentity(d.raw, d.path)
	switch {
	case err != nil && proto.ClassOf(err) == proto.ClassTransient:
		return nil // it cannot be read just now; the calls that matter find out
	case err != nil || !ok || id.ID != d.storeID():
		return proto.Errorf(proto.ClassTransient, "the directory %s is gone, or another one is in its place (unmounted?)", d.path)
	}
	return nil
}
