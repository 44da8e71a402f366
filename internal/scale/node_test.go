package scale

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"forebay/agent/gossip"
	"forebay/agent/heard"
	"forebay/agent/index"
	"forebay/agent/pick"
	"forebay/agent/scan"
	"forebay/agent/settle"
	"forebay/proto"
)

// maxHeard is agent's.
const maxHeard = 16384

// node is a machine of the primary cluster with its agent.
type node struct {
	w      *world
	i      int
	name   string
	roots  []*root
	up     bool
	boot   int
	uplink float64 // bytes a second

	// Of one session.
	session   proto.SessionID
	suspicion time.Duration
	seq       uint64 // of the member list
	polling   bool
	kicked    bool
	polls     int
	ups       int64 // proto.PollReply.UpNs
	tell      *gossip.Teller
	telling   bool
	sendFree  int64 // when the uplink is free
	readFree  int64 // and the disk
	flying    int64 // payload bytes without an answer
	blocked   []func()

	uploaded int64 // bytes that counted
	sealed   int64 // objects
	firstAck int64 // when, 0: never
}

func newNode(w *world, i int) *node {
	return &node{w: w, i: i, name: fmt.Sprintf("node-%04d", i), uplink: uplink}
}

// root is one replica of a dataset.
type root struct {
	n       *node
	d       *dataset
	holder  proto.HolderID
	members []proto.HolderID
	status  proto.DatasetStatus
	polled  bool
	told    uint64
	seq     uint64 // proto.ClaimBatch.HaveSeq
	cursor  proto.VersionID
	head    proto.VersionID // told of by a nudge
	follows bool
	newsy   bool  // something came of it
	rests   int64 // it is not asked again before, and
	wakes   bool  // will be then

	gen       []uint8           // the content that this replica has of each object
	known     []proto.VersionID // what was agreed on of each object
	of        []uint8           // which content that is
	unsent    int               // objects whose content is not agreed on yet
	entries   map[int]*item     // of those that are not settled
	queue     dues
	heard     *heard.Log
	passing   bool // a pass waits for answers
	packs     int
	toHash    []int // objects that are to be read, or reported; busy
	hashing   bool
	haves     []int
	reporting bool
	gathers   int64 // until when they gather
	gathering bool
	lookAt    int64 // when it looks at the queue next; 0: nothing planned
	paused    int64
	passed    int64 // when the last pass took all that was due; 0: it did not
}

// item is an entry of the index that is not settled. A settled one is made again when something is heard of it.
type item struct {
	index.Entry
	busy bool
}

func (n *node) join(d *dataset) {
	r := &root{n: n, d: d, gen: make([]uint8, n.w.objects), known: make([]proto.VersionID, n.w.objects), of: make([]uint8, n.w.objects), entries: map[int]*item{}}
	d.roots = append(d.roots, r)
	n.roots = append(n.roots, r)
}

// after does something if the agent still runs then.
func (n *node) after(d time.Duration, fn func()) {
	boot := n.boot
	n.w.after(d, func() {
		if n.up && n.boot == boot {
			fn()
		}
	})
}

// start runs the agent. What its index had stays.
func (n *node) start() {
	n.boot++
	n.up, n.session, n.seq, n.polling, n.telling, n.flying, n.blocked = true, 0, 0, false, false, 0, nil
	n.tell, n.sendFree, n.readFree = gossip.New(), 0, 0
	for _, r := range n.roots {
		r.polled, r.follows, r.passing, r.packs, r.lookAt, r.head, r.heard, r.seq = false, false, false, 0, 0, 0, heard.New(maxHeard), 0
		r.toHash, r.hashing, r.haves, r.reporting, r.gathering, r.gathers = nil, false, nil, false, false, 0
		r.newsy, r.rests, r.wakes, r.passed = false, 0, false, 0
		for _, it := range r.entries {
			it.busy = false
		}
		r.requeue()
	}
	n.hello()
}

// stop is a power cut.
func (n *node) stop() { n.up, n.session = false, 0 }

func (n *node) hello() {
	h := proto.Hello{Version: proto.Version, Software: "scale", Cluster: cluster, Node: n.name, Instance: "i-" + n.name, Boot: fmt.Sprintf("%s-%d", n.name, n.boot), ClockNs: n.w.clock().UnixNano()}
	for _, r := range n.roots {
		h.Roots = append(h.Roots, proto.Root{Dataset: r.d.name, Path: "/srv/" + r.d.name, Index: n.name + "-" + r.d.name, Told: r.told})
	}
	call(n, "hello", h, len(n.roots), func(h proto.Hello) (proto.HelloReply, error) {
		return n.w.r.Hello(context.Background(), h, "relay", n.name+":1")
	}, func(rep proto.HelloReply, err error) {
		if err != nil {
			n.after(5*time.Second, n.hello)
			return
		}
		n.session, n.suspicion = rep.Session, rep.Suspicion
		for i, r := range n.roots {
			r.holder = rep.Holders[i]
		}
		n.poll()
		n.beats(n.session)
	})
}

// broken is what a call that failed means: the relay does not know the session, for all else is well in this world.
func (n *node) broken(err error) {
	if proto.ClassOf(err) != proto.ClassConflict || n.session == 0 {
		return
	}
	n.stop()
	n.w.after(200*time.Millisecond, func() {
		if !n.up {
			n.start()
		}
	})
}

func (n *node) beats(s proto.SessionID) {
	n.after(n.suspicion/3, func() {
		if n.session != s {
			return
		}
		b := proto.Beat{Session: s, ClockNs: n.w.clock().UnixNano()}
		raw := proto.Marshal(b)
		c := n.w.meter.of("beat")
		c.calls++
		c.in += int64(len(raw))
		n.w.meter.time("beat", func() { n.w.r.Beat(b) })
		n.beats(s)
	})
}

func (n *node) poll() {
	if n.polling {
		n.kicked = true
		return
	}
	n.polling, n.kicked = true, false
	s := n.session
	p := proto.Poll{Session: s, ClockNs: n.w.clock().UnixNano(), Members: n.seq}
	for _, r := range n.roots {
		p.Roots = append(p.Roots, proto.RootStatus{Holder: r.holder, Cursor: r.cursor, Watch: "inotify", LastScanNs: n.w.clock().UnixNano(), UnsentCount: int64(r.unsent), Objects: int64(n.w.objects), Bytes: int64(n.w.objects) << 16, Scans: 1})
	}
	call(n, "poll", p, 0, func(p proto.Poll) (proto.PollReply, error) { return n.w.r.Poll(context.Background(), p) }, func(rep proto.PollReply, err error) {
		n.polling = false
		if n.session != s {
			return
		}
		if err != nil {
			n.broken(err)
			return
		}
		n.take(rep)
		if n.kicked {
			n.poll()
			return
		}
		n.polls++
		mine := n.polls
		n.after(n.suspicion/3, func() {
			if n.session == s && n.polls == mine && !n.polling {
				n.poll()
			}
		})
	})
}

func (n *node) take(rep proto.PollReply) {
	n.ups = rep.UpNs
	if rep.MembersSeq != n.seq {
		n.seq = rep.MembersSeq
		n.w.tally.members++
		for _, r := range n.roots {
			r.members = r.members[:0]
			for _, m := range rep.Members {
				if m.Alive && m.Dataset == r.d.name {
					r.members = append(r.members, m.Holder)
				}
			}
		}
	}
	for _, d := range rep.Datasets {
		for _, r := range n.roots {
			if r.d.name == d.Dataset {
				r.status, r.polled = d, true
				if d.Head != r.cursor {
					r.follow()
				}
				r.soon(0)
			}
		}
	}
	for _, e := range rep.Ended {
		for _, r := range n.roots {
			if r.d.name == e.Dataset {
				r.ended(e)
			}
		}
	}
}

func (r *root) nudged(m proto.Nudge) {
	if m.ScanToken != 0 || m.Members != 0 {
		r.n.poll()
	}
	if m.Head > r.cursor {
		r.head = max(r.head, m.Head)
		r.follow()
	}
	for _, e := range m.Ended {
		r.ended(e)
	}
}

// ended is agent/work's.
func (r *root) ended(e proto.LeaseEnded) {
	r.heard.Forget(e.Path, e.Upload, e.Epoch)
	wait := pick.Next(r.holder, r.members, e, r.n.suspicion)
	if it := r.entries[number(e.Path)]; it != nil {
		if next, ok := settle.Ended(it.Entry, e.Size, wait, r.n.w.clock()); ok {
			r.put(number(e.Path), it, next)
		}
	}
	r.soon(0)
}

// note tells the others of an upload, as agent.hints does.
func (r *root) note(item proto.ProgressItem) {
	n := r.n
	n.tell.Note(r.d.name, r.holder, item)
	if n.telling {
		return
	}
	n.telling = true
	n.after(proto.GossipInterval, func() {
		n.telling = false
		said := n.tell.Take()
		slices.SortFunc(said, func(a, b proto.Progress) int { return cmp.Compare(a.Dataset, b.Dataset) })
		for _, p := range said {
			for _, to := range n.roots {
				if to.d.name != p.Dataset {
					continue
				}
				slices.SortFunc(p.Items, func(a, b proto.ProgressItem) int { return cmp.Compare(a.Path, b.Path) })
				data, _ := proto.Pack(proto.Marshal(p))
				n.w.publish("gossip", len(data), to.d, func(at *root) { at.overheard(p) })
			}
		}
	})
}

func (r *root) overheard(p proto.Progress) {
	if p.Holder == r.holder {
		return
	}
	for _, item := range p.Items {
		r.heard.Note(item.Path, item.Upload, item.Epoch, r.n.w.clock())
	}
}

// stat is what the scan sees of an object's content, ctime is of this replica.
func (r *root) stat(k int, ctime int64) index.Stat {
	return index.Stat{Size: contentSize, MtimeNs: epoch.UnixNano() + int64(r.gen[k])*1e9 - written(k), CtimeNs: ctime, Ino: uint64(k) + 1000, Dev: 1, Mode: 0o100644, UID: 1000, GID: 1000, Nlink: 1}
}

// written is how long before the beginning an object was written: within a day, to the nanosecond, so that times take the room that they
// take in messages.
func written(k int) int64 { return int64(uint64(k+1) * 0x9e3779b97f4a7c15 % 86_400_000_000_000) }

func meta(s index.Stat) proto.Meta {
	return proto.Meta{Mode: s.Mode & 0o7777, UID: s.UID, GID: s.GID, User: "app", Group: "app", MtimeNs: s.MtimeNs}
}

// find is what scan and watch do with an object that they see: what it is now, changed at ctime.
func (r *root) find(k int, gen uint8, ctime int64) {
	now := r.n.w.clock()
	cur, had := r.entry(k)
	r.gen[k] = gen
	next, changed := scan.Decide(cur.Entry, had, r.d.path(k), proto.KindFile, r.stat(k, ctime), "", now)
	if !changed {
		return
	}
	if r.d.found[k] == 0 {
		r.d.found[k] = max(now.UnixNano(), ctime+int64(proto.SettleTime)) // not before it may be read
	}
	r.entries[k] = cur
	r.put(k, cur, next)
}

// entry returns an object's entry; one that is settled is made again.
func (r *root) entry(k int) (it *item, had bool) {
	if it := r.entries[k]; it != nil {
		return it, true
	}
	if r.known[k] == 0 {
		return &item{}, false
	}
	gen := r.gen[k]
	r.gen[k] = r.of[k]
	st := r.stat(k, epoch.UnixNano()-int64(time.Hour))
	r.gen[k] = gen
	e := index.Entry{Path: r.d.path(k), Kind: proto.KindFile, State: index.StateSettled, Stat: st, Digest: digest(r.d.i, k, r.of[k]), HasDigest: true, Version: r.known[k],
		MetaSum: meta(st).Sums(), HeardKind: proto.KindFile, HeardSize: st.Size, HeardDigest: digest(r.d.i, k, r.of[k]), Claimed: true}
	return &item{Entry: e}, true
}

// put writes an entry and has the queue look at it when it is due. One that is settled is dropped.
func (r *root) put(k int, it *item, next index.Entry) {
	if was, is := it.State.Queued(), next.State.Queued(); was != is {
		delta := 1
		if was {
			delta = -1
		}
		r.unsent += delta
		r.n.w.left += delta
	}
	it.Entry = next
	if next.State == index.StateSettled {
		r.known[k], r.of[k] = next.Version, r.gen[k]
		delete(r.entries, k)
		return
	}
	r.entries[k] = it
	if next.State.Queued() && !it.busy {
		r.queue.push(next.Due, k)
		r.soon(time.Duration(next.Due - r.n.w.clock().UnixNano()))
	}
}

// requeue has the queue offer everything that waits.
func (r *root) requeue() {
	r.queue = r.queue[:0]
	keys := make([]int, 0, len(r.entries))
	for k := range r.entries {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if it := r.entries[k]; it.State.Queued() {
			r.queue.push(it.Due, k)
		}
	}
}
