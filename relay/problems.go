package relay

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/units/nearest"
)

// problems remembers since when each problem stands, and what the slow looks found.
type problems struct {
	mu       sync.Mutex
	since    map[string]time.Time
	reported map[string]proto.Health
	standing []proto.Problem // from outside: a configuration that was not taken
	only     atomic.Int64    // bytes that no live holder has
	stuck    map[string]progress
}

// progress is when a link last confirmed something, as the watch saw it.
type progress struct {
	confirmed int64
	staged    int64 // bytes: a large object over a slow line takes its time
	at        time.Time
}

func (p *problems) onlyCopy() int64 { return p.only.Load() }

// list gives each problem its beginning, and orders them worst first.
func (p *problems) list(found []proto.Problem, now time.Time) []proto.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	found = append(found, p.standing...)
	if p.since == nil {
		p.since = map[string]time.Time{}
	}
	seen := map[string]bool{}
	for i := range found {
		k := found[i].Code + "\x00" + subject(found[i].What)
		seen[k] = true
		if _, ok := p.since[k]; !ok {
			p.since[k] = now
		}
		found[i].Since = stamp(p.since[k])
	}
	for k := range p.since {
		if !seen[k] {
			delete(p.since, k)
		}
	}
	slices.SortStableFunc(found, func(a, b proto.Problem) int {
		return rank(b.Health) - rank(a.Health)
	})
	if found == nil {
		found = []proto.Problem{}
	}
	return found
}

// subject is the part of a problem's text that stays the same while its figures change.
func subject(what string) string {
	head, _, _ := strings.Cut(what, ":")
	return head
}

func rank(h proto.Health) int {
	switch h {
	case proto.Red:
		return 2
	case proto.Yellow:
		return 1
	}
	return 0
}

// SetStanding sets problems that the relay cannot see by itself, such as a configuration file that was not taken.
func (r *Relay) SetStanding(ps []proto.Problem) {
	r.problems.mu.Lock()
	defer r.problems.mu.Unlock()
	r.problems.standing = ps
}

// finder gathers problems.
type finder struct{ out []proto.Problem }

func (f *finder) add(code string, h proto.Health, do, what string, args ...any) {
	f.out = append(f.out, proto.Problem{Code: code, Health: h, What: fmt.Sprintf(what, args...), Do: do})
}

// skewLimit is from when on an agent's clock is shown as wrong.
const skewLimit = 5.0

// stuckAfter is how long a link may have work, be free to do it, and move nothing before that is red.
const stuckAfter = 5 * time.Minute

// findProblems reads a status for what needs somebody. announced are the datasets that some node holds.
func (r *Relay) findProblems(s *proto.Status, announced []string) []proto.Problem {
	var f finder
	if r.cfg.Insecure {
		f.add("insecure", proto.Red, "listen on loopback, or put the relay behind a tunnel, until TLS is there", "the relay listens beyond loopback without TLS: anyone who reaches it can read and write")
	}
	if r.meta.Outdated {
		f.add("ledger-outdated", proto.Red, "stop the relay, move data/ledger away and run forebay relay --recover-ledger; until then, what the stores have beyond the ledger is kept", "ledger: it is older than what was acknowledged, as if put back from an old copy or cut at its end: it does not know what came since")
	}
	f.files(r.cfg.FileLimit)
	f.memory(r.cfg.Memory)
	f.ledger(s.Ledger)
	f.cache(&s.Cache)
	if n := r.admission.refusedSize(); n > 0 {
		f.add("object-too-large", proto.Red, "look why no link of its dataset can stage, or raise cache.capacity; until then that object is not backed up", "cache: an object needs %d bytes of cache, more than may be used, and no link's target can take it as it comes", n)
	}
	for _, n := range s.Nodes {
		f.node(n)
	}
	r.twins.list(&f, r.now())
	r.clockProblem(&f)
	r.comingProblems(&f)
	r.waitingProblems(&f)
	r.awaitedProblems(&f)
	for _, s := range r.book.All() {
		for _, root := range s.Roots {
			f.own(s.Cluster+"/"+s.Node, root.Path, root.Failures)
			f.slow(s.Cluster+"/"+s.Node, root.Path, root.Status.SlowFor)
		}
	}
	for i := range s.Links {
		r.linkProblems(&f, &s.Links[i], announced)
	}
	for _, d := range s.Datasets {
		if !d.Linked && held(s.Nodes, d.Name) {
			f.add("no-link", proto.Yellow, "name it in a link's from:, or take it out of the agents' datasets", "dataset %s: no link names it, nothing of it is backed up", d.Name)
		}
	}
	return f.out
}

// held reports whether a live node holds a dataset.
func held(nodes []proto.NodeStatus, dataset string) bool {
	return slices.ContainsFunc(nodes, func(n proto.NodeStatus) bool {
		return slices.ContainsFunc(n.Roots, func(r proto.RootInfo) bool { return r.Dataset == dataset })
	})
}

func (f *finder) cache(c *proto.CacheStatus) {
	switch c.State {
	case "refusing":
		f.add("refusing", proto.Red, "bring stores back, see forebay stores", "cache: not enough healthy stores for coding %s, nothing is accepted", c.Coding)
	case "full":
		f.add("cache-full", proto.Red, "see which link holds it: forebay status; widen its window, or raise cache.capacity", "cache: %d of %d bytes are used, nothing new is accepted", c.UsedBytes, c.CapacityBytes)
	}
	for _, st := range c.Stores {
		f.store(st)
	}
	if n := c.Rebuild.UnreadableSegments; n > 0 {
		f.add("unreadable-segments", proto.Red, "bring the stores back; one that is gone for good: forebay stores replace, or stores drain --lost, has what was on it asked for again",
			"unreadable segments: %d have too few shards within reach", n)
	}
	if c.DegradedSegments > 0 {
		do := "nothing; they are coded anew by themselves"
		if c.Rebuild.StuckSegments > 0 {
			do = "bring stores back, or add one (forebay stores add): too few take data to code them anew"
		}
		f.add("degraded", proto.Yellow, do, "cache: %d segments have fewer good shards within reach than their coding", c.DegradedSegments)
	}
	if c.OnlyCopyBytes > 0 {
		f.add("only-copy", proto.Yellow, "let the links flush, or bring a holder back", "cache: %d bytes are owed that no live holder has", c.OnlyCopyBytes)
	}
}

func (f *finder) store(st proto.StoreStatus) {
	switch {
	case st.Role == "draining":
		f.add("store-draining", proto.Yellow, "wait; then take it out of cache.stores", "store %s: it is being drained, %d segments are still in it", st.Path, st.Segments)
	case st.Role == "drained":
		f.add("store-drained", proto.Yellow, "take it out of cache.stores, or use it again: forebay stores add "+st.Path, "store %s: it is drained and closed", st.Path)
	case st.State == "missing" && st.Unconfigured:
		f.add("store-missing", proto.Yellow, "put it back into cache.stores, or, when it is gone for good: forebay stores drain --lost "+st.Path, "store %s: %s, %s", st.Path, st.State, st.LastError)
	case st.State != "ok":
		f.add("store-"+st.State, proto.Yellow, "check the disk and its mount; the relay takes the store back by itself; a new, empty disk in its place: forebay stores replace "+st.Path,
			"store %s: %s, %s", st.Path, st.State, st.LastError)
	}
	if st.Unconfigured && st.State != "missing" && st.Role == "" {
		f.add("store-unconfigured", proto.Yellow, "put it into cache.stores", "added store %s: the configuration does not name it", st.Path)
	}
}

func (f *finder) node(n proto.NodeStatus) {
	name := n.Cluster + "/" + n.Node
	if n.State == "away" {
		f.add("node-away", proto.Yellow, "start its agent; forebay nodes forget "+n.Node+" when it is gone for good", "node %s: its agent is away", name)
	}
	if math.Abs(n.ClockSkewSeconds) > skewLimit {
		f.add("clock-skew", proto.Yellow, "set its clock (NTP)", "node %s: its clock is off by %.0f s", name, n.ClockSkewSeconds)
	}
	if n.Notice != "" {
		f.add("config", proto.Yellow, "mend its file (forebay configcheck there) and reload or restart its agent", "node %s: %s", name, n.Notice)
	}
	for _, root := range n.Roots {
		if root.Problem != "" {
			f.add("root", proto.Red, "see to the root; nothing of it is taken for deleted", "node %s %s: %s", name, root.Path, root.Problem)
		}
	}
	if n.Unreadable > 0 {
		f.add("unreadable", proto.Yellow, "forebay wait and /v1/failures list them; let the agent read them (CAP_DAC_READ_SEARCH)", "node %s: %d objects cannot be read", name, n.Unreadable)
	}
	if n.Divergent > 0 {
		f.add("divergent", proto.Yellow, "make the replicas agree; this node's content is not backed up", "node %s: %d objects differ from what the other holders have", name, n.Divergent)
	}
}

// own tells of directories in a root that are Forebay's own.
func (f *finder) own(node, root string, failures []proto.Failure) {
	for _, x := range failures {
		if x.Kind == proto.FailSkipped && strings.HasPrefix(x.Reason, proto.SkippedOwn) {
			f.add("own-data", proto.Yellow, "give it a place outside of the dataset, or exclude it there", "node %s %s/%s: it is skipped: %s", node, root, x.Path, x.Reason)
		}
	}
}

func (r *Relay) linkProblems(f *finder, l *proto.LinkStatus, announced []string) {
	switch l.State {
	case "stalled":
		h := proto.Yellow
		if l.BacklogObjects > 0 {
			h = proto.Red
		}
		f.add("link-stalled", h, "bring the target back, or mend what it says; the link goes on by itself", "link %s: %s", l.Name, l.Reason)
	case "held":
		f.add("deletes-held", proto.Yellow, "look at forebay deletes "+l.Name+", then forebay deletes approve "+l.Name, "link %s: %d deletes are held: %s", l.Name, l.HeldDeletes, l.Reason)
	case "orphaned":
		f.add("link-orphaned", proto.Yellow, "put it back into the configuration, or forebay link drop "+l.Name, "link %s: %s", l.Name, l.Reason)
	}
	if l.HistoryHeld != "" {
		f.add("history-held", proto.Yellow, "look at forebay history "+l.Name+", then forebay history prune "+l.Name+", or set history.keep back", "link %s: %s", l.Name, l.HistoryHeld)
	}
	if l.ParkedObjects > 0 {
		f.add("parked", proto.Yellow, "mend the cause, then forebay retry "+l.Name, "link %s: %d objects are parked after errors", l.Name, l.ParkedObjects)
	}
	r.problems.mu.Lock()
	p, ok := r.problems.stuck[l.Name]
	r.problems.mu.Unlock()
	if ok && l.State == "flushing" && l.BacklogObjects > 0 && r.now().Sub(p.at) > stuckAfter {
		f.add("link-stuck", proto.Red, "see the log; work waits and nothing moves", "link %s: nothing was confirmed or staged for %s", l.Name, r.now().Sub(p.at).Round(time.Minute))
	}
	if !slices.Contains(announced, l.From) && l.State != "orphaned" {
		do := "start the agents that hold it"
		if near := nearest.Name(l.From, announced); near != "" {
			do = fmt.Sprintf("did you mean %s? else start the agents that hold %s", near, l.From)
		}
		f.add("no-holder", proto.Yellow, do, "link %s: nobody announces its dataset %s", l.Name, l.From)
	}
}

// watchProblems tells problems as events when they come and go, and does the looks that are too slow for a status.
func (r *Relay) watchProblems(ctx context.Context) error {
	return every(ctx, time.Second, func(n int) { r.problemRound(ctx, n) })
}

// problemRound is the n-th look at what is wrong, from 0.
func (r *Relay) problemRound(ctx context.Context, n int) {
	if n%30 == 0 {
		r.slowLook()
	}
	s, err := r.Status(ctx)
	if err != nil {
		return // the ledger failed: Run ends with it
	}
	r.noteProgress(s.Links)
	r.noteComing(&s)
	r.tellProblems(s.Problems)
}

func (r *Relay) noteProgress(links []proto.LinkStatus) {
	r.problems.mu.Lock()
	defer r.problems.mu.Unlock()
	if r.problems.stuck == nil {
		r.problems.stuck = map[string]progress{}
	}
	for _, l := range links {
		p, ok := r.problems.stuck[l.Name]
		if !ok || p.confirmed != l.ConfirmedObjects || p.staged != l.StagedBytes || l.State != "flushing" {
			r.problems.stuck[l.Name] = progress{confirmed: l.ConfirmedObjects, staged: l.StagedBytes, at: r.now()}
		}
	}
}

func (r *Relay) tellProblems(ps []proto.Problem) {
	now := map[string]proto.Health{}
	r.problems.mu.Lock()
	defer r.problems.mu.Unlock()
	for _, p := range ps {
		k := p.Code + "\x00" + subject(p.What)
		was, known := r.problems.reported[k]
		now[k] = p.Health
		if !known || was != p.Health && p.Health == proto.Red {
			r.event("problem", p.What, map[string]string{"code": p.Code, "health": string(p.Health), "do": p.Do})
		}
	}
	for k := range r.problems.reported {
		if _, ok := now[k]; !ok {
			code, what, _ := strings.Cut(k, "\x00")
			r.event("problem-gone", what, map[string]string{"code": code})
		}
	}
	r.problems.reported = now
}

// slowLook counts what would be too slow for each status.
func (r *Relay) slowLook() {
	r.problems.only.Store(r.onlyCopies())
	if err := r.lookAwaited(); err != nil {
		r.deps.Log.Warn().Err(err).Msg("it was not looked which content is awaited")
	}
}

// onlyLook is how many owed versions a look at them reads about, of all links together: some 10 µs each, twice a minute.
const onlyLook = 100_000

// onlyCopies adds up what links owe from the cache and no live holder has: what the cache has not either is awaited. It looks at the
// oldest of each link: of as many as its part of onlyLook.
func (r *Relay) onlyCopies() (bytes int64) {
	ls, err := ledger.Links(r.ledger)
	if err != nil {
		return 0
	}
	counted := map[proto.DatasetID]map[proto.VersionID]bool{}
	for _, l := range ls {
		left := max(onlyLook/len(ls), 100)
		keepers, err := r.keepers(l.Dataset)
		if err != nil {
			return 0
		}
		if counted[l.Dataset] == nil {
			counted[l.Dataset] = map[proto.VersionID]bool{}
		}
		_ = ledger.EachOwed(r.ledger, l, 0, func(q ledger.OwedVersion) (bool, error) { // a figure: what can be read counts
			left--
			if q.Owed.Bytes == 0 || q.Owed.State != ledger.OwedCached || counted[l.Dataset][q.Version] {
				return left > 0, nil
			}
			o, _, err := ledger.Object(r.ledger, l.Dataset, q.Row.Path)
			if err == nil && (o.Current.Version != q.Version || !keepers.have(&o)) {
				counted[l.Dataset][q.Version] = true
				bytes += q.Owed.Bytes
			}
			return left > 0, nil
		})
	}
	return bytes
}
