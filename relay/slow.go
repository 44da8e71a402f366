package relay

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"forebay/proto"
	"forebay/relay/arbiter"
)

// slowKept is how long it counts that a holder's disk gave nothing of an object: as long as its lease would have been kept without a word
// of it. Within that, an object goes once around the holders at most, however slow all of their disks are, and stays with the last.
const slowKept = leaseIdle

// slowed remembers whose disk gave nothing of which object, and since when in running time. Bounded: where there are too many, all are
// forgotten, which costs another way around.
type slowed struct {
	mu sync.Mutex
	by map[objectKey]map[proto.HolderID]int64
}

func (s *slowed) add(k objectKey, h proto.HolderID, up int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil || len(s.by) >= maxReturned {
		s.by = map[objectKey]map[proto.HolderID]int64{}
	}
	if s.by[k] == nil {
		s.by[k] = map[proto.HolderID]int64{}
	}
	s.by[k][h] = up
}

func (s *slowed) is(k objectKey, h proto.HolderID, up int64) bool {
	return slices.Contains(s.of(k, up), h)
}

// of returns the holders whose disks gave nothing of an object.
func (s *slowed) of(k objectKey, up int64) (out []proto.HolderID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, at := range s.by[k] {
		if up-at < int64(slowKept) {
			out = append(out, h)
		}
	}
	slices.Sort(out)
	return out
}

// sealed is told that the object is a version.
func (s *slowed) sealed(k objectKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, k)
}

// Slow is told by a holder that its disk gives nothing of an object that it is uploading. The lease is ended if another holder may go on:
// one that is there, whose own disk answers, and that has not given the object back already. Who gave it up like this and has it again,
// keeps it: nobody else has gone on.
func (r *Relay) Slow(_ context.Context, q proto.Slow) (proto.SlowReply, error) {
	s, root, err := r.root(q.Session, q.Holder)
	if err != nil {
		return proto.SlowReply{}, err
	}
	up := r.up()
	cause := fmt.Sprintf("slow read: its disk has not answered for %s", q.Waited.Round(time.Second))
	r.fence.Lock()
	r.tableMu.Lock()
	l := r.table.Get(q.Upload)
	if l == nil || l.Session != s.ID || l.Epoch != q.Epoch {
		r.tableMu.Unlock()
		r.fence.Unlock()
		return proto.SlowReply{Ended: true}, nil
	}
	k := objectKey{l.Dataset, l.Path}
	r.tableMu.Unlock()
	if !r.othersMayGoOn(k, root.Holder, up) { // it reads the ledger
		r.fence.Unlock()
		return proto.SlowReply{}, nil
	}
	r.tableMu.Lock()
	ended := r.table.End(q.Upload)
	r.tableMu.Unlock()
	r.slowed.add(k, root.Holder, up)
	r.fence.Unlock()
	object := root.Name.String() + "/" + l.Path
	r.event("slow-read", fmt.Sprintf("%s gives %s/%q to the other holders: %s", s.Node, root.Name, l.Path, cause), map[string]string{"node": s.Node, "object": object, "cause": cause})
	if ended != nil {
		r.tellEnded([]*arbiter.Lease{ended}, cause)
	}
	return proto.SlowReply{Ended: true}, nil
}

// unable are the holders that gave an object back, and are not to be waited for.
func (r *Relay) unable(k objectKey) []proto.HolderID {
	out := r.returned.of(k)
	for _, h := range r.slowed.of(k, r.up()) {
		if !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// othersMayGoOn reports whether a holder other than one may go on with an object whose reading hangs there.
func (r *Relay) othersMayGoOn(k objectKey, holder proto.HolderID, up int64) bool {
	if r.slowed.is(k, holder, up) {
		return false
	}
	unable := r.unable(k)
	slow := r.slowRoots()
	return slices.ContainsFunc(r.alive(k.dataset), func(h proto.HolderID) bool {
		return h != holder && !slow[h] && !slices.Contains(unable, h)
	})
}

// slowRoots are the holders whose disks do not answer now, as they say.
func (r *Relay) slowRoots() map[proto.HolderID]bool {
	slow := map[proto.HolderID]bool{}
	for _, s := range r.book.All() {
		for _, root := range s.Roots {
			if root.Status.SlowFor > 0 {
				slow[root.Holder] = true
			}
		}
	}
	return slow
}

// slow tells of a root whose disk does not answer.
func (f *finder) slow(node, root string, d time.Duration) {
	if d > 0 {
		f.add("slow-read", proto.Yellow, "see to the node's disk; other holders go on with what they have, too, and it goes on by itself once the disk answers",
			"node %s %s: a read has not been answered for %s", node, root, d.Round(time.Second))
	}
}
