package scale

import (
	"context"
	"slices"
	"strings"
	"time"

	"forebay/agent/index"
	"forebay/agent/pick"
	"forebay/agent/settle"
	"forebay/proto"
	"forebay/proto/segment"
)

// The loops of agent/work and agent/upload around the decisions that ship.

// What agent/work and agent/upload have in memory at most.
const (
	maxPacks      = 2
	maxSpan       = 4
	feedPage      = 1000
	maxPackPieces = 4096
	claimOverhead = 160
)

func bg() context.Context { return context.Background() }

// follow asks the feed what was sealed, until its end.
func (r *root) follow() {
	if n := r.n; n.w.now < r.rests {
		if !r.wakes {
			r.wakes = true
			n.after(time.Duration(r.rests-n.w.now), func() {
				r.wakes = false
				r.follow()
			})
		}
		return
	}
	if r.follows || r.n.session == 0 || r.cursor == r.status.Head && r.head <= r.cursor {
		return
	}
	r.follows = true
	r.head = 0
	r.page()
}

func (r *root) page() {
	n, s := r.n, r.n.session
	q := proto.FeedRequest{Session: s, Dataset: r.d.name, After: r.cursor, Limit: feedPage}
	call(n, "feed", q, 0, func(q proto.FeedRequest) (proto.FeedReply, error) {
		rep, err := n.w.r.Feed(bg(), q, false)
		n.w.meter.of("feed").objects += int64(len(rep.Items))
		return rep, err
	}, func(rep proto.FeedReply, err error) {
		if err != nil {
			r.follows = false
			n.broken(err)
			return
		}
		now := n.w.clock()
		r.newsy = r.newsy || len(rep.Items) > 0
		for _, item := range rep.Items {
			k := number(item.Path)
			it, had := r.entry(k)
			if !had {
				continue // not here; if it appears, the relay is asked
			}
			if next, changed, _ := settle.Hear(it.Entry, item, now); changed {
				r.put(k, it, next)
			}
		}
		r.cursor = rep.Next
		if rep.Next < rep.Head {
			r.page()
			return
		}
		r.follows = false
		r.soon(0)
		if r.newsy {
			r.newsy, r.rests = false, n.w.now+int64(proto.Lull(n.suspicion))
		}
		if r.head > r.cursor {
			r.follow()
		}
	})
}

func (r *root) view(path string) settle.View {
	now, suspicion := r.n.w.clock(), r.n.suspicion
	return settle.View{Now: now, Suspicion: suspicion, Busy: r.heard.Since(path, now.Add(-suspicion)), Turn: func() time.Duration { return pick.Turn(path, r.holder, r.members, suspicion) }}
}

// pass does what settle.Next says with what is due, a batch at a time.
func (r *root) pass() {
	n := r.n
	if !r.polled || n.session == 0 || r.passing || r.packs >= maxPacks || len(r.haves) > proto.MaxClaims || !r.status.Wanted {
		return
	}
	if r.paused > n.w.now {
		r.soon(time.Duration(r.paused - n.w.now))
		return
	}
	if at := r.passed + int64(min(proto.GossipInterval, n.suspicion/12)); r.passed != 0 && n.w.now < at {
		r.soon(time.Duration(at - n.w.now))
		return
	}
	list := r.take(proto.MaxClaims * min(max(len(r.members), 1), maxSpan))
	if len(list) == 0 {
		if len(r.queue) > 0 {
			r.soon(time.Duration(r.queue[0].at - n.w.clock().UnixNano()))
		}
		return
	}
	r.passed = 0
	if len(list) < proto.MaxClaims*min(max(len(r.members), 1), maxSpan) {
		r.passed = n.w.now
	}
	var claims, have []int
	for i, k := range list {
		if len(claims) >= proto.MaxClaims {
			for _, k := range list[i:] {
				r.free(k)
			}
			break
		}
		it := r.entries[k]
		next, step := settle.Next(it.Entry, r.view(it.Path))
		it.Entry = next
		if step == settle.StepMatch {
			outcome, _ := settle.Match(next, meta(next.Stat).Sums())
			switch outcome {
			case settle.OutcomeHave:
				have = append(have, k)
				continue
			case settle.OutcomeSettled:
				r.agree(k, next.Version)
				continue
			}
			if it.Entry, step = settle.Turn(next, r.view(it.Path)); step != settle.StepWait {
				step = settle.StepClaim
			}
		}
		switch step {
		case settle.StepHash:
			r.hash(k)
		case settle.StepClaim:
			claims = append(claims, k)
		default:
			r.free(k)
		}
	}
	r.report(have)
	if len(claims) == 0 {
		r.soon(0)
		return
	}
	slices.SortFunc(claims, func(a, b int) int { return strings.Compare(r.entries[a].Path, r.entries[b].Path) })
	r.passing = true
	r.ask(claims, nil)
}

func (r *root) agree(k int, v proto.VersionID) {
	it := r.entries[k]
	if it == nil {
		return
	}
	next := settle.Agree(it.Entry, it.Entry, v, meta(it.Stat).Sums(), r.n.w.clock())
	r.settled(k, it, next)
}

// settled writes an entry that may be settled now.
func (r *root) settled(k int, it *item, next index.Entry) {
	it.busy = false
	r.put(k, it, next)
}

// A hasher writes what it has read after as many objects, or so long.
const (
	hashPage  = 128
	hashFlush = 100 * time.Millisecond
)

// hash has an object read for its digest. The node's disk does one at a time, a page of them for one root after the other.
func (r *root) hash(k int) {
	r.toHash = append(r.toHash, k)
	if !r.hashing {
		r.hashing = true
		r.n.after(0, r.hashSome)
	}
}

func (r *root) hashSome() {
	n, took, page := r.n, time.Duration(0), 0
	for page < len(r.toHash) && page < hashPage && took < hashFlush {
		took += hashOverhead + time.Duration(float64(r.d.sizes[r.toHash[page]])/diskRead*1e9)
		page++
	}
	list := r.toHash[:page]
	r.toHash = slices.Clone(r.toHash[page:])
	n.w.tally.hashed += int64(page)
	n.readFree = max(n.readFree, n.w.now) + int64(took)
	n.after(time.Duration(n.readFree-n.w.now), func() {
		for _, k := range list {
			if it := r.entries[k]; it != nil {
				it.busy = false
				r.put(k, it, settle.Hashed(it.Entry, it.Entry, digest(r.d.i, k, r.gen[k]), n.w.clock()))
			}
		}
		if r.hashing = len(r.toHash) > 0; r.hashing {
			r.hashSome()
		}
	})
}

// report tells the relay what this holder has proved to have.
func (r *root) report(have []int) {
	r.haves = append(r.haves, have...)
	if len(r.haves) == 0 || r.reporting {
		return
	}
	n := r.n
	if n.w.now < r.gathers && len(r.haves) < proto.MaxClaims {
		if !r.gathering {
			r.gathering = true
			n.after(time.Duration(r.gathers-n.w.now), func() {
				r.gathering = false
				r.report(nil)
			})
		}
		return
	}
	have = r.haves[:min(len(r.haves), proto.MaxClaims)]
	r.haves = slices.Clone(r.haves[len(have):])
	r.reporting = true
	r.announce(have)
	r.seq++
	rep := proto.Report{Session: n.session, Holder: r.holder, Told: r.told, HaveSeq: r.seq}
	heard := make([]proto.VersionID, len(have))
	for i, k := range have {
		e := r.entries[k].Entry
		rep.Have = append(rep.Have, settle.Have(e, meta(e.Stat).Sums()))
		heard[i] = e.Heard
	}
	call(n, "report", rep, len(have), func(q proto.Report) (proto.ReportReply, error) { return n.w.r.Report(bg(), q) }, func(_ proto.ReportReply, err error) {
		r.reporting = false
		r.gathers = n.w.now + int64(proto.Lull(n.suspicion))
		if err != nil {
			for _, k := range have {
				r.free(k)
			}
			n.broken(err)
			return
		}
		for i, k := range have {
			r.agree(k, heard[i])
		}
		r.report(nil)
		r.soon(0)
	})
}

// announce is what agent/work notes in the index before the relay hears of objects.
func (r *root) announce(list []int) {
	fresh := false
	for _, k := range list {
		it := r.entries[k]
		fresh = fresh || !it.Claimed
		it.Claimed = true
	}
	if fresh || r.told == 0 {
		r.told++
	}
}

// ask sends claims, one message after the other, and then what was granted.
func (r *root) ask(list []int, granted []job) {
	n := r.n
	if len(list) == 0 {
		r.passing = false
		r.packs++
		r.pack(granted)
		r.soon(0)
		return
	}
	msg := proto.ClaimBatch{Session: n.session, Holder: r.holder}
	size := 0
	for _, k := range list[:min(len(list), proto.MaxClaims)] {
		e := r.entries[k].Entry
		c := settle.Claim(e, meta(e.Stat).Sums(), settle.Changed(e, meta(e.Stat).Sums()), meta(e.Stat))
		if size += claimOverhead + len(c.Path); size > proto.MaxClaimBytes && len(msg.Claims) > 0 {
			break
		}
		msg.Claims = append(msg.Claims, c)
	}
	part, rest := list[:len(msg.Claims)], list[len(msg.Claims):]
	r.announce(part)
	r.seq++
	msg.Told, msg.HaveSeq = r.told, r.seq
	call(n, "claim", msg, len(part), func(q proto.ClaimBatch) (proto.ClaimReply, error) { return n.w.r.Claim(bg(), q) }, func(rep proto.ClaimReply, err error) {
		if err != nil {
			for _, k := range list {
				r.free(k)
			}
			r.passing = false
			n.broken(err)
			return
		}
		r.ask(rest, append(granted, r.answers(part, rep.Answers)...))
	})
}

// job is an object with the relay's grant for it.
type job struct {
	k int
	e index.Entry
	a proto.ClaimAnswer
}

var verdicts = map[proto.Verdict]string{proto.VerdictSend: "send", proto.VerdictHave: "have", proto.VerdictHash: "hash", proto.VerdictLeased: "leased",
	proto.VerdictLags: "lags", proto.VerdictDivergent: "divergent", proto.VerdictRefused: "refused"}

func (r *root) answers(list []int, answers []proto.ClaimAnswer) (granted []job) {
	n := r.n
	now := n.w.clock()
	for i, a := range answers {
		k := list[i]
		it := r.entries[k]
		n.w.tally.verdict(verdicts[a.Verdict])
		if a.Verdict == proto.VerdictRefused && !a.Alone {
			r.paused = n.w.now + int64(max(a.RetryAfter, n.suspicion/3))
		}
		next, do := settle.Answered(it.Entry, it.Entry, meta(it.Stat).Sums(), a, now, n.suspicion)
		if do == settle.DoSend {
			it.Entry = next
			granted = append(granted, job{k, it.Entry, a})
			n.w.tally.leases++
			n.w.tally.most = max(n.w.tally.most, n.w.tally.leases)
			continue
		}
		r.settled(k, it, next)
	}
	return granted
}

// pack sends what was granted, in segments of at most 8 MiB, and gives the pack's slot back with the last answer.
func (r *root) pack(jobs []job) {
	n := r.n
	for _, j := range jobs {
		r.note(proto.ProgressItem{Path: j.e.Path, Upload: j.a.Upload, Epoch: j.a.Epoch, Size: j.e.Stat.Size})
	}
	open := 1
	done := func() {
		if open--; open == 0 {
			r.packs--
			r.soon(0)
		}
	}
	for len(jobs) > 0 {
		m, bytes := 0, int64(0)
		for m < len(jobs) && m < maxPackPieces && (m == 0 || bytes+int64(r.d.sizes[jobs[m].k]) <= proto.SegmentTarget) {
			bytes += int64(r.d.sizes[jobs[m].k])
			m++
		}
		part := jobs[:m]
		jobs = jobs[m:]
		open++
		n.enter(bytes, func() { r.send(part, bytes, done) })
	}
	done()
}

// enter waits for room in the window of the node.
func (n *node) enter(bytes int64, fn func()) {
	if n.flying > 0 && n.flying+bytes > proto.DefaultWindow || len(n.blocked) > 0 {
		n.blocked = append(n.blocked, func() {
			n.flying += bytes
			fn()
		})
		return
	}
	n.flying += bytes
	fn()
}

func (n *node) leave(bytes int64) {
	n.flying -= bytes
	for len(n.blocked) > 0 && n.flying < proto.DefaultWindow {
		next := n.blocked[0]
		n.blocked = n.blocked[1:]
		next()
	}
}

// send carries a segment to the relay: over the node's line, then over the relay's.
func (r *root) send(jobs []job, bytes int64, done func()) {
	n, w := r.n, r.n.w
	var pieces []segment.Piece
	var payload []byte
	for _, j := range jobs {
		c := content(r.d.i, j.k, r.gen[j.k])
		blocks := proto.BlockDigests(nil, c)
		d := proto.Desc{Kind: proto.KindFile, Size: int64(len(c)), Digest: proto.DigestOfBlocks(blocks), Meta: meta(j.e.Stat)}
		pieces = append(pieces, segment.Piece{Kind: segment.PieceObject, Path: j.e.Path, Upload: j.a.Upload, Epoch: j.a.Epoch, Parent: j.a.Version,
			At: uint32(len(payload)), Length: uint32(len(c)), Blocks: blocks, Desc: &d})
		payload = append(payload, c...)
	}
	raw, err := segment.Encode(segment.Header{Dataset: r.d.id(), Pieces: pieces}, payload)
	if err != nil {
		panic(err)
	}
	n.sendFree = max(n.sendFree, w.now) + int64(float64(bytes)/n.uplink*1e9)
	s := n.session
	n.after(time.Duration(n.sendFree-w.now), func() {
		w.lineFree = max(w.lineFree, w.now) + int64(float64(bytes)/ingress*1e9)
		w.after(time.Duration(w.lineFree-w.now)+halfTrip, func() {
			w.serve("segment", raw, len(jobs), n, func(raw []byte) func() {
				rep, err := w.r.Segment(bg(), s, raw)
				c := w.meter.of("segment")
				c.in -= int64(len(payload))
				w.answered("segment", rep)
				r.acked(jobs, rep, err)
				return func() {
					n.leave(bytes)
					r.sent(jobs, rep, err)
					done()
				}
			})
		})
	})
}

// acked counts what the relay took, at that moment.
func (r *root) acked(jobs []job, rep proto.SegmentReply, err error) {
	n, w := r.n, r.n.w
	for i, j := range jobs {
		size := int64(r.d.sizes[j.k])
		w.tally.sent += size
		w.tally.leases--
		if err != nil || rep.Pieces[i].State != proto.PieceAccepted {
			w.tally.wasted += size
			continue
		}
		w.tally.sealed++
		n.uploaded += size
		n.sealed++
		if n.firstAck == 0 {
			n.firstAck = w.now
		}
		if gen := r.gen[j.k]; r.d.acked[j.k] < gen {
			r.d.acked[j.k] = gen
			w.tally.waits = append(w.tally.waits, time.Duration(w.clock().UnixNano()-r.d.found[j.k]))
		}
	}
}

// sent writes the ends of jobs into the index.
func (r *root) sent(jobs []job, rep proto.SegmentReply, err error) {
	n := r.n
	now := n.w.clock()
	for i, j := range jobs {
		it := r.entries[j.k]
		if it == nil {
			continue
		}
		if err != nil {
			r.free(j.k)
			continue
		}
		p, sent := rep.Pieces[i], j.e
		sent.Digest, sent.HasDigest = digest(r.d.i, j.k, r.gen[j.k]), true
		switch {
		case p.Version == 0:
			r.settled(j.k, it, settle.Requeue(it.Entry, now.Add(n.suspicion/10)))
			continue
		case p.State == proto.PieceLags:
			r.settled(j.k, it, settle.Lagged(it.Entry, sent))
			continue
		case p.State != proto.PieceAccepted || p.Version <= j.a.Version:
			r.settled(j.k, it, settle.Brought(it.Entry, sent, p.Version, now))
		default:
			r.settled(j.k, it, settle.Agree(it.Entry, sent, p.Version, meta(sent.Stat).Sums(), now))
		}
	}
	if err != nil {
		n.broken(err)
	}
}
