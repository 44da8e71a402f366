package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"forebay/agent/index"
	"forebay/agent/pick"
	"forebay/agent/settle"
	"forebay/proto"
)

// The loops of agent/work as passes: what is due is looked at, decided by package settle, and carried out.

const callTimeout = 20 * time.Second

// workSoon has the agent look at its queue after d, or when it would anyway.
func (a *agent) workSoon(d time.Duration) {
	if a.session == nil {
		return
	}
	at := a.w.now + int64(d)
	if a.workAt > a.w.now && a.workAt <= at {
		return
	}
	a.workAt = at
	a.within(d, "work", func() {
		if a.workAt <= a.w.now {
			a.workAt = 0
			a.pass()
		}
	})
}

func (a *agent) pass() {
	if !a.polled {
		return
	}
	a.follow()
	a.report()
	a.queue()
	a.offer()
	next := time.Second
	now := a.clock.now()
	for _, e := range a.ix.entries {
		if e.State.Queued() && !a.busy[e.Path] {
			next = min(next, max(time.Duration(e.Due-now.UnixNano()), 50*time.Millisecond))
		}
	}
	if next < time.Second || a.status.Asked > 0 {
		a.workSoon(next)
	}
}

// ask makes a call of a kind of which one is under way at a time. then gets the answer within the same session.
func ask[T any](a *agent, kind string, serve func() (T, error), then func(T), failed func()) bool {
	if a.calling[kind] {
		return false
	}
	a.calling[kind] = true
	s := a.session
	end := func(rep T, err error) {
		if a.session != s {
			return
		}
		delete(a.calling, kind)
		if err == nil {
			then(rep)
			a.workSoon(0)
			return
		}
		a.w.note("%s failed: %v", kind, err)
		failed()
		a.failedCall(err)
	}
	a.w.net.call(a, kind, callTimeout, func() func() {
		rep, err := serve()
		return func() { end(rep, err) }
	}, func(err error) {
		var none T
		end(none, err)
	})
	return true
}

func (a *agent) failedCall(err error) {
	switch proto.ClassOf(err) {
	case proto.ClassConflict:
		a.broken(err.Error())
	case proto.ClassOverload:
		var e *proto.Error
		wait := time.Second
		if errors.As(err, &e) && e.RetryAfter > 0 {
			wait = e.RetryAfter
		}
		a.pauseFor(wait)
		a.workSoon(wait)
	default:
		a.workSoon(time.Second)
	}
}

func (a *agent) pauseFor(d time.Duration) {
	if until := a.clock.now().Add(d); until.After(a.paused) {
		a.paused = until
	}
}

func bg() context.Context { return context.Background() }

// follow asks the feed what was sealed.
func (a *agent) follow() {
	at := a.ix.cursor
	if (at == a.status.Head || a.followed) && a.head <= at {
		return
	}
	q := proto.FeedRequest{Session: a.id, Dataset: dataset, After: at, Limit: 20}
	ask(a, "feed", func() (proto.FeedReply, error) { return a.w.relay.r.Feed(bg(), q, false) }, func(rep proto.FeedReply) {
		a.head, a.followed = 0, true
		if a.ix.cursor != at {
			return
		}
		now := a.clock.now()
		if rep.Head < at {
			a.w.note("rewind to %d", rep.Head)
			for p, e := range a.ix.entries {
				if next, changed := settle.Forget(e, rep.Head, now); changed {
					a.ix.entries[p] = next
				}
			}
			a.ix.cursor = rep.Head
			return
		}
		for _, item := range rep.Items {
			cur, ok := a.ix.entries[item.Path]
			if !ok {
				continue
			}
			next, changed, drop := settle.Hear(cur, item, now)
			if drop {
				delete(a.ix.entries, item.Path)
			} else if changed {
				a.ix.entries[item.Path] = next
			}
		}
		a.ix.cursor = rep.Next
		a.w.note("cursor %d of %d", rep.Next, rep.Head)
		if rep.Next < rep.Head && rep.Next > at {
			a.head = rep.Head
		}
	}, func() {})
}

// claim is an entry to be claimed, with its metadata.
type claim struct {
	entry   index.Entry
	meta    proto.Meta
	sums    [4]uint64
	changed proto.MetaField
}

func (a *agent) view(path string) settle.View {
	now := a.clock.now()
	return settle.View{
		Now: now, Suspicion: a.suspicion, Busy: a.heard.Since(path, now.Add(-a.suspicion)),
		Turn: func() time.Duration { return pick.Turn(path, a.holder, a.members, a.suspicion) },
	}
}

// due is what agent/index.Root.Due finds.
func due(e index.Entry, now time.Time) bool {
	return e.Due <= now.UnixNano() || e.Due >= now.Add(index.TooFar).UnixNano()
}

// queue does what settle.Next says with what is due.
func (a *agent) queue() {
	now := a.clock.now()
	if !a.status.Wanted || a.problem != "" || a.paused.After(now) || a.calling["claim"] || a.calling["have"] {
		return
	}
	list := a.ix.sorted(func(e index.Entry) bool { return e.State.Queued() && due(e, now) && !a.busy[e.Path] })
	var match, claims []claim
	for _, e := range list[:min(len(list), 40)] {
		next, step := settle.Next(e, a.view(e.Path))
		switch step {
		case settle.StepWait:
			a.ix.entries[e.Path] = next
		case settle.StepHash:
			a.hash(next)
		case settle.StepMatch:
			if c, ok := a.lookAt(next); ok {
				match = append(match, c)
			}
		case settle.StepClaim:
			if c, ok := a.lookAt(next); ok {
				if c.changed = settle.Changed(c.entry, c.sums); c.changed == 0 {
					c.meta = proto.Meta{}
				}
				claims = append(claims, c)
			}
		case settle.StepDrop:
			delete(a.ix.entries, e.Path)
		}
	}
	var have []claim
	for _, c := range match {
		outcome, changed := settle.Match(c.entry, c.sums)
		if c.changed = changed; changed == 0 {
			c.meta = proto.Meta{}
		}
		switch outcome {
		case settle.OutcomeSettled:
			a.agree(c, c.entry.Version)
		case settle.OutcomeHave:
			have = append(have, c)
		case settle.OutcomeClaim:
			if e, step := settle.Turn(c.entry, a.view(c.entry.Path)); step == settle.StepWait {
				a.ix.entries[e.Path] = e
			} else {
				claims = append(claims, c)
			}
		}
	}
	a.reportHave(have)
	a.sendClaims(claims)
}

func (a *agent) agree(c claim, v proto.VersionID) {
	if cur, ok := a.ix.entries[c.entry.Path]; ok {
		a.ix.entries[c.entry.Path] = settle.Agree(cur, c.entry, v, c.sums, a.clock.now())
	}
}

// sendClaims asks the relay, and carries its answers out.
func (a *agent) sendClaims(list []claim) {
	if len(list) == 0 {
		return
	}
	slices.SortFunc(list, func(x, y claim) int { return strings.Compare(x.entry.Path, y.entry.Path) })
	a.announce(list)
	seq, over := a.tells()
	b := proto.ClaimBatch{Session: a.id, Holder: a.holder, Told: a.noted, GivenUp: a.goneSeq, HaveSeq: seq}
	for _, c := range list {
		b.Claims = append(b.Claims, settle.Claim(c.entry, c.sums, c.changed, c.meta))
		a.busy[c.entry.Path] = true
	}
	free := func() {
		over()
		for _, c := range list {
			delete(a.busy, c.entry.Path)
		}
	}
	ask(a, "claim", func() (proto.ClaimReply, error) {
		rep, err := a.w.relay.r.Claim(bg(), b)
		if err == nil {
			a.w.oracle.claimed(a, b, rep)
		}
		return rep, err
	}, func(rep proto.ClaimReply) {
		over()
		a.answers(list, rep.Answers)
	}, free)
}

var verdictNames = map[proto.Verdict]string{
	proto.VerdictSend: "send", proto.VerdictHave: "have", proto.VerdictHash: "hash", proto.VerdictLeased: "leased", proto.VerdictLags: "lags",
	proto.VerdictDivergent: "divergent", proto.VerdictUnwanted: "unwanted", proto.VerdictRefused: "refused", proto.VerdictInvalid: "invalid", proto.VerdictSendMeta: "meta",
}

// answers is agent/work's, with settle.Answered.
func (a *agent) answers(list []claim, answers []proto.ClaimAnswer) {
	now := a.clock.now()
	var small []*job
	var back []proto.UploadID
	for i, ans := range answers {
		c := list[i]
		a.w.note("%s: %s", c.entry.Path, verdictNames[ans.Verdict])
		if ans.Verdict == proto.VerdictRefused && !ans.Alone {
			a.pauseFor(max(ans.RetryAfter, a.suspicion/3))
		}
		cur, ok := a.ix.entries[c.entry.Path]
		todo := settle.DoReturn
		if ok {
			cur, todo = settle.Answered(cur, c.entry, c.sums, ans, now, a.suspicion)
			a.ix.entries[c.entry.Path] = cur
		} else if ans.Upload == 0 {
			todo = settle.DoNothing
		}
		j := &job{entry: c.entry, upload: ans.Upload, epoch: ans.Epoch, parent: ans.Version, have: ans.Have}
		switch todo {
		case settle.DoSend:
			a.gossip(proto.ProgressItem{Path: j.entry.Path, Upload: j.upload, Epoch: j.epoch, Size: j.entry.Stat.Size})
			if j.large() {
				a.startLarge(j)
			} else {
				small = append(small, j)
			}
			continue
		case settle.DoSendMeta:
			j.metaOnly = true
			small = append(small, j)
			continue
		case settle.DoReturn:
			back = append(back, ans.Upload)
		}
		delete(a.busy, c.entry.Path)
	}
	a.giveBack(proto.Abandon{Uploads: back, Changed: true})
	for len(small) > 0 {
		n := 1 + a.w.rng.IntN(len(small))
		a.startPack(small[:n])
		small = small[n:]
	}
}

// giveBack abandons grants. Where that fails they end with the session.
func (a *agent) giveBack(ab proto.Abandon) {
	if len(ab.Uploads) == 0 || a.session == nil {
		return
	}
	ab.Session, ab.Holder = a.id, a.holder
	ask(a, fmt.Sprintf("abandon %d", ab.Uploads[0]), func() (struct{}, error) {
		if ab.Changed {
			a.w.oracle.abandoned(ab)
		}
		return struct{}{}, a.w.relay.r.Abandon(bg(), ab)
	}, func(struct{}) {}, func() {})
}

// spoiled says why an object cannot be read as the index has it.
type spoiled struct {
	fault  settle.Fault
	reason string
	fresh  *index.Stat
	gone   bool
}

// read returns an object if it is as the index has it.
func (a *agent) read(e index.Entry) (*file, *spoiled) {
	f := a.disk.files[e.Path]
	switch {
	case !a.disk.mounted || a.ix.fsid != a.disk.fsid:
		return nil, &spoiled{fault: settle.FaultRead, reason: "the root is not there"}
	case f == nil:
		return nil, &spoiled{fault: settle.FaultRead, reason: "gone", gone: true}
	case f.eio:
		return nil, &spoiled{fault: settle.FaultRead, reason: "input/output error"}
	}
	if st := f.stat(); f.kind != e.Kind || st != e.Stat {
		s := &spoiled{fault: settle.FaultChanged, reason: "changed", fresh: &st}
		if f.kind != e.Kind {
			s.fresh = nil
		}
		return nil, s
	}
	return f, nil
}

// lookAt reads an entry's metadata.
func (a *agent) lookAt(e index.Entry) (claim, bool) {
	f, bad := a.read(e)
	if bad != nil {
		if bad.gone {
			a.hinted(e.Path)
		}
		a.ix.entries[e.Path] = settle.Failed(a.ix.entries[e.Path], e, bad.fault, bad.reason, bad.fresh, a.clock.now())
		return claim{}, false
	}
	return claim{entry: e, meta: f.meta(), sums: f.meta().Sums()}, true
}

// hash reads an object's content, which takes a while.
func (a *agent) hash(e index.Entry) {
	a.busy[e.Path] = true
	a.within(a.w.between(time.Millisecond, 50*time.Millisecond), "hash "+e.Path, func() {
		delete(a.busy, e.Path)
		cur, ok := a.ix.entries[e.Path]
		if !ok {
			return
		}
		f, bad := a.read(e)
		switch {
		case bad == nil:
			a.ix.entries[e.Path] = settle.Hashed(cur, e, f.data.digest, a.clock.now())
		case bad.gone:
			a.ix.entries[e.Path] = settle.Vanished(cur, a.clock.now())
		default:
			a.ix.entries[e.Path] = settle.Failed(cur, e, bad.fault, bad.reason, bad.fresh, a.clock.now())
		}
		a.workSoon(0)
	})
}

// offer offers the relay what it owes and has no longer.
func (a *agent) offer() {
	if a.status.Asked == 0 || !a.status.Wanted || a.problem != "" {
		a.since, a.askedTo = time.Time{}, 0
		return
	}
	if a.since.IsZero() {
		a.since = a.clock.now()
	}
	if now := a.clock.now(); a.paused.After(now) || a.calling["claim"] || now.Sub(a.offered) < time.Second {
		return
	}
	a.offered = a.clock.now()
	q := proto.FeedRequest{Session: a.id, Dataset: dataset, After: a.askedTo, Limit: 1000}
	ask(a, "asked", func() (proto.FeedReply, error) { return a.w.relay.r.Feed(bg(), q, true) }, func(rep proto.FeedReply) {
		if a.askedTo = rep.Next; rep.Next <= q.After {
			a.askedTo = 0
		}
		waited := a.clock.now().Sub(a.since)
		var list []claim
		for _, item := range rep.Items {
			e, ok := a.ix.entries[item.Path]
			if !ok || e.State != index.StateSettled || e.Version != item.Version || a.busy[item.Path] {
				continue
			}
			if pick.Turn(item.Path, a.holder, a.members, a.suspicion) > waited || a.heard.Since(item.Path, a.clock.now().Add(-a.suspicion)) {
				continue
			}
			if c, ok := a.lookAt(e); ok {
				c.meta = proto.Meta{}
				list = append(list, c)
			}
		}
		if !a.calling["claim"] {
			a.sendClaims(list)
		}
	}, func() {})
}
