package relay

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/arbiter"
	"forebay/relay/session"
)

// Hello opens a session. host is the address under which the agent reached the relay, address the agent's own.
func (r *Relay) Hello(_ context.Context, h proto.Hello, host, address string) (proto.HelloReply, error) {
	if err := checkHello(h); err != nil {
		return proto.HelloReply{}, err
	}
	now := r.now()
	s := session.Session{Cluster: h.Cluster, Node: h.Node, Instance: h.Instance, Boot: h.Boot, Software: h.Software, Address: address, Coding: h.Coding, Skew: time.Duration(h.ClockNs - now.UnixNano())}
	if err := r.refuseTwin(h, address, now); err != nil {
		return proto.HelloReply{}, err
	}
	var entries []ledger.Entry
	var regs []*ledger.RegisterHolder
	for _, root := range h.Roots {
		reg := &ledger.RegisterHolder{Dataset: proto.Dataset{Cluster: h.Cluster, Name: root.Dataset}, Node: h.Node, Root: root.Path,
			Index: root.Index, Instance: h.Instance, Software: h.Software, NowNs: now.UnixNano(), UpNs: r.up(), Told: root.Told}
		regs, entries = append(regs, reg), append(entries, reg)
	}
	if err := r.ledger.Update(entries...); err != nil {
		return proto.HelloReply{}, err
	}
	rep := proto.HelloReply{Version: proto.Version, Relay: r.meta.Relay, RelayName: r.cfg.Name, Generation: r.meta.Generation,
		Suspicion: r.book.Suspicion(), BusToken: r.deps.BusToken, NowNs: now.UnixNano(), Rebuilt: r.meta.Rebuilt, Coding: proto.Coding}
	for i, reg := range regs {
		rep.Holders = append(rep.Holders, reg.Holder.ID)
		s.Roots = append(s.Roots, session.Root{Holder: reg.Holder.ID, IndexGen: reg.Holder.IndexGen, Dataset: reg.Holder.Dataset, Name: reg.Dataset, Path: reg.Root, Told: reg.Holder.Told})
		if reg.PutBack {
			if rep.PutBack == nil {
				rep.PutBack = make([]uint64, len(regs))
			}
			rep.PutBack[i] = reg.Holder.Told
			r.event("index-put-back", fmt.Sprintf("the agent of %s/%s came with an older copy of its data, or is back after it was forgotten: what it has of %s is settled again", h.Cluster, h.Node, reg.Dataset),
				map[string]string{"node": h.Node, "cluster": h.Cluster, "dataset": reg.Dataset.String(), "root": reg.Root})
		}
	}
	if !r.roster.knows(rep.Holders) {
		r.roster.reset()
	}
	unlock := r.gone.all(rep.Holders) // what the sessions before have told is recorded by now, or is not taken any more
	opened, replaced, err := r.book.Open(s, r.now())
	unlock()
	if err != nil {
		return proto.HelloReply{}, err
	}
	for _, old := range replaced {
		r.forgetLooks(*old)
		if old.Boot != h.Boot {
			r.twins.retire(old.Boot)
		}
		r.endLeases(*old, "the agent was restarted")
	}
	rep.Session = opened.ID
	if r.deps.BusURLs != nil {
		rep.BusURLs = r.deps.BusURLs(host)
	}
	r.event("agent-connected", fmt.Sprintf("agent of %s/%s connected from %s", h.Cluster, h.Node, address), map[string]string{"node": h.Node, "cluster": h.Cluster})
	r.nudgeMembers(opened.Roots)
	return rep, nil
}

func checkHello(h proto.Hello) error {
	if err := proto.CheckVersion("agent", h.Version); err != nil {
		return err
	}
	for what, name := range map[string]string{"cluster": h.Cluster, "node": h.Node} {
		if err := proto.CheckName(name); err != nil {
			return proto.Errorf(proto.ClassPermanent, "%s: %w", what, err)
		}
	}
	if len(h.Roots) == 0 || len(h.Roots) > 1024 {
		return proto.Errorf(proto.ClassPermanent, "an agent with %d roots, 1 to 1024 are allowed", len(h.Roots))
	}
	for _, root := range h.Roots {
		if err := proto.CheckName(root.Dataset); err != nil {
			return proto.Errorf(proto.ClassPermanent, "dataset: %w", err)
		}
	}
	return nil
}

// Poll takes an agent's report and tells it what changed.
func (r *Relay) Poll(ctx context.Context, p proto.Poll) (proto.PollReply, error) {
	now := r.now()
	ended, ok := r.book.Poll(p, now)
	if !ok {
		return proto.PollReply{}, unknownSession()
	}
	if p.Stopping {
		r.EndSession(p.Session, "the agent is stopping")
		return proto.PollReply{NowNs: now.UnixNano()}, nil
	}
	s, ok := r.book.Get(p.Session)
	if !ok {
		return proto.PollReply{}, unknownSession()
	}
	rep := proto.PollReply{NowNs: now.UnixNano(), MembersSeq: r.book.MembersOf(s), Ended: ended, Suspicion: r.book.Suspicion(), UpNs: r.up()}
	if rep.MembersSeq != p.Members {
		m, err := r.members(s)
		if err != nil {
			return rep, err
		}
		rep.Members = m
	}
	meta, err := ledger.ReadMeta(r.ledger)
	if err != nil {
		return rep, err
	}
	for _, root := range s.Roots {
		rep.Look = append(rep.Look, r.looks.take(root.Holder, rep.UpNs, r.waitedFor.hurry(root.Dataset, rep.UpNs))...)
		if slices.ContainsFunc(rep.Datasets, func(d proto.DatasetStatus) bool { return d.Dataset == root.Name.Name }) {
			continue
		}
		d, err := ledger.Dataset(r.ledger, root.Dataset)
		if err != nil {
			return rep, err
		}
		if d.Asked > 0 { // else there is no need to look at all links
			asking, err := r.askers(root.Dataset)
			if err != nil {
				return rep, err
			}
			if len(asking) == 0 {
				d.Asked = 0
			}
		}
		rep.Datasets = append(rep.Datasets, proto.DatasetStatus{Dataset: root.Name.Name, Head: d.Head, Wanted: r.wanted(root.Name), ScanToken: meta.ScanToken, Asked: d.Asked + r.loose.count(root.Dataset)})
	}
	return rep, nil
}

// members lists the holders of a session's datasets.
func (r *Relay) members(s session.Session) ([]proto.Member, error) {
	out, done := []proto.Member{}, map[proto.DatasetID]bool{}
	for _, root := range s.Roots {
		if done[root.Dataset] {
			continue
		}
		done[root.Dataset] = true
		hs, err := r.roster.of(r.ledger, root.Dataset)
		if err != nil {
			return nil, err
		}
		alive := r.alive(root.Dataset)
		for _, h := range hs {
			out = append(out, proto.Member{Holder: h.ID, Dataset: root.Name.Name, Node: h.Node, Root: h.Root, Alive: slices.Contains(alive, h.ID), Coding: r.book.Coding(h.ID)})
		}
	}
	slices.SortFunc(out, func(a, b proto.Member) int { return cmp.Compare(a.Holder, b.Holder) })
	return out, nil
}

// alive returns the holders of a dataset that take part: with a session, on a node that is not cordoned.
func (r *Relay) alive(ds proto.DatasetID) []proto.HolderID {
	live := r.book.Live(ds)
	hs, err := r.roster.of(r.ledger, ds)
	if err != nil {
		return live
	}
	return slices.DeleteFunc(live, func(h proto.HolderID) bool {
		return slices.ContainsFunc(hs, func(l enrolled) bool { return l.ID == h && l.Cordoned })
	})
}

// holderName names a holder for people.
func (r *Relay) holderName(id proto.HolderID) string {
	h, err := r.roster.holder(r.ledger, id)
	if err != nil {
		return fmt.Sprintf("holder %d", id)
	}
	return h.Node
}

// Beat is a sign of life that came over the bus.
func (r *Relay) Beat(b proto.Beat) { r.book.Touch(b.Session, r.now()) }

// EndSession ends a session and its leases: its connection is lost, it is silent, or it stops.
func (r *Relay) EndSession(id proto.SessionID, cause string) {
	s, ok := r.book.End(id)
	if !ok {
		return
	}
	r.event("agent-lost", fmt.Sprintf("agent of %s/%s: %s", s.Cluster, s.Node, cause), map[string]string{"node": s.Node, "cluster": s.Cluster, "cause": cause})
	r.notes.entry(&ledger.UpdateNode{Cluster: s.Cluster, Node: s.Node, SeenNs: s.Seen.UnixNano(), SeenUp: r.up()})
	r.forgetLooks(s)
	r.endLeases(s, cause)
	r.nudgeMembers(s.Roots)
}

func (r *Relay) forgetLooks(s session.Session) {
	for _, root := range s.Roots {
		r.looks.forget(root.Holder)
	}
}

// endLeases ends a session's leases and tells the other holders that they may carry on.
func (r *Relay) endLeases(s session.Session, cause string) {
	r.fence.Lock()
	r.tableMu.Lock()
	ended := r.table.EndSession(s.ID)
	r.tableMu.Unlock()
	r.fence.Unlock()
	r.tellEnded(ended, cause)
}

// tellEnded tells holders of uploads that lost their sender.
func (r *Relay) tellEnded(ls []*arbiter.Lease, cause string) {
	by := map[proto.DatasetID][]proto.LeaseEnded{}
	for _, l := range ls {
		d, err := ledger.Dataset(r.ledger, l.Dataset)
		if err != nil {
			continue // the others ask again after the suspicion time
		}
		if l.Acked > 0 {
			r.waits.note(l.Upload, orphan{dataset: l.Dataset, cause: cause, since: r.now(), up: r.up()})
		}
		if len(by[l.Dataset]) < 64 { // a hint: the rest is found by asking again
			by[l.Dataset] = append(by[l.Dataset], proto.LeaseEnded{Dataset: d.Name.Name, Path: l.Path, Upload: l.Upload, Size: l.Size, Acked: l.Acked, Holder: l.Holder, Cause: cause, Epoch: l.Epoch,
				Unable: r.unable(objectKey{l.Dataset, l.Path})})
		}
	}
	for ds, ended := range by {
		r.book.Tell(ds, ended)
		r.nudge(ds, proto.Nudge{Ended: ended})
	}
}

// watchSessions ends sessions that have been silent for the suspicion time, and notes about once a minute who is there.
func (r *Relay) watchSessions(ctx context.Context) error {
	return every(ctx, max(r.book.Suspicion()/10, 10*time.Millisecond), func(int) { r.watchRound() })
}

func (r *Relay) watchRound() {
	r.watchClock()
	for _, id := range r.book.Silent(r.now()) {
		r.EndSession(id, fmt.Sprintf("silent for %s", r.book.Suspicion()))
	}
	if r.rounds.seen.due(r.now(), time.Minute) {
		r.noteSeen()
		r.endIdleLeases()
	}
}

// leaseIdle is how long nothing may come under a lease, in running time.
const leaseIdle = 10 * time.Minute

// endIdleLeases ends leases that nobody uses: the grant was lost on its way, or the word that it is given back, and its holder has settled
// the object some other way since and claims it no more. They would keep room and the other holders waiting.
func (r *Relay) endIdleLeases() {
	r.fence.Lock()
	r.tableMu.Lock()
	ended := r.table.EndIdle(r.up() - int64(leaseIdle))
	r.tableMu.Unlock()
	r.fence.Unlock()
	r.tellEnded(ended, fmt.Sprintf("nothing came of it for %s", leaseIdle))
}

func (r *Relay) noteSeen() {
	r.notes.entry(&ledger.Tick{UpNs: r.up()})
	for _, s := range r.book.All() {
		u := &ledger.UpdateNode{Cluster: s.Cluster, Node: s.Node, SeenNs: s.Seen.UnixNano(), SeenUp: r.up(), Cursors: map[proto.HolderID]ledger.Followed{}}
		for _, root := range s.Roots {
			u.Cursors[root.Holder] = ledger.Followed{IndexGen: root.IndexGen, Cursor: root.Status.Cursor}
		}
		r.notes.entry(u)
	}
}

// Report records what a holder has and lacks.
func (r *Relay) Report(_ context.Context, rep proto.Report) (reply proto.ReportReply, err error) {
	r.giveUpGone(rep.Session, rep.Holder, rep.GivenUp)
	r.passHave(rep.Session, rep.Holder, rep.HavePast)
	if len(rep.Gone) > 0 || len(rep.Have) > 0 || rep.ScanDone { // what a delete may follow from, or not
		gone := r.gone.of(rep.Holder)
		gone.RLock()
		defer gone.RUnlock()
	}
	_, root, err := r.root(rep.Session, rep.Holder)
	if err != nil {
		return reply, err
	}
	rep.ScanUp = min(rep.ScanUp, r.up())
	if len(rep.Gone) > 0 {
		if rep.Seq != 0 && rep.Seq <= r.book.GivenUp(rep.Session, rep.Holder, 0) {
			return reply, proto.Errorf(proto.ClassTransient, "report %d of what is gone comes too late: the agent has given it up", rep.Seq)
		}
	}
	if len(rep.Have) > 0 && r.isPast(rep.Session, rep.Holder, rep.HaveSeq) {
		return reply, tooLate()
	}
	r.book.Report(rep)
	if (rep.ScanDone || rep.Listed) && r.flush != nil {
		for _, link := range r.linksOf(root.Dataset) {
			r.flush.Wake(link) // targets are told of what cannot be read
		}
	}
	if len(rep.Lack) > 0 {
		r.looks.lack(rep.Holder, rep.Lack, rep.LackUp)
		r.judgeSoon()
	}
	if len(rep.Have) == 0 && len(rep.Gone) == 0 && !rep.ScanDone {
		return reply, nil
	}
	for _, g := range rep.Gone {
		if err := proto.CheckPath(g.Path); err != nil {
			return reply, proto.Errorf(proto.ClassPermanent, "gone: %w", err)
		}
	}
	e := &ledger.ReportHoldings{Holder: rep.Holder, IndexGen: root.IndexGen, UpNs: r.up(), Have: rep.Have, Gone: rep.Gone, ScanDone: rep.ScanDone, Bare: rep.Bare, ScanUp: rep.ScanUp, Told: rep.Told, Alive: r.alive(root.Dataset)}
	if err = r.ledger.Update(e); err == nil && e.Stale {
		return reply, unknownSession() // the next one is being opened
	}
	if err == nil {
		r.book.Told(rep.Session, rep.Holder, rep.Told)
	}
	if len(rep.Gone) > 0 || rep.ScanDone {
		r.judgeSoon()
	}
	if err == nil {
		r.deps.Fault.At(faultpoint.RelayReported)
	}
	return proto.ReportReply{WantMeta: e.WantMeta}, err
}

// giveUpGone is told by a holder that it waits no more for the answers to its reports of gone paths up to a number. One that is late
// must not undo what the holder tells now: that such a path is back (I13).
func (r *Relay) giveUpGone(id proto.SessionID, h proto.HolderID, upTo uint64) {
	if upTo == 0 || r.book.GivenUp(id, h, 0) >= upTo {
		return
	}
	gone := r.gone.of(h)
	gone.Lock()
	defer gone.Unlock()
	r.book.GivenUp(id, h, upTo)
}

// passHave is told by a holder that is about to say what is gone that it waits no more for the answers to what it told of what it has,
// up to a number. What of that is late must not undo what it tells now: nobody would ever say again that the path is gone.
func (r *Relay) passHave(id proto.SessionID, h proto.HolderID, upTo uint64) {
	if upTo == 0 || r.book.HavePast(id, h, 0) >= upTo {
		return
	}
	gone := r.gone.of(h) // reports
	gone.Lock()
	defer gone.Unlock()
	r.fence.Lock() // claims
	defer r.fence.Unlock()
	r.book.HavePast(id, h, upTo)
}

// isPast reports whether a message that tells what a holder has does not count any more.
func (r *Relay) isPast(id proto.SessionID, h proto.HolderID, seq uint64) bool {
	return seq != 0 && seq <= r.book.HavePast(id, h, 0)
}

func tooLate() error {
	return proto.Errorf(proto.ClassTransient, "the message comes too late: the agent has given it up, and told what is gone since")
}

// reporting has the reports of what is gone recorded before anything that must not be overtaken by them: each holder has a lock,
// shared with few others.
type reporting [64]sync.RWMutex

func (g *reporting) stripe(h proto.HolderID) int { return int(uint64(h) % uint64(len(g))) }

func (g *reporting) of(h proto.HolderID) *sync.RWMutex { return &g[g.stripe(h)] }

// all waits for the reports of several holders that are being recorded, and keeps others back until unlock.
func (g *reporting) all(hs []proto.HolderID) (unlock func()) {
	var taken []int
	for _, h := range hs {
		taken = append(taken, g.stripe(h))
	}
	slices.Sort(taken)
	taken = slices.Compact(taken)
	for _, i := range taken {
		g[i].Lock()
	}
	return func() {
		for _, i := range taken {
			g[i].Unlock()
		}
	}
}

// Feed answers a follower of a dataset, with what is durable: a follower passes a version once, and would never hear of another
// that got its number after a power cut.
func (r *Relay) Feed(_ context.Context, q proto.FeedRequest, asked bool) (proto.FeedReply, error) {
	rep, err := r.feed(q, asked)
	if err != nil {
		return proto.FeedReply{}, err
	}
	if err := r.ledger.Update(); err != nil {
		return proto.FeedReply{}, err
	}
	return rep, nil
}

func (r *Relay) feed(q proto.FeedRequest, asked bool) (proto.FeedReply, error) {
	if !r.book.Touch(q.Session, r.now()) {
		return proto.FeedReply{}, unknownSession()
	}
	s, _ := r.book.Get(q.Session)
	for _, root := range s.Roots {
		if root.Name.Name != q.Dataset {
			continue
		}
		limit := min(max(q.Limit, 1), proto.MaxClaims)
		if asked {
			rep, err := r.asked(root.Dataset, q.After, limit)
			if err != nil || q.After > 0 {
				return rep, err
			}
			loose, err := r.looseItems(root.Dataset)
			rep.Items = append(loose, rep.Items...)
			return rep, err
		}
		return ledger.Feed(r.ledger, root.Dataset, q.After, limit)
	}
	return proto.FeedReply{}, proto.Errorf(proto.ClassPermanent, "node %s has announced no root of dataset %q", s.Node, q.Dataset)
}
