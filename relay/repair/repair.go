// Package repair decides which segments of the cache need to be coded anew, in which order and how fast, and when the stores are
// to be scrubbed. It looks at what it is given and changes nothing: the relay's loops gather and act. It imports shard and
// shard/store for their words only.
package repair

import (
	"cmp"
	"slices"

	"forebay/shard"
	"forebay/shard/store"
)

// Standing says how the shards in a store count.
type Standing uint8

// The standings. A store that is not listed counts as Away.
const (
	Away    Standing = iota // out of reach, and may come back any moment
	InUse                   // read, and freed
	Leaving                 // read, and to be moved elsewhere: it is being drained
	Overdue                 // away for so long that its shards are made anew elsewhere; they would count again if it came back
	Gone                    // an operator gave it up: its shards never come back
)

// Stores is how the stores stand.
type Stores struct {
	Standing map[store.StoreID]Standing
	Takers   map[store.StoreID]bool // those that take new shards
	Coding   shard.Geometry         // as configured
	// Wide is set when narrower segments may be coded in the configured geometry: all stores are well, and have been for a while.
	Wide bool
}

// Need is what a segment needs, the most urgent last.
type Need uint8

// The needs.
const (
	Nothing Need = iota
	Widen        // it is whole, and narrower than configured
	Move         // it is whole, and some of its shards lie in a store that is being drained
	Wait         // shards are out of reach and may come back; while that leaves too few, it cannot be read
	Stuck        // shards are lacking, and there are too few stores to write them anew
	Mend         // shards are lacking
	Lose         // too few shards are left, and no store that may come back has the others
)

// Verdict is what Judge finds about a segment.
type Verdict struct {
	Need Need
	// Lacking counts shards that are out of reach or damaged.
	Lacking int
	// Spare is how many more shards can be lost before the segment cannot be read: negative when it cannot be read now.
	Spare int
}

// Judge says what a segment at p needs; bad tells that one of its shards at least was found damaged and not mended.
func Judge(p store.Placement, bad bool, st Stores) Verdict {
	var n [Gone + 1]int
	holding := 0 // takers that hold a shard which stays
	for _, id := range p.Stores {
		s := st.Standing[id]
		n[s]++
		if s == InUse && st.Takers[id] {
			holding++
		}
	}
	v := Verdict{Lacking: n[Away] + n[Overdue] + n[Gone], Spare: n[InUse] + n[Leaving] - p.Geometry.Data}
	broken := v.Lacking + n[Leaving]
	spares := len(st.Takers) - holding
	if bad {
		v.Lacking++
		v.Spare--
		broken++
		if holding > 0 {
			spares++ // its own store, where that takes data
		}
	}
	best, fits := shard.Narrow(st.Coding, len(st.Takers))
	possible := spares >= broken || fits
	readable := n[InUse]+n[Leaving] >= p.Geometry.Data
	switch {
	case n[InUse]+n[Leaving]+n[Away]+n[Overdue] < p.Geometry.Data:
		v.Need = Lose
	case !readable:
		v.Need = Wait
	case (bad || n[Gone]+n[Overdue] > 0) && possible:
		v.Need = Mend
	case bad || n[Gone]+n[Overdue] > 0:
		v.Need = Stuck
	case n[Leaving] > 0 && possible:
		v.Need = Move
	case n[Leaving] > 0:
		v.Need = Stuck
	case n[Away] > 0:
		v.Need = Wait
	case st.Wide && best == st.Coding && store.Narrower(p.Geometry, st.Coding):
		v.Need = Widen
	}
	return v
}

// Item is a segment that is to be worked on.
type Item struct {
	Seq    uint64
	Length int64 // bytes of the segment
	Verdict
}

// Catalog counts segments by what is alike in their placements. It is made by a walk over all of them; as long as it stands, a
// change of a store is counted without another.
type Catalog struct {
	groups map[string]*group
	store  map[store.StoreID]int64
	work   []Item
	most   int
	stores Stores
}

type group struct {
	p       store.Placement
	bad     bool
	n       int64
	bytes   int64
	verdict Verdict
}

// NewCatalog returns an empty catalog, in which at most the given number of the most urgent segments will be listed as Work.
func NewCatalog(st Stores, most int) *Catalog {
	return &Catalog{groups: map[string]*group{}, store: map[store.StoreID]int64{}, most: most, stores: st}
}

// Add takes a segment into account.
func (c *Catalog) Add(seq uint64, p store.Placement, bad bool) {
	key := make([]byte, 0, 3+len(p.Stores)*len(store.StoreID{}))
	key = append(key, byte(p.Geometry.Data), byte(p.Geometry.Parity), 0)
	if bad {
		key[2] = 1
	}
	ids := slices.Clone(p.Stores)
	slices.SortFunc(ids, func(a, b store.StoreID) int { return slices.Compare(a[:], b[:]) })
	for _, id := range ids {
		key = append(key, id[:]...)
	}
	g := c.groups[string(key)]
	if g == nil {
		g = &group{p: store.Placement{Geometry: p.Geometry, Stores: ids}, bad: bad}
		g.verdict = Judge(g.p, bad, c.stores)
		c.groups[string(key)] = g
	}
	g.n++
	g.bytes += p.Length
	for _, id := range ids {
		c.store[id]++
	}
	if g.verdict.Need.Work() {
		c.work = append(c.work, Item{seq, p.Length, g.verdict})
		if len(c.work) >= 2*c.most {
			c.sort()
		}
	}
}

// Work reports whether something is to be done about a need.
func (n Need) Work() bool { return n == Widen || n == Move || n == Mend || n == Lose }

func (c *Catalog) sort() {
	slices.SortStableFunc(c.work, func(a, b Item) int { return before(a.Verdict, b.Verdict) })
	c.work = c.work[:min(len(c.work), c.most)]
}

// before orders by urgency: what can be lost first comes first, oldest first.
func before(a, b Verdict) int {
	return cmp.Or(cmp.Compare(b.Need, a.Need), cmp.Compare(a.Spare, b.Spare))
}

// Work returns the segments that are to be worked on, most urgent first.
func (c *Catalog) Work() []Item {
	c.sort()
	return c.work
}

// On returns how many segments have a shard in a store.
func (c *Catalog) On(id store.StoreID) int64 { return c.store[id] }

// Summary counts segments by need.
type Summary struct {
	Segments   int64
	Degraded   int64 // fewer good shards within reach than their coding has
	Unreadable int64 // of them: too few to be read now
	Stuck      int64
	Lost       int64 // too few shards are left, for good
	Waiting    int64 // to be worked on
	Bytes      int64 // of them
}

// Sum counts the segments as the stores stand now.
func (c *Catalog) Sum(st Stores) (s Summary) {
	for _, g := range c.groups {
		v := Judge(g.p, g.bad, st)
		s.Segments += g.n
		if v.Lacking > 0 {
			s.Degraded += g.n
		}
		if v.Lacking > 0 && v.Spare < 0 {
			s.Unreadable += g.n
		}
		switch v.Need {
		case Stuck:
			s.Stuck += g.n
		case Lose:
			s.Lost += g.n
		}
		if v.Need.Work() {
			s.Waiting += g.n
			s.Bytes += g.bytes
		}
	}
	return s
}
