package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/units"
)

// with returns Default changed by KEY, VALUE pairs.
func with(t require.TestingT, pairs ...string) Policy {
	p := Default()
	for i := 0; i < len(pairs); i += 2 {
		require.NoError(t, Set(&p, pairs[i], pairs[i+1]))
	}
	return p
}

func at(t require.TestingT, s string) time.Time {
	v, err := time.Parse(time.RFC3339, s)
	require.NoError(t, err)
	return v
}

func TestDecide(t *testing.T) {
	t.Parallel()
	noon := at(t, "2026-11-20T12:00:00Z") // a Friday
	hour := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }
	some := View{Objects: 3, Bytes: 5 << 20, Oldest: noon.Add(-time.Minute)}
	night := []string{"window", "22:00-06:00"}
	noonOff := []string{"window", "13:00-11:00"} // closed for no longer than a deadline of 2h
	budget := []string{"window", "Fri 11:00-13:00", "budget", "10MiB"}
	type want struct {
		action         Action
		reason         string
		forced, byHand bool
		upTo, look     time.Time
	}
	for name, c := range map[string]struct {
		pairs  []string
		change func(*View)
		want   want
	}{
		"nothing waits":             {nil, func(v *View) { *v = View{} }, want{Wait, "nothing to flush", false, false, time.Time{}, time.Time{}}},
		"only parked and held":      {nil, func(v *View) { *v = View{Parked: 2, HeldDeletes: 1, InFlight: 1} }, want{Wait, "1 object on the way, 1 delete held by the guard until approved, 2 objects parked", false, false, time.Time{}, time.Time{}}},
		"no conditions":             {nil, nil, want{Flush, "as it comes", false, false, time.Time{}, time.Time{}}},
		"size not reached":          {[]string{"size", "1GiB"}, nil, want{Wait, "5.00MiB of 1GiB", false, false, time.Time{}, time.Time{}}},
		"size reached":              {[]string{"size", "5MiB"}, nil, want{Flush, "size is 5MiB", false, false, time.Time{}, time.Time{}}},
		"objects reached":           {[]string{"size", "1GiB", "objects", "3"}, nil, want{Flush, "objects is 3 objects", false, false, time.Time{}, time.Time{}}},
		"age not reached":           {[]string{"size", "1GiB", "age", "5m"}, nil, want{Wait, "age 5m at 2026-11-20 12:04:00 UTC", false, false, time.Time{}, noon.Add(4 * time.Minute)}},
		"age reached":               {[]string{"size", "1GiB", "age", "1m"}, nil, want{Flush, "age of 1m", false, false, time.Time{}, time.Time{}}},
		"clock set back":            {[]string{"age", "5m"}, func(v *View) { v.Oldest = hour(99) }, want{Flush, "age of 5m", false, false, time.Time{}, hour(99)}},
		"too little for a batch":    {[]string{"batch_min", "10MiB", "age", "5m"}, nil, want{Wait, "5.00MiB of batch_min 10MiB, or age 5m", false, false, time.Time{}, noon.Add(4 * time.Minute)}},
		"a small batch that is old": {[]string{"batch_min", "10MiB", "age", "1m"}, nil, want{Flush, "age of 1m", false, false, time.Time{}, time.Time{}}},
		"window closed":             {night, nil, want{Wait, "the window opens at 2026-11-20 22:00:00 UTC", false, false, time.Time{}, hour(10)}},
		"window closed, zone":       {append([]string{"timezone", "Europe/Berlin"}, night...), nil, want{Wait, "the window opens at 2026-11-20 22:00:00 CET", false, false, time.Time{}, hour(9)}},
		"window open":               {[]string{"window", "Fri 11:00-13:00"}, nil, want{Flush, "as it comes", false, false, time.Time{}, hour(1)}},
		"deadline to come":          {append([]string{"deadline", "2h"}, noonOff...), nil, want{Wait, "the deadline forces it at 2026-11-20 13:59:00 UTC", false, false, time.Time{}, hour(1)}},
		"deadline forces, only what is past it": {append([]string{"deadline", "2h"}, noonOff...), func(v *View) { v.Oldest = hour(-3) },
			want{Flush, "deadline of 2h, outside the window", true, false, hour(-2), hour(1)}},
		"deadline before the conditions": {[]string{"size", "1GiB", "deadline", "2h"}, func(v *View) { v.Oldest = hour(-3) },
			want{Flush, "before its conditions are met", true, false, hour(-2), time.Time{}}},
		"deadline past but nothing forced": {[]string{"deadline", "2h"}, func(v *View) { v.Oldest = hour(-3) }, want{Flush, "as it comes", false, false, time.Time{}, time.Time{}}},
		"high water forces all":            {night, func(v *View) { v.HighWater = true }, want{Flush, "high water mark, outside the window", true, false, time.Time{}, hour(10)}},
		"budget left":                      {budget, func(v *View) { v.Spent = 10<<20 - 1 }, want{Flush, "as it comes", false, false, time.Time{}, hour(1)}},
		"budget spent":                     {budget, func(v *View) { v.Spent = 11 << 20 }, want{Wait, "waits: the budget of 10MiB is spent, 11.0MiB since 2026-11-20 11:00:00 UTC; the next window opens at 2026-11-27 11:00:00 UTC", false, false, time.Time{}, hour(1)}},
		"budget too small yet":             {budget, func(v *View) { v.Spent, v.Whole = 6<<20, 5<<20 }, want{Wait, "the 4.00MiB left are less than the 5.00MiB of the oldest", false, false, time.Time{}, hour(1)}},
		"budget spent, window closed":      {append([]string{"budget", "10MiB"}, night...), func(v *View) { v.Spent = 11 << 20 }, want{Wait, "waits: the window opens at 2026-11-20 22:00:00 UTC", false, false, time.Time{}, hour(10)}},
		"budget spent, deletes only":       {budget, func(v *View) { v.Spent, v.Bytes = 10<<20, 0 }, want{Flush, "as it comes", false, false, time.Time{}, hour(1)}},
		"budget of a day":                  {[]string{"budget", "10MiB", "timezone", "Europe/Berlin"}, func(v *View) { v.Spent = 10 << 20 }, want{Wait, "10.0MiB since 2026-11-20 00:00:00 CET; the next window opens at 2026-11-21 00:00:00 CET", false, false, time.Time{}, hour(11)}},
		"high water, over the budget":      {budget, func(v *View) { v.Spent, v.HighWater = 10<<20, true }, want{Flush, "high water mark, beyond the window's budget of 10MiB", true, false, time.Time{}, hour(1)}},
		"by hand, over the budget":         {budget, func(v *View) { v.Spent, v.Demand.At = 10<<20, noon }, want{Wait, "budget of 10MiB is spent", false, false, time.Time{}, hour(1)}},
		"by hand, ignoring the budget":     {budget, func(v *View) { v.Spent, v.Demand = 10<<20, Demand{noon, true} }, want{Flush, "by hand, beyond the window's budget", false, true, noon, hour(1)}},
		"by hand within the window":        {[]string{"size", "1GiB"}, func(v *View) { v.Demand.At = noon }, want{Flush, "by hand, before its conditions", false, true, noon, time.Time{}}},
		"by hand, window closed":           {night, func(v *View) { v.Demand.At = noon }, want{Wait, "window opens", false, false, time.Time{}, hour(10)}},
		"by hand, ignoring the window":     {night, func(v *View) { v.Demand = Demand{noon, true} }, want{Flush, "by hand, outside the window", false, true, noon, hour(10)}},
		"by hand, done":                    {night, func(v *View) { v.Demand = Demand{hour(-1), true} }, want{Wait, "window opens", false, false, time.Time{}, hour(10)}},
		"paused for ever":                  {[]string{"deadline", "2h"}, func(v *View) { v.Pause.On, v.HighWater, v.Oldest = true, true, hour(-3) }, want{Wait, "paused until resumed; the deadline passed at 2026-11-20 11:00:00 UTC", false, false, time.Time{}, time.Time{}}},
		"paused for a while":               {nil, func(v *View) { v.Pause = Pause{true, hour(1)} }, want{Wait, "paused until 2026-11-20 13:00", false, false, time.Time{}, hour(1)}},
		"pause is over":                    {nil, func(v *View) { v.Pause = Pause{true, noon} }, want{Flush, "", false, false, time.Time{}, time.Time{}}},
		"target away":                      {nil, func(v *View) { v.HighWater, v.Target = true, TargetState{"/mnt/nas is not mounted", hour(1)} }, want{Wait, "target: /mnt/nas is not mounted; next try at 2026-11-20 13:00:00 UTC", false, false, time.Time{}, hour(1)}},
		"target to be tried":               {nil, func(v *View) { v.Target = TargetState{"gone", noon} }, want{Flush, "", false, false, time.Time{}, time.Time{}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, p := some, with(t, c.pairs...)
			require.NoError(t, Validate(&p))
			if c.change != nil {
				c.change(&v)
			}
			got := Decide(v, noon, p)
			require.Equal(t, c.want.action, got.Action, got.Reason)
			require.Contains(t, got.Reason, c.want.reason)
			require.Equal(t, c.want.forced, got.Forced)
			require.Equal(t, c.want.byHand, got.ByHand)
			require.True(t, c.want.upTo.Equal(got.AckedUpTo), "acked up to %s", got.AckedUpTo)
			require.True(t, c.want.look.Equal(got.NextLook), "next look %s", got.NextLook)
			most := int64(units.GiB)
			if got.Action == Flush && p.Budget > 0 && !got.OverBudget {
				most = max(p.BudgetLeft(v.Spent), 1)
			}
			require.Equal(t, most, got.MaxBytes)
		})
	}
}

func TestDecideShowsWindowAndRate(t *testing.T) {
	t.Parallel()
	p := with(t, "window", "Mon-Fri 22:00-06:00", "bandwidth", "08:00,10M 19:00,50M 23:00,off", "timezone", "Europe/Berlin")
	v := View{Objects: 1, Bytes: 1, Oldest: at(t, "2026-11-20T10:00:00Z")}

	day := Decide(v, at(t, "2026-11-20T12:00:00Z"), p)
	require.Equal(t, 10*units.Rate(units.MiB), day.Rate)
	require.Equal(t, at(t, "2026-11-20T18:00:00Z"), day.RateUntil.UTC())
	require.Equal(t, at(t, "2026-11-20T21:00:00Z"), day.WindowOpensAt.UTC())
	require.Equal(t, at(t, "2026-11-21T05:00:00Z"), day.WindowClosesAt.UTC(), "Friday's window closes on Saturday")

	evening := Decide(v, at(t, "2026-11-20T21:30:00Z"), p)
	require.Equal(t, Flush, evening.Action)
	require.Equal(t, 50*units.Rate(units.MiB), evening.Rate)
	require.Equal(t, at(t, "2026-11-20T22:00:00Z"), evening.NextLook.UTC(), "the rate changes")
	require.True(t, evening.WindowOpensAt.IsZero())

	night := Decide(v, at(t, "2026-11-20T23:30:00Z"), p)
	require.Zero(t, night.Rate, "unlimited")
	require.Equal(t, at(t, "2026-11-21T05:00:00Z"), night.NextLook.UTC(), "the window closes")

	weekend := Decide(v, at(t, "2026-11-21T12:00:00Z"), p)
	require.Equal(t, Wait, weekend.Action)
	require.Equal(t, at(t, "2026-11-23T21:00:00Z"), weekend.NextLook.UTC(), "Monday")

	always := Decide(v, at(t, "2026-11-21T12:00:00Z"), Default())
	require.True(t, always.WindowOpensAt.IsZero() && always.WindowClosesAt.IsZero() && always.RateUntil.IsZero() && always.NextLook.IsZero())
}
