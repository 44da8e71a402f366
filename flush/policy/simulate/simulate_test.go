package simulate

import (
	"bytes"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests must not depend on the machine's database

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"forebay/flush/policy"
	"forebay/units"
)

const (
	mib = 1 << 20
	gib = 1 << 30
	day = 24 * time.Hour
)

var monday = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

func try(t require.TestingT, s Setup, pairs ...string) *Report {
	s.Policy = policy.Default()
	for i := 0; i < len(pairs); i += 2 {
		require.NoError(t, policy.Set(&s.Policy, pairs[i], pairs[i+1]))
	}
	require.NoError(t, policy.Validate(&s.Policy))
	if s.Trace.Slots == nil {
		s.Trace = Steady(monday, 86400*mib, 86400) // 1 MiB a second
	}
	if s.Length == 0 {
		s.Length = 7 * day
	}
	s.Trace, _ = s.Trace.Cover(s.Length)
	r, err := Run(s)
	require.NoError(t, err)
	return r
}

// Figures that can be told beforehand.
func TestWhatIsKnownBeforehand(t *testing.T) {
	t.Parallel()
	const in = 7 * 86400 * mib

	r := try(t, Setup{Rate: 100 * mib})
	assert.Less(t, r.LagMax, 65.0, "as it comes: within a grain or two")
	assert.InEpsilon(t, in, r.SentBytes, 0.001)
	assert.Zero(t, r.ForcedFlushes)
	assert.Len(t, r.Windows, 7, "days")

	// A window of 8 hours: what comes as it closes waits 16 hours, and is cached till then.
	r = try(t, Setup{Rate: 100 * mib}, "window", "22:00-06:00")
	assert.InDelta(t, 16*3600+900, r.LagMax, 900, "and a while until all of it is sent")
	assert.InEpsilon(t, 16*3600*mib, r.PeakCacheBytes, 0.03)
	assert.Zero(t, r.ForcedBytes)

	// The same with a deadline, which the window meets: nothing is forced.
	r = try(t, Setup{Rate: 1000 * mib}, "window", "22:00-06:00", "deadline", "17h")
	assert.Zero(t, r.ForcedFlushes)

	// A budget of half of what comes: the other half is left, and each day sends just it.
	r = try(t, Setup{Rate: 100 * mib}, "budget", "42GiB")
	require.Len(t, r.Windows, 7)
	for _, w := range r.Windows {
		assert.LessOrEqual(t, w.Bytes, int64(42*gib))
		assert.InEpsilon(t, 42*gib, w.Bytes, 0.001)
	}
	assert.InEpsilon(t, in-7*42*gib, r.LeftBytes, 0.01)
	assert.InDelta(t, in-7*42*gib, r.PeakCacheBytes, 43*gib)

	// With a deadline of a day what is over the budget is forced.
	r = try(t, Setup{Rate: 100 * mib}, "budget", "42GiB", "deadline", "1d")
	assert.InDelta(t, day.Seconds(), r.LagMax, 3600)
	assert.Positive(t, r.ForcedBytes)

	// A rate below the inflow fills the cache: the water marks force, which helps nothing, and the rest is blocked.
	r = try(t, Setup{Rate: mib / 2, HighWater: 50 * gib, LowWater: 40 * gib}, "batch_max", "1GiB")
	assert.LessOrEqual(t, r.PeakCacheBytes, int64(51*gib))
	assert.InEpsilon(t, in/2, r.SentBytes, 0.01)
	assert.Positive(t, r.BlockedSeconds)
	assert.InEpsilon(t, in/2, r.LeftBytes, 0.01)

	// A size condition: lags of up to the time in which so much comes.
	r = try(t, Setup{Rate: 1000 * mib}, "size", "3600MiB", "age", "1d")
	assert.InDelta(t, 3600, r.LagMax, 60)
	assert.InEpsilon(t, 3600*mib, r.PeakCacheBytes, 0.02)
	r = try(t, Setup{Rate: 1000 * mib}, "size", "100GiB", "age", "2h")
	assert.InDelta(t, 7200, r.LagMax, 60)

	// The link's timetable, the relay's, and what each object takes.
	for _, s := range []Setup{{Rate: 100 * mib, Bandwidth: must(t, "512")}, {Rate: 100 * mib, PerObject: 2*time.Second - 10*time.Millisecond}} {
		r = try(t, s)
		assert.InEpsilon(t, in/2, r.SentBytes, 0.02)
	}
	r = try(t, Setup{Rate: 100 * mib}, "bandwidth", "00:00,512 12:00,1M")
	assert.InEpsilon(t, in*3/4, r.SentBytes, 0.02)
}

func must(t *testing.T, s string) policy.Timetable {
	t.Helper()
	table, err := policy.ParseTimetable(s)
	require.NoError(t, err)
	return table
}

// Whatever the policy: bytes are neither made nor lost, no window sends more than its budget but for what is forced, and nothing is
// sent outside a window that is not counted as forced.
func TestSimulationProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pick := func(key string, of ...string) []string { return []string{key, rapid.SampledFrom(of).Draw(t, key)} }
		var pairs []string
		for _, p := range [][]string{
			pick("window", "always", "22:00-06:00", "Mon-Fri 20:00-23:00, Sat 00:00-12:00", "01:30-02:30"), pick("timezone", "UTC", "Europe/Berlin"),
			pick("budget", "none", "8MiB", "5GiB", "50GiB"), pick("size", "none", "1MiB", "10GiB"), pick("objects", "none", "1000"),
			pick("age", "none", "10m", "3h"), pick("deadline", "none", "4d", "6d"), pick("bandwidth", "off", "1M", "08:00,100K 20:00,10M"), pick("batch_max", "1MiB", "1GiB"),
		} {
			pairs = append(pairs, p...)
		}
		s := Setup{Rate: float64(rapid.SampledFrom([]int64{100 << 10, mib, 100 * mib}).Draw(t, "rate")), Length: 3 * day, Grain: time.Minute}
		s.Trace = Trace{Step: 5 * time.Minute}
		at := monday.AddDate(0, 0, rapid.SampledFrom([]int{0, -30, 124}).Draw(t, "start")) // nights in which the clocks change, too
		for range rapid.IntRange(1, 40).Draw(t, "slots") {
			at = at.Add(5 * time.Minute * time.Duration(rapid.IntRange(1, 60).Draw(t, "gap")))
			s.Trace.Slots = append(s.Trace.Slots, Slot{at, rapid.Int64Range(0, 2*gib).Draw(t, "bytes"), rapid.Int64Range(1, 3000).Draw(t, "objects")})
		}
		if rapid.Bool().Draw(t, "cache") {
			s.HighWater, s.LowWater = 10*gib, 8*gib
		}
		r := try(t, s, pairs...)
		require.InDelta(t, r.InBytes, r.SentBytes+r.LeftBytes, 1000, "in and out")
		p := policy.Default()
		for i := 0; i < len(pairs); i += 2 {
			require.NoError(t, policy.Set(&p, pairs[i], pairs[i+1]))
		}
		for _, w := range r.Windows {
			if p.Budget > 0 {
				require.LessOrEqual(t, w.Bytes-w.ForcedBytes, int64(p.Budget)+1000)
			}
			opened, _ := p.BudgetWindow(w.Opened)
			require.True(t, opened.Equal(w.Opened))
		}
		if s.HighWater > 0 {
			require.LessOrEqual(t, r.PeakCacheBytes, s.HighWater+10*mib)
		}
		if p.Deadline == 0 && s.HighWater == 0 {
			require.Zero(t, r.ForcedBytes)
			require.Zero(t, r.ForcedFlushes)
		}
		require.LessOrEqual(t, r.LagP50, r.LagP95)
		require.LessOrEqual(t, r.LagP95, r.LagMax+1)
	})
}

func TestTraceText(t *testing.T) {
	t.Parallel()
	in := Trace{Step: 5 * time.Minute, Slots: []Slot{{monday, 10, 1}, {monday.Add(5 * time.Minute), 0, 2}, {monday.Add(time.Hour), 1 << 50, 3}}}
	var out bytes.Buffer
	require.NoError(t, WriteTrace(&out, in))
	require.Equal(t, "# forebay trace 1\nstep 5m\n2026-11-23T00:00:00Z 10 1\n2026-11-23T00:05:00Z 0 2\n2026-11-23T01:00:00Z 1125899906842624 3\n", out.String())
	back, err := ReadTrace(&out)
	require.NoError(t, err)
	require.Equal(t, in, back)
	head := "# forebay trace 1\nstep 5m\n"
	back, err = ReadTrace(strings.NewReader(head + "\n# by hand\n2026-11-23T01:00:00+01:00 1 1\n2026-11-23T00:00:00Z 2 2\n"))
	require.NoError(t, err)
	require.Equal(t, []Slot{{monday, 3, 3}}, back.Slots)
	for text, says := range map[string]string{
		"": "no slots", "# forebay trace 2\n": "newer release", "nonsense": "line 1", "# forebay trace 1\n2026-11-23T00:00:00Z 1 1\n": "step 5m",
		"# forebay trace 1\nstep 1ms\n": "outside 1s to 1d", head: "no slots", head + "2026-11-23T00:00:00Z 1\n": "line 3", head + "now 1 1\n": "TIME BYTES OBJECTS",
		head + "2026-11-23T00:00:00Z -1 1\n": "TIME BYTES OBJECTS", head + "2026-11-23T01:00:00Z 1 1\n2026-11-23T00:00:00Z 1 1\n": "sort the lines",
		head + "2026-11-23T00:00:00Z 1 1\n2026-11-23T00:04:00Z 1 1\n": "multiple of 5m",
	} {
		_, err := ReadTrace(strings.NewReader(text))
		require.ErrorContains(t, err, says, text)
	}
}

func FuzzReadTrace(f *testing.F) {
	f.Add("# forebay trace 1\nstep 5m\n2026-11-23T00:00:00Z 10 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		in, err := ReadTrace(strings.NewReader(text))
		if err != nil {
			return
		}
		var out bytes.Buffer
		require.NoError(t, WriteTrace(&out, in))
		back, err := ReadTrace(&out)
		require.NoError(t, err)
		require.Equal(t, len(in.Slots), len(back.Slots))
	})
}

func TestCover(t *testing.T) {
	t.Parallel()
	week := Trace{Step: time.Hour}
	for i := range 9 * 24 { // nine days
		week.Slots = append(week.Slots, Slot{monday.Add(time.Duration(i) * time.Hour), int64(i), 1})
	}
	got, period := week.Cover(3 * day)
	require.Zero(t, period)
	require.Len(t, got.Slots, 72)
	require.Equal(t, week.Slots[len(week.Slots)-72:], got.Slots, "the last of it")
	got, period = week.Cover(30 * day)
	require.Equal(t, 7*day, period)
	require.Len(t, got.Slots, 720)
	require.Equal(t, got.Slots[0].At.Add(7*day), got.Slots[7*24].At, "weekdays stay")
	require.Equal(t, got.Slots[3].Bytes, got.Slots[3+7*24].Bytes)
	_, period = Trace{Step: time.Hour, Slots: week.Slots[:50]}.Cover(30 * day)
	require.Equal(t, 2*day, period)
	_, period = Trace{Step: time.Hour, Slots: week.Slots[:5]}.Cover(30 * day)
	require.Equal(t, 5*time.Hour, period)
}

// A month takes seconds.
func BenchmarkMonth(b *testing.B) {
	p := policy.Default()
	for k, v := range map[string]string{"window": "22:00-06:00", "timezone": "Europe/Berlin", "budget": "100GiB", "bandwidth": "08:00,10M 19:00,50M"} {
		require.NoError(b, policy.Set(&p, k, v))
	}
	trace, _ := Steady(monday, 200*gib, 100_000).Cover(30 * day)
	for b.Loop() {
		_, err := Run(Setup{Policy: p, Trace: trace, Length: 30 * day, Rate: float64(100 * units.MiB), HighWater: 500 * gib, LowWater: 400 * gib})
		require.NoError(b, err)
	}
}
