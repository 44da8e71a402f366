package flush

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// session is an open target. It lives until the target's settings change; after a failure of the target as a whole it is
// probed and prepared again.
type session struct {
	tgt      target.Target
	revision string
	info     target.Info
	there    bool // probed since the last failure
	probed   time.Time
	journal  *journal.Journal
	prepared bool // marked, journal open, leftovers gone, since the last failure
}

// closeSession takes the target for unknown. The target itself stays open: its driver remembers which contents are spoiled
// and which root was written to.
func (l *link) closeSession() {
	if l.sess != nil {
		l.sess.there, l.sess.prepared = false, false
		l.show(mirror{})
	}
}

// closeTarget gives the target up.
func (l *link) closeTarget() {
	if l.sess != nil {
		l.show(mirror{})
		_ = l.sess.tgt.Close() // staged contents stay, there is nothing to lose
		l.sess = nil
	}
}

// show lets Verify use the target and the journal.
func (l *link) show(m mirror) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mirror = m
}

// ready opens and probes the target unless it is known to be there. It creates nothing at the target.
func (l *link) ready(ctx context.Context, k *look) bool {
	cfg := l.config()
	if l.sess != nil && l.sess.revision != cfg.Revision {
		l.closeTarget()
		l.nextTry = l.now()
	}
	if l.sess != nil && l.sess.there && (k.outside() || l.fresh()) && l.suits(k) == nil {
		return true
	}
	if l.sess != nil && l.sess.prepared {
		l.still(ctx, l.sess.journal.Newest())
	}
	if l.troubled() {
		return false
	}
	if l.sess == nil {
		answered := l.under.Begin()
		tgt, err := l.e.deps.OpenTarget(cfg)
		answered()
		if err != nil {
			l.away(fmt.Errorf("open target %s: %w", cfg.Target, err))
			return false
		}
		l.sess, l.unread = &session{tgt: l.under.Watch(tgt), revision: cfg.Revision}, unread{}
	}
	if !l.probe(ctx) {
		return false
	}
	if err := l.suits(k); err != nil { // before the target is marked as ours
		l.away(err)
		return false
	}
	l.sess.there = true
	if l.fails == 0 {
		l.recovered()
	}
	return true
}

// probe asks the target whether it is there and is what it was; the link stalls where it is not.
func (l *link) probe(ctx context.Context) bool {
	info, err := l.sess.tgt.Probe(ctx)
	if err != nil {
		if !ended(ctx, err) {
			l.away(err)
		}
		return false
	}
	l.sess.info, l.sess.probed = info, l.now()
	return true
}

// fresh reports whether what is known of a target that is there is young enough. Somebody may empty it while it is in use: what is added
// to it then is confirmed truly, but the rest is gone, and only its owner mark tells.
func (l *link) fresh() bool {
	age := l.now().Sub(l.sess.probed)
	return 0 <= age && age < l.e.cfg.ProbeEvery
}

// idleProbe is how often a target is looked at that nothing is sent to.
const idleProbe = time.Minute

// probeAt is when to look at a target that is there, zero when it is not, or when it may have been put away until the window opens.
func (l *link) probeAt(k *look) time.Time {
	if l.sess == nil || !l.sess.there || k.outside() {
		return time.Time{}
	}
	return l.now().Add(idleProbe)
}

// prepare makes the target fit for a batch: it is ours, its journal is open, and nothing is staged that is of no use.
func (l *link) prepare(ctx context.Context, k *look) bool {
	if l.sess.prepared && !l.damaged.Load() {
		return true
	}
	l.sess.prepared = false
	l.show(mirror{}) // whoever looks meanwhile opens the journal as it is then
	err := l.doPrepare(ctx, k)
	if err == nil {
		l.sess.prepared = true
		l.show(mirror{l.sess.tgt, l.sess.journal})
		return true
	}
	if !ended(ctx, err) {
		l.stall(err)
	}
	return false
}

func (l *link) doPrepare(ctx context.Context, k *look) error {
	s, cfg := l.sess, l.config()
	m, err := ledger.ReadMeta(l.e.deps.Ledger)
	if err != nil {
		return err
	}
	owner := journal.Owner{Relay: l.e.cfg.Relay.String(), Link: cfg.Name, Dataset: k.row.From, Prefix: []byte(cfg.Prefix), MadeAt: l.now().UTC(), Rebuilt: m.Rebuilt}
	if _, err := journal.Mark(ctx, s.tgt.Records(), owner); err != nil {
		return err
	}
	l.at(faultpoint.FlushMarked)
	info, err := s.tgt.Probe(ctx) // some targets know what they can hold only once something of ours is there
	if err != nil {
		return err
	}
	s.info = info
	if s.journal, err = journal.Open(ctx, s.tgt.Records(), target.PrefixKey(cfg.Prefix)); err != nil {
		return err
	}
	if err := l.settleJournal(ctx, k); err != nil {
		return err
	}
	if err := l.unstageLeftovers(ctx); err != nil {
		return fmt.Errorf("remove what earlier runs left staged: %w", err)
	}
	s.journal.Fault = l.e.deps.Fault
	l.at(faultpoint.FlushPrepared)
	return nil
}

// confirmClass is the class in force: what the policy asks for; by default sync where the target can, else ack.
func (l *link) confirmClass(k *look) target.ConfirmClass {
	switch {
	case k.policy.Confirm != "":
		return k.policy.Confirm
	case l.sess == nil || l.sess.info.Confirm == "":
		return ""
	case l.sess.info.Confirm.Rank() < target.ConfirmSync.Rank():
		return l.sess.info.Confirm
	}
	return target.ConfirmSync
}

// suits reports whether the target can do what the policy asks for.
func (l *link) suits(k *look) error {
	if k.policy.Keep > 0 && !l.sess.info.Keeps {
		return l.keepsNothing(k.policy.Keep)
	}
	return l.checkClass(k)
}

// checkClass refuses to confirm less truly than the policy asks.
func (l *link) checkClass(k *look) error {
	if want, can := l.confirmClass(k), l.sess.info.Confirm; want.Rank() > can.Rank() {
		return proto.Errorf(proto.ClassConflict, "the policy asks for confirm class %s, target %s reaches %s: set confirm to %s, or use another target",
			want, l.sess.info.Where, can, can)
	}
	return nil
}

// resumeFrom is the size from which on a staged content that is not complete is worth going on with.
const resumeFrom = proto.MaxPayload

// stageName names the staged content of a version. The digest keeps contents apart, whatever becomes of the numbers.
func stageName(link ledger.LinkID, ver proto.VersionID, d proto.Digest) target.StageID {
	return target.StageID(fmt.Sprintf("l%d-v%d-%s", link, ver, d.Short()))
}

// parseStage finds out whose a staged content is.
func parseStage(id target.StageID) (link ledger.LinkID, ver proto.VersionID, digest string, ok bool) {
	if strings.Count(string(id), "-") != 2 {
		return 0, 0, "", false
	}
	n, err := fmt.Sscanf(strings.ReplaceAll(string(id), "-", " "), "l%d v%d %s", &link, &ver, &digest)
	return link, ver, digest, n == 3 && err == nil
}

// unstageLeftovers removes staged contents of earlier runs, but for large ones that are still owed: their bytes need not be
// sent again.
func (l *link) unstageLeftovers(ctx context.Context) error {
	var failed error
	keep := func(id target.StageID) bool {
		if link, up, ok := parseStream(id); ok && link == l.id {
			keep, err := l.keepStream(up)
			failed = errors.Join(failed, err)
			if keep {
				l.streaming.note(up, id)
			}
			return keep || err != nil
		}
		link, ver, _, ok := parseStage(id)
		if !ok || link != l.id {
			return false
		}
		row, err := ledger.Link(l.e.deps.Ledger, l.id)
		if err == nil {
			var owed, known bool
			var v ledger.VersionRow
			_, owed, err = ledger.OwedAt(l.e.deps.Ledger, l.id, ver)
			if owed && err == nil {
				v, known, err = ledger.Version(l.e.deps.Ledger, row.Dataset, ver)
			}
			if err == nil {
				return owed && known && v.Desc.Size >= resumeFrom && id == stageName(l.id, ver, v.Desc.Digest)
			}
		}
		failed = errors.Join(failed, err)
		return true
	}
	return errors.Join(l.sess.tgt.Unstage(ctx, keep), failed)
}

// unstage removes given staged contents.
func (l *link) unstage(ctx context.Context, ids []target.StageID) error {
	if len(ids) == 0 {
		return nil
	}
	drop := make(map[target.StageID]bool, len(ids))
	for _, id := range ids {
		drop[id] = true
	}
	return l.sess.tgt.Unstage(ctx, func(id target.StageID) bool { return !drop[id] })
}
