package store

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard"
)

// Item is a segment to be stored.
type Item struct {
	ID  proto.SegmentID
	Raw []byte // the whole stamped segment; it must not change any more, also not after an error
}

// Put stores a commit group: each segment is coded, its shards go to distinct stores, all stores work side by side, each
// with one ingest for the whole group. When it returns nil, every segment is durable with all its shards; placements are in
// the order of group. When a store fails on the way, the segments it was to take part of are placed anew on the others, in
// a narrower geometry if need be but with the same parity. On an error nothing of the group counts as stored; what was
// written is taken back where possible and otherwise left for the sweep (Each).
//
// Errors have ClassOverload when there is no room or too few stores, ClassPermanent when an item is no stamped segment. ctx
// is looked at before the work begins; the work itself is bounded by the deadlines of the stores.
func (s *Set) Put(ctx context.Context, group []Item) ([]Placement, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("store segments: %w", err)
	}
	if err := checkGroup(group); err != nil {
		return nil, err
	}
	if err := s.room(group); err != nil {
		return nil, err
	}
	placements := make([]Placement, len(group))
	todo := make([]int, len(group))
	for i := range todo {
		todo[i] = i
	}
	excluded := make(map[*disk]bool)
	for len(todo) > 0 {
		failed, err := s.putOn(s.writable(excluded), group, todo, placements)
		if len(failed) == 0 && err != nil { // nowhere to put it
			s.takeBack(group, placements)
			return nil, err
		}
		for d := range failed {
			excluded[d] = true
		}
		todo = s.unplaced(group, todo, placements, failed)
	}
	return placements, nil
}

func checkGroup(group []Item) error {
	seen := make(map[proto.SegmentID]bool, len(group))
	for _, it := range group {
		n, err := segment.Len(it.Raw)
		if err != nil {
			return fmt.Errorf("store segment %s: %w", it.ID, err)
		}
		if id, err := proto.SegmentIDFromBytes(it.Raw[8:24]); err != nil || id != it.ID || n != len(it.Raw) {
			return proto.Errorf(proto.ClassPermanent, "store segment %s: its bytes are segment %s of %d bytes, here are %d", it.ID, id, n, len(it.Raw))
		}
		if seen[it.ID] {
			return proto.Errorf(proto.ClassPermanent, "store segment %s: it is twice in one group", it.ID)
		}
		seen[it.ID] = true
	}
	return nil
}

// room holds the group against the capacity. The relay's high water comes well before; this is the wall behind it.
func (s *Set) room(group []Item) error {
	g, err := s.Accepting()
	if err != nil {
		return err
	}
	need := int64(0)
	for _, it := range group {
		need += Placement{Geometry: g, Length: int64(len(it.Raw))}.RawBytes()
	}
	if limit, used := s.Capacity(), s.Used(); limit > 0 && used+need > limit {
		return proto.Errorf(proto.ClassOverload, "the stores hold %d of %d bytes, %d more do not fit", used, limit, need)
	}
	return nil
}

// putOn codes and writes the segments todo onto disks and notes their placements. It returns the stores that failed.
func (s *Set) putOn(disks []*disk, group []Item, todo []int, placements []Placement) (map[*disk]error, error) {
	g, err := s.geometry(len(disks))
	if err != nil {
		return nil, err
	}
	coded, err := s.encode(group, todo, g)
	if err != nil {
		return nil, err
	}
	jobs := s.distribute(disks, coded, todo, placements)
	failed, hung := runJobs(jobs)
	if !hung { // a call that hangs may still be reading the shards
		for _, e := range coded {
			e.Release()
		}
	}
	return failed, nil
}

func (s *Set) encode(group []Item, todo []int, g shard.Geometry) ([]*shard.Encoded, error) {
	coded := make([]*shard.Encoded, len(todo))
	for n, i := range todo {
		e, err := s.coder.Encode(group[i].ID, group[i].Raw, g)
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		coded[n] = e
	}
	return coded, nil
}

// distribute gives each shard a store and notes it in the placements.
func (s *Set) distribute(disks []*disk, coded []*shard.Encoded, todo []int, placements []Placement) map[*disk][]job {
	room, ids := make([]int64, len(disks)), make([]StoreID, len(disks))
	for i, d := range disks {
		d.mu.Lock()
		room[i], ids[i] = d.free, d.id.ID
		if d.free < 0 {
			room[i] = -d.used
		}
		d.mu.Unlock()
	}
	jobs := make(map[*disk][]job)
	for n, e := range coded {
		p := Placement{Geometry: e.Geometry, Length: int64(e.Length), Tag: e.Tag, Stores: make([]StoreID, len(e.Shards))}
		for index, i := range choose(room, len(e.Shards), s.turn.Add(1)) {
			p.Stores[index] = ids[i]
			room[i] -= int64(len(e.Shards[index].Body))
			jobs[disks[i]] = append(jobs[disks[i]], job{Found{e.Code, index}, e.Shards[index]})
		}
		placements[todo[n]] = p
	}
	return jobs
}

// runJobs writes to all stores side by side. It returns the stores that failed, and whether one may still be at it.
func runJobs(jobs map[*disk][]job) (failed map[*disk]error, hung bool) {
	var (
		mu  sync.Mutex
		all sync.WaitGroup
	)
	failed = make(map[*disk]error)
	for d, list := range jobs {
		// Ends at the latest with the deadline of the store's call.
		all.Go(func() {
			err := d.put(list)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			failed[d] = err
			hung = hung || isHung(err)
		})
	}
	all.Wait()
	return failed, hung
}

// unplaced returns those of todo that a failed store was to take part of, after taking their other shards back.
func (s *Set) unplaced(group []Item, todo []int, placements []Placement, failed map[*disk]error) []int {
	if len(failed) == 0 {
		return nil
	}
	bad := make(map[StoreID]bool)
	for d := range failed {
		bad[d.storeID()] = true
	}
	var again []int
	var back []IDPlacement
	for _, i := range todo {
		p := placements[i]
		good := slices.DeleteFunc(slices.Clone(p.Stores), func(id StoreID) bool { return bad[id] })
		if len(good) == len(p.Stores) {
			continue
		}
		p.Stores = good
		again = append(again, i)
		back = append(back, IDPlacement{group[i].ID, p})
	}
	_ = s.Free(context.Background(), back) // best effort; the sweep frees what the ledger does not know
	for _, i := range again {
		placements[i] = Placement{}
	}
	return again
}

// takeBack frees what was placed of a group that is given up.
func (s *Set) takeBack(group []Item, placements []Placement) {
	var back []IDPlacement
	for i, p := range placements {
		if len(p.Stores) > 0 {
			back = append(back, IDPlacement{group[i].ID, p})
		}
	}
	_ = s.Free(context.Background(), back)
}
