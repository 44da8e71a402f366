package relay

import (
	"slices"
	"strings"
	"sync"
	"time"

	"forebay/proto"
	"forebay/relay/arbiter"
	"forebay/relay/session"
)

// The watch of what comes in: agents have something that the relay lacks, the relay could take it, and nothing moves. Each known cause
// has a problem of its own; this one is for what nobody has thought of (I17). What is slow is not stuck: bytes that arrive, and objects
// that are read or settled, count as a move.
const (
	comingYellow = 3 * time.Minute
	comingRed    = 10 * time.Minute
	// comingTurns bounds both from below, in suspicion times: holders wait for their turns to claim.
	comingTurns = 20
)

// coming is what there is to come, by dataset.
type coming struct {
	mu sync.Mutex
	by map[proto.DatasetID]*arrival
}

// arrival is what comes of one dataset.
type arrival struct {
	toCome
	moved bool  // since the last look: bytes came, or something was acknowledged
	since int64 // the running time since which something waits and nothing moves; 0: nothing waits
}

// toCome is what the holders of a dataset have told of it.
type toCome struct {
	name         proto.Dataset
	objects      int64 // that wait to be sent or settled
	unsent, read int64 // all that are unsent, and bytes read ever: their changes are moves
	nodes        []string
	room         bool // a claim found no room in the cache lately
}

// move notes that something of a dataset came.
func (c *coming) move(ds proto.DatasetID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.by[ds]; a != nil {
		a.moved = true
	}
}

// look is told what there is to come by now, in running time, and whether nothing that is shown otherwise keeps it from coming. A dataset
// that is not in all has no holder that is there.
func (c *coming) look(all map[proto.DatasetID]toCome, free func(proto.DatasetID) bool, up int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[proto.DatasetID]*arrival{}
	for ds, w := range all {
		a := &arrival{toCome: w, since: up}
		if was := c.by[ds]; was != nil && was.since != 0 && !was.moved && w.unsent >= was.unsent && w.read == was.read && free(ds) {
			a.since = was.since
		}
		if w.objects == 0 {
			a.since = 0
		}
		next[ds] = a
	}
	c.by = next
}

// stuck is told for how long nothing moved of what waits.
func (c *coming) stuck(up int64, fn func(a arrival, since time.Duration)) {
	c.mu.Lock()
	var list []arrival
	for _, a := range c.by {
		if a.since != 0 {
			list = append(list, *a)
		}
	}
	c.mu.Unlock()
	slices.SortFunc(list, func(a, b arrival) int { return strings.Compare(a.name.String(), b.name.String()) })
	for _, a := range list {
		fn(a, time.Duration(up-a.since))
	}
}

// Came notes that bytes of a session are on their way: over a slow line, a segment takes minutes.
func (r *Relay) Came(id proto.SessionID) {
	s, ok := r.book.Get(id)
	if !ok {
		return
	}
	for _, root := range s.Roots {
		r.coming.move(root.Dataset)
	}
}

// noteComing looks at what agents have to send. Of what cannot be read, or changes all the time, other problems tell.
func (r *Relay) noteComing(s *proto.Status) {
	all := map[proto.DatasetID]toCome{}
	for _, sess := range r.book.All() {
		if isCordoned(s.Nodes, sess) {
			continue
		}
		for _, root := range sess.Roots {
			st := root.Status
			if !root.Said || !r.wanted(root.Name) {
				continue
			}
			w := all[root.Dataset]
			w.name, w.unsent, w.read = root.Name, w.unsent+st.UnsentCount, w.read+st.ReadBytes
			if n := st.UnsentCount - st.Unreadable - st.Unsettled; n > 0 && st.Problem == "" {
				w.objects += n
				if !slices.Contains(w.nodes, sess.Node) {
					w.nodes = append(w.nodes, sess.Node)
				}
			}
			all[root.Dataset] = w
		}
	}
	for ds, w := range all {
		w.room = r.admission.refuses(ds)
		all[ds] = w
	}
	takes := s.Cache.State != "full" && s.Cache.State != "refusing" && s.Ledger.State == "ok" && r.admission.refusedSize() == 0
	r.coming.look(all, func(ds proto.DatasetID) bool { return takes && !r.streamsOf(ds) }, r.up())
}

func isCordoned(nodes []proto.NodeStatus, s session.Session) bool {
	return slices.ContainsFunc(nodes, func(n proto.NodeStatus) bool {
		return n.Cluster == s.Cluster && n.Node == s.Node && n.State == "cordoned"
	})
}

// streamsOf reports whether an object of a dataset streams: it goes as its targets take it, whose links say why they wait.
func (r *Relay) streamsOf(ds proto.DatasetID) (is bool) {
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	r.table.Each(func(l *arbiter.Lease) { is = is || l.Dataset == ds && l.Allowance > 0 })
	return is
}

func (r *Relay) comingProblems(f *finder) {
	turns := comingTurns * r.book.Suspicion()
	yellow, red := max(comingYellow, turns), max(comingRed, 2*turns)
	r.coming.stuck(r.up(), func(a arrival, since time.Duration) {
		if since < yellow {
			return
		}
		h, do := proto.Yellow, "look at the logs of its agents and of the relay, and forebay where OBJECT; it is tried all the time"
		if since >= red {
			h = proto.Red
		}
		why := ""
		if a.room { // the links have what keeps it, and each says what it waits for
			h, why, do = proto.Yellow, "; the last claim found no room in the cache", "see which link holds the cache: forebay status; or raise cache.capacity"
		}
		f.add("ingest-stuck", h, do, "dataset %s: %d objects wait at %s, and nothing was acknowledged for %s%s", a.name, a.objects, strings.Join(a.nodes, ", "), since.Round(time.Minute), why)
	})
}
