package dir

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/proto"
)

// Barrier makes staged contents durable: the first of the two barriers. When it fails, the contents are taken for spoiled
// until they are staged from the start again: the kernel reports a failed write once, and the next sync would succeed.
func (d *Dir) Barrier(ctx context.Context, ids []target.StageID) error {
	if len(ids) == 0 {
		return nil
	}
	for _, id := range ids {
		if err := target.CheckStageID(id); err != nil {
			return proto.Errorf(proto.ClassPermanent, "barrier: %w", err)
		}
	}
	p, err := d.write(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	if err := d.barrier(ctx, p, ids); err != nil {
		if !errors.Is(err, ctx.Err()) { // else no sync has failed
			d.taint(ids)
		}
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled(ids)
	return nil
}

func (d *Dir) barrier(ctx context.Context, p *place, ids []target.StageID) error {
	for _, id := range ids {
		d.mu.Lock()
		tainted := d.tainted[id]
		d.mu.Unlock()
		if tainted {
			return proto.Errorf(proto.ClassTransient, "barrier: staged content %s may be spoiled by a write that failed: stage it again", id)
		}
		if _, err := p.Stat(d.stageDir() + "/" + string(id)); err != nil {
			return classify(err, "barrier: staged content %s", id)
		}
	}
	if p.t.syncfs {
		err := d.syncWatch(p)
		if err != nil {
			d.taintUnsynced()
		}
		return classify(err, "sync the target's file system")
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := p.openStaged(d.stageDir()+"/"+string(id), unix.O_RDONLY)
		if err != nil {
			return classify(err, "barrier: staged content %s", id)
		}
		err = f.Sync()
		_ = f.Close() // only synced
		if err != nil {
			return classify(err, "sync staged content %s", id)
		}
	}
	return classify(p.syncDir(d.stageDir()), "sync the folder of staged contents")
}

// taintUnsynced taints all contents that are not durable yet: syncfs was told of the failed writes of any of them, and is not told
// again. What has been made durable of one by itself stays.
func (d *Dir) taintUnsynced() {
	d.mu.Lock()
	ids := slices.Collect(maps.Keys(d.unsynced))
	d.mu.Unlock()
	d.taint(ids)
}

// syncWatch calls syncfs on the descriptor that was open before the contents were written, or on a new one when the
// contents are of an earlier run.
func (d *Dir) syncWatch(p *place) error {
	d.mu.Lock()
	watch := d.watch
	var dup *os.File
	if watch != nil {
		fd, err := unix.FcntlInt(watch.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			d.mu.Unlock()
			return err
		}
		dup = os.NewFile(uintptr(fd), watch.Name()) // the same open file: another barrier may end and close watch
	}
	d.mu.Unlock()
	if dup == nil {
		var err error
		if dup, err = p.Open("", unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			return err
		}
	}
	defer func() { _ = dup.Close() }() // only synced
	if d.syncfs != nil {
		return d.syncfs(int(dup.Fd()))
	}
	return retry(func() error { return unix.Syncfs(int(dup.Fd())) })
}
