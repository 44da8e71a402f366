// Package ingest makes segments durable in commit groups: shards into the stores, then the ledger's rows, then the answer.
// While one group is on its way into the ledger the next one is being coded and stored. It knows nothing of leases: a Guard
// decides, in the moment the rows are written, which pieces still count. It imports ledger, shard/store and proto.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard/store"
)

// GroupBytes is how much a commit group holds at most.
const GroupBytes = 32 << 20

// Stores is what the ingest needs of the stores.
type Stores interface {
	Put(ctx context.Context, group []store.Item) ([]store.Placement, error)
}

// Ledger is what the ingest needs of the ledger.
type Ledger interface {
	// Apply makes entries readable, as one.
	Apply(entries ...ledger.Entry) error
	// Update returns when all that can be read is durable.
	Update(entries ...ledger.Entry) error
}

// Guard stands between a durable segment and the ledger. Enter is called before the rows of a group are written and Leave
// when they can be read; no lease is granted in between, nor ended: a takeover must not wait for a slow disk's sync. Admit
// strikes pieces whose lease is no longer in force: the returned entry's Pieces are those that count, indexes says which of
// the segment's they are.
type Guard interface {
	Enter()
	Leave()
	Admit(job *Job) (pieces []segment.Piece, indexes []int, alive []proto.HolderID)
	// Applied is told the outcome, still inside Enter and Leave: it can be read, and may be lost with the power.
	Applied(job *Job, e *ledger.StoreSegment)
	// Durable is told the same once it is durable, before anybody is answered.
	Durable(job *Job, e *ledger.StoreSegment)
}

// Job is one segment on its way in.
type Job struct {
	Segment *segment.Segment
	Session proto.SessionID // 0 for segments of the relay itself
	Holder  proto.HolderID
	Dataset proto.DatasetID
	Stream  bool // its ranges are of an object larger than the room in the cache
	Again   bool // and of a content that is asked for again
	Reply   proto.SegmentReply
	err     error
	done    chan struct{}
	place   store.Placement
}

// Ingest is the pipeline. Deps are given once; Run does the work.
type Ingest struct {
	relay  proto.RelayID
	gen    uint32
	stores Stores
	ledger Ledger
	guard  Guard
	nowNs  func() int64
	fault  faultpoint.Hook

	seq   atomic.Uint64
	mu    sync.Mutex
	open  map[uint64]struct{} // given out, and neither in the ledger nor given up yet
	queue chan *Job
	mid   chan []*Job
	ended chan struct{}
}

// New returns an ingest for one generation of a relay.
func New(relay proto.RelayID, generation uint32, stores Stores, led Ledger, guard Guard, nowNs func() int64, fault faultpoint.Hook) *Ingest {
	return &Ingest{relay: relay, gen: generation, stores: stores, ledger: led, guard: guard, nowNs: nowNs, fault: fault,
		open: map[uint64]struct{}{}, queue: make(chan *Job), mid: make(chan []*Job), ended: make(chan struct{})}
}

// ErrClosed is returned to segments that come when the relay is stopping.
var ErrClosed = proto.Errorf(proto.ClassTransient, "the relay is stopping: send it again to the next one that answers")

// Submit makes a segment durable and returns its reply. When ctx ends first the segment may or may not have been accepted:
// sending it again is answered as a duplicate.
func (i *Ingest) Submit(ctx context.Context, j *Job) (proto.SegmentReply, error) {
	j.done = make(chan struct{})
	select {
	case i.queue <- j:
	case <-ctx.Done():
		return proto.SegmentReply{}, ctx.Err()
	case <-i.ended:
		return proto.SegmentReply{}, ErrClosed
	}
	<-j.done // the pipeline answers every job it took
	return j.Reply, j.err
}

// Once is Submit in the goroutine of its caller, as a group of one: for who does without Run. One call at a time.
func (i *Ingest) Once(j *Job) (proto.SegmentReply, error) {
	j.done = make(chan struct{})
	if group := []*Job{j}; i.put(group) {
		i.commit(group)
	}
	return j.Reply, j.err
}

// Run works until ctx ends; jobs taken by then are finished.
func (i *Ingest) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Add(1)
	go func() { // ends when mid is closed, below
		defer wg.Done()
		for group := range i.mid {
			i.commit(group)
		}
	}()
	i.collect(ctx)
	close(i.mid)
	wg.Wait()
	return nil
}

// collect forms groups of what has come while the group before was being stored.
func (i *Ingest) collect(ctx context.Context) {
	defer close(i.ended)
	for {
		var group []*Job
		select {
		case j := <-i.queue:
			group = i.fill([]*Job{j})
		case <-ctx.Done():
			return
		}
		if i.put(group) {
			i.mid <- group
		}
	}
}

// NextID gives a segment id that was never given before: the generation is part of it. Who asks for one says Done when the
// segment is in the ledger, or given up.
func (i *Ingest) NextID() proto.SegmentID {
	i.mu.Lock()
	defer i.mu.Unlock()
	seq := uint64(i.gen)<<40 | i.seq.Add(1)
	i.open[seq] = struct{}{}
	return proto.SegmentID{Relay: i.relay, Seq: seq}
}

// Done ends what NextID began.
func (i *Ingest) Done(id proto.SegmentID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.open, id.Seq)
}

// Settled reports whether it is decided what became of a segment: when the ledger does not have it then, it never will.
func (i *Ingest) Settled(seq uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, open := i.open[seq]
	return !open && seq <= i.Last()
}

// Last returns the last sequence that was given.
func (i *Ingest) Last() uint64 { return uint64(i.gen)<<40 | i.seq.Load() }

// SettledTo reports whether everything up to a sequence is settled.
func (i *Ingest) SettledTo(seq uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for open := range i.open {
		if open <= seq {
			return false
		}
	}
	return true
}

// SettledSince returns the sequence up to which everything is settled.
func (i *Ingest) SettledSince() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	up := i.Last()
	for open := range i.open {
		up = min(up, open-1)
	}
	return up
}

func (i *Ingest) fill(group []*Job) []*Job {
	bytes := len(group[0].Segment.Raw)
	for bytes < GroupBytes {
		select {
		case j := <-i.queue:
			group = append(group, j)
			bytes += len(j.Segment.Raw)
		default:
			return group
		}
	}
	return group
}

// put makes the shards of a group durable. It is not tied to any caller's context: others wait for the same group.
func (i *Ingest) put(group []*Job) bool {
	items := make([]store.Item, len(group))
	for n, j := range group {
		id := i.NextID()
		segment.Stamp(j.Segment.Raw, id)
		j.Segment.ID = id
		items[n] = store.Item{ID: id, Raw: j.Segment.Raw}
	}
	i.fault.At(faultpoint.RelayIngestTaken)
	places, err := i.stores.Put(context.Background(), items)
	if err != nil {
		i.finish(group, fmt.Errorf("store segments: %w", err))
		return false
	}
	for n, j := range group {
		j.place = places[n]
	}
	return true
}

// commit writes the rows of a group whose shards are durable, then answers.
func (i *Ingest) commit(group []*Job) {
	i.fault.At(faultpoint.RelayIngestStored)
	i.guard.Enter()
	entries := make([]ledger.Entry, len(group))
	stored := make([]*ledger.StoreSegment, len(group))
	indexes := make([][]int, len(group))
	for n, j := range group {
		e := &ledger.StoreSegment{
			Seq: j.Segment.ID.Seq, Dataset: j.Dataset, Length: int64(len(j.Segment.Raw)), Stored: j.place.RawBytes(),
			Placement: proto.Marshal(j.place), NowNs: i.nowNs(), Holder: j.Holder, Stream: j.Stream, Again: j.Again,
		}
		e.Pieces, indexes[n], e.Alive = i.guard.Admit(j)
		e.Late = others(j, indexes[n])
		stored[n], entries[n] = e, e
	}
	err := i.ledger.Apply(entries...)
	if err == nil {
		for n, j := range group {
			i.guard.Applied(j, stored[n])
		}
	}
	i.guard.Leave()
	if err == nil {
		err = i.ledger.Update()
	}
	if err == nil {
		i.fault.At(faultpoint.RelayIngestRecorded)
		for n, j := range group {
			i.guard.Durable(j, stored[n])
			j.Reply = reply(j, indexes[n], stored[n].Results)
		}
	}
	i.finish(group, err)
}

// others are the pieces that were not admitted. admitted is in order.
func others(j *Job, admitted []int) (out []segment.Piece) {
	for n, p := range j.Segment.Header.Pieces {
		if len(admitted) > 0 && admitted[0] == n {
			admitted = admitted[1:]
			continue
		}
		out = append(out, p)
	}
	return out
}

func reply(j *Job, indexes []int, results []ledger.Result) proto.SegmentReply {
	r := proto.SegmentReply{ID: j.Segment.ID, Pieces: make([]proto.PieceResult, len(j.Segment.Header.Pieces))}
	for n := range r.Pieces {
		r.Pieces[n].State = proto.PieceStale
	}
	for n, at := range indexes {
		r.Pieces[at] = results[n].PieceResult
	}
	return r
}

func (i *Ingest) finish(group []*Job, err error) {
	for _, j := range group {
		i.Done(j.Segment.ID)
		j.err = err
		if errors.Is(err, context.Canceled) {
			j.err = ErrClosed
		}
		close(j.done)
	}
}
