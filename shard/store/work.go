package store

import (
	"context"
	"fmt"
	"strconv"

	"github.com/cockroachdb/pebble/v2"

	"forebay/internal/faultpoint"
	"forebay/proto"
	"forebay/shard"
)

// job is one shard to be written to one store.
type job struct {
	Found
	shard shard.Shard
}

// faultsAllowed is how many reads in a row a disk may leave unanswered before its store counts as failed.
const faultsAllowed = 3

// put writes shards, a table each, and hands them to the database in one step: when it returns nil, all of them are durable
// and readable. After an error none is, unless the store died in the act; then they may be.
func (d *disk) put(jobs []job) error {
	return d.ingest("write shards", jobs, nil)
}

// replace is put for one shard whose predecessor, if any, goes in the same step. Other shards of its segment stay: until the
// ledger has the new placement, the old one must be readable.
func (d *disk) replace(j job) error {
	where := j.span()
	return d.ingest("replace a shard", []job{j}, &where)
}

func (d *disk) ingest(what string, jobs []job, instead *pebble.KeyRange) error {
	err := d.serve(context.Background(), staging, what, func(in *instance) error {
		paths, err := d.stage(in, jobs)
		if err == nil {
			d.fault.At(faultpoint.StoreStaged)
			err = d.handOver(in, paths, instead)
		}
		if err != nil {
			for _, p := range paths {
				_ = d.raw.Remove(p) // what cannot be removed now is at the next opening
			}
			d.failedWrite(in, err)
		}
		return err
	})
	if err != nil {
		return classify(err)
	}
	bytes := int64(0)
	for _, j := range jobs {
		bytes += shard.HeaderLen + int64(len(j.shard.Body))
	}
	d.mu.Lock()
	d.used += bytes // until the next look
	if d.free >= 0 {
		d.free = max(d.free-bytes, 0)
	}
	d.mu.Unlock()
	return nil
}

// stage writes tables beside the database, in the same file system, so that handing them over is a link and a rename. It
// returns the paths that were begun, also on error.
func (d *disk) stage(in *instance, jobs []job) (paths []string, err error) {
	for _, j := range jobs {
		name := strconv.FormatUint(d.serial.Add(1), 10) + ".sst"
		path := d.raw.PathJoin(d.path, stageName, name)
		paths = append(paths, path)
		if err := writeTable(d.raw, path, in.tables, j.Found, j.shard); err != nil {
			return paths, fmt.Errorf("shard %d of segment %s: %w", j.Index, j.ID, err)
		}
	}
	return paths, nil
}

// handOver ingests staged tables, one call at a time. An instance that died meanwhile (it hung while we staged, and the
// caller has long placed the shards elsewhere) must not take them any more.
func (d *disk) handOver(in *instance, paths []string, instead *pebble.KeyRange) error {
	if err := in.take(context.Background(), writing); err != nil {
		return err
	}
	var err error
	if instead == nil {
		err = in.db.Ingest(context.Background(), paths)
	} else {
		_, err = in.db.IngestAndExcise(context.Background(), paths, nil, nil, *instead)
	}
	in.put(writing) // not deferred: when pebble ends us here, nobody else may enter
	if err != nil {
		return fmt.Errorf("ingest: %w", err)
	}
	d.fault.At(faultpoint.StoreIngested)
	return nil
}

// failedWrite decides what a failed write says about the store: a full disk is full, anything else is a disk not to be
// trusted until it has been opened again.
func (d *disk) failedWrite(in *instance, err error) {
	if noSpace(err) {
		d.markFull(err)
		return
	}
	d.fail(in, err)
}

// freeSegments takes all shards of the segments out of the store and gives their space back. Runs of neighbours go in one step: each
// step is a synced append to MANIFEST. ids are sorted.
func (d *disk) freeSegments(ids []proto.SegmentID) error {
	d.makeRoomToFree()
	for len(ids) > 0 {
		n := 1
		for n < len(ids) && ids[n].Relay == ids[n-1].Relay && ids[n].Seq <= ids[n-1].Seq+1 {
			n++
		}
		if err := d.excise("free segments", span(ids[0], ids[n-1])); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// freeShard takes one shard out of the store.
func (d *disk) freeShard(f Found) error {
	d.makeRoomToFree()
	return d.excise("free a shard", f.span())
}

func (d *disk) excise(what string, where pebble.KeyRange) error {
	err := d.serve(context.Background(), writing, what, func(in *instance) error {
		err := in.db.Excise(context.Background(), where)
		if err != nil {
			d.failedWrite(in, err)
		}
		return err
	})
	if err != nil {
		return classify(err)
	}
	d.fault.At(faultpoint.StoreExcised)
	return nil
}

// makeRoomToFree lets the ballast of a full disk go: freeing appends to MANIFEST.
func (d *disk) makeRoomToFree() {
	d.mu.Lock()
	full := d.full && !d.noBallast
	d.mu.Unlock()
	if full {
		d.releaseBallast()
	}
}

// get reads a shard into j.
func (d *disk) get(ctx context.Context, f Found, j *shard.Join) error {
	body := j.Body(f.Index)
	return d.serve(ctx, reading, "read a shard", func(in *instance) error {
		head, err := readShard(in.db, f, body)
		if err == nil {
			err = j.Add(f.Index, head)
		}
		d.noteRead(in, err)
		return err
	})
}

// noteRead counts the reads that the disk did not answer. A damaged shard says nothing about its store.
func (d *disk) noteRead(in *instance, err error) {
	d.mu.Lock()
	if err != nil && !damaged(err) && proto.ClassOf(err) == proto.ClassTransient {
		in.faults++
	} else {
		in.faults = 0
	}
	broken := in.faults >= faultsAllowed
	d.mu.Unlock()
	if broken {
		d.fail(in, fmt.Errorf("%d reads in a row failed: %w", faultsAllowed, err))
	}
}

// each lists the shards in the store, from MANIFEST alone.
func (d *disk) each(ctx context.Context) (found []Found, err error) {
	err = d.serve(ctx, anyCall, "list shards", func(in *instance) error {
		levels, err := in.db.SSTables()
		if err != nil {
			return err
		}
		for _, level := range levels {
			for _, t := range level {
				first, _, err := parseKey(t.Smallest.UserKey)
				last, _, lastErr := parseKey(t.Largest.UserKey)
				if err != nil || lastErr != nil || first != last {
					d.event(Event{Kind: Corruption, Path: d.path, Store: d.storeID(),
						Err: proto.Errorf(proto.ClassCorrupt, "table %s holds keys %x to %x, not one shard", t.FileNum, t.Smallest.UserKey, t.Largest.UserKey)})
					continue
				}
				found = append(found, first)
			}
		}
		return nil
	})
	return found, err
}

// setGeneration writes the relay's generation into the store; an opening in progress or to come writes it too.
func (d *disk) setGeneration(generation uint32) error {
	d.mu.Lock()
	d.generation = max(d.generation, generation)
	d.mu.Unlock()
	return d.serve(context.Background(), writing, "write the generation", func(in *instance) error {
		d.mu.Lock()
		id := d.id
		d.mu.Unlock()
		if id.Generation >= generation {
			return nil
		}
		id.Generation = generation
		if err := d.stillHere(in); err != nil {
			return err
		}
		if err := writeIdentity(d.fs, d.path, id); err != nil {
			d.failedWrite(in, err)
			return err
		}
		d.fault.At(faultpoint.StoreGeneration)
		d.mu.Lock()
		d.id = id
		d.mu.Unlock()
		return nil
	})
}
