package scale

import (
	"container/heap"
	"encoding/binary"
	"time"

	"forebay/proto"
)

// due is when an object is to be looked at. Those that an entry does not bear out any more are passed over.
type due struct {
	at int64
	k  int
}

type dues []due

func (d dues) Len() int           { return len(d) }
func (d dues) Less(i, j int) bool { return d[i].at < d[j].at || d[i].at == d[j].at && d[i].k < d[j].k }
func (d dues) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dues) Push(x any)        { *d = append(*d, x.(due)) }
func (d *dues) Pop() any {
	old := *d
	x := old[len(old)-1]
	*d = old[:len(old)-1]
	return x
}

func (d *dues) push(at int64, k int) { heap.Push(d, due{at, k}) }

// soon has the root look at its queue after d, or when it would anyway.
func (r *root) soon(d time.Duration) {
	at := r.n.w.now + max(int64(d), 0)
	if r.lookAt != 0 && r.lookAt <= at {
		return
	}
	r.lookAt = at
	r.n.after(time.Duration(at-r.n.w.now), func() {
		if r.lookAt == at {
			r.lookAt = 0
			r.pass()
		}
	})
}

// take returns up to limit objects that are due, in the order of agent/index.Root.Due.
func (r *root) take(limit int) (out []int) {
	now := r.n.w.clock().UnixNano()
	for len(r.queue) > 0 && len(out) < limit && r.queue[0].at <= now {
		d := heap.Pop(&r.queue).(due)
		it := r.entries[d.k]
		if it == nil || it.busy || !it.State.Queued() || it.Due != d.at {
			continue
		}
		it.busy = true
		out = append(out, d.k)
	}
	return out
}

// free gives an object back to the queue, if it is still to be settled.
func (r *root) free(k int) {
	it := r.entries[k]
	if it == nil {
		return
	}
	it.busy = false
	r.put(k, it, it.Entry)
}

const contentSize = 16

// content is what an object has for content: its place and which content it is.
func content(d, k int, gen uint8) []byte {
	b := make([]byte, contentSize)
	binary.BigEndian.PutUint32(b, uint32(d))
	binary.BigEndian.PutUint64(b[4:], uint64(k))
	b[15] = gen
	return b
}

func digest(d, k int, gen uint8) proto.Digest {
	return proto.DigestOfBlocks(proto.BlockDigests(nil, content(d, k, gen)))
}
