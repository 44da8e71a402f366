package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"forebay/cmd/forebay/bench/advice"
	"forebay/internal/show"
	"forebay/proto"
)

const (
	recordBytes = 4096 // of an append that is fsynced, about what a commit group writes to the ledger
	maxSyncs    = 5000
	tablesGroup = 4 // tables of a commit group in one store: then the directory is made durable
)

// errNoPlace says that no directory of the relay can be used; why is told of each.
var errNoPlace = errors.New("none of the relay's directories can be used")

// disks measures each place by itself, then all stores at once.
func (b *Bench) disks(ctx context.Context, span time.Duration) error {
	var stores []*spot
	for _, s := range b.spots {
		if s.role == advice.RoleStore {
			stores = append(stores, s)
		}
	}
	if len(b.spots) == 0 {
		return errNoPlace
	}
	share := len(b.spots)
	if len(stores) > 1 {
		share++
	}
	span /= time.Duration(share)
	for _, s := range b.spots {
		d, err := b.disk(ctx, s, span)
		if err != nil && ctx.Err() == nil {
			b.skip(s.role+" "+s.path, denied(err))
			continue
		}
		if err != nil {
			return ctx.Err()
		}
		b.out.Disks = append(b.out.Disks, d)
	}
	if len(stores) > 1 {
		return b.together(ctx, stores, span)
	}
	return nil
}

// disk measures one place.
func (b *Bench) disk(ctx context.Context, s *spot, span time.Duration) (d advice.Disk, err error) {
	d = advice.Disk{Role: s.role, Path: s.path, Device: s.device, FileSystem: s.kind, InMemory: s.memory, OwnBytes: s.own(),
		TableBytes: b.tableBytes()}
	if d.FreeBytes, d.SizeBytes, err = spaceOf(s.scratch); err != nil {
		return d, err
	}
	room, err := s.room(b.o.Size)
	if err != nil {
		return d, err
	}
	bar := b.d.Progress.Start(s.role+" "+s.path+", write", show.InBytes)
	defer bar.Stop()
	dir := filepath.Join(s.scratch, "tables")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return d, err
	}
	if d.Write, err = b.writeTables(ctx, dir, d.TableBytes, room, span/2, bar); err != nil {
		return d, err
	}
	bar.Finish()
	if d.Read, err = b.readTables(ctx, dir, span/4); err != nil {
		return d, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return d, err
	}
	d.SyncP50, d.SyncP99, err = b.syncs(ctx, filepath.Join(s.scratch, "records"), span/4)
	return d, err
}

// tableBytes is how large a table of a full segment is.
func (b *Bench) tableBytes() int64 { return int64(b.geometry().ShardLen(proto.SegmentTarget)) }

// noise is n bytes that nothing can compress.
func noise(n int64) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p) // never fails
	return p
}

// writeTables writes files of one size, each of them fsynced, until span is over or total is written, and returns bytes a second.
func (b *Bench) writeTables(ctx context.Context, dir string, size, total int64, span time.Duration, bar *show.Bar) (float64, error) {
	content := noise(size)
	began, done := b.d.Now(), int64(0)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		copy(content, fmt.Sprint(dir, n)) // no two are the same
		if err := writeSynced(filepath.Join(dir, fmt.Sprintf("%06d", n)), content); err != nil {
			return 0, err
		}
		if n%tablesGroup == tablesGroup-1 {
			if err := syncDir(dir); err != nil {
				return 0, err
			}
		}
		done += size
		bar.Add(size)
		if took := b.d.Now().Sub(began); took >= span || done+size > total {
			return float64(done) / max(took, 1).Seconds(), nil
		}
	}
}

func writeSynced(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readTables reads the files of a directory, from the disk where the file system lets go of its cache, until span is over.
func (b *Bench) readTables(ctx context.Context, dir string, span time.Duration) (float64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 1<<20)
	began, done := b.d.Now(), int64(0)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := readCold(filepath.Join(dir, e.Name()), buf)
		if err != nil {
			return 0, err
		}
		if done += n; b.d.Now().Sub(began) >= span {
			break
		}
	}
	return float64(done) / max(b.d.Now().Sub(began), 1).Seconds(), nil
}

func readCold(name string, buf []byte) (n int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // only read from
	_ = unix.Fadvise(int(f.Fd()), 0, 0,
		unix.FADV_DONTNEED) // a file system that does not know it reads from memory
	n, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf) // the wrappers keep it from choosing its own way
	return n, err
}

// syncs appends records, each of them fsynced, until span is over, and returns the median and the 99th of a hundred.
func (b *Bench) syncs(ctx context.Context, name string, span time.Duration) (p50, p99 float64, err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	record := noise(recordBytes)
	var took []float64
	for began := b.d.Now(); len(took) < maxSyncs; {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		at := b.d.Now()
		if _, err := f.Write(record); err != nil {
			return 0, 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, 0, err
		}
		now := b.d.Now()
		took = append(took, now.Sub(at).Seconds())
		if now.Sub(began) >= span {
			break
		}
	}
	p50, p99 = percentiles(took)
	return p50, p99, nil
}

// percentiles sorts values and returns the median and the 99th of a hundred.
func percentiles(v []float64) (p50, p99 float64) {
	if len(v) == 0 {
		return 0, 0
	}
	slices.Sort(v)
	return v[(len(v)-1)/2], v[(len(v)-1)*99/100]
}

// together has all stores write at once: those on one disk, or behind one bus, take from each other.
func (b *Bench) together(ctx context.Context, stores []*spot, span time.Duration) error {
	rates := make([]float64, len(stores))
	bar := b.d.Progress.Start("stores together, write", show.InBytes)
	defer bar.Stop()
	g, run := errgroup.WithContext(ctx)
	for i, s := range stores {
		g.Go(func() error { // ends with span, room or ctx
			room, err := s.room(b.o.Size)
			if err != nil {
				return err
			}
			dir := filepath.Join(s.scratch, "together")
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			if rates[i], err = b.writeTables(run, dir, b.tableBytes(), room, span, bar); err != nil {
				return err
			}
			return os.RemoveAll(dir)
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("all stores at once: %w", err)
	}
	bar.Finish()
	for i, s := range stores {
		for n := range b.out.Disks {
			if d := &b.out.Disks[n]; d.Role == advice.RoleStore && d.Path == s.path {
				d.Together = rates[i]
			}
		}
	}
	return nil
}
