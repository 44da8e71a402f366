package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard/store"
)

// lockDir keeps a second relay off a data directory.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		err = proto.Errorf(proto.ClassConflict, "data directory %s is in use by another relay: give this one a data: of its own, or stop the other", dir)
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt([]byte(lockText), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("mark data directory: %w", err), f.Close())
	}
	return f, nil
}

// lockText tells an agent whose dataset has this directory in it that it is no part of one.
const lockText = "forebay relay\n"

// knownStores is the form in which the ledger keeps the identities of the stores.
type knownStores struct {
	Stores []store.Identity `cbor:"1,keyasint"`
	Roles  store.Roles      `cbor:"2,keyasint,omitempty"`
}

func (r *Relay) openStores(relay proto.RelayID, old ledger.Meta) error {
	var known knownStores
	if old.Stores != nil {
		if err := proto.Unmarshal(old.Stores, &known); err != nil {
			return fmt.Errorf("read the stores' identities from the ledger: %w", err)
		}
	}
	tend := store.DefaultTend
	if r.deps.Driven {
		tend = -1 // Round does it
	}
	set, err := store.Open(store.Config{
		Paths: r.cfg.Stores, Known: known.Stores, Roles: known.Roles, Relay: relay, Coding: r.cfg.Coding, Ballast: r.cfg.Ballast,
		Capacity: r.cfg.Capacity, Generation: old.Generation, Tend: tend, OpenFiles: r.files,
	}, store.Deps{FS: r.deps.FS, Now: r.now, Event: r.storeEvent, Fault: r.deps.Fault})
	if err != nil {
		return fmt.Errorf("open stores: %w", err)
	}
	r.stores = set
	return nil
}

// rememberStores writes down who the stores are and what operators decided about them, so that an empty or exchanged one is
// told from a new one later.
func (r *Relay) rememberStores() error {
	r.upkeep.remember.Lock()
	defer r.upkeep.remember.Unlock()
	return r.ledger.Update(&ledger.SetStores{Stores: proto.Marshal(r.knownStores())})
}

func (r *Relay) knownStores() knownStores {
	return knownStores{Stores: r.stores.Identities(), Roles: r.stores.Roles()}
}

func highestGeneration(s *store.Set) (g uint32) {
	for _, n := range s.Generations() {
		g = max(g, n)
	}
	return g
}

func (r *Relay) storeEvent(e store.Event) {
	fields := map[string]string{"store": e.Path}
	what := fmt.Sprintf("store %s: %s", e.Path, e.Kind)
	if e.Segment != (proto.SegmentID{}) {
		fields["segment"] = e.Segment.String()
		what += fmt.Sprintf(", segment %s shard %d", e.Segment, e.Shard)
	}
	if e.Err != nil {
		what += ": " + e.Err.Error()
	}
	r.event(e.Kind.String(), what, fields)
	if e.Kind == store.StoreOpened {
		r.notes.again() // its open-counter grew: the ledger must know
		r.memo.again.Store(true)
		r.upkeep.sweepSoon(e.Store)
	}
}

// segments reads segments back for the flush, with the last few kept: a flush takes many small objects of one segment.
type segments struct {
	r    *Relay
	mu   sync.Mutex
	kept []*segment.Segment
	busy map[uint64]chan struct{}
}

// keptSegments is how many decoded segments are kept.
const keptSegments = 8

func (c *segments) init(r *Relay) { c.r, c.busy = r, map[uint64]chan struct{}{} }

// ReadSegment returns a segment from the stores, its header proved; the reader proves each piece it uses. A segment with bad
// shards is mended behind the reader's back; one that cannot be read is taken out of the ledger, and what it held is asked
// for again from holders (I3).
func (r *Relay) ReadSegment(ctx context.Context, seq uint64) (*segment.Segment, error) {
	c := &r.cache
	for {
		c.mu.Lock()
		for i, s := range c.kept {
			if s.ID.Seq == seq {
				c.kept = append(slices.Delete(c.kept, i, i+1), s)
				c.mu.Unlock()
				return s, nil
			}
		}
		wait, other := c.busy[seq]
		if !other {
			c.busy[seq] = make(chan struct{})
			c.mu.Unlock()
			break
		}
		c.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s, err := r.readSegment(ctx, seq)
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.busy[seq])
	delete(c.busy, seq)
	if err == nil {
		c.kept = append(c.kept, s)
		if len(c.kept) > keptSegments {
			c.kept = slices.Delete(c.kept, 0, 1)
		}
	}
	return s, err
}

// movedTries is how often a segment is read again that was moved while it was read.
const movedTries = 3

func (r *Relay) readSegment(ctx context.Context, seq uint64) (seg *segment.Segment, err error) {
	for range movedTries {
		if seg, err = r.readPlaced(ctx, seq); !errors.Is(err, errMoved) {
			break
		}
	}
	return seg, err
}

// errMoved says that a segment is not where its row said when it was read.
var errMoved = proto.Errorf(proto.ClassTransient, "it was moved while it was read")

func (r *Relay) readPlaced(ctx context.Context, seq uint64) (*segment.Segment, error) {
	row, ok, err := ledger.Segment(r.ledger, seq)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, proto.Errorf(proto.ClassTransient, "segment %d is not in the cache: %w", seq, os.ErrNotExist)
	}
	var p store.Placement
	if err := proto.Unmarshal(row.Placement, &p); err != nil {
		return nil, fmt.Errorf("placement of segment %d: %w", seq, err)
	}
	id := proto.SegmentID{Relay: r.meta.Relay, Seq: seq}
	r.upkeep.read.Store(r.now().UnixNano())
	read, err := r.stores.Get(ctx, id, p)
	if err != nil {
		return nil, r.unread(seq, row, err)
	}
	if len(read.Bad) > 0 {
		if _, err := r.mend(ctx, seq, damaged); err != nil && !errors.Is(err, errBusy) {
			r.deps.Log.Warn().Err(err).Str("segment", id.String()).Msg("shards are still bad")
		}
	}
	return read.Segment, nil
}

// unread handles a segment that could not be read by its row. It may have been freed or moved meanwhile; only what cannot be read
// where it is, for good, is lost.
func (r *Relay) unread(seq uint64, was ledger.SegmentRow, err error) error {
	var lost *store.LostError
	if !errors.As(err, &lost) {
		return err
	}
	if !r.upkeep.take(seq) {
		return proto.Errorf(proto.ClassTransient, "read segment %d: %w", seq, errBusy)
	}
	defer r.upkeep.give(seq)
	row, still, e := ledger.Segment(r.ledger, seq)
	switch {
	case e != nil:
		return e
	case !still:
		return proto.Errorf(proto.ClassTransient, "segment %d is not in the cache: %w", seq, os.ErrNotExist)
	case !bytes.Equal(row.Placement, was.Placement):
		return fmt.Errorf("read segment %d: %w", seq, errMoved)
	}
	if !lost.Temporary() {
		r.LoseSegment(seq, err)
	}
	return err
}

// SuspectSegment is told by the flush of a segment with a piece that is not what its digest says, although enough shards
// could be read. It does not wait; one that finds no place in the queue is told again at the next try.
func (r *Relay) SuspectSegment(seq uint64, err error) {
	select {
	case r.suspects <- suspect{seq, err}:
	default:
	}
}

// judgeSuspects reads suspects again, past what is kept in memory, and gives up those that are bad on disk.
func (r *Relay) judgeSuspects(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-r.suspects:
			r.judgeSuspect(ctx, s)
		}
	}
}

func (r *Relay) judgeSuspect(ctx context.Context, s suspect) {
	r.cache.forget(s.seq)
	seg, err := r.ReadSegment(ctx, s.seq)
	if err != nil {
		return // lost, and handled where it was read, or away for now
	}
	for i := range seg.Header.Pieces {
		if err := seg.Prove(i); err != nil {
			r.cache.forget(s.seq)
			r.LoseSegment(s.seq, err)
			return
		}
	}
}

func (c *segments) forget(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = slices.DeleteFunc(c.kept, func(s *segment.Segment) bool { return s.ID.Seq == seq })
}

// LoseSegment takes a segment that cannot be read out of the ledger. What it held is asked for again from holders, by name.
func (r *Relay) LoseSegment(seq uint64, cause error) {
	e := &ledger.LoseSegment{Seq: seq}
	if err := r.ledger.Update(e); err != nil {
		return // the ledger failed: Run ends with it
	}
	r.deps.Fault.At(faultpoint.RelayLost)
	id := proto.SegmentID{Relay: r.meta.Relay, Seq: seq}
	what := fmt.Sprintf("segment %s cannot be read (%v): %d objects are asked for again", id, cause, len(e.Lost))
	if len(e.Lost) > 0 {
		what += fmt.Sprintf(", the first is %q", e.Lost[0])
	}
	r.event("segment-lost", what, map[string]string{"segment": id.String(), "objects": fmt.Sprint(len(e.Lost))})
}
