package relay

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// When there is no room, links let go of content that live holders have: it stays owed, and is asked for again (see asking). A link
// whose target is not there, or that is slow, does not hold up the others by what it has of the cache beyond its share (I15).

// holding is what a link has in the cache, and may have, in raw bytes.
type holding struct {
	cached, share int64
	works         bool // its target is there: it does not go below its share
}

// letGo returns how much each of the links is to let go for the cache to come down from used to goal: what they have beyond their
// shares, and what those that do not work together have beyond the goal, for the rest will go without that.
func letGo(used, goal int64, links []holding) []int64 {
	out := make([]int64, len(links))
	need, stay := used-goal, int64(0)
	for i, l := range links {
		out[i] = max(min(l.cached-l.share, need), 0)
		need -= out[i]
		if !l.works {
			stay += l.cached - out[i]
		}
	}
	beyond := min(need, stay-goal)
	for i, l := range links {
		if l.works {
			continue
		}
		n := max(min(l.cached-out[i], beyond), 0)
		out[i] += n
		beyond -= n
	}
	return out
}

const (
	// lagPatience is how long a link that works may keep others waiting by what it has beyond its share: what only waits for
	// conditions or a window is forced out meanwhile.
	lagPatience = 30 * time.Second
	// releaseBatch bounds what is let go of in one entry.
	releaseBatch = 4096
	// olderLook bounds a look at what a link has to send before what was let go.
	olderLook = 4096
	// lookRest is how long such a look is not repeated, for each debt that it met: held deletes and parked objects may be a million.
	lookRest = 50 * time.Microsecond
)

// laggards are the links that let go of content when there was no room, until all of it has come again, and those that are about to.
// After a restart of the relay they are found anew.
type laggards struct {
	mu sync.Mutex
	// over is since when, in running time, a link that works has kept others waiting.
	over map[ledger.LinkID]int64
	// behind is the newest version that each of them let go of.
	behind map[ledger.LinkID]proto.VersionID
	// older is, of each link that asks for content again, how much of what comes before it the cache has, in content bytes:
	// math.MaxInt64 for much.
	older map[ledger.LinkID]int64
	// rest is until when, in running time, each of them is not looked at again. The sweep's own.
	rest map[ledger.LinkID]int64
	// pressed is whether the cache was over its high water, or lacked room, at the last look. The sweep's own.
	pressed bool
}

func (g *laggards) init() {
	g.over, g.behind, g.older = map[ledger.LinkID]int64{}, map[ledger.LinkID]proto.VersionID{}, map[ledger.LinkID]int64{}
	g.rest = map[ledger.LinkID]int64{}
}

// look notes how far those are that let go of content. Nothing is asked of holders for a stalled one, which is not looked at. up is the
// relay's running time.
func (g *laggards) look(r ledger.Rows, ls []ledger.LinkRow, stalled func(link string) bool, up int64) error {
	older := map[ledger.LinkID]int64{}
	for _, l := range ls {
		switch {
		case l.ReleasedObjects == 0:
			delete(g.rest, l.ID)
		case stalled(l.Name):
			older[l.ID] = math.MaxInt64
			delete(g.rest, l.ID)
		case up < g.rest[l.ID]:
			_, older[l.ID] = g.get(l.ID)
		default:
			n, rows, err := olderThanReleased(r, l.ID)
			if err != nil {
				return err
			}
			older[l.ID], g.rest[l.ID] = n, up+int64(rows)*int64(lookRest)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.older = older
	for id := range g.behind {
		if _, still := older[id]; !still {
			delete(g.behind, id)
		}
	}
	return nil
}

// olderThanReleased returns how many content bytes the cache has of what a link sends before the first that was let go, and at how many
// debts it looked.
func olderThanReleased(r ledger.Rows, id ledger.LinkID) (sum int64, rows int, err error) {
	looked := 0
	err = ledger.EachDebt(r, id, 0, func(_ proto.VersionID, q ledger.OwedRow) (bool, error) {
		rows++
		switch {
		case q.Parked || q.Bytes == 0:
			return true, nil
		case q.State == ledger.OwedReleased:
			return false, nil
		case looked == olderLook:
			sum = math.MaxInt64
			return false, nil
		}
		looked++
		sum += q.Bytes - q.Staged
		return true, nil
	})
	return sum, rows, err
}

// due reports whether a link that works and keeps others waiting is to let go of content: it did so before and is still behind, or it has kept
// them waiting for long.
func (g *laggards) due(id ledger.LinkID, up int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, behind := g.behind[id]; behind {
		return true
	}
	since, ok := g.over[id]
	if !ok {
		g.over[id], since = up, up
	}
	return up-since >= int64(lagPatience)
}

// relaxed notes that a link keeps nobody waiting.
func (g *laggards) relaxed(id ledger.LinkID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.over, id)
}

// allRelaxed notes that no link does.
func (g *laggards) allRelaxed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.over)
}

// released notes the newest version that a link let go of.
func (g *laggards) released(id ledger.LinkID, ver proto.VersionID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.behind[id] = max(g.behind[id], ver)
}

// get returns the newest version that a link let go of, 0 for none, and how much the cache has of what comes before the first.
func (g *laggards) get(id ledger.LinkID) (top proto.VersionID, older int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	older, ok := g.older[id]
	if !ok {
		older = math.MaxInt64 // not looked at yet
	}
	return g.behind[id], older
}

// releaseOver has links let go of content while the cache is over its high water or an object does not find room: those whose targets are
// not there, and those that work and keep others waiting that have less than their share. What no live holder has is kept (I1).
func (r *Relay) releaseOver() error {
	ls, err := ledger.Links(r.ledger)
	if err != nil {
		return err
	}
	if err := r.laggards.look(r.ledger, ls, r.stalled, r.up()); err != nil {
		return err
	}
	used, goal, pressed := r.admission.pressure()
	r.force(pressed, ls)
	x, err := r.admission.expansion()
	// Without a healthy geometry nothing is accepted, so nothing needs to be let go; an outdated ledger does not know who has what.
	if err != nil || !pressed || r.flush == nil || r.meta.Outdated {
		r.laggards.allRelaxed()
		return nil //nolint:nilerr // see above
	}
	var from []ledger.LinkRow
	var holds []holding
	all, waits := r.holdings(ls, x)
	for i, h := range all {
		switch cfg, _ := r.link(ls[i].Name); {
		case cfg.Hold:
			continue
		case h.works && (!waits || h.cached <= h.share):
			r.laggards.relaxed(ls[i].ID)
			continue
		case h.works && !r.laggards.due(ls[i].ID, r.up()):
			continue
		}
		from, holds = append(from, ls[i]), append(holds, h)
	}
	for i, n := range letGo(used, goal, holds) {
		if n <= 0 {
			continue
		}
		if err := r.releaseLink(from[i], int64(float64(n)/x), holds[i].works); err != nil {
			return err
		}
	}
	return nil
}

// force wakes the links when there begins to be no room: what waits for conditions or a window is flushed then.
func (r *Relay) force(pressed bool, ls []ledger.LinkRow) {
	began := pressed && !r.laggards.pressed
	r.laggards.pressed = pressed
	if !began || r.flush == nil {
		return
	}
	for _, l := range ls {
		r.flush.Wake(l.Name)
	}
}

// holdings returns what each link has in the cache, and whether one that works waits for room and has less than its share. x is raw bytes
// per content byte.
func (r *Relay) holdings(ls []ledger.LinkRow, x float64) (out []holding, waits bool) {
	out = make([]holding, len(ls))
	for i, l := range ls {
		h := &out[i]
		h.cached = int64(float64(l.CachedBytes) * x)
		if _, ok := r.link(l.Name); ok { // else it was taken out of the configuration
			h.share, h.works = r.share(l.Name), !r.stalled(l.Name)
		}
		waits = waits || h.works && !l.Paused && h.cached < h.share && r.admission.refuses(l.Dataset)
	}
	return out, waits
}

// releaseLink has a link let go of so many content bytes: of the newest first, for the oldest is sent next. One that works keeps its oldest
// object, which is on its way.
func (r *Relay) releaseLink(l ledger.LinkRow, bytes int64, works bool) error {
	keepers, err := r.keepers(l.Dataset)
	if err != nil {
		return err
	}
	top, older := r.laggards.get(l.ID)
	c := releasing{r: r, l: l, keepers: keepers, left: bytes}
	if top > 0 { // what is above it came since then
		c.oldest = works && older == 0
		if err := c.choose(top, math.MaxUint64); err != nil {
			return err
		}
	} else {
		top = math.MaxUint64
	}
	if c.left > 0 {
		c.keep, c.oldest = l.CachedBytes-bytes, works
		if err := c.choose(0, top); err != nil {
			return err
		}
	}
	if len(c.versions) == 0 {
		return nil
	}
	e := &ledger.Release{Link: l.ID, Versions: c.versions}
	if err := r.ledger.Update(e); err != nil {
		return err
	}
	r.laggards.released(l.ID, slices.Max(c.versions))
	r.deps.Fault.At(faultpoint.RelayReleased)
	why := "is stalled and over its share of the cache"
	if _, ok := r.link(l.Name); !ok {
		why = "is not in the configuration any more, and others need its room in the cache"
	} else if works {
		why = "is behind, and others need the room that it has beyond its share of the cache"
	}
	r.event("released", fmt.Sprintf("link %s %s: %d objects (%d bytes) were let go; they are still owed and will be asked for again", l.Name, why, len(c.versions), e.Bytes),
		map[string]string{"link": l.Name, "objects": fmt.Sprint(len(c.versions)), "bytes": fmt.Sprint(e.Bytes)})
	return nil
}

// releasing chooses what a link lets go of.
type releasing struct {
	r       *Relay
	l       ledger.LinkRow
	keepers keepers

	left     int64 // content bytes still to be let go
	keep     int64 // content bytes to be passed over first
	oldest   bool  // the first is passed over in any case
	versions []proto.VersionID
}

// choose looks at the versions above one, up to another.
func (c *releasing) choose(above, upTo proto.VersionID) error {
	return ledger.EachDebt(c.r.ledger, c.l.ID, above, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
		if ver > upTo || c.left <= 0 || len(c.versions) == releaseBatch {
			return false, nil
		}
		if q.State != ledger.OwedCached || q.Bytes == 0 {
			return true, nil
		}
		n := q.Bytes - q.Staged
		if c.oldest || n <= c.keep {
			c.oldest, c.keep = false, c.keep-n
			return true, nil
		}
		c.keep = 0
		ok, err := c.may(ver)
		if ok {
			c.versions, c.left = append(c.versions, ver), c.left-n
		}
		return true, err
	})
}

// may reports whether a version can be let go: it is current, and a live holder has it.
func (c *releasing) may(ver proto.VersionID) (bool, error) {
	v, ok, err := ledger.Version(c.r.ledger, c.l.Dataset, ver)
	if err != nil || !ok || v.Content.From > 0 || v.Superseded {
		return false, err
	}
	o, _, err := ledger.Object(c.r.ledger, c.l.Dataset, v.Path)
	if err != nil || o.Current.Version != ver || !c.keepers.have(&o) {
		return false, err
	}
	return true, nil
}

// keepers are the live holders of a dataset, with the generation of each one's index.
type keepers map[proto.HolderID]uint32

func (r *Relay) keepers(ds proto.DatasetID) (keepers, error) {
	out := keepers{}
	for _, id := range r.alive(ds) {
		h, err := ledger.Holder(r.ledger, id)
		if err != nil {
			return nil, err
		}
		if h.ID != 0 {
			out[id] = h.IndexGen
		}
	}
	return out, nil
}

// have reports whether one of them has said, of its present index, that it has an object's current version. What it said before its
// index was made anew is hearsay: a new index often comes with a new disk, and what only hearsay keeps must not be let go (I1).
func (k keepers) have(o *ledger.ObjectRow) bool {
	return slices.ContainsFunc(o.Holders, func(h ledger.Holding) bool {
		gen, alive := k[h.Holder]
		return alive && gen == h.IndexGen && h.State == ledger.HoldingHas && h.Version == o.Current.Version
	})
}
