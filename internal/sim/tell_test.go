package sim

import (
	"cmp"
	"slices"
	"time"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/proto"
)

// What an agent tells the relay of what it has and has no more, as agent/work does.

// report tells what is gone, and of a completed scan when all that it found gone is told.
func (a *agent) report() {
	if a.problem != "" || a.scans == 0 {
		return
	}
	if a.calling["report"] {
		return
	}
	gone, scans := a.ix.sorted(func(e index.Entry) bool { return e.State == index.StateGone }), a.scans
	all := len(gone)
	gone = slices.DeleteFunc(gone, func(e index.Entry) bool { return a.busy[e.Path] })
	r := proto.Report{Session: a.id, Holder: a.holder, GivenUp: a.goneSeq}
	for _, e := range gone {
		if had := cmp.Or(e.Version, e.Heard); had != 0 || e.Claimed {
			r.Gone = append(r.Gone, proto.GoneEntry{Path: e.Path, Version: had})
		}
	}
	forget := func() {
		for _, e := range gone {
			if cur, ok := a.ix.entries[e.Path]; ok && cur.State == index.StateGone && cur.Version == e.Version {
				delete(a.ix.entries, e.Path)
			}
		}
	}
	switch {
	case len(r.Gone) > 0:
		a.noteTold(false)
		r.Told, r.Seq, r.HavePast = a.noted, a.goneSeq+1, a.havePast()
		for _, e := range gone {
			a.busy[e.Path] = true
		}
		over := func() {
			a.goneSeq = r.Seq
			for _, e := range gone {
				delete(a.busy, e.Path)
			}
		}
		ask(a, "report", func() (proto.ReportReply, error) { return a.tellRelay(r) }, func(proto.ReportReply) {
			over()
			a.w.note("%d gone", len(r.Gone))
			forget()
		}, over)
		return
	case len(gone) > 0:
		forget()
	}
	if scans == a.reported || all > len(gone) {
		return
	}
	r.Bare = a.scanBare
	r.First, r.ScanDone, r.ScanNs, r.ScanUp, r.Scans = true, true, a.ix.scanned, a.scanUp, uint64(scans)
	ask(a, "report", func() (proto.ReportReply, error) { return a.tellRelay(r) }, func(proto.ReportReply) { a.reported = scans }, func() {})
}

// tells numbers a message that tells what this holder has; over is called when it is waited for no more.
func (a *agent) tells() (seq uint64, over func()) {
	a.haveSeq++
	seq, open := a.haveSeq, a.haves
	open[seq] = true
	return seq, func() { delete(open, seq) }
}

func (a *agent) havePast() uint64 {
	past := a.haveSeq
	for n := range a.haves {
		past = min(past, n-1)
	}
	return past
}

// tellRelay is a report as it arrives at the relay.
func (a *agent) tellRelay(r proto.Report) (proto.ReportReply, error) {
	reply, err := a.w.relay.r.Report(bg(), r)
	if err == nil {
		a.w.oracle.reported(a, r)
	}
	return reply, err
}

// lookFor tells the relay what of that which it asks for, at its running time up, is surely not here.
func (a *agent) lookFor(list []proto.Look, up int64) {
	d := a.disk
	if len(list) == 0 || a.problem != "" || a.scans == 0 || !d.mounted || d.below || a.ix.fsid != d.fsid {
		return
	}
	r := proto.Report{Session: a.id, Holder: a.holder, LackUp: up}
	for _, l := range list {
		if l.Path == "" {
			if a.scanUp == 0 {
				a.later(time.Minute, "scan", a.fullScan)
			}
			continue
		}
		if _, ok := a.ix.entries[l.Path]; !ok && d.files[l.Path] == nil {
			r.Lack = append(r.Lack, proto.GoneEntry{Path: l.Path, Version: l.Version})
		}
	}
	if len(r.Lack) > 0 {
		a.w.count("answers that something is not there")
		ask(a, "look", func() (proto.ReportReply, error) { return a.w.relay.r.Report(bg(), r) }, func(proto.ReportReply) {}, func() {})
	}
}

// wasPutBack settles everything again: the relay has seen this index further on than it is.
func (a *agent) wasPutBack(told uint64) {
	a.w.note("put back")
	a.w.count("indexes known as put back")
	for p, e := range a.ix.entries {
		if next, changed := settle.PutBack(e, a.clock.now()); changed {
			a.ix.entries[p] = next
		}
	}
	a.ix.told = max(a.ix.told, told) + 1
	a.synced = a.ix.copyOf()
}

// noteTold counts durably that the relay is going to be told of something. It need not, for nothing new, a moment after the last time.
func (a *agent) noteTold(news bool) {
	now := a.clock.now()
	if since := now.Sub(a.notedAt); !news && a.noted != 0 && since >= 0 && since < 10*time.Second {
		return
	}
	a.ix.told++
	a.noted, a.notedAt = a.ix.told, now
	a.synced = a.ix.copyOf()
}

// announce notes durably that the relay is going to hear of these objects.
func (a *agent) announce(list []claim) {
	news := false
	for i := range list {
		if cur, ok := a.ix.entries[list[i].entry.Path]; ok && !cur.Claimed {
			cur.Claimed, news = true, true
			a.ix.entries[cur.Path] = cur
		}
	}
	a.noteTold(news)
}

func (a *agent) reportHave(list []claim) {
	if len(list) == 0 {
		return
	}
	a.announce(list)
	seq, over := a.tells()
	r := proto.Report{Session: a.id, Holder: a.holder, Told: a.noted, GivenUp: a.goneSeq, HaveSeq: seq}
	for _, c := range list {
		r.Have = append(r.Have, settle.Have(c.entry, c.sums))
		a.busy[c.entry.Path] = true
	}
	free := func() {
		over()
		for _, c := range list {
			delete(a.busy, c.entry.Path)
		}
	}
	ask(a, "have", func() (proto.ReportReply, error) { return a.tellRelay(r) }, func(reply proto.ReportReply) {
		free()
		a.w.note("%d equal", len(list))
		for i, c := range list {
			if cur, ok := a.ix.entries[c.entry.Path]; ok && slices.Contains(reply.WantMeta, i) {
				a.w.count("metadata asked for")
				a.ix.entries[c.entry.Path] = settle.AgreeBut(cur, c.entry, c.entry.Heard, a.clock.now(), a.clock.now())
				continue
			}
			a.agree(c, c.entry.Heard)
		}
	}, free)
}
