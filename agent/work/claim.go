package work

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/agent/upload"
	"forebay/internal/faultpoint"
	"forebay/proto"
)

// compare looks at the metadata of entries whose content the relay has, and sorts them into settled, to be reported, and
// to be claimed.
func (w *Worker) compare(ctx context.Context, b *batch) error {
	if len(b.match) == 0 && len(b.claim) == 0 {
		return nil
	}
	tree, done, err := w.Root.Open()
	if err != nil { // the scan finds out what is wrong with the root
		w.free(b.match)
		w.dropClaims(b.claim)
		b.match, b.claim = nil, nil
		sleep(ctx, nil, idle)
		return nil
	}
	defer done()
	now := w.Now()
	var same, back []claim
	for _, e := range b.match {
		c, ok, err := w.look(tree, e)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		outcome, changed := settle.Match(e, c.sums)
		if c.changed = changed; changed == 0 {
			c.meta = proto.Meta{}
		}
		switch outcome {
		case settle.OutcomeSettled:
			same = append(same, c)
		case settle.OutcomeHave:
			b.have = append(b.have, c)
		case settle.OutcomeClaim:
			if e, step := settle.Turn(e, w.view(e.Path, now)); step == settle.StepWait {
				c.entry = e
				back = append(back, c)
			} else {
				b.claim = append(b.claim, c)
			}
		}
	}
	if err := w.lookAtClaims(tree, b); err != nil {
		return err
	}
	if err := w.putBack(entries(back)); err != nil {
		return err
	}
	return w.agree(same, func(c claim) proto.VersionID { return c.entry.Version })
}

// lookAtClaims fills in the metadata of claims: what changed besides the content, and what is agreed on if the answer is
// that the relay has it.
func (w *Worker) lookAtClaims(tree upload.Tree, b *batch) error {
	kept := b.claim[:0]
	for _, c := range b.claim {
		if !c.read {
			read, ok, err := w.look(tree, c.entry)
			if err != nil {
				return err
			}
			if !ok {
				w.releaseSlot(c)
				continue
			}
			read.slot, read.alone = c.slot, c.alone
			c = read
			if c.changed = settle.Changed(c.entry, c.sums); c.changed == 0 {
				c.meta = proto.Meta{} // a thousand claims need not hold a thousand objects' attributes
			}
		}
		kept = append(kept, c)
	}
	b.claim = kept
	return nil
}

// look reads the metadata of an entry. ok is false when the object is not what the index has; the entry is then put back.
func (w *Worker) look(tree upload.Tree, e index.Entry) (c claim, ok bool, err error) {
	meta, bad := upload.Look(tree, e)
	if bad != nil {
		w.busy.done(e.Path)
		return c, false, w.spoiled(e, bad)
	}
	return claim{entry: e, meta: meta, sums: meta.Sums(), read: true}, true, nil
}

// spoiled writes into the index that an object could not be read.
func (w *Worker) spoiled(e index.Entry, bad *upload.Spoiled) error {
	if bad.Gone {
		w.Root.Rescan(e.Path)
	}
	return w.edit([]string{e.Path}, func(_ int, cur index.Entry) (index.Entry, bool) {
		return settle.Failed(cur, e, bad.Fault, bad.Reason, bad.Fresh, w.Now()), true
	})
}

// agree settles claims at the version that at gives, and frees them.
func (w *Worker) agree(list []claim, at func(claim) proto.VersionID) error {
	defer w.free(entries(list))
	return w.edit(paths(entries(list)), func(i int, cur index.Entry) (index.Entry, bool) {
		if list[i].wanted {
			return settle.AgreeBut(cur, list[i].entry, at(list[i]), w.Now(), w.Now()), true
		}
		return settle.Agree(cur, list[i].entry, at(list[i]), list[i].sums, w.Now()), true
	})
}

func entries(list []claim) []index.Entry {
	out := make([]index.Entry, len(list))
	for i, c := range list {
		out[i] = c.entry
	}
	return out
}

// proved reports what the queue found to be equal, beside it, so that claims do not wait for it. The first is reported at once; what is
// found soon after that goes together, for a replica that is proved is found a few at a time.
func (w *Worker) proved(ctx context.Context) error {
	lull := time.NewTimer(0)
	defer lull.Stop()
	var list []claim
	var gathers <-chan time.Time // nil: nothing was reported a moment ago
	for {
		select {
		case more := <-w.haves:
			list = append(list, more...)
		case <-gathers:
			gathers = nil
		case <-ctx.Done():
			return ctx.Err()
		}
		for len(list) >= proto.MaxClaims || gathers == nil && len(list) > 0 {
			part := list[:min(len(list), proto.MaxClaims)]
			list = slices.Clone(list[len(part):])
			if err := w.reportHave(ctx, part); err != nil {
				return err
			}
			lull.Reset(w.lull())
			gathers = lull.C
		}
	}
}

// reportHave tells the relay what this holder has proved to have, and settles it once the relay knows.
func (w *Worker) reportHave(ctx context.Context, list []claim) error {
	if len(list) == 0 {
		return nil
	}
	if err := w.announce(list); err != nil {
		return err
	}
	r := proto.Report{Session: w.SessionID, Holder: w.Holder, GivenUp: w.givenUp.Load(), Told: w.lastNote()}
	for _, c := range list {
		r.Have = append(r.Have, settle.Have(c.entry, c.sums))
	}
	r.HaveSeq = w.haveSeq.begin()
	reply, err := w.Relay.Report(ctx, r)
	w.haveSeq.end(r.HaveSeq) // before the paths are free: one of them may be found gone then
	if err != nil {
		w.free(entries(list))
		w.failed(ctx, "reporting what this node has", err)
		return nil
	}
	w.Fault.At(faultpoint.AgentHaveReported)
	for _, i := range reply.WantMeta {
		if i >= 0 && i < len(list) {
			list[i].wanted = true
		}
	}
	return w.agree(list, func(c claim) proto.VersionID { return c.entry.Heard })
}

// ask sends claims and carries the answers into the index. It returns the jobs that the relay granted, in path order; their
// entries stay busy.
func (w *Worker) ask(ctx context.Context, list []claim) (small []upload.Job, large []grant, err error) {
	slices.SortFunc(list, func(a, b claim) int { return strings.Compare(a.entry.Path, b.entry.Path) })
	for len(list) > 0 {
		msg, n := w.message(list)
		part := list[:n]
		list = list[n:]
		if err := w.announce(part); err != nil {
			return nil, nil, err
		}
		msg.Told = w.lastNote()
		msg.HaveSeq = w.haveSeq.begin()
		reply, err := w.Relay.Claim(ctx, msg)
		w.haveSeq.end(msg.HaveSeq)
		if err != nil {
			w.dropClaims(part)
			w.dropClaims(list)
			w.failed(ctx, "claiming", err)
			return small, large, nil
		}
		s, l, err := w.answers(ctx, part, reply.Answers)
		if err != nil {
			return nil, nil, err
		}
		small, large = append(small, s...), append(large, l...)
	}
	return small, large, nil
}

// announce notes in the index, durably, that the relay is going to hear of these objects. Without it an object that is gone
// again, after a power cut or an answer that never came, would be forgotten here, and the relay would wait for ever for this
// holder to report it gone.
func (w *Worker) announce(list []claim) error {
	var names []string
	for _, c := range list {
		if !c.entry.Claimed {
			names = append(names, c.entry.Path)
		}
	}
	return w.tell(names...)
}

// tellEvery is how long the index goes at most, while the relay is told of things, without a durable note of that: a copy of it that is
// older than the last note is known as one.
const tellEvery = 10 * time.Second

// tell notes durably that the relay is going to be told of something, and that it is to hear of the entries with these names. Without
// any, the last note does for a while.
func (w *Worker) tell(claimed ...string) error {
	now := w.Now()
	w.mu.Lock()
	since := now.Sub(w.notedAt)
	enough := len(claimed) == 0 && w.noted != 0 && since >= 0 && since < tellEvery
	w.mu.Unlock()
	if enough {
		return nil
	}
	var note uint64
	err := w.Index.Edit(func(tx *index.Tx) error {
		note = tx.Tell(0)
		return editEach(tx, claimed, func(_ int, cur index.Entry) (index.Entry, bool) {
			cur.Claimed = true
			return cur, true
		})
	})
	if err == nil {
		err = w.Index.Sync()
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noted, w.notedAt = max(w.noted, note), now
	return nil
}

// lastNote is proto.Root.Told for a message: what is durable of it.
func (w *Worker) lastNote() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.noted
}

// claimOverhead is a claim's size on the wire besides its path, link and attributes, with room to spare.
const claimOverhead = 160

// message makes a batch of the first n claims that fit.
func (w *Worker) message(list []claim) (msg proto.ClaimBatch, n int) {
	msg = proto.ClaimBatch{Session: w.SessionID, Holder: w.Holder, GivenUp: w.givenUp.Load()}
	for size := 0; n < len(list) && n < proto.MaxClaims; n++ {
		c := settle.Claim(list[n].entry, list[n].sums, list[n].changed, list[n].meta)
		c.Kind, c.LinkTo = settle.SentAs(list[n].entry, list[n].alone)
		size += claimOverhead + len(c.Path) + len(c.LinkTo)
		if c.Meta != nil {
			size += len(proto.Marshal(*c.Meta))
		}
		if n > 0 && size > proto.MaxClaimBytes {
			break
		}
		msg.Claims = append(msg.Claims, c)
	}
	return msg, n
}

// answers carries the relay's answers into the index.
func (w *Worker) answers(ctx context.Context, list []claim, answers []proto.ClaimAnswer) (small []upload.Job, large []grant, err error) {
	var back []proto.UploadID
	now, suspicion := w.Now(), w.Session.Suspicion()
	todo := make([]settle.Do, len(list))
	w.Fault.At(faultpoint.AgentClaimAnswered)
	err = w.edit(paths(entries(list)), func(i int, cur index.Entry) (next index.Entry, write bool) {
		next, todo[i] = settle.Answered(cur, list[i].entry, list[i].sums, answers[i], now, suspicion)
		return next, next != cur
	})
	if err != nil {
		return nil, nil, err
	}
	w.Fault.At(faultpoint.AgentClaimNoted)
	for i, a := range answers {
		if a.Verdict == proto.VerdictRefused && !a.Alone {
			w.Paused(max(a.RetryAfter, suspicion/3))
		}
		e := list[i].entry
		// What is sent follows the version that was current at the grant, which need not be the one this holder knew.
		j := upload.Job{Entry: e, Upload: a.Upload, Epoch: a.Epoch, Parent: a.Version, Have: a.Have, Sums: a.Sums, Alone: list[i].alone}
		switch {
		case todo[i] == settle.DoSend && j.Large():
			large = append(large, grant{Job: j, slot: list[i].slot})
			continue
		case todo[i] == settle.DoSend:
			small = append(small, j)
			continue
		case todo[i] == settle.DoSendMeta:
			j.Meta = true
			w.releaseSlot(list[i])
			small = append(small, j)
			continue
		case todo[i] == settle.DoReturn:
			back = append(back, a.Upload)
		}
		w.releaseSlot(list[i])
		w.busy.done(e.Path)
	}
	w.giveBack(ctx, proto.Abandon{Uploads: back, Changed: true})
	return small, large, nil
}

// giveBack abandons grants. Where that fails, they end with the session.
func (w *Worker) giveBack(ctx context.Context, a proto.Abandon) {
	if len(a.Uploads) == 0 {
		return
	}
	a.Session, a.Holder = w.SessionID, w.Holder
	if err := w.Relay.Abandon(ctx, a); err != nil && !errors.Is(err, context.Canceled) {
		w.failed(ctx, "giving leases back", err)
	}
}

// dropClaims frees claims that were not made, or have no answer; the queue offers them again.
func (w *Worker) dropClaims(list []claim) {
	for _, c := range list {
		w.releaseSlot(c)
		w.busy.done(c.entry.Path)
	}
}

// releaseSlot gives back the slot of a large object that does not start.
func (w *Worker) releaseSlot(c claim) {
	if c.slot != nil {
		c.slot.Release(1)
	}
}
