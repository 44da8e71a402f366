// Package session keeps the relay's view of its agents' runs: who is there, what each root last said of itself, and what is
// to be told at the next poll. All of it is in memory and can be lost: agents say hello again. It imports proto only.
package session

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"forebay/proto"
)

// Session is one run of one agent. Its fields are guarded by the Book.
type Session struct {
	ID       proto.SessionID
	Cluster  string
	Node     string
	Instance string
	Boot     string
	Software string
	Address  string
	Roots    []Root
	Began    time.Time
	Seen     time.Time     // last traffic
	Skew     time.Duration // the agent's wall clock less the relay's
	Notice   string        // proto.Poll's
	Coding   int           // proto.Hello's
	ended    []proto.LeaseEnded
	gone     chan struct{} // closed when it ends
}

// Root is one holder of a session with what the agent last said of it.
type Root struct {
	Holder    proto.HolderID
	IndexGen  uint32 // of its index, as the session announced it
	Dataset   proto.DatasetID
	Name      proto.Dataset
	Path      string
	Told      uint64 // highest proto.Root.Told that the ledger has of it
	Status    proto.RootStatus
	Said      bool      // Status is from this session
	SettledAt time.Time // up to here everything its scans found is settled with the relay
	// Doubted is set when the agent's clock went back while objects were unsent: what it says of their age is too little.
	Doubted bool
	// Scan is the last scan that was reported in this session; SettledUp the beginning, in the relay's running time, of the last one
	// of which all that it found has been settled, 0 when there is none. TurnedAt is when that was told.
	Scan      Scan
	SettledUp int64
	TurnedAt  time.Time
	Failures  []proto.Failure
	Reported  bool            // Failures is from this session
	incoming  []proto.Failure // of a report whose scan is not done yet
	givenUp   uint64          // reports of gone paths up to this proto.Report.Seq do not count any more
	havePast  uint64          // nor what tells of what it has up to this proto.Report.HaveSeq
}

// Scan is a scan that an agent reported.
type Scan struct {
	Done bool // there was one
	Ns   int64
	Seq  uint64 // proto.Report.Scans
	Up   int64  // proto.Report.ScanUp
}

// within reports whether a status was written after the scan, and thus counts what it found.
func (s Scan) within(st proto.RootStatus) bool {
	if s.Seq != 0 {
		return st.Scans >= s.Seq
	}
	return st.LastScanNs == s.Ns
}

// Settles reports whether the last scan is settled, or will be with the next status, for nothing is left to tell.
func (r *Root) Settles() (is, will bool) {
	if !r.Scan.Done || r.Scan.Up == 0 {
		return false, false
	}
	is = r.SettledUp >= r.Scan.Up
	return is, !is && r.Status.UnsentCount == 0 && r.Status.Unreadable == 0
}

// maxEnded is how many ended leases wait for a poll: beyond it the oldest are forgotten, which costs time and nothing else.
const maxEnded = 256

// Book is all live sessions. Safe for concurrent use.
type Book struct {
	mu        sync.Mutex
	suspicion time.Duration
	byID      map[proto.SessionID]*Session
	members   uint64
	all       uint64                               // members when all lists were renumbered last
	changed   map[proto.DatasetID]uint64           // and when a holder of a dataset came or went last
	live      map[proto.DatasetID][]proto.HolderID // that have a session, by number
	coding    map[proto.HolderID]int               // of those whose agents read more than plain messages on the bus
	skews     map[string]time.Duration             // of each node when it last said; in this run of the relay
	last      proto.SessionID
}

// NewBook returns an empty book. first is the base of session ids: different for each start of the relay, so that a session
// of an earlier run is never taken for one of this.
func NewBook(suspicion time.Duration, first proto.SessionID) *Book {
	return &Book{suspicion: suspicion, byID: map[proto.SessionID]*Session{}, skews: map[string]time.Duration{}, members: uint64(first), all: uint64(first), changed: map[proto.DatasetID]uint64{}, live: map[proto.DatasetID][]proto.HolderID{}, coding: map[proto.HolderID]int{}, last: first}
}

// Open adds a session. It ends sessions of the same agent (same instance), which it returns. Another live agent under the
// same node name is refused with ClassConflict.
func (b *Book) Open(s Session, now time.Time) (*Session, []*Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var replaced []*Session
	for _, o := range b.byID {
		if o.Cluster != s.Cluster || o.Node != s.Node {
			continue
		}
		if o.Instance != s.Instance && now.Sub(o.Seen) < b.suspicion {
			return nil, nil, proto.Errorf(proto.ClassConflict, "node %s of cluster %s is an agent at %s already: two agents must not share a node name; set another node: in one of them", s.Node, s.Cluster, o.Address)
		}
		replaced = append(replaced, o)
	}
	for _, o := range replaced {
		b.remove(o)
	}
	b.last++
	s.ID, s.Began, s.Seen, s.gone = b.last, now, now, make(chan struct{})
	b.byID[s.ID] = &s
	b.number(&s)
	for _, r := range s.Roots {
		list := b.live[r.Dataset]
		at, _ := slices.BinarySearch(list, r.Holder)
		b.live[r.Dataset] = slices.Insert(list, at, r.Holder)
		if s.Coding > proto.CodingPlain {
			b.coding[r.Holder] = s.Coding
		}
	}
	return &s, replaced, nil
}

// Touch notes traffic of a session and reports whether it is live.
func (b *Book) Touch(id proto.SessionID, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.byID[id]
	if s == nil {
		return false
	}
	s.Seen = now
	return true
}

// Gone returns a channel that is closed when a live session ends; ok is false when it has ended.
func (b *Book) Gone(id proto.SessionID) (gone <-chan struct{}, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.byID[id]
	if s == nil {
		return nil, false
	}
	return s.gone, true
}

// Get returns a copy of a session.
func (b *Book) Get(id proto.SessionID) (Session, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.byID[id]
	if s == nil {
		return Session{}, false
	}
	return s.copy(), true
}

// Root returns the root of a holder, nil when the session has none of it.
func (s *Session) Root(h proto.HolderID) *Root {
	for i := range s.Roots {
		if r := &s.Roots[i]; r.Holder == h {
			return r
		}
	}
	return nil
}

// root is Session.Root of a live session. b.mu is held.
func (b *Book) root(id proto.SessionID, h proto.HolderID) *Root {
	if s := b.byID[id]; s != nil {
		return s.Root(h)
	}
	return nil
}

func (s *Session) copy() Session {
	c := *s
	c.Roots = slices.Clone(s.Roots)
	c.ended = nil
	return c
}

// End removes a session and returns a copy of it; ok is false when it had ended before.
func (b *Book) End(id proto.SessionID) (Session, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.byID[id]
	if s == nil {
		return Session{}, false
	}
	b.remove(s)
	return s.copy(), true
}

func (b *Book) remove(s *Session) {
	close(s.gone)
	delete(b.byID, s.ID)
	b.number(s)
	for _, r := range s.Roots {
		delete(b.coding, r.Holder)
		list := b.live[r.Dataset]
		if at, ok := slices.BinarySearch(list, r.Holder); ok {
			b.live[r.Dataset] = slices.Delete(list, at, at+1)
		}
	}
}

// number gives the member lists of a session's datasets a new number. b.mu is held.
func (b *Book) number(s *Session) {
	b.members++
	for _, r := range s.Roots {
		b.changed[r.Dataset] = b.members
	}
}

// Silent returns the sessions without traffic for the suspicion time, oldest first.
func (b *Book) Silent(now time.Time) (out []proto.SessionID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, s := range b.byID {
		if now.Sub(s.Seen) >= b.suspicion {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// SetSuspicion changes the suspicion time.
func (b *Book) SetSuspicion(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.suspicion = d
}

// Suspicion is the silence after which a session ends.
func (b *Book) Suspicion() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.suspicion
}

// wentBack is how far an agent's clock may fall behind the relay's from one poll to the next before it was set back.
const wentBack = time.Second

// Poll takes an agent's status report and hands out what waits for it; ok is false when the session is not live.
func (b *Book) Poll(p proto.Poll, now time.Time) (ended []proto.LeaseEnded, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.byID[p.Session]
	if s == nil {
		return nil, false
	}
	s.Seen, s.Notice = now, p.Notice
	s.Skew = time.Duration(p.ClockNs - now.UnixNano())
	name := s.Cluster + "/" + s.Node
	before, known := b.skews[name]
	back := known && s.Skew < before-wentBack
	b.skews[name] = s.Skew
	for _, st := range p.Roots {
		if r := s.Root(st.Holder); r != nil {
			r.Status, r.Said = st, true
			r.Doubted = r.Doubted || back
			r.settle(st, p.ClockNs, now)
		}
	}
	ended, s.ended = s.ended, nil
	return ended, true
}

// settle moves SettledAt: to now when nothing is unsent, else to when the oldest unsent object was first seen. Ages are taken
// on the agent's clock, so that its skew does not matter; how long the status was on its way does. SettledUp needs no clock: a status from
// before the scan does not count, since what the scan found is not in it, and in the one that does nothing may be unsent, for
// whatever the reason, and nothing unseen: what the scan could not look at may be there (I13). A later scan does not take it back:
// what it finds came since.
func (r *Root) settle(st proto.RootStatus, clockNs int64, now time.Time) {
	if r.Scan.Done && r.Scan.Up > r.SettledUp && r.Scan.within(st) && st.UnsentCount == 0 && st.Unreadable == 0 {
		r.SettledUp, r.TurnedAt = r.Scan.Up, now
	}
	at := now
	switch {
	case st.UnsentCount == 0:
		r.Doubted = false
	case st.OldestUnsent <= 0, r.Doubted, clockNs < st.OldestUnsent:
		return // nothing is known of their age
	default:
		at = now.Add(-time.Duration(clockNs - st.OldestUnsent))
	}
	if at.After(r.SettledAt) {
		r.SettledAt = at
	}
}

// Told notes how far a root's proto.Root.Told is.
func (b *Book) Told(id proto.SessionID, h proto.HolderID, told uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.root(id, h); r != nil {
		r.Told = max(r.Told, told)
	}
}

// Report collects the failures that a scan lists by name; they replace the list before when the scan is done.
func (b *Book) Report(rep proto.Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.root(rep.Session, rep.Holder)
	if r == nil {
		return
	}
	if rep.ScanDone {
		r.Scan = Scan{Done: true, Ns: rep.ScanNs, Seq: rep.Scans, Up: rep.ScanUp}
	}
	if rep.First {
		r.incoming = nil
	}
	room := proto.MaxFailures - len(r.incoming)
	r.incoming = append(r.incoming, rep.Failed[:min(room, len(rep.Failed))]...)
	if rep.ScanDone || rep.Listed {
		r.Failures, r.incoming, r.Reported = r.incoming, nil, true
	}
}

// GivenUp raises to upTo, and returns, up to which proto.Report.Seq the reports of a holder do not count any more.
func (b *Book) GivenUp(id proto.SessionID, h proto.HolderID, upTo uint64) uint64 {
	return b.raise(id, h, upTo, func(r *Root) *uint64 { return &r.givenUp })
}

// HavePast raises to upTo, and returns, up to which proto.Report.HaveSeq what a holder tells of what it has does not count any more.
func (b *Book) HavePast(id proto.SessionID, h proto.HolderID, upTo uint64) uint64 {
	return b.raise(id, h, upTo, func(r *Root) *uint64 { return &r.havePast })
}

// raise raises a mark of a root to upTo and returns it. Nothing of a root that is not known counts.
func (b *Book) raise(id proto.SessionID, h proto.HolderID, upTo uint64, of func(*Root) *uint64) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.root(id, h)
	if r == nil {
		return upTo
	}
	mark := of(r)
	*mark = max(*mark, upTo)
	return *mark
}

// Tell queues ended leases for every session that holds the dataset. Who had the lease hears of it too: what it does with it is
// decided by the entry, which says why it gave the lease back.
func (b *Book) Tell(ds proto.DatasetID, ended []proto.LeaseEnded) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.byID {
		if !slices.ContainsFunc(s.Roots, func(r Root) bool { return r.Dataset == ds }) {
			continue
		}
		s.ended = append(s.ended, ended...)
		if n := len(s.ended) - maxEnded; n > 0 {
			s.ended = slices.Delete(s.ended, 0, n)
		}
	}
}

// All returns copies of the live sessions, oldest first.
func (b *Book) All() []Session {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Session, 0, len(b.byID))
	for _, s := range b.byID {
		out = append(out, s.copy())
	}
	slices.SortFunc(out, func(a, b Session) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Live returns the holders of a dataset that have a session, by number.
func (b *Book) Live(ds proto.DatasetID) []proto.HolderID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.live[ds])
}

// Coding returns proto.Hello.Coding of the agent that a holder has a session with.
func (b *Book) Coding(h proto.HolderID) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.coding[h]
}

// MembersOf is the number of the member list of a session: it grows when a holder of one of its datasets comes or goes, or Renumber is
// called. Sessions of other datasets come and go without it, else each would have all agents fetch their lists.
func (b *Book) MembersOf(s Session) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.all
	for _, r := range s.Roots {
		n = max(n, b.changed[r.Dataset])
	}
	return n
}

// Members is the highest number of any member list.
func (b *Book) Members() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.members
}

// Renumber makes agents fetch the member list anew.
func (b *Book) Renumber() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.members++
	b.all = b.members
}
