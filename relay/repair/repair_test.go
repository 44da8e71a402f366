package repair_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/relay/repair"
	"forebay/shard"
	"forebay/shard/store"
)

func id(n int) store.StoreID { return store.StoreID{byte(n)} }

func placement(g string, stores ...int) store.Placement {
	geometry, err := shard.ParseGeometry(g)
	if err != nil {
		panic(err)
	}
	p := store.Placement{Geometry: geometry, Length: 100}
	for _, n := range stores {
		p.Stores = append(p.Stores, id(n))
	}
	return p
}

// stand reads one letter a store: u in use, f in use and full, l leaving, a away, o overdue, g gone.
func stand(coding, letters string, wide bool) repair.Stores {
	g, err := shard.ParseGeometry(coding)
	if err != nil {
		panic(err)
	}
	st := repair.Stores{Standing: map[store.StoreID]repair.Standing{}, Takers: map[store.StoreID]bool{}, Coding: g, Wide: wide}
	for i, c := range letters {
		s := map[rune]repair.Standing{'u': repair.InUse, 'f': repair.InUse, 'l': repair.Leaving, 'a': repair.Away, 'o': repair.Overdue, 'g': repair.Gone}[c]
		st.Standing[id(i+1)] = s
		if c == 'u' {
			st.Takers[id(i+1)] = true
		}
	}
	return st
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		p       store.Placement
		bad     bool
		st      repair.Stores
		need    repair.Need
		lacking int
		spare   int
	}{
		{name: "all is well", p: placement("2+1", 1, 2, 3), st: stand("2+1", "uuu", true), need: repair.Nothing, spare: 1},
		{name: "a full store still holds its shard", p: placement("2+1", 1, 2, 3), st: stand("2+1", "uuf", false), need: repair.Nothing, spare: 1},
		{name: "one that may come back is waited for", p: placement("2+1", 1, 2, 3), st: stand("2+1", "uua", false), need: repair.Wait, lacking: 1},
		{name: "but not for ever", p: placement("2+1", 1, 2, 3), st: stand("2+1", "uuo", false), need: repair.Mend, lacking: 1},
		{name: "a spare store takes its shard", p: placement("2+1", 1, 2, 3), st: stand("2+1", "uuou", false), need: repair.Mend, lacking: 1},
		{name: "one given up is not waited for", p: placement("2+1", 1, 2, 3), st: stand("2+1", "uug", false), need: repair.Mend, lacking: 1},
		{name: "too few to write it anew", p: placement("2+1", 1, 2, 3), st: stand("2+1", "ufo", false), need: repair.Stuck, lacking: 1},
		{name: "a full store and a spare one", p: placement("2+1", 1, 2, 3), st: stand("2+1", "ffou", false), need: repair.Mend, lacking: 1},
		{name: "two away: unreadable, and nothing is given up", p: placement("2+1", 1, 2, 3), st: stand("2+1", "uoo", false), need: repair.Wait, lacking: 2, spare: -1},
		{name: "one gone, one that may come back", p: placement("2+1", 1, 2, 3), st: stand("2+1", "uog", false), need: repair.Wait, lacking: 2, spare: -1},
		{name: "two gone", p: placement("2+1", 1, 2, 3), st: stand("2+1", "ugg", false), need: repair.Lose, lacking: 2, spare: -1},
		{name: "two gone of a wide one", p: placement("4+2", 1, 2, 3, 4, 5, 6), st: stand("4+2", "uuuugg", false), need: repair.Mend, lacking: 2},
		{name: "a store nobody knows may come back", p: placement("1+0", 9), st: stand("2+1", "uuu", true), need: repair.Wait, lacking: 1, spare: -1},
		{name: "a bad shard", p: placement("2+1", 1, 2, 3), bad: true, st: stand("2+1", "uuu", true), need: repair.Mend, lacking: 1},
		{name: "a bad shard where nothing takes data", p: placement("2+1", 1, 2, 3), bad: true, st: stand("2+1", "fff", false), need: repair.Stuck, lacking: 1},
		{name: "a drained store is left", p: placement("2+1", 1, 2, 3), st: stand("2+1", "uul", false), need: repair.Move, spare: 1},
		{name: "a drained store that nobody can make up for", p: placement("1+1", 1, 2), st: stand("1+1", "ul", false), need: repair.Stuck, spare: 1},
		{name: "narrow, and all is well", p: placement("1+1", 1, 2), st: stand("2+1", "uuu", true), need: repair.Widen, spare: 1},
		{name: "narrow, for now", p: placement("1+1", 1, 2), st: stand("2+1", "uuu", false), need: repair.Nothing, spare: 1},
		{name: "narrow, and too few stores for more", p: placement("1+1", 1, 2), st: stand("2+1", "uu", true), need: repair.Nothing, spare: 1},
		{name: "wider than configured stays", p: placement("4+2", 1, 2, 3, 4, 5, 6), st: stand("2+1", "uuuuuu", true), need: repair.Nothing, spare: 2},
		{name: "without parity nothing is spare", p: placement("2+0", 1, 2), st: stand("2+0", "uo", false), need: repair.Wait, lacking: 1, spare: -1},
	} {
		v := repair.Judge(c.p, c.bad, c.st)
		assert.Equal(t, repair.Verdict{Need: c.need, Lacking: c.lacking, Spare: c.spare}, v, c.name)
	}
}

// The catalog counts by what is alike, also after a store has changed, and lists the most urgent first.
func TestCatalog(t *testing.T) {
	t.Parallel()
	well := stand("2+1", "uuuu", true)
	c := repair.NewCatalog(well, 100)
	for seq := range uint64(10) {
		c.Add(seq, placement("2+1", 1, 2, 3), false)
		c.Add(100+seq, placement("2+1", 4, 2, 3), seq == 0)
	}
	assert.Equal(t, repair.Summary{Segments: 20, Degraded: 1, Waiting: 1, Bytes: 100}, c.Sum(well))
	assert.EqualValues(t, 10, c.On(id(1)))
	assert.EqualValues(t, 20, c.On(id(2)))
	assert.Equal(t, repair.Summary{Segments: 20, Degraded: 11}, withoutWork(c.Sum(stand("2+1", "auuu", false))), "a store went away since")
	assert.Equal(t, repair.Summary{Segments: 20, Degraded: 11, Waiting: 11, Bytes: 1100}, c.Sum(stand("2+1", "ouuu", false)))
	assert.Equal(t, repair.Summary{Segments: 20, Degraded: 20, Unreadable: 20}, withoutWork(c.Sum(stand("2+1", "aaau", false))))

	st := stand("2+1", "uougu", true)
	c = repair.NewCatalog(st, 4)
	c.Add(1, placement("1+1", 1, 3), false)    // could be wider
	c.Add(2, placement("1+2", 1, 2, 3), false) // lacks one of two to spare
	c.Add(3, placement("2+1", 1, 2, 3), false) // has none to spare
	c.Add(4, placement("2+1", 1, 2, 4), false) // may come back
	c.Add(5, placement("1+0", 4), false)       // is gone
	c.Add(6, placement("2+1", 1, 3, 5), false) // is well
	c.Add(7, placement("2+1", 1, 3, 4), true)  // cannot be read at all, as it seems
	var order []uint64
	for _, it := range c.Work() {
		order = append(order, it.Seq)
	}
	assert.Equal(t, []uint64{5, 7, 3, 2}, order)
}

func withoutWork(s repair.Summary) repair.Summary {
	s.Waiting, s.Bytes = 0, 0
	return s
}

func TestPace(t *testing.T) {
	t.Parallel()
	const rate = 1 << 20
	now := time.Unix(1e9, 0)
	spend := func(p *repair.Pace, busy, urgent bool) (n int64) {
		p.Take(now, repair.Burst, rate, busy, urgent) // what had been saved
		for range 1000 {
			now = now.Add(100 * time.Millisecond)
			for p.Take(now, 64<<10, rate, busy, urgent) {
				n += 64 << 10
			}
		}
		return n
	}
	assert.InDelta(t, 100*rate, spend(repair.NewPace(), false, false), 128<<10)
	assert.InDelta(t, 25*rate, spend(repair.NewPace(), true, false), 128<<10, "it yields to other work")
	assert.InDelta(t, 100*rate, spend(repair.NewPace(), true, true), 128<<10, "but not when the next loss would hurt")
	p := repair.NewPace()
	for range 1000 {
		require.True(t, p.Take(now, repair.Burst, 0, true, false), "no limit")
	}
}

func TestScrubSchedule(t *testing.T) {
	t.Parallel()
	const week = 7 * 24 * time.Hour
	start := time.Unix(1e9, 0)
	s := repair.Scrub{SinceNs: start.UnixNano()}
	assert.False(t, s.Due(start.Add(week-time.Second), week))
	assert.True(t, s.Due(start.Add(week), week))
	assert.False(t, s.Due(start.Add(100*week), 0), "off")
	assert.Equal(t, start.Add(week), s.Next(week))
	assert.True(t, s.Next(0).IsZero())
	s.Asked = true
	assert.True(t, s.Due(start, 0), "asked for")
	s.Begin(start.Add(time.Hour), 42, 2, 300)
	assert.False(t, s.Asked)
	assert.True(t, s.Due(start, 0), "what was begun is ended")
	s.Read(7, 100, 2, 1)
	s.Read(42, 200, 0, 0)
	s.End(start.Add(2 * time.Hour))
	assert.Equal(t, repair.Round{StartedNs: start.Add(time.Hour).UnixNano(), EndedNs: start.Add(2 * time.Hour).UnixNano(), Cursor: 42, Until: 42,
		TotalSegments: 2, TotalBytes: 300, Segments: 2, Bytes: 300, Found: 2, Healed: 1}, *s.Last)
	assert.False(t, s.Due(start.Add(week), week))
	assert.True(t, s.Due(start.Add(week+time.Hour), week), "from the beginning of the last one")
	assert.False(t, s.Due(start.Add(-time.Hour), week), "a clock that was set back")
	assert.True(t, s.Due(start.Add(-2*week), week), "by much")
}
