package sim

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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

const (
	cluster = "primary"
	dataset = "media"
)

var media = proto.Dataset{Cluster: cluster, Name: dataset}

// memIndex is an agent's index: what package agent/index keeps in pebble.
type memIndex struct {
	id      string
	entries map[string]index.Entry
	cursor  proto.VersionID
	fsid    uint64
	known   bool // fsid is set
	scanned int64
	told    uint64
}

func newIndex(id string) *memIndex { return &memIndex{id: id, entries: map[string]index.Entry{}} }

func (x *memIndex) copyOf() *memIndex {
	c := *x
	c.entries = maps.Clone(x.entries)
	return &c
}

func (x *memIndex) sorted(want func(index.Entry) bool) (out []index.Entry) {
	for _, e := range x.entries {
		if want(e) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b index.Entry) int { return cmp.Or(cmp.Compare(a.Due, b.Due), cmp.Compare(a.Path, b.Path)) })
	return out
}

// agent is a node: its disk, its clock, and its agent, which runs or does not.
type agent struct {
	w       *world
	node    string
	clock   clock
	disk    *disk
	under   *disk // the one that is to be mounted over disk
	ix      *memIndex
	synced  *memIndex // what survives a power cut of the node
	shot    *snapshot // what the node may be put back to
	indexes int
	lost    string // the index that was lost and that the relay has not heard of yet, "" when there is none
	wiped   int64  // when, true time

	// Of one run of the agent.
	up       bool
	boot     int
	until    int64 // it is stopped (SIGSTOP) until then, true time
	heard    *heard.Log
	tell     *gossip.Teller
	problem  string
	scans    int
	relayUp  int64 // the relay's running time as last told
	scanUp   int64 // relayUp when the last scan was made
	scanBare bool  // it found nothing
	hints    map[string]bool
	telling  bool
	back     time.Duration
	*session
}

// session is what an agent knows within one session with the relay.
type session struct {
	id        proto.SessionID
	holder    proto.HolderID
	suspicion time.Duration
	seq       uint64
	members   []proto.HolderID
	status    proto.DatasetStatus
	polled    bool
	answered  time.Time
	head      proto.VersionID // told of by a hint
	followed  bool            // the feed, since the last poll
	busy      map[string]bool
	calling   map[string]bool
	paused    time.Time
	reported  int
	since     time.Time       // when the relay began to ask for content
	askedTo   proto.VersionID // where the next page of that begins
	offered   time.Time       // when it was offered last
	workAt    int64
	noted     uint64 // memIndex.told as it was made durable last; 0: not yet
	notedAt   time.Time
	goneSeq   uint64 // proto.Report.Seq of the last report of what is gone that is waited for no more
	haveSeq   uint64 // proto.Report.HaveSeq
	haves     map[uint64]bool
}

// snapshot is a node as it was once.
type snapshot struct {
	disk *disk
	ix   *memIndex
}

// awake runs fn in the agent's run number boot: not when that has ended, and later when it is stopped.
func (a *agent) awake(boot int, what string, fn func()) {
	switch {
	case !a.up || a.boot != boot:
		a.w.note("gone")
	case a.w.now < a.until:
		a.w.after(time.Duration(a.until-a.w.now), a.node+" wakes to "+what, func() { a.awake(boot, what, fn) })
	default:
		fn()
	}
}

// later does something in this run of the agent.
func (a *agent) later(d time.Duration, what string, fn func()) {
	boot := a.boot
	a.w.after(d, a.node+" "+what, func() { a.awake(boot, what, fn) })
}

// within does something if the session is still the same then.
func (a *agent) within(d time.Duration, what string, fn func()) {
	s := a.session
	a.later(d, what, func() {
		if a.session == s {
			fn()
		}
	})
}

func (a *agent) start() {
	a.boot++
	a.up, a.until, a.session = true, 0, nil
	a.heard, a.tell = heard.New(1000), gossip.New()
	a.problem, a.scans, a.hints, a.telling = "", 0, map[string]bool{}, false
	a.relayUp, a.scanUp = 0, 0
	a.back = 200 * time.Millisecond
	a.later(a.w.between(0, time.Second), "hello", a.hello)
	a.later(a.w.between(0, time.Second), "scan", a.scanLoop)
}

// stop ends the agent. With power cut, its index falls back to what was made durable.
func (a *agent) stop(power bool) {
	a.up, a.session = false, nil
	if power {
		a.ix = a.synced.copyOf()
	}
}

func (a *agent) hello() {
	h := proto.Hello{
		Version: proto.Version, Software: "sim", Cluster: cluster, Node: a.node, Instance: "i-" + a.node, Boot: fmt.Sprintf("%s-%d", a.node, a.boot),
		ClockNs: a.clock.now().UnixNano(), Roots: []proto.Root{{Dataset: dataset, Path: "/srv/media", Index: a.ix.id, Told: a.ix.told}},
	}
	again := func() {
		a.later(a.back/2+a.w.between(0, a.back/2), "hello", a.hello)
		a.back = min(2*a.back, 5*time.Second)
	}
	a.w.net.call(a, "hello", 10*time.Second, func() func() {
		rep, err := a.w.relay.r.Hello(context.Background(), h, relayName, a.node+":1")
		if err == nil {
			a.lost = ""
		}
		return func() {
			if err != nil {
				a.w.note("refused: %v", err)
				again()
				return
			}
			a.session = &session{id: rep.Session, holder: rep.Holders[0], suspicion: rep.Suspicion, answered: a.clock.now(), busy: map[string]bool{}, calling: map[string]bool{}, haves: map[uint64]bool{}}
			a.w.note("session %d holder %d", rep.Session, a.holder)
			a.w.oracle.holders[a.holder] = a
			if len(rep.PutBack) > 0 && rep.PutBack[0] != 0 {
				a.wasPutBack(rep.PutBack[0])
			}
			a.back = 200 * time.Millisecond
			a.poll()
		}
	}, func(error) { again() })
}

// broken ends the session: the relay does not know it, or is silent.
func (a *agent) broken(why string) {
	a.w.note("session over: %s", why)
	a.session = nil
	a.later(a.back/2, "hello", a.hello)
}

func (a *agent) poll() {
	p := proto.Poll{Session: a.id, ClockNs: a.clock.now().UnixNano(), Members: a.seq, Roots: []proto.RootStatus{a.rootStatus()}}
	s := a.session
	ours := func(fn func()) {
		if a.session == s {
			fn()
		}
	}
	a.w.net.hint(a.node, relayName, "beat", func() {
		a.w.relay.awake("beat", func(up bool) {
			if up {
				a.w.relay.r.Beat(proto.Beat{Session: s.id, ClockNs: p.ClockNs})
			}
		})
	})
	a.w.net.call(a, "poll", max(2*a.suspicion, 2*time.Second), func() func() {
		rep, err := a.w.relay.r.Poll(context.Background(), p)
		return func() {
			ours(func() {
				if err != nil {
					a.broken(err.Error())
					return
				}
				a.take(rep)
				a.within(a.suspicion/3, "poll", a.poll)
			})
		}
	}, func(err error) {
		ours(func() {
			if a.clock.now().Sub(a.answered) >= a.suspicion {
				a.broken("relay silent")
				return
			}
			a.within(a.suspicion/15, "poll", a.poll)
		})
	})
}

func (a *agent) take(rep proto.PollReply) {
	a.relayUp = rep.UpNs
	a.answered, a.polled, a.followed = a.clock.now(), true, false
	if rep.Suspicion > 0 {
		a.suspicion = rep.Suspicion
	}
	if rep.MembersSeq != a.seq {
		a.seq, a.members = rep.MembersSeq, nil
		for _, m := range rep.Members {
			if m.Alive {
				a.members = append(a.members, m.Holder)
			}
		}
	}
	for _, d := range rep.Datasets {
		if d.Dataset == dataset {
			a.status = d
		}
	}
	for _, e := range rep.Ended {
		a.leaseEnded(e)
	}
	a.lookFor(rep.Look, rep.UpNs)
	a.workSoon(0)
}

// nudged is a word of the relay on the bus.
func (a *agent) nudged(n proto.Nudge) {
	if a.session == nil {
		return
	}
	a.head = max(a.head, n.Head)
	for _, e := range n.Ended {
		a.leaseEnded(e)
	}
	a.workSoon(time.Millisecond)
}

func (a *agent) leaseEnded(e proto.LeaseEnded) {
	a.heard.Forget(e.Path, e.Upload, e.Epoch)
	wait := pick.Next(a.holder, a.members, e, a.suspicion)
	if cur, ok := a.ix.entries[e.Path]; ok {
		if next, ok := settle.Ended(cur, e.Size, wait, a.clock.now()); ok {
			a.ix.entries[e.Path] = next
		}
	}
	a.workSoon(time.Millisecond)
}

// overheard is gossip of another holder.
func (a *agent) overheard(p proto.Progress) {
	if a.session == nil || p.Holder == a.holder {
		return
	}
	for _, item := range p.Items {
		a.heard.Note(item.Path, item.Upload, item.Epoch, a.clock.now())
	}
}

func (a *agent) gossip(item proto.ProgressItem) {
	a.tell.Note(dataset, a.holder, item)
	if a.telling {
		return
	}
	a.telling = true
	a.later(proto.GossipInterval, "gossip", func() {
		a.telling = false
		for _, p := range a.tell.Take() {
			slices.SortFunc(p.Items, func(x, y proto.ProgressItem) int { return cmp.Compare(x.Path, y.Path) })
			for _, to := range a.w.agents {
				if to == a {
					continue
				}
				boot := to.boot
				a.w.net.hint(a.node, to.node, "gossip", func() { to.awake(boot, "gossip", func() { to.overheard(p) }) })
			}
		}
	})
}

func (a *agent) rootStatus() proto.RootStatus {
	s := proto.RootStatus{Holder: a.holder, Cursor: a.ix.cursor, Watch: "inotify", LastScanNs: a.ix.scanned, Problem: a.problem, Scans: uint64(a.scans)}
	for _, e := range a.ix.entries {
		if !e.Present() {
			continue
		}
		s.Objects++
		switch e.State {
		case index.StatePending, index.StateUnreadable, index.StateUnsettled:
			s.UnsentCount++
			s.UnsentBytes += e.Stat.Size
			if e.FirstSeen != 0 && (s.OldestUnsent == 0 || e.FirstSeen < s.OldestUnsent) {
				s.OldestUnsent = e.FirstSeen
			}
		case index.StateLagging:
			s.Lagging++
		case index.StateDivergent:
			s.Divergent++
		}
		if e.State == index.StateUnreadable {
			s.Unreadable++
		}
	}
	return s
}

// hinted is told of a change on the disk: the watch sees it, or does not.
func (a *agent) hinted(path string) {
	if !a.up || a.w.chance(a.w.cfg.unwatched) {
		return
	}
	if len(a.hints) == 0 {
		a.later(500*time.Millisecond, "look", a.look)
	}
	a.hints[path] = true
}

// refused says why the root must not be scanned: it is not what the index knows. As in agent/scan.
func (a *agent) refused() string {
	d := a.disk
	here, gone := 0, 0
	for _, e := range a.ix.entries {
		if e.Present() {
			here++
		} else if e.State == index.StateGone {
			gone++
		}
	}
	switch {
	case !d.mounted:
		return "missing"
	case a.ix.known && a.ix.fsid != d.fsid && here+gone > 0:
		return "exchanged"
	case len(d.files) == 0 && here > 0:
		return "emptied"
	}
	a.ix.fsid, a.ix.known = d.fsid, true
	return ""
}

// look follows hints: it concludes nothing of what is missing.
func (a *agent) look() {
	paths := slices.Sorted(maps.Keys(a.hints))
	clear(a.hints)
	if a.problem = a.refused(); a.problem != "" {
		return
	}
	for _, p := range paths {
		if f := a.disk.files[p]; f != nil {
			a.found(p, f)
		}
	}
	a.workSoon(0)
}

func (a *agent) found(path string, f *file) bool {
	cur, had := a.ix.entries[path]
	next, changed := scan.Decide(cur, had, path, f.kind, f.stat(), f.linkTo, a.clock.now())
	a.ix.entries[path] = next
	return changed
}

func (a *agent) scanLoop() {
	a.fullScan()
	a.later(a.w.between(a.w.cfg.scan/2, a.w.cfg.scan), "scan", a.scanLoop)
}

// fullScan looks at everything, and concludes what is gone.
func (a *agent) fullScan() {
	if a.problem = a.refused(); a.problem != "" {
		a.w.note("root %s", a.problem)
		return
	}
	changed, gone := 0, 0
	for _, p := range slices.Sorted(maps.Keys(a.disk.files)) {
		if a.found(p, a.disk.files[p]) {
			changed++
		}
	}
	now := a.clock.now()
	for _, e := range a.ix.sorted(func(e index.Entry) bool { return e.Present() && a.disk.files[e.Path] == nil }) {
		gone++
		if e.Unknown() {
			delete(a.ix.entries, e.Path)
			continue
		}
		e.State, e.Due, e.FirstSeen = index.StateGone, now.UnixNano(), now.UnixNano()
		e.Attempts, e.Reason, e.Waited = 0, "", false
		a.ix.entries[e.Path] = e
	}
	a.scans++
	a.ix.scanned, a.scanUp, a.scanBare = now.UnixNano(), a.relayUp, len(a.disk.files) == 0
	a.synced = a.ix.copyOf()
	a.w.oracle.scanned(a)
	a.w.note("changed %d gone %d", changed, gone)
	a.workSoon(0)
}
