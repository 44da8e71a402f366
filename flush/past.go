package flush

import (
	"context"
	"errors"
	"time"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/internal/faultpoint"
	"forebay/proto"
	"forebay/units"
)

// kept is what is known of the versions that a target keeps, for status.
type kept struct {
	known           bool // they were counted since the relay started
	versions, bytes int64
	reach           time.Time
	held            string // why some wait for approval before they go; "" when none do
	locked          int64  // are past their time and locked by the target
	until           time.Time
	trouble         string // why what is past its time does not go; "" while it does
}

// pruning is where the loop is with giving up what is past its time. Ages are of the relay's running time, so that no clock that is
// set wrong ends one early (docs/decisions/0006).
//
// What ended up to a moment, the horizon, is given up at once by a word in the journal; then the contents go, some in each step of
// the loop, and are swept when none is left. Entries stay in the journal until then: whatever is cut short is done again.
type pruning struct {
	counted  bool
	asked    units.Duration // the policy's keep when it was looked last
	dueUp    int64          // the running time of the next look
	listed   int64          // versions that the journal lists
	left     int64          // of them: that are kept
	sweeping bool
	after    string // the last path of which all was removed
	waits    bool   // some of what is past its time could not go
	locked   int64
	until    time.Time // when the first of the locked ones may go
	least    int64     // when the first of the versions ended whose contents wait
	fails    int       // in a row
	tryAt    time.Time // after a failure
}

// goneContent is a content that no version needs any more.
type goneContent struct {
	name target.KeptName
	up   int64 // when the first of its versions ended, in running time
}

// pruneStep bounds the contents that a step of the loop removes, about.
const pruneStep = 256

// tickSlack is how far a running time that is read from the ledger may lag behind.
const tickSlack = int64(2 * time.Minute)

// pruneEvery bounds how often the loop looks for what is past its time: with the period, and within these.
const (
	pruneParts   = 64
	pruneSoonest = time.Minute
	pruneLatest  = time.Hour
)

func pruneEvery(keep time.Duration) time.Duration {
	return min(max(keep/pruneParts, pruneSoonest), pruneLatest)
}

// keepHistory sees to what the target keeps of the past, some of it: what is to be kept from now on, and what is past its time. It
// returns when to look again, or that there is more to do at once.
func (l *link) keepHistory(ctx context.Context, k *look) (time.Time, bool) {
	if l.sess == nil || !l.sess.there || l.troubled() || k.policy.Keep == 0 && !l.sess.prepared {
		return time.Time{}, false
	}
	if !l.prepare(ctx, k) || !l.settleHistory(ctx, k) {
		return l.nextTry, false
	}
	l.keeping.Lock()
	h, ok := l.sess.journal.History() // which an operator may just have changed
	var more bool
	var err error
	if ok && k.now.Before(l.pruning.tryAt) {
		l.keeping.Unlock()
		return l.pruning.tryAt, false
	}
	if ok && l.sess.tgt.History() != nil { // else the same place was reached another way before
		more, err = l.prunePast(ctx, k, h)
	}
	l.keeping.Unlock()
	switch {
	case !ok, err != nil && ended(ctx, err):
		return time.Time{}, false
	case err != nil:
		l.pruneFailed(err)
		return l.pruning.tryAt, false
	}
	l.pruneFailed(nil)
	return k.now.Add(time.Duration(max(l.pruning.dueUp-k.up, int64(time.Second)))), more
}

// pruneFailed notes that the target did not let go, or that it did again. That is no reason to give it nothing new.
func (l *link) pruneFailed(err error) {
	p := &l.pruning
	text := ""
	if err == nil {
		p.fails, p.tryAt = 0, time.Time{}
	} else {
		p.fails++
		p.tryAt = l.now().Add(l.backoff(p.fails, err))
		text = "kept versions that are past their time cannot be removed: " + err.Error()
		l.doubt(err)
		l.note(errors.New(text))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.past.trouble = text
}

func (l *link) keepsNothing(keep units.Duration) error {
	return proto.Errorf(proto.ClassConflict, "the policy asks to keep what is overwritten and deleted for %s (history.keep), target %s can keep nothing: set history.keep to none, or use another target",
		keep, l.sess.info.Where)
}

// settleHistory makes the journal say what the policy asks to be kept, before any batch goes by it. false: the target cannot.
func (l *link) settleHistory(ctx context.Context, k *look) bool {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	h, was := l.sess.journal.History()
	p, err := l.present() // not k's: an operator may have changed it, and approved of that, since
	if err != nil {
		l.ledgerTrouble(err)
		return false
	}
	want := p.Keep.Std()
	next := h
	switch {
	case want == 0 && !h.On:
		return true
	case want == 0:
		next.On = false
	case !l.sess.info.Keeps:
		l.stall(l.keepsNothing(p.Keep))
		return false
	case !h.On:
		// What was replaced so far, and kept before that, is not all there was.
		next.On, next.Reach, next.Keep = true, k.now.UTC().Round(0), max(h.Keep, want)
	default:
		next.Keep = max(h.Keep, want) // it becomes shorter by an operator's word only
		if h.Horizon == 0 && k.now.Before(h.Reach) {
			next.Reach = k.now.UTC().Round(0) // the clock was ahead when it was set
		}
	}
	if was && next == h {
		return true
	}
	if err := l.sess.journal.SetHistory(ctx, next); err != nil {
		if !ended(ctx, err) {
			l.stall(err)
		}
		return false
	}
	l.at(faultpoint.FlushHistoryOn)
	l.pruning.counted = false
	return true
}

// prunePast does one step.
func (l *link) prunePast(ctx context.Context, k *look, h journal.History) (more bool, err error) {
	p := &l.pruning
	if l.recount.Swap(false) || !p.counted || p.asked != k.policy.Keep || !p.sweeping && k.up >= p.dueUp {
		if h, err = l.giveUp(ctx, k, h); err != nil {
			return false, err
		}
	}
	if !p.sweeping {
		return false, nil
	}
	// A batch may come to need a content that no version needed before: it is found and removed in one step, between two batches.
	gone, after, all, err := l.findGone(ctx, h)
	if err != nil {
		return false, err
	}
	if err := l.removeKept(ctx, gone); err != nil {
		return false, err
	}
	p.after = after
	l.at(faultpoint.FlushPruned)
	if !all {
		return true, nil
	}
	return false, l.endSweep(ctx, k, h)
}

// giveUp counts what is kept, and gives up what is past its time.
func (l *link) giveUp(ctx context.Context, k *look, h journal.History) (journal.History, error) {
	p := &l.pruning
	c, err := count(ctx, l.sess.journal, h, cutoff(h, k.up))
	if err != nil {
		return h, err
	}
	switch want := k.policy.Keep.Std(); {
	case h.On && want < h.Keep && c.left.versions+c.due == 0:
		h.Keep = want // there is nothing that could be lost by it
		if err := l.sess.journal.SetHistory(ctx, h); err != nil {
			return h, err
		}
	case c.due > 0:
		h.Horizon = max(h.Horizon, cutoff(h, k.up))
		if at := time.Unix(0, c.dueNs).UTC(); at.After(h.Reach) {
			h.Reach = at
		}
		if err := l.sess.journal.SetHistory(ctx, h); err != nil {
			return h, err
		}
		l.at(faultpoint.FlushHorizon)
		l.tell(Event{Kind: HistoryPruned, Objects: c.due})
	}
	wait := h.Keep
	if c.left.versions > 0 {
		wait -= time.Duration(k.up - c.nextUp)
	}
	*p = pruning{counted: true, asked: k.policy.Keep, listed: c.listed, left: c.left.versions, sweeping: h.Horizon > h.Swept, fails: p.fails,
		dueUp: k.up + int64(max(wait+time.Duration(tickSlack), pruneEvery(h.Keep)))}
	held := heldPast(k.policy.Keep, h, c.left.versions)
	if held != "" && l.once("history") {
		l.tell(Event{Kind: HistoryHeld, Reason: held})
	} else if held == "" {
		l.over("history")
	}
	l.mu.Lock()
	c.left.locked, c.left.until, c.left.trouble = l.past.locked, l.past.until, l.past.trouble // until the sweep has tried again
	l.past = c.left
	l.past.known, l.past.held = true, held
	if h.On {
		l.past.reach = h.Reach
	}
	l.mu.Unlock()
	if !h.On && h.Keep == 0 && c.left.versions == 0 && !p.sweeping {
		return h, l.forgetHistory(ctx)
	}
	return h, nil
}

var errEnough = errors.New("enough for now")

// findGone gathers the next contents of versions that were given up and that no other version of their path has; all is set when there
// are no more after them. Where a batch was cut short, a version may need one that no entry says: what its path has waits.
func (l *link) findGone(ctx context.Context, h journal.History) (gone []goneContent, after string, all bool, err error) {
	p := &l.pruning
	after = p.after
	err = l.sess.journal.EachVersions(ctx, "", func(v journal.Versions) error {
		if v.Path <= p.after && p.after != "" {
			return nil
		}
		if len(gone) >= pruneStep {
			return errEnough
		}
		for digest, up := range goneContents(v.Past, h) {
			if v.Pending != nil || l.doubted[v.Path] {
				p.wait(up)
				continue
			}
			gone = append(gone, goneContent{target.NameKept(v.Path, digest), up})
		}
		after = v.Path
		return nil
	}, nil)
	if errors.Is(err, errEnough) {
		return gone, after, false, nil
	}
	return gone, after, err == nil, err
}

// wait has the journal remember a version that ended at up beyond this sweep.
func (p *pruning) wait(up int64) {
	if !p.waits || up < p.least {
		p.least = up
	}
	p.waits = true
}

// removeKept removes contents. What the target has locked stays, and is tried again.
func (l *link) removeKept(ctx context.Context, gone []goneContent) error {
	names := make([]target.KeptName, len(gone))
	for i, c := range gone {
		names[i] = c.name
	}
	var failed error
	for i, err := range l.sess.tgt.History().Remove(ctx, names) {
		var locked *target.LockedError
		if errors.As(err, &locked) {
			l.pruning.noteLock(gone[i], locked)
		} else if failed == nil {
			failed = err
		}
	}
	return failed
}

func (p *pruning) noteLock(c goneContent, e *target.LockedError) {
	if p.locked == 0 || e.Until.Before(p.until) {
		p.until = e.Until
	}
	p.wait(c.up)
	p.locked++
}

// endSweep notes that the contents are gone, so that the journal may forget them.
func (l *link) endSweep(ctx context.Context, k *look, h journal.History) error {
	p := &l.pruning
	p.sweeping = false
	h.Swept = h.Horizon
	if p.waits { // they are tried again with the next look
		h.Swept = min(h.Swept, p.least-1)
		p.dueUp = min(p.dueUp, k.up+int64(pruneEvery(h.Keep)))
	}
	l.mu.Lock()
	l.past.locked, l.past.until = p.locked, p.until
	l.mu.Unlock()
	if err := l.sess.journal.SetHistory(ctx, h); err != nil {
		return err
	}
	l.at(faultpoint.FlushSwept)
	if p.listed >= 2*p.left { // what is swept is half of what the journal lists at least
		if err := l.sess.journal.SweepPast(ctx); err != nil {
			return err
		}
	}
	if !h.On && h.Keep == 0 {
		p.counted = false // nothing may be left to keep the record for
	}
	return nil
}

// forgetHistory takes the journal's word of a history away when nothing is kept and nothing is to be.
func (l *link) forgetHistory(ctx context.Context) error {
	if err := l.sess.journal.SweepPast(ctx); err != nil {
		return err
	}
	if l.sess.journal.PastEntries() > 0 {
		return nil
	}
	l.mu.Lock()
	l.past = kept{}
	l.mu.Unlock()
	return l.sess.journal.DropHistory(ctx)
}

// ended counts versions that a batch has made past.
func (l *link) ended(past []journal.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range past {
		l.past.versions++
		if e.Ended.Stored {
			l.past.bytes += e.Desc.Size
		}
	}
}
