package sim

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"forebay/agent/index"
	"forebay/flush"
	"forebay/ledger"
	"forebay/ledger/ledgertest"
	"forebay/proto"
	"forebay/proto/segment"
)

// check holds the invariants against the relay as it is now. I6 to I10, I13, I14 and I18 are also checked in the moment that
// something is granted, accepted, buried, sent or committed: see oracle.
func (w *world) check() {
	if w.relay.r == nil {
		return
	}
	w.oracle.learn()
	w.oracle.letGo()
	for _, fn := range []func(*world){checkI1, checkI2, checkI5, checkI8, checkI15, checkI16, checkI17, checkI18} {
		fn(w)
	}
	if w.deep() {
		checkI3(w)
	}
}

// deep reports whether it is time for what is too slow for each step: all bytes are read.
func (w *world) deep() bool { return w.steps%w.cfg.deepEvery == 0 || w.oracle.since == w.now }

// checkI1: what was acknowledged is known, and the current version of each path is on each link's target, or owed.
func checkI1(w *world) {
	l := w.relay.r.Ledger()
	ds, err := ledger.DatasetByName(l, media)
	w.must(err)
	for path, v := range w.oracle.latest {
		o, ok, err := ledger.Object(l, ds.ID, path)
		w.must(err)
		if o.Current.Version == 0 && w.oracle.versions[v].desc.Kind == proto.KindTombstone {
			continue // seen by all, and forgotten
		}
		if !ok || o.Current.Version < v {
			w.wrong("I1", "%q was acknowledged as version %d, the relay knows %d", path, v, o.Current.Version)
			continue
		}
		for _, link := range w.links {
			checkDelivered(w, link, path, o)
		}
	}
}

// checkDelivered: what a link does not owe any more is at its target.
func checkDelivered(w *world, link *linkModel, path string, o ledger.ObjectRow) {
	if _, owed, err := ledger.OwedAt(w.relay.r.Ledger(), link.id, o.Current.Version); owed || err != nil {
		w.must(err)
		return
	}
	row, err := ledger.Link(w.relay.r.Ledger(), link.id)
	w.must(err)
	if o.Current.Version > row.SeedCursor && row.SeedCursor < row.SeedHead {
		return // the first copy has not come to it
	}
	x := link.target.mirror[path]
	if o.Current.Kind == proto.KindTombstone {
		if x != nil && link.propagate && link.target.highest[path] > 0 && x.order > 0 {
			w.wrong("I1", "link %s has confirmed that %q is gone, and the target has it", link.name, path)
		}
		return
	}
	if x == nil || !x.desc.SameContent(o.Current.Desc()) || x.desc.Kind == proto.KindFile && newContentDigest(x) != o.Current.Digest {
		w.wrong("I1", "link %s has confirmed version %d of %q, and the target has not got it: %s", link.name, o.Current.Version, path, x)
	}
}

// newContentDigest is that of what the mirror really has, computed once.
func newContentDigest(x *mirrored) proto.Digest {
	if x.digest == (proto.Digest{}) {
		x.digest = newContent(x.content).digest
	}
	return x.digest
}

func (m *mirrored) String() string {
	if m == nil {
		return "nothing"
	}
	return fmt.Sprintf("a %s of %d bytes, %s", m.desc.Kind, len(m.content), m.desc.Digest.Short())
}

// checkI2: the ledger's own accounts agree, recounted from its rows: nothing needed is on the free list, every byte that is
// owed from the cache lies in a segment that is there.
func checkI2(w *world) {
	if err := ledgertest.Check(w.relay.r.Ledger()); err != nil {
		w.wrong("I2", "%v", err)
	}
}

// checkI3: every byte that a link owes from the cache can be read, and is what its digest says (I1 too).
func checkI3(w *world) {
	l := w.relay.r.Ledger()
	segs := map[uint64]*segment.Segment{}
	for _, link := range w.links {
		row, err := ledger.Link(l, link.id)
		w.must(err)
		list, err := ledger.Owed(l, link.id, 0, 10_000)
		w.must(err)
		for _, q := range list {
			if q.Owed.State != ledger.OwedCached || q.Owed.MetaOnly || q.Row.Desc.Kind != proto.KindFile || !q.Row.Cached {
				continue
			}
			if err := w.readBack(q, segs); err != nil {
				w.wrong("I3", "link %s owes version %d of %q, which cannot be read from the cache: %v", row.Name, q.Version, q.Row.Path, err)
			}
		}
	}
	w.count("deep checks")
}

// readBack reads one version from the cache.
func (w *world) readBack(q ledger.OwedVersion, segs map[uint64]*segment.Segment) error {
	h := proto.NewContentHasher()
	at, staged := int64(0), false
	err := ledger.EachPart(w.relay.r.Ledger(), q.Row, func(p ledger.Part) (bool, error) {
		if p.Segment == 0 { // of an object larger than the cache: where it ends up is compared with the source
			staged = true
			at += int64(p.Length)
			return true, nil
		}
		seg := segs[p.Segment]
		if seg == nil {
			var err error
			if seg, err = w.relay.r.ReadSegment(context.Background(), p.Segment); err != nil {
				return false, err
			}
			segs[p.Segment] = seg
		}
		if p.Offset != at || int(p.At)+int(p.Length) > len(seg.Payload) {
			return false, fmt.Errorf("part at %d of %d bytes, %d were read", p.Offset, p.Length, at)
		}
		for _, d := range proto.BlockDigests(nil, seg.Payload[p.At:p.At+p.Length]) {
			h.Add(d)
		}
		at += int64(p.Length)
		return true, nil
	})
	if staged {
		w.count("owed versions that are in part at the targets alone")
	}
	if err == nil && (at != q.Row.Desc.Size || !staged && h.Sum() != q.Row.Desc.Digest) {
		err = fmt.Errorf("%d bytes with digest %s, want %d with %s", at, h.Sum().Short(), q.Row.Desc.Size, q.Row.Desc.Digest.Short())
	}
	return err
}

// checkI5: the generation grows with each start.
func checkI5(w *world) {
	m, err := ledger.ReadMeta(w.relay.r.Ledger())
	w.must(err)
	if int(m.Generation) < w.relay.starts {
		w.wrong("I5", "the relay started %d times and is in generation %d", w.relay.starts, m.Generation)
	}
}

// checkI8: the bytes of a version that was sealed just now are those of one content. Whose digest it has, oracle.sealed looks at.
func checkI8(w *world) {
	l, fresh := w.relay.r.Ledger(), w.oracle.fresh
	w.oracle.fresh = nil
	if len(fresh) == 0 {
		return
	}
	ds, err := ledger.DatasetByName(l, media)
	w.must(err)
	segs := map[uint64]*segment.Segment{}
	for _, v := range fresh {
		row, ok, err := ledger.Version(l, ds.ID, v)
		w.must(err)
		if !ok || !row.Cached || row.Desc.Kind != proto.KindFile {
			continue
		}
		for _, link := range w.links {
			q, owed, err := ledger.OwedAt(l, link.id, v)
			w.must(err)
			if !owed || q.State != ledger.OwedCached || q.MetaOnly {
				continue
			}
			w.count("versions read as they were sealed")
			if err := w.readBack(ledger.OwedVersion{Version: v, Owed: q, Row: row}, segs); err != nil {
				w.wrong("I8", "version %d of %q is sealed, and its bytes are another content: %v", v, row.Path, err)
			}
			break
		}
	}
}

// checkI15: a link whose target is well owes nothing for long, whatever the targets of the others do. In a cache that fills,
// one beside a link with a rate is left out: here a batch is one step, and while it is sent the relay lets go of nothing. Real processes
// have that (TestSlowLinkDoesNotFillTheCache).
func checkI15(w *world) {
	for _, link := range w.links {
		if link.window != [2]int{} || link.rate > 0 || link.budget > 0 || link.policy.Age > 0 || link.policy.Size > 0 || link.policy.Objects > 0 || link.policy.BatchMin > 0 {
			continue
		}
		if w.cfg.capacity < roomy && slices.ContainsFunc(w.links, func(other *linkModel) bool { return other != link && (other.rate > 0 || other.budget > 0) }) {
			continue
		}
		if link.target.dead || link.target.full || w.now < link.target.down+int64(10*time.Minute) || w.now < w.oracle.since+int64(10*time.Minute) || w.now < w.relay.until+int64(10*time.Minute) {
			continue
		}
		q, at, ok := w.oracle.oldest(link)
		if !ok || q.Kind == proto.KindTombstone {
			continue // deletes may be held
		}
		if age := time.Duration(w.now - at); age > 20*time.Minute {
			s, _ := w.relay.e.State(link.name)
			w.wrong("I15", "link %s owes something since %s and its target is well: %s (%s), %s", link.name, age, s.State, s.Reason, s.LastError)
		}
	}
}

// checkI16: nothing is parked but directories in which something is that must not be deleted; what must drain in the end is in
// drained.
func checkI16(w *world) {
	for _, link := range w.links {
		row, err := ledger.Link(w.relay.r.Ledger(), link.id)
		w.must(err)
		if row.ParkedObjects == 0 {
			continue
		}
		list, err := ledger.Owed(w.relay.r.Ledger(), link.id, 0, 10_000)
		w.must(err)
		for _, q := range list {
			if q.Owed.Parked && !(q.Owed.Kind == proto.KindTombstone && link.target.below(q.Row.Path)) {
				w.wrong("I16", "link %s has parked %q: %s", link.name, q.Row.Path, q.Owed.Reason)
			}
		}
	}
}

// checkI17: a link that has work and whose target is away says so, and the relay is not green.
func checkI17(w *world) {
	for _, link := range w.links {
		t, since := link.target, link.silent
		link.silent = 0
		if !(t.dead || w.now < t.down) || w.now < w.oracle.since+int64(time.Minute) || w.now < w.relay.until+int64(time.Minute) || t.downFrom == 0 || w.now < t.downFrom+int64(time.Minute) {
			continue
		}
		row, err := ledger.Link(w.relay.r.Ledger(), link.id)
		w.must(err)
		s, ok := w.relay.e.State(link.name)
		if _, at, owes := w.oracle.oldest(link); !owes || w.now-at < int64(time.Minute) {
			continue // it has not had the time to notice
		}
		if row.OwedObjects > 0 && ok && s.State != flush.StateStalled && s.State != flush.StateWaiting && s.State != flush.StateHeld {
			if link.silent = cmp.Or(since, w.now); w.now-link.silent < int64(time.Minute) {
				continue // its conditions may have been met just now
			}
			w.wrong("I17", "the target of link %s is away since %s, it owes %d objects, and says %s: %s", link.name, time.Duration(w.now-t.downFrom), row.OwedObjects, s.State, s.Reason)
		}
		if s.State == flush.StateStalled && row.OwedObjects > 0 {
			st, err := w.relay.r.Status(context.Background())
			w.must(err)
			if st.Health == proto.Green {
				w.wrong("I17", "link %s is stalled and the relay's health is green", link.name)
			}
		}
	}
}

// checkI18: versions of a path only grow; see oracle.committed for the targets.
func checkI18(w *world) {
	for _, path := range w.oracle.paths() {
		vs := w.oracle.byPath[path]
		if vs[len(vs)-1] != w.oracle.latest[path] {
			w.wrong("I18", "%q: latest %d of %v", path, w.oracle.latest[path], vs)
		}
	}
}

// drained says what has not come to rest once faults are over; "" when everything has (I16).
func (w *world) drained() string {
	if w.relay.r == nil {
		return "the relay is down"
	}
	l := w.relay.r.Ledger()
	ds, err := ledger.DatasetByName(l, media)
	w.must(err)
	paths := map[string]bool{}
	for p := range w.app.truth {
		paths[p] = true
	}
	for p := range w.oracle.byPath {
		paths[p] = true
	}
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		c, known := w.app.truth[p]
		o, _, err := ledger.Object(l, ds.ID, p)
		w.must(err)
		want := proto.Desc{Kind: c.obj.kind, LinkTo: c.obj.linkTo, Digest: c.obj.digest()}
		if c.obj.data != nil {
			want.Size = c.obj.data.size()
		}
		there := o.Current.Version != 0 && o.Current.Kind != proto.KindTombstone
		if c.obj.kind == proto.KindSymlink {
			want.Digest = o.Current.Digest // of the text, which is compared
		}
		switch live := known && !c.gone; {
		case live && (!there || !o.Current.Desc().SameContent(want)):
			return fmt.Sprintf("%q is not what the nodes have (%s %s #%d): the relay has version %d, a %s with %s; holders %v; %s", p, c.obj.kind, c.obj.digest().Short(), c.seq, o.Current.Version, o.Current.Kind, o.Current.Digest.Short(), o.Holders, w.atNodes(p))
		case !live && there && (w.unwitnessed(p, o) || w.emptied()):
			w.left[p] = true // no index that is left can tell that it is gone: it is kept
		case !live && there:
			return fmt.Sprintf("%q is gone on all nodes, the relay has version %d: %s; holders %v; %s", p, o.Current.Version, w.blocked(p), o.Holders, w.atNodes(p))
		}
	}
	unfinished := ""
	w.must(ledger.EachUpload(l, func(_ proto.UploadID, u ledger.UploadRow) (bool, error) {
		unfinished = fmt.Sprintf("the upload of %q has %d of %d bytes; %s", u.Path, u.Acked, u.Size, w.atNodes(u.Path))
		return false, nil
	}))
	if unfinished != "" {
		return unfinished
	}
	for _, link := range w.links {
		row, err := ledger.Link(l, link.id)
		w.must(err)
		s, _ := w.relay.e.State(link.name)
		if row.OwedObjects > row.OwedDeletes+w.nowhere(link) || row.OwedDeletes > 0 && s.HeldDeletes == 0 {
			return fmt.Sprintf("link %s owes %d objects, %d of them deletes: %s (%s), %s; %s", link.name, row.OwedObjects, row.OwedDeletes, s.State, s.Reason, s.LastError, w.debts(link))
		}
		if why := w.mirrorDiffers(link, s.HeldDeletes > 0); why != "" {
			return why
		}
	}
	return ""
}

// nowhere counts what a link owes and nobody can send: it was let go while a node had it, all nodes have deleted it since, and those
// that knew were put back to older copies of themselves, with their indexes, so that none can tell the relay.
func (w *world) nowhere(link *linkModel) (n int64) {
	list, err := ledger.Owed(w.relay.r.Ledger(), link.id, 0, 10_000)
	w.must(err)
	for _, q := range list {
		if q.Owed.State == ledger.OwedReleased && w.left[q.Row.Path] && !slices.ContainsFunc(w.agents, func(a *agent) bool { return a.disk.files[q.Row.Path] != nil }) {
			n++
		}
	}
	w.nowheres += int(n)
	return n
}

// debts says of the oldest debts of a link what the ledger and the nodes know of them.
func (w *world) debts(link *linkModel) string {
	list, err := ledger.Owed(w.relay.r.Ledger(), link.id, 0, 3)
	w.must(err)
	var out []string
	for _, q := range list {
		out = append(out, fmt.Sprintf("version %d of %q, a %s, state %d, parked %v: %s", q.Version, q.Row.Path, q.Owed.Kind, q.Owed.State, q.Owed.Parked, w.atNodes(q.Row.Path)))
	}
	return strings.Join(out, "\n\t")
}

// blocked is why the relay does not delete a path.
func (w *world) blocked(path string) string {
	list, err := w.relay.r.Failures("")
	w.must(err)
	for _, f := range list {
		if f.Path == path && f.Kind == proto.FailUnderHeld {
			return f.Reason
		}
	}
	return "not judged"
}

func (w *world) atNodes(path string) string {
	var out []string
	for _, a := range w.agents {
		for _, e := range a.ix.sorted(func(e index.Entry) bool { return e.State.Queued() }) {
			out = append(out, fmt.Sprintf("%s waits with %s: state %d %q due in %s", a.node, e.Path, e.State, e.Reason, time.Duration(e.Due-a.clock.now().UnixNano())))
		}
	}
	for _, a := range w.agents {
		e, ok := a.ix.entries[path]
		if !ok {
			out = append(out, a.node+": -")
			continue
		}
		out = append(out, fmt.Sprintf("%s: state %d version %d heard %d due in %s attempts %d %q", a.node, e.State, e.Version, e.Heard, time.Duration(e.Due-a.clock.now().UnixNano()), e.Attempts, e.Reason))
	}
	return strings.Join(out, "; ")
}

// unwitnessed reports whether nobody can know that a path is gone: each holder that had it had its index made anew since, or has an
// older copy of it, with which it has not said again that it has it.
func (w *world) unwitnessed(path string, o ledger.ObjectRow) bool {
	hs, err := ledger.Holders(w.relay.r.Ledger())
	w.must(err)
	for _, h := range hs {
		had := o.Holding(h.ID)
		if had != nil && had.State == ledger.HoldingHas && had.IndexGen == h.IndexGen {
			return false
		}
	}
	return strings.Contains(w.blocked(path), "in it is not deleted yet") || w.blockedForWitness(path)
}

// emptied reports whether a root is refused because all that it had is gone, which is for an operator to look at.
func (w *world) emptied() bool {
	return slices.ContainsFunc(w.agents, func(a *agent) bool { return a.problem == "emptied" && len(a.disk.files) == 0 })
}

// blockedForWitness reports whether the relay keeps a path because no index that it believes tells it is gone.
func (w *world) blockedForWitness(path string) bool {
	why := w.blocked(path)
	return why == "not judged" || strings.Contains(why, "no live holder has reported it gone")
}

// mirrorDiffers compares a target with the truth.
func (w *world) mirrorDiffers(link *linkModel, held bool) string {
	for _, p := range slices.Sorted(maps.Keys(w.app.truth)) {
		c, x := w.app.truth[p], link.target.mirror[p]
		switch {
		case c.gone && x != nil && link.propagate && !held && x.desc.Kind != proto.KindDir && !w.left[p]:
			return fmt.Sprintf("link %s: the target still has %q", link.name, p)
		case c.gone:
		case x == nil:
			return fmt.Sprintf("link %s: the target lacks %q", link.name, p)
		case x.desc.Kind != c.obj.kind || x.desc.LinkTo != c.obj.linkTo || c.obj.data != nil && newContentDigest(x) != c.obj.data.digest:
			return fmt.Sprintf("link %s: the target has another %q than the nodes: %s", link.name, p, x)
		case x.desc.Meta.Mode != c.obj.mode && c.obj.kind == proto.KindFile:
			return fmt.Sprintf("link %s: %q has mode %04o at the target and %04o at the nodes", link.name, p, x.desc.Meta.Mode, c.obj.mode)
		}
	}
	return ""
}
