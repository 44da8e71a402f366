package policy

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"forebay/units"
)

func TestWindowForms(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "always", "always": "always", "none": "always", "22:00-06:00": "22:00-06:00", " 22:00 - 6:00 ": "22:00-06:00",
		"Mon-Fri 22:00-06:00": "Mon-Fri 22:00-06:00", "monday-FRI 22:00-06:00": "Mon-Fri 22:00-06:00",
		"Sat,Sun 00:00-24:00": "Sat,Sun 00:00-24:00", "Fri-Mon 1:00-2:00": "Mon,Fri-Sun 01:00-02:00",
		"Mon-Fri 22:00-06:00, Sat,Sun 00:00-24:00": "Mon-Fri 22:00-06:00, Sat,Sun 00:00-24:00",
		"Mon 22:00-23:00; 01:00-02:00":             "Mon 22:00-23:00, 01:00-02:00", "Mon-Sun 10:00-11:00": "10:00-11:00",
		"Sun-Sat 10:00-11:00": "10:00-11:00",
	} {
		got, err := ParseWindows(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got.String(), in)
	}
	for in, says := range map[string]string{
		"22:00": "no end", "22-06": "no time follows", "Mon": "no time follows", "22:00-25:00": "does not exist", "22:60-23:00": "does not exist",
		"Mun 22:00-23:00": `day "Mun"`, "22:00-22:00": "ends when it begins", "24:00-06:00": "only be an end", "x22:00-23:00": "not HH:MM",
		"22:00-23:00,": "", "Mon- 22:00-23:00": "day", ",": "no time follows", "22:00-6:0": "not HH:MM", "-1:00-6:00": "not HH:MM", "24:30-06:00": "does not exist",
	} {
		_, err := ParseWindows(in)
		if says == "" {
			require.NoError(t, err, in)
			continue
		}
		require.ErrorContains(t, err, says, in)
		require.ErrorContains(t, err, "Mon-Fri 22:00-06:00", "the error shows what is allowed")
	}
}

// What holds before the first entry of a week is the last one of the week before.
func TestTimetableGoesRoundTheWeek(t *testing.T) {
	t.Parallel()
	table, err := ParseTimetable("Tue-08:00,10M Sat-10:00,1M")
	require.NoError(t, err)
	for when, want := range map[string]units.Rate{
		"2026-11-23T00:00:00Z": 1 * units.Rate(units.MiB), // a Monday
		"2026-11-24T07:59:59Z": 1 * units.Rate(units.MiB),
		"2026-11-24T08:00:00Z": 10 * units.Rate(units.MiB),
		"2026-11-28T09:59:59Z": 10 * units.Rate(units.MiB),
		"2026-11-28T10:00:00Z": 1 * units.Rate(units.MiB),
		"2026-11-29T23:59:59Z": 1 * units.Rate(units.MiB),
	} {
		require.Equal(t, want, table.At(at(t, when), time.UTC), when)
	}
}

func TestTimetableForms(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "off", "off": "off", "10M": "10MiB/s", "512": "512KiB/s", "80Mbit/s": "10MB/s",
		"08:00,10M 19:00,50M 23:00,off": "08:00,10MiB/s 19:00,50MiB/s 23:00,off",
		"23:00,off 08:00,10M":           "08:00,10MiB/s 23:00,off",
		"Mon-10:00,1M":                  "Mon-10:00,1MiB/s",
		"Mon-00:00,512 Fri-23:59,10M Sat-10:00,1M Sun-20:00,off": "Mon-00:00,512KiB/s Fri-23:59,10MiB/s Sat-10:00,1MiB/s Sun-20:00,off",
		"sunday-20:00,off 12:00,1M":                              "12:00,1MiB/s Sun-20:00,off",
	} {
		got, err := ParseTimetable(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got.String(), in)
	}
	for in, says := range map[string]string{
		"0": "not clear", "08:00": "no rate", "08:00 10M": "no rate", "8h,10M": "not HH:MM", "08:00,": "number", "08:00,fast": "number",
		"Mun-08:00,1M": "day", "24:00,1M": "00:00 of the next day", "08:00,1M 08:00,2M": "given twice", "Mon-08:00,1M 08:00,2M": "given twice",
		"08:00,10M:1M": "two directions", "08:00,10M,19:00,1M": "spaces between entries", "10M, 20M": "not HH:MM",
	} {
		_, err := ParseTimetable(in)
		require.ErrorContains(t, err, says, in)
	}
}

func TestZones(t *testing.T) {
	t.Parallel()
	var none Zone
	require.Equal(t, "UTC", none.String())
	for _, bad := range []string{"Local", "Europe/Berln", "../etc/passwd", "CEST"} {
		_, err := ParseZone(bad)
		require.ErrorContains(t, err, "Europe/Berlin", bad)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	p := Default()
	var got []string
	for _, kv := range Canonical(&p) {
		got = append(got, kv.String())
	}
	require.Equal(t, []string{
		"flush.size=none", "flush.age=none", "flush.objects=none", "flush.window=always", "flush.timezone=UTC", "flush.bandwidth=off",
		"flush.budget=none", "flush.deadline=none", "flush.priority=0", "flush.weight=1", "flush.batch_min=0B", "flush.batch_max=1GiB", "confirm=auto", "coalesce=true",
		"share=equal", "when_full=release", "delete.propagate=false", "delete.grace=24h", "delete.guard.share=20%", "delete.guard.objects=1000", "history.keep=none",
	}, got)
	require.NoError(t, Validate(&p))

	set := map[string]string{
		"flush.size": "1GiB", "age": "5m", "flush.objects": "10000", "window": "Mon-Fri 22:00-06:00", "timezone": "Europe/Berlin",
		"bandwidth": "08:00,10M 19:00,50M 23:00,off", "budget": "100GiB", "deadline": "3d", "priority": "-3", "weight": "7", "batch_min": "1MiB", "batch_max": "2GB",
		"confirm": "reread", "coalesce": "false", "share": "12.5%", "when_full": "hold", "delete.propagate": "true", "delete.grace": "2d",
		"delete.guard.share": "100%", "delete.guard.objects": "off", "history.keep": "30d",
	}
	require.Len(t, set, len(Keys()), "each key is tried")
	for k, v := range set {
		require.NoError(t, Set(&p, k, v), k)
	}
	require.NoError(t, Validate(&p))
	q := Default()
	for _, kv := range Canonical(&p) {
		require.NoError(t, Set(&q, kv.Key, kv.Value))
	}
	require.Equal(t, p, q, "the canonical form is read back")
	bandwidth, err := Get(&p, "bandwidth")
	require.NoError(t, err)
	require.Equal(t, "08:00,10MiB/s 19:00,50MiB/s 23:00,off", bandwidth)

	for _, kv := range Canonical(&Policy{BatchMax: units.GiB, WhenFull: Release, Weight: 1}) {
		require.NoError(t, Set(&q, kv.Key, kv.Value), "settings can be unset: %s", kv)
	}
	require.Equal(t, Policy{BatchMax: units.GiB, WhenFull: Release, Weight: 1}, q)
}

func TestSetErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ key, value, says string }{
		{"flush.adge", "5m", "did you mean flush.age?"}, {"adge", "5m", "did you mean age?"}, {"nonsense", "1", "the keys are flush.size"},
		{"size", "1", "no unit"}, {"age", "5 minutes", "unknown unit"}, {"objects", "-1", "whole number"}, {"objects", "1e3", "whole number"},
		{"priority", "1000", "-100 to 100"}, {"weight", "0", "1 to 1000"}, {"weight", "1001", "1 to 1000"}, {"budget", "1", "no unit"}, {"confirm", "maybe", "auto, ack, sync, reread"}, {"coalesce", "yes", "neither true nor false"},
		{"when_full", "drop", "neither release nor hold"}, {"delete.guard.objects", "x", "nor off"}, {"share", "30", "no % sign"},
		{"timezone", "Mars/Base", "not known"}, {"window", "22:00", "no end"}, {"bandwidth", "quick", "number"}, {"batch_max", "none", "number"},
	} {
		p := with(t, "size", "1GiB")
		before := p
		require.ErrorContains(t, Set(&p, c.key, c.value), c.says, c.key)
		require.Equal(t, before, p, "a failed change changes nothing")
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key, says string
		pairs     []string
	}{
		{"flush.deadline", "shorter than the age", []string{"age", "1h", "deadline", "5m"}},
		{"flush.batch_min", "more than batch_max", []string{"batch_min", "2GiB", "age", "1h"}},
		{"flush.batch_min", "more than size", []string{"batch_min", "2MiB", "size", "1MiB", "age", "1h"}},
		{"flush.batch_min", "wait for ever", []string{"batch_min", "2MiB"}},
		{"flush.budget", "less than 8MiB: contents up to that size are sent in one go", []string{"budget", "7MiB"}},
		{"flush.budget", "less than batch_min 1GiB", []string{"budget", "500MiB", "batch_min", "1GiB", "age", "1h"}},
		{"flush.deadline", "from Mon 06:00 to Mon 22:00 all are closed, for 16h, and what is acknowledged as they close would be forced 1h before they open: raise deadline to 16h",
			[]string{"window", "22:00-06:00", "deadline", "15h"}},
		{"flush.deadline", "from Fri 23:00 to Mon 22:00 all are closed, for 2d23h,", []string{"window", "Mon-Fri 22:00-23:00, Tue 10:00-11:00", "deadline", "2d"}},
		{"flush.deadline", "from Sat 06:00 to Fri 22:00 all are closed, for 6d16h,", []string{"window", "Fri 22:00-06:00", "deadline", "1d"}},
		{"flush.batch_max", "needs room", []string{"batch_max", "0B"}},
	} {
		p := with(t, c.pairs...)
		var found Problems
		require.ErrorAs(t, Validate(&p), &found)
		require.Len(t, found, 1)
		require.Equal(t, c.key, found[0].Key)
		require.ErrorContains(t, found, c.says)
	}
	for _, pairs := range [][]string{
		{"window", "22:00-06:00", "deadline", "16h"}, {"window", "22:00-06:00, 06:00-22:00", "deadline", "1m"}, {"deadline", "1m"},
		{"window", "Mon-Sun 00:00-24:00", "deadline", "1m"}, {"budget", "8MiB"}, {"budget", "1GiB", "batch_min", "1GiB", "age", "1h"},
	} {
		p := with(t, pairs...)
		require.NoError(t, Validate(&p), pairs)
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	usual := Default().Delete.Guard
	for name, c := range map[string]struct {
		g                        Guard
		recent, wanted, onTarget int64
		goes                     bool
		says                     string
	}{
		"nothing":                        {usual, 5000, 0, 10, true, ""},
		"a few of many":                  {usual, 0, 100, 10000, true, ""},
		"just the share":                 {usual, 0, 20, 100, true, ""},
		"over the share":                 {usual, 0, 21, 100, false, "guard.share allows 20%"},
		"over the share in two steps":    {usual, 15, 6, 85, false, "6 deletes would make 21 of 100 objects within 24h"},
		"to the share in two steps":      {usual, 15, 5, 85, true, ""},
		"just the number":                {usual, 0, 1000, 1e6, true, ""},
		"over the number":                {usual, 1000, 1, 1e6, false, "1 delete would make 1001 within 24h, delete.guard.objects allows 1000"},
		"everything":                     {usual, 0, 1e6, 1e6, false, "guard.objects"},
		"a tiny dataset below the floor": {usual, 0, 9, 9, true, ""},
		"a tiny dataset at the floor":    {usual, 5, 5, 5, false, "guard.share"},
		"the number counts below floor":  {Guard{usual.Share, 2}, 0, 3, 100, false, "guard.objects"},
		"zero number holds each":         {Guard{units.Hundred, 0}, 0, 1, 100, false, "guard.objects"},
		"zero share holds each":          {Guard{0, NoGuard}, 0, 1, 100, false, "guard.share"},
		"no bounds":                      {Guard{units.Hundred, NoGuard}, 0, 1e6, 1e6, true, ""},
		"deletes of what is not there":   {usual, 0, 50, 0, false, "guard.share"},
	} {
		allowed, held, reason := Allow(c.g, c.recent, c.wanted, c.onTarget)
		if c.goes {
			require.Equal(t, []int64{c.wanted, 0}, []int64{allowed, held}, name)
			require.Empty(t, reason, name)
			continue
		}
		require.Equal(t, []int64{0, c.wanted}, []int64{allowed, held}, name)
		require.Contains(t, reason, c.says, name)
	}
}

// TestGuardBoundsAnySequence asks in whatever slices: without an approval the target never loses more than the guard says.
func TestGuardBoundsAnySequence(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := Guard{units.Percent(rapid.Int32Range(1, 10000).Draw(t, "share")), rapid.Int64Range(0, 500).Draw(t, "objects")}
		had := rapid.Int64Range(0, 2000).Draw(t, "had")
		recent := int64(0)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			wanted := rapid.Int64Range(0, min(200, had-recent)).Draw(t, "wanted")
			allowed, held, _ := Allow(g, recent, wanted, had-recent)
			require.Equal(t, wanted, allowed+held)
			recent += allowed
		}
		require.LessOrEqual(t, recent, g.Objects)
		require.LessOrEqual(t, recent, max(g.Share.Of(had), GuardFloor-1))
	})
}

func TestShares(t *testing.T) {
	t.Parallel()
	pc := func(v ...units.Percent) []units.Percent { return v }
	require.Equal(t, pc(5000, 5000), Shares(pc(0, 0)))
	require.Equal(t, pc(3000, 3500, 3500), Shares(pc(3000, 0, 0)))
	require.Equal(t, pc(7000), Shares(pc(7000)))
	require.Equal(t, pc(5000, 5000, 0), Shares(pc(9000, 9000, 0)))
	require.Empty(t, Shares(nil))
}

func TestOrder(t *testing.T) {
	t.Parallel()
	now := at(t, "2026-11-20T12:00:00Z")
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	got := Order([]LinkView{
		{"low", -5, ago(time.Hour), ago(time.Second)},
		{"b-young", 0, ago(time.Minute), ago(0)},
		{"a-young", 0, ago(time.Minute), ago(0)},
		{"old", 0, ago(time.Hour), ago(0)},
		{"high", 5, ago(0), time.Time{}},
		{"starved", -5, ago(time.Minute), ago(11 * time.Minute)},
		{"clock set back", 1, ago(0), ago(-time.Hour)},
	}, now)
	require.Equal(t, []Rank{{"starved", 6}, {"high", 5}, {"clock set back", 1}, {"old", 0}, {"a-young", 0}, {"b-young", 0}, {"low", -5}}, got)
}

// TestOrderStarvesNobody gives one worker to links that are always ready, each turn taking a minute.
func TestOrderStarvesNobody(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := at(t, "2026-11-20T12:00:00Z")
		links := make([]LinkView, rapid.IntRange(1, 8).Draw(t, "links"))
		for i := range links {
			links[i] = LinkView{fmt.Sprint(i), rapid.IntRange(-MaxPriority, MaxPriority).Draw(t, "priority"), now, now}
		}
		// A link overtakes each other one after 200 steps at the latest, and then waits for at most one turn of each.
		most := time.Duration(2*MaxPriority+len(links)+1) * AgingStep
		for range 500 {
			first := Order(links, now)[0].Link
			now = now.Add(AgingStep)
			for i := range links {
				require.LessOrEqual(t, now.Sub(links[i].ReadySince), most, "link %d", i)
				if links[i].Link == first {
					links[i].ReadySince = now
				}
			}
		}
	})
}

func FuzzSet(f *testing.F) {
	for _, k := range Keys() {
		for _, v := range []string{"none", "off", "1GiB", "5m", "Mon-Fri 22:00-06:00, Sat 1:00-2:00", "08:00,10M Mon-19:00,off", "20%"} {
			f.Add(k, v)
		}
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		p := Default()
		if Set(&p, key, value) != nil {
			require.Equal(t, Default(), p)
			return
		}
		text, err := Get(&p, key)
		require.NoError(t, err)
		q := Default()
		require.NoError(t, Set(&q, key, text))
		again, err := Get(&q, key)
		require.NoError(t, err)
		require.Equal(t, text, again)
		_ = Decide(View{Objects: 1, Oldest: time.Unix(0, 0)}, time.Unix(1e9, 0), p)
	})
}
