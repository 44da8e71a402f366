package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// oracle knows what is true, from what went over the interfaces and from the disks themselves, and nothing from the relay's own
// records: what it finds in those is held against this.
type oracle struct {
	w       *world
	high    int64 // true time at which the cache was last seen over its high water; 0: never
	holders map[proto.HolderID]*agent
	// contents are those that each path ever had on some disk (I8).
	contents map[string]map[proto.Digest]bool
	// lacked is when a path was last not there on a disk that was there, by node and path: true time, -1 for never (I13).
	lacked map[string]map[string]int64
	has    map[string]map[string]bool
	// versions are those that the relay acknowledged or published, by number; latest the newest of each path.
	versions map[proto.VersionID]version
	latest   map[string]proto.VersionID
	byPath   map[string][]proto.VersionID
	// uploads are what was acknowledged of uploads in ranges; epochs the highest that was granted for a path.
	uploads map[proto.UploadID]*received
	epochs  map[string]proto.Epoch
	head    proto.VersionID
	before  string // of the ledger's counters, for ledgerMoved
	seen    map[string]int64
	since   int64 // the relay ran undisturbed since
	// released are the debts that were seen without their bytes in the cache. told is what each node said that it has, by node and path.
	released map[debt]bool
	told     map[string]map[string]telling
	fresh    []proto.VersionID // sealed since it was looked last whether their bytes are what they are said to be (I8)
}

// debt is a version that a link owes.
type debt struct {
	link string
	ver  proto.VersionID
}

// version is one that was acknowledged.
type version struct {
	path string
	desc proto.Desc
	at   int64
}

// received is an upload in ranges.
type received struct {
	path    string
	size    int64
	have    map[int64]int64 // acknowledged: offset, length
	holder  *agent
	dropped bool // given up: its bytes count no more
}

func (r *received) bytes() (n int64) {
	for _, l := range r.have {
		n += l
	}
	return n
}

func newOracle(w *world) *oracle {
	return &oracle{w: w, holders: map[proto.HolderID]*agent{}, contents: map[string]map[proto.Digest]bool{}, lacked: map[string]map[string]int64{}, has: map[string]map[string]bool{},
		versions: map[proto.VersionID]version{}, latest: map[string]proto.VersionID{}, byPath: map[string][]proto.VersionID{}, uploads: map[proto.UploadID]*received{},
		epochs: map[string]proto.Epoch{}, seen: map[string]int64{}, released: map[debt]bool{}, told: map[string]map[string]telling{}}
}

// existed notes a content that some disk has at a path.
func (o *oracle) existed(path string, obj object) {
	if obj.kind != proto.KindFile {
		return
	}
	if o.contents[path] == nil {
		o.contents[path] = map[proto.Digest]bool{}
	}
	o.contents[path][obj.data.digest] = true
}

// present and removed follow what is on a disk.
func (o *oracle) present(node, path string) {
	if o.has[node] == nil {
		o.has[node] = map[string]bool{}
		o.lacked[node] = map[string]int64{}
	}
	if !o.has[node][path] {
		o.has[node][path] = true
		o.lacked[node][path] = o.w.now
	}
}

func (o *oracle) removed(node, path string) {
	if o.has[node] != nil {
		o.has[node][path] = false
	}
}

// holds reports whether a path has been on a node's disk without a break since a moment.
func (o *oracle) holds(node, path string, since int64) bool {
	return o.has[node] != nil && o.has[node][path] && o.lacked[node][path] < since
}

func (o *oracle) scanned(*agent) {}

// granted of claims: the epochs only grow, and what was acknowledged of an upload is offered again (I7, I9).
func (o *oracle) claimed(a *agent, b proto.ClaimBatch, rep proto.ClaimReply) {
	o.learn()
	for i, ans := range rep.Answers {
		c := b.Claims[i]
		switch {
		case ans.Verdict == proto.VerdictLags:
			o.saysOther(a, c.Path, proto.Digest{})
			o.w.count("older contents refused")
			if c.Parent == o.latest[c.Path] {
				o.w.count("older contents refused of who had the newer one")
			}
		case ans.Verdict == proto.VerdictDivergent:
			o.saysOther(a, c.Path, c.Digest)
		case c.HasDigest && o.latest[c.Path] != 0 && c.Digest == o.versions[o.latest[c.Path]].desc.Digest:
			o.saysHas(a, c.Path, o.latest[c.Path])
		}
		if ans.Verdict == proto.VerdictSend {
			o.mayOffer(a, c)
		}
		if ans.Verdict != proto.VerdictSend && ans.Verdict != proto.VerdictSendMeta {
			continue
		}
		path := c.Path
		if was := o.epochs[path]; !was.Less(ans.Epoch) {
			o.w.wrong("I7", "%q is granted under epoch %s after %s", path, ans.Epoch, was)
		}
		o.epochs[path] = ans.Epoch
		have := int64(0)
		for _, r := range ans.Have {
			have += r.Length
		}
		u := o.uploads[ans.Upload]
		if u == nil {
			o.uploads[ans.Upload] = &received{path: path, size: c.Size, have: map[int64]int64{}, holder: a}
			if have != 0 {
				o.w.wrong("I9", "a new upload %d of %q is granted with %d bytes acknowledged", ans.Upload, path, have)
			}
			continue
		}
		if !u.dropped && have != u.bytes() {
			o.w.wrong("I9", "upload %d of %q is granted with %d bytes acknowledged, there were %d", ans.Upload, path, have, u.bytes())
		}
		if u.holder != a && have > 0 {
			o.w.count("takeovers")
			o.w.counts["bytes carried on"] += int(have)
			u.holder = a
		}
	}
}

func (o *oracle) abandoned(ab proto.Abandon) {
	for _, id := range ab.Uploads {
		if u := o.uploads[id]; u != nil {
			u.dropped = true
		}
	}
}

// accepted is the relay's answer to a segment.
func (o *oracle) accepted(a *agent, seg *segment.Segment, rep proto.SegmentReply) {
	for i, r := range rep.Pieces {
		p := seg.Header.Pieces[i]
		o.result(a, p, r)
		if p.Desc != nil && r.Version != 0 && outcomeOf(r) == sealed {
			o.saysHas(a, p.Path, r.Version)
		}
	}
}

// result is the answer to one piece.
func (o *oracle) result(a *agent, p segment.Piece, r proto.PieceResult) {
	switch r.State {
	case proto.PieceAccepted:
	case proto.PieceStale:
		o.w.count("stale pieces refused")
		return
	case proto.PieceDuplicate:
		o.w.count("duplicates dropped")
		return
	case proto.PieceLags:
		o.saysOther(a, p.Path, proto.Digest{})
		o.w.count("older contents refused at the seal")
		return
	case proto.PieceMismatch:
		o.w.count("mismatching seals refused")
		if u := o.uploads[p.Upload]; u != nil {
			u.dropped = true
		}
		return
	default:
		return
	}
	if p.Epoch.Less(o.epochs[p.Path]) {
		o.w.wrong("I7", "%q: a piece under epoch %s is accepted after %s was granted", p.Path, p.Epoch, o.epochs[p.Path])
	}
	if p.Kind == segment.PieceRange {
		o.rangeAccepted(a, p)
		return
	}
	if r.Version == 0 {
		return
	}
	if _, known := o.versions[r.Version]; !known {
		o.mayFollow(a, p.Path, *p.Desc)
		o.fresh = append(o.fresh, r.Version)
	}
	o.sealed(r.Version, p.Path, *p.Desc)
}

func (o *oracle) rangeAccepted(a *agent, p segment.Piece) {
	u := o.uploads[p.Upload]
	if u == nil {
		o.w.wrong("I6", "a range of upload %d is accepted, which was never granted", p.Upload)
		return
	}
	for off, n := range u.have {
		if off < p.Offset+int64(p.Length) && p.Offset < off+n {
			o.w.wrong("I6", "upload %d of %q: bytes %d+%d are accepted, and %d+%d were before", p.Upload, p.Path, p.Offset, p.Length, off, n)
		}
	}
	u.have[p.Offset] = int64(p.Length)
}

// sealed notes a version (I8).
func (o *oracle) sealed(v proto.VersionID, path string, d proto.Desc) {
	if _, known := o.versions[v]; known {
		return
	}
	o.versions[v] = version{path, d, o.w.now}
	o.byPath[path] = append(o.byPath[path], v)
	slices.Sort(o.byPath[path])
	o.latest[path] = max(o.latest[path], v)
	o.w.count("versions")
	if d.Kind == proto.KindFile && !o.contents[path][d.Digest] {
		o.w.wrong("I8", "version %d of %q has digest %s, which no holder ever had there", v, path, d.Digest.Short())
	}
}

// buried notes a tombstone (I13): every node that is known to the relay and was not away for the grace must have been without
// the path at some time since the version that was current before.
func (o *oracle) buried(v proto.VersionID, path string) {
	if _, known := o.versions[v]; known {
		return
	}
	grace := int64(o.w.cfg.grace)
	before := int64(-1)
	if was := o.latest[path]; was != 0 {
		before = o.versions[was].at
	}
	o.versions[v] = version{path, proto.Desc{Kind: proto.KindTombstone}, o.w.now}
	o.byPath[path] = append(o.byPath[path], v)
	slices.Sort(o.byPath[path])
	o.latest[path] = max(o.latest[path], v)
	o.w.count("tombstones")
	for _, a := range o.w.agents {
		if !o.holds(a.node, path, before) || !o.known(a) {
			continue
		}
		// What was still on its way when its session ended came later, and was no sign of life to the relay.
		if away := o.w.now - o.seen[a.node]; away >= grace-int64(slowRequest+badNetwork) {
			continue
		}
		o.w.wrong("I13", "%q is deleted as version %d, and %s has had it all the time", path, v, a.node)
	}
}

// known reports whether a node ever had a session with the relay.
func (o *oracle) known(a *agent) bool {
	for _, b := range o.holders {
		if a == b {
			return true
		}
	}
	return false
}

// order returns the number, among a path's versions, of the one that a change at a target is of: the first from was on that
// is the same; 0 when there is none. A staged content names its version.
func (o *oracle) order(c target.Change, was int) int {
	staged := proto.VersionID(0)
	if c.Op == target.OpPut {
		var link int
		if n, _ := fmt.Sscanf(strings.ReplaceAll(string(c.Stage), "-", " "), "l%d v%d", &link, &staged); n != 2 {
			staged = 0
		}
	}
	for i, v := range o.byPath[c.Path] {
		known := o.versions[v].desc
		same := c.Op == target.OpDelete && known.Kind == proto.KindTombstone || c.Op != target.OpDelete && known.SameContent(c.Desc)
		if staged != 0 && v == staged && same || staged == 0 && same && i+1 >= was {
			return i + 1
		}
	}
	return 0
}

// committed is a change at a target (I10, I13, I18). content is what the file has then.
func (o *oracle) committed(m *memTarget, c target.Change, content []byte) {
	o.w.count("commits")
	gone := c.Op == target.OpDelete
	was := int(m.highest[c.Path])
	o.learn()
	order := o.order(c, was)
	if order < was && !(gone && m.mirror[c.Path] == nil) {
		o.w.wrong("I18", "link %s goes back to version %d of %q, the target had version %d", m.link.name, order, c.Path, was)
	}
	m.highest[c.Path] = proto.VersionID(max(order, was))
	if x := m.mirror[c.Path]; x != nil {
		x.order = order
	}
	if c.Op == target.OpPut {
		if d := newContent(content).digest; int64(len(content)) != c.Desc.Size || d != c.Desc.Digest {
			o.w.wrong("I10", "link %s commits %d bytes with digest %s as %q, which has %d with %s", m.link.name, len(content), d.Short(), c.Path, c.Desc.Size, c.Desc.Digest.Short())
		}
	}
	if gone && !m.link.propagate {
		o.w.wrong("I13", "link %s deletes %q and does not propagate deletes", m.link.name, c.Path)
	}
}

// deleted counts deletes at a target with the guard of the default policy: a fifth of what it had within 24 hours, from ten on (I13).
// Up to twice as much is let pass: the guard counts what the ledger knows, with directories that other targets make by themselves.
func (o *oracle) deleted(m *memTarget) {
	m.deletes = append(m.deletes, o.w.now)
	recent := 0
	for _, at := range m.deletes {
		if o.w.now-at < int64(24*time.Hour) {
			recent++
		}
	}
	if had := len(m.mirror) - 1 + recent; m.link.guarded && recent >= 10 && recent*5 > 2*had {
		o.w.wrong("I13", "link %s deleted %d of %d objects, its guard allows a fifth", m.link.name, recent, had)
	}
}

// seeHigh notes whether the cache is over its high water, which forces flushes.
func (o *oracle) seeHigh() {
	if o.w.relay.r.HighWater() {
		o.high = o.w.now
	}
}

// sending counts bytes on their way to a target, against its window and rate (I14).
func (o *oracle) sending(l *linkModel, n int) {
	w := o.w
	w.counts["bytes to targets"] += n
	if l.rate > 0 {
		m := l.target
		m.sent = append(m.sent, written{w.now, n})
		if len(m.sent) > 4000 {
			m.sent = m.sent[2000:]
		}
		sum := 0
		for _, s := range slices.Backward(m.sent) {
			span := time.Duration(w.now - s.at)
			if sum += s.n; span > 20*time.Second {
				break
			}
			if allowed := l.rate*span.Seconds()*1.01 + l.rate/2 + 8192; float64(sum) > allowed {
				w.wrong("I14", "link %s sent %d bytes in %s, its rate allows %.0f", l.name, sum, span, allowed)
				break
			}
		}
	}
	at := w.relay.clock.now().UTC()
	o.spend(l, at, int64(n))
	if l.window == [2]int{} {
		return
	}
	from, to, h := l.window[0], l.window[1], at.Hour()
	open := from < to && h >= from && h < to || from > to && (h >= from || h < to)
	o.seeHigh()
	if open || o.high > 0 && w.now-o.high <= int64(time.Second) { // a verdict on a batch under way is good for a second
		return
	}
	if l.deadline > 0 {
		if o.overdue(l, at) {
			w.count("writes forced by a deadline")
			return
		}
	}
	w.wrong("I14", "link %s sends %d bytes at %s, outside its window", l.name, n, at.Format(time.TimeOnly))
}

// spend counts bytes against a link's budget of the day (I14), by the relay's clock. High water goes on over it.
func (o *oracle) spend(l *linkModel, at time.Time, n int64) {
	if l.budget == 0 {
		return
	}
	if o.seeHigh(); o.high > 0 && o.w.now-o.high <= int64(time.Second) {
		o.w.counts["bytes forced over a budget's window"] += int(n)
		return
	}
	if l.spent == nil {
		l.spent = map[int64]int64{}
	}
	day := at.Unix() / (24 * 60 * 60)
	l.spent[day] += n
	o.w.counts["bytes sent under a budget"] += int(n)
	if l.spent[day] >= l.budget-int64(proto.BlockSize) && l.spent[day]-n < l.budget-int64(proto.BlockSize) {
		o.w.count("budgets spent")
	}
	if l.spent[day] > l.budget {
		o.w.wrong("I14", "link %s sent %d bytes on one day, its budget is %d", l.name, l.spent[day], l.budget)
	}
}

// overdue reports whether a link's deadline is over, by the relay's clock. What was acknowledged before the clock was set back
// to before it may be taken for acknowledged when that was seen first, which was not before the clock was set back at all.
func (o *oracle) overdue(l *linkModel, at time.Time) bool {
	q, _, ok := o.oldest(l)
	if !ok {
		return false
	}
	if acked := time.Unix(0, q.AckedNs); !acked.After(at) {
		return at.Sub(acked) >= l.deadline
	}
	return o.w.relay.setBack != 0 && time.Duration(o.w.now-o.w.relay.setBack) >= l.deadline
}

// oldest is the oldest debt that a link can pay, and when, in true time, it was acknowledged.
func (o *oracle) oldest(l *linkModel) (q ledger.OwedRow, at int64, ok bool) {
	o.w.must(ledger.EachDebt(o.w.relay.r.Ledger(), l.id, 0, func(v proto.VersionID, row ledger.OwedRow) (bool, error) {
		if row.Parked || row.State != ledger.OwedCached {
			return true, nil
		}
		q, at, ok = row, o.versions[v].at, true
		return false, nil
	}))
	return q, at, ok
}

// reported is a node's word of what it has and what is gone, which the relay took.
func (o *oracle) reported(a *agent, r proto.Report) {
	o.learn()
	for _, h := range r.Have {
		if v, known := o.versions[h.Version]; known {
			o.saysHas(a, v.path, h.Version)
		}
	}
	for _, g := range r.Gone {
		delete(o.told[a.node], g.Path)
	}
}

// letGo looks at what was released since it looked last: a node that is there must have said, of its present index, that it has
// that content (I1). Whether it still does, the relay cannot know before it is told.
func (o *oracle) letGo() {
	for _, l := range o.w.links {
		o.w.must(ledger.EachDebt(o.w.relay.r.Ledger(), l.id, 0, func(v proto.VersionID, row ledger.OwedRow) (bool, error) {
			d := debt{l.name, v}
			if row.State != ledger.OwedReleased {
				delete(o.released, d)
				return true, nil
			}
			if o.released[d] {
				return true, nil
			}
			o.released[d] = true
			o.w.count("versions let go")
			if ver := o.versions[v]; !slices.ContainsFunc(o.w.agents, func(a *agent) bool { return o.saysItHas(a, ver) }) {
				o.w.wrong("I1", "link %s let go of version %d of %q, and no node that is there has said that it has it", l.name, v, ver.path)
			}
			return true, nil
		}))
	}
}

// saysItHas reports whether a node was heard of lately and said that it has a version's content.
func (o *oracle) saysItHas(a *agent, v version) bool {
	t, ok := o.told[a.node][v.path]
	lately := o.w.cfg.suspicion + 2*o.w.cfg.round + 10*time.Second
	known := t.index == a.ix.id || t.index == a.lost && o.w.now-a.wiped <= int64(lately) // else the relay has seen the session end
	return ok && known && t.digest == v.desc.Digest && o.w.now-o.seen[a.node] <= int64(lately)
}

func (o *oracle) flushEvent(ev flush.Event) {
	o.w.note("link %s: %s %d", ev.Link, ev.Kind, ev.Objects)
	if ev.Kind == flush.ObjectParked {
		o.w.count("objects parked")
		o.w.note("%s: %v", ev.Path, ev.Err)
	}
}

// learn takes in what the relay published since the oracle looked last: tombstones come from the relay alone.
func (o *oracle) learn() {
	r := o.w.relay.r
	if r == nil {
		return
	}
	d, err := ledger.DatasetByName(r.Ledger(), media)
	o.w.must(err)
	if d.ID == 0 {
		return
	}
	for o.head < d.Head {
		rep, err := ledger.Feed(r.Ledger(), d.ID, o.head, 1000)
		o.w.must(err)
		for _, it := range rep.Items {
			if it.Kind == proto.KindTombstone {
				o.buried(it.Version, it.Path)
			} else if _, known := o.versions[it.Version]; !known {
				o.w.wrong("I8", "version %d of %q is published and was never acknowledged to anybody", it.Version, it.Path)
				o.sealed(it.Version, it.Path, proto.Desc{Kind: it.Kind, Size: it.Size, Digest: it.Digest, LinkTo: it.LinkTo})
			}
		}
		if rep.Next <= o.head {
			return
		}
		o.head = rep.Next
	}
}

// ledgerMoved reports whether the ledger changed since it was asked last, as far as its counters tell.
func (o *oracle) ledgerMoved() bool {
	r := o.w.relay.r
	if r == nil {
		return false
	}
	m, err := ledger.ReadMeta(r.Ledger())
	o.w.must(err)
	m.LastEvent, m.Stores = 0, nil
	now := string(proto.Marshal(m))
	for _, prefix := range []byte{'D', 'L', 'H'} { // datasets, links, holders
		o.w.must(r.Ledger().Scan([]byte{prefix}, []byte{prefix + 1}, func(_, v []byte) (bool, error) {
			now += string(v)
			return true, nil
		}))
	}
	was := o.before
	o.before = now
	return now != was
}

func (o *oracle) crashing() { o.learn() }

func (o *oracle) started() {
	o.since = o.w.now
}

// paths are all that any version ever had.
func (o *oracle) paths() []string { return slices.Sorted(maps.Keys(o.byPath)) }
