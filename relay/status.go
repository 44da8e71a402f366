package relay

import (
	"math"
	"slices"
	"strings"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/session"
	"forebay/shard/store"
)

// gather reads what Status says. It reads counts that are kept, never all rows, so that it stays cheap with any backlog. They are
// read as they are: a power cut may take back the last commit group of them, whereas status that waited for a sync would be
// silent when it is needed most, while the ledger's disk hangs.
func (r *Relay) gather() (proto.Status, error) {
	now := r.now()
	s := proto.Status{Schema: proto.StatusSchema, Relay: r.cfg.Name, Version: r.cfg.Software, Now: stamp(now), Health: proto.Green,
		Problems: []proto.Problem{}, Nodes: []proto.NodeStatus{}, Links: []proto.LinkStatus{}, Datasets: []proto.DatasetInfo{}, Ledger: r.ledgerStatus()}
	meta, err := ledger.ReadMeta(r.ledger)
	if err != nil {
		return s, err
	}
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return s, err
	}
	if err := r.cacheStatus(&s.Cache, meta, rows, now); err != nil {
		return s, err
	}
	if s.Nodes, err = r.nodeStatus(now); err != nil {
		return s, err
	}
	if r.flush != nil {
		s.Bandwidth = r.flush.Bandwidth()
	}
	settled := r.settledAt()
	for _, l := range rows {
		if l.Name == "" { // on its way out
			continue
		}
		ls, err := r.linkStatus(l, settled[l.Dataset], now)
		if err != nil {
			return s, err
		}
		s.Links = append(s.Links, ls)
	}
	announced, err := r.announced()
	if err != nil {
		return s, err
	}
	if s.Datasets, err = r.datasetStatus(announced); err != nil {
		return s, err
	}
	s.Problems = r.problems.list(r.findProblems(&s, announced), now)
	for _, p := range s.Problems {
		s.Health = worse(s.Health, p.Health)
	}
	return s, nil
}

func worse(a, b proto.Health) proto.Health {
	if a == proto.Red || b == proto.Red {
		return proto.Red
	}
	if a == proto.Yellow || b == proto.Yellow {
		return proto.Yellow
	}
	return proto.Green
}

func (r *Relay) cacheStatus(c *proto.CacheStatus, m ledger.Meta, links []ledger.LinkRow, now time.Time) error {
	c.UsedBytes, c.CapacityBytes, c.Segments = m.StoredBytes, r.stores.Capacity(), m.Segments
	c.AckedBytes, c.WastedBytes = m.AckedBytes, m.WastedBytes
	c.InflowBytesPerSecond = r.inflow.rate(now)
	c.Coding = r.stores.Coding().String()
	worst := "accepting"
	for _, st := range r.stores.States() {
		c.WrittenBytes += st.WrittenBytes
		if st.State != store.OK && st.State != store.Drained {
			worst = "degraded"
		}
	}
	c.Stores = r.storeStatus()
	g, err := r.stores.Accepting()
	switch {
	case err != nil:
		worst = "refusing"
	case r.admission.isFull():
		worst = "full"
		c.CodingNow = g.String()
	default:
		c.CodingNow = g.String()
	}
	c.State = worst
	c.HighWaterBytes, c.LowWaterBytes = r.admission.marks()
	if growth := r.growth.rate(now); growth > 0 && (worst == "accepting" || worst == "degraded") {
		// What leases may still bring is refused to others already. Both sides are raw bytes: small objects take more of the
		// stores than their payload says.
		r.tableMu.Lock()
		reserved := float64(r.table.Reserved()) * float64(g.Shards()) / float64(g.Data)
		r.tableMu.Unlock()
		c.OutageSeconds = math.Max(float64(c.HighWaterBytes-c.UsedBytes)-reserved, 0) / growth
	}
	for _, l := range links {
		q, ok, err := ledger.OldestOwed(r.ledger, l, 1000, nil)
		if err != nil {
			return err
		}
		if ok {
			c.OldestSeconds = math.Max(c.OldestSeconds, age(now, q.Owed.AckedNs))
		}
	}
	r.rebuildStatus(c, now)
	c.Scrub = r.Scrub()
	cached := int64(0)
	for _, l := range links {
		cached += l.CachedBytes
	}
	c.OnlyCopyBytes = min(r.problems.onlyCopy(), cached) // the figure is some seconds old
	return nil
}

func (r *Relay) rebuildStatus(c *proto.CacheStatus, now time.Time) {
	sum, done, _ := r.summary()
	c.DegradedSegments = sum.Degraded
	b := &c.Rebuild
	b.WaitingSegments, b.WaitingBytes, b.StuckSegments, b.UnreadableSegments = sum.Waiting, sum.Bytes, sum.Stuck, sum.Unreadable
	b.DoneSegments, b.DoneBytes, b.LastError = done.segments, done.bytes, done.last
	if took := now.Sub(done.began).Seconds(); !done.began.IsZero() && took > 0 {
		b.RateBytesPerSecond = float64(done.bytes) / took
	}
	if b.RateBytesPerSecond > 0 {
		b.ETASeconds = float64(b.WaitingBytes) / b.RateBytesPerSecond
	}
}

// age is how long ago ns was, in seconds, never negative.
func age(now time.Time, ns int64) float64 {
	if ns == 0 {
		return 0
	}
	return math.Max(now.Sub(time.Unix(0, ns)).Seconds(), 0)
}

func (r *Relay) nodeStatus(now time.Time) ([]proto.NodeStatus, error) {
	rows, err := ledger.Nodes(r.ledger)
	if err != nil {
		return nil, err
	}
	live := r.book.All()
	out := []proto.NodeStatus{}
	for _, n := range rows {
		ns := proto.NodeStatus{Node: n.Node, Cluster: n.Cluster, State: "away", Version: n.Software, LastSeenSeconds: r.away(n).Seconds(),
			UploadedBytes: n.Uploaded, Takeovers: n.Takeovers, Roots: []proto.RootInfo{}}
		for _, s := range live {
			if s.Cluster == n.Cluster && s.Node == n.Node {
				r.fillNode(&ns, s, now)
			}
		}
		if n.Cordoned {
			ns.State = "cordoned"
		}
		out = append(out, ns)
	}
	return out, nil
}

func (r *Relay) fillNode(ns *proto.NodeStatus, s session.Session, now time.Time) {
	ns.State, ns.Version, ns.Address, ns.Notice = "alive", s.Software, s.Address, s.Notice
	ns.LastSeenSeconds = now.Sub(s.Seen).Seconds()
	if now.Sub(s.Seen) > r.book.Suspicion()/2 {
		ns.State = "suspect"
	}
	ns.ClockSkewSeconds = math.Round(s.Skew.Seconds()*1000)/1000 + 0 // no -0
	var watch []string
	for _, root := range s.Roots {
		st := root.Status
		ns.UnsentBytes += st.UnsentBytes
		ns.UnsentObjects += st.UnsentCount
		ns.Skipped += st.Skipped
		ns.Unreadable += st.Unreadable
		ns.Divergent += st.Divergent
		ns.Lagging += st.Lagging
		ns.Unsettled += st.Unsettled
		if !slices.Contains(watch, st.Watch) && st.Watch != "" {
			watch = append(watch, st.Watch)
		}
		if scan := stampNs(st.LastScanNs); scan != "" && (ns.LastScan == "" || scan < ns.LastScan) {
			ns.LastScan = scan // the oldest of its roots
		}
		ns.Roots = append(ns.Roots, proto.RootInfo{Holder: root.Holder, Dataset: root.Name.String(), Path: root.Path, Objects: st.Objects, Bytes: st.Bytes,
			Watch: st.Watch, LastScan: stampNs(st.LastScanNs), Problem: st.Problem, Failures: root.Failures[:min(len(root.Failures), 5)]})
	}
	ns.Watch = strings.Join(watch, ",")
}

// settledAt returns up to when the holders of each dataset have settled what they found, where one of them has something to send.
func (r *Relay) settledAt() map[proto.DatasetID]time.Time {
	out := map[proto.DatasetID]time.Time{}
	for _, s := range r.book.All() {
		for _, root := range s.Roots {
			if !root.Said || root.Status.UnsentCount <= root.Status.Unreadable+root.Status.Unsettled || root.SettledAt.IsZero() {
				continue
			}
			if at, ok := out[root.Dataset]; !ok || root.SettledAt.Before(at) {
				out[root.Dataset] = root.SettledAt
			}
		}
	}
	return out
}

// linkStatus is the status of one link, of whose dataset all holders have settled what they found up to a time; zero: to now.
func (r *Relay) linkStatus(l ledger.LinkRow, settled, now time.Time) (proto.LinkStatus, error) {
	cfg, configured := r.link(l.Name)
	s := proto.LinkStatus{Name: l.Name, From: l.From.String(), To: cfg.To, State: "idle", BacklogObjects: l.OwedObjects, BacklogBytes: l.OwedBytes,
		ConfirmedObjects: l.ConfirmedObjects, ConfirmedBytes: l.ConfirmedBytes, LastConfirmedAt: stampNs(l.ConfirmedNs), ParkedObjects: l.ParkedObjects,
		OwedNotCachedObjects: l.ReleasedObjects, Overrides: len(l.Overrides), ForcedBytes: l.ForcedBytes, BudgetLeftBytes: -1,
		LastBytesPerSecond: l.Speed}
	if r.flush != nil && configured {
		r.flush.Status(l.Name, &s)
	}
	if l.Orphaned || !configured {
		s.State, s.Reason = "orphaned", "no longer in the configuration; forebay link drop "+l.Name+" gives up what it owes"
	}
	q, ok, err := ledger.OldestOwed(r.ledger, l, 1000, nil)
	if err != nil {
		return s, err
	}
	if ok {
		s.OldestSeconds = age(now, q.Owed.AckedNs)
		s.LagSeconds = s.OldestSeconds
	}
	if !settled.IsZero() {
		s.LagSeconds = math.Max(s.LagSeconds, now.Sub(settled).Seconds())
	}
	return s, nil
}

// announced returns the names of the datasets that some known node holds.
func (r *Relay) announced() (names []string, err error) {
	ds, err := ledger.Datasets(r.ledger)
	if err != nil {
		return nil, err
	}
	hs, err := ledger.Holders(r.ledger)
	for _, d := range ds {
		if slices.ContainsFunc(hs, func(h ledger.HolderRow) bool { return h.Dataset == d.ID }) {
			names = append(names, d.Name.String())
		}
	}
	return names, err
}

// datasetStatus lists the datasets that there are: a name that only a link has, or had, is none.
func (r *Relay) datasetStatus(announced []string) ([]proto.DatasetInfo, error) {
	rows, err := ledger.Datasets(r.ledger)
	if err != nil {
		return nil, err
	}
	receiving := map[proto.DatasetID]int64{}
	err = ledger.EachUpload(r.ledger, func(_ proto.UploadID, u ledger.UploadRow) (bool, error) {
		receiving[u.Dataset]++
		return true, nil
	})
	out := []proto.DatasetInfo{}
	for _, d := range rows {
		if d.Objects == 0 && !slices.Contains(announced, d.Name.String()) {
			continue
		}
		out = append(out, proto.DatasetInfo{Name: d.Name.String(), Head: d.Head, Objects: d.Objects, Bytes: d.Bytes, Receiving: receiving[d.ID], UnderHeld: d.Gone, Linked: r.wanted(d.Name)})
	}
	return out, err
}
