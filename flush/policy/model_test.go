package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"forebay/units"
)

var (
	drawZone = rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"})
	// drawInstant prefers the nights in which clocks change.
	drawInstant = rapid.Custom(func(t *rapid.T) time.Time {
		day := rapid.SampledFrom([]time.Time{
			time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC), time.Date(2026, 10, 24, 12, 0, 0, 0, time.UTC),
			time.Date(2026, 3, 7, 12, 0, 0, 0, time.UTC), time.Date(2026, 10, 31, 12, 0, 0, 0, time.UTC),
			time.Date(2026, 4, 4, 0, 0, 0, 0, time.UTC), time.Date(2026, 10, 3, 0, 0, 0, 0, time.UTC),
		}).Draw(t, "day")
		return day.Add(time.Duration(rapid.Int64Range(-48*3600e9, 72*3600e9).Draw(t, "offset")))
	})
	drawClock = rapid.Custom(func(t *rapid.T) int { return 300 * rapid.IntRange(0, 287).Draw(t, "five minutes") })
)

// drawWindows also returns the model: the same windows as plain minutes and days.
func drawWindows(t *rapid.T) (Windows, []window) {
	var texts []string
	var model []window
	for range rapid.IntRange(0, 3).Draw(t, "windows") {
		w := window{from: drawClock.Draw(t, "from"), to: drawClock.Draw(t, "to")}
		if w.from == w.to {
			w.to += 300
		}
		var days []string
		for d := range w.days {
			if w.days[d] = rapid.Bool().Draw(t, "day"); w.days[d] {
				days = append(days, dayNames[d])
			}
		}
		if days == nil {
			w.days = [7]bool{true, true, true, true, true, true, true}
		}
		texts = append(texts, strings.TrimSpace(strings.Join(days, ",")+" "+formatClock(w.from)+"-"+formatClock(w.to)))
		model = append(model, w)
	}
	w, err := ParseWindows(strings.Join(texts, ", "))
	require.NoError(t, err)
	return w, model
}

// modelOpen says it as an operator would: look at the wall clock, then at the list.
func modelOpen(model []window, local time.Time) bool {
	clock := local.Hour()*3600 + local.Minute()*60 + local.Second()
	today := (int(local.Weekday()) + 6) % 7
	yesterday := (today + 6) % 7
	for _, w := range model {
		over := w.to < w.from
		switch {
		case !over && w.days[today] && clock >= w.from && clock < w.to,
			over && w.days[today] && clock >= w.from,
			over && w.days[yesterday] && clock < w.to:
			return true
		}
	}
	return len(model) == 0
}

func TestWindowsAgreeWithTheWallClock(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, model := drawWindows(t)
		zone, err := ParseZone(drawZone.Draw(t, "zone"))
		require.NoError(t, err)
		now := drawInstant.Draw(t, "now")
		loc := zone.Location()
		open := modelOpen(model, now.In(loc))
		require.Equal(t, open, w.Open(now, loc))

		// Nothing changes before NextChange, and something does at it: look at each five minutes of the way.
		next, ok := w.NextChange(now, loc)
		end := now.Add(9 * 24 * time.Hour)
		if ok {
			require.True(t, next.After(now))
			require.NotEqual(t, open, modelOpen(model, next.In(loc)))
			if next.Before(end) {
				end = next
			}
		}
		for at := now.Truncate(5 * time.Minute).Add(5 * time.Minute); at.Before(end); at = at.Add(5 * time.Minute) {
			require.Equal(t, open, modelOpen(model, at.In(loc)), "at %s", at.In(loc))
		}

		again, err := ParseWindows(w.String())
		require.NoError(t, err)
		require.Equal(t, w, again, "the canonical form is read back")
	})
}

func drawTimetable(t *rapid.T) Timetable {
	n := rapid.IntRange(0, 5).Draw(t, "entries")
	if n == 0 {
		return Timetable{single: units.Rate(rapid.Int64Range(0, 1<<40).Draw(t, "rate"))}
	}
	var items []string
	for i := range n {
		day := ""
		if d := rapid.IntRange(-1, 6).Draw(t, "day"); d >= 0 {
			day = dayNames[d] + "-"
		}
		// Distinct minutes, so that no two entries are at one moment.
		clock := rapid.IntRange(0, 287).Draw(t, "clock")*300 + i*60
		rate := units.Rate(rapid.Int64Range(0, 5).Draw(t, "rate") * int64(units.MiB))
		items = append(items, day+formatClock(clock)+","+rate.String())
	}
	table, err := ParseTimetable(strings.Join(items, " "))
	require.NoError(t, err)
	return table
}

// modelRate walks back minute by minute through the week, as the wall clock has it, to the entry last passed.
func modelRate(table Timetable, local time.Time) units.Rate {
	if len(table.entries) == 0 {
		return table.single
	}
	day, minute := (int(local.Weekday())+6)%7, local.Hour()*60+local.Minute()
	for {
		for _, e := range table.entries {
			if (e.day == everyDay || e.day == day) && e.at == minute*60 {
				return e.rate
			}
		}
		if minute--; minute < 0 {
			minute, day = 24*60-1, (day+6)%7
		}
	}
}

func TestTimetableAgreesWithTheWallClock(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		table := drawTimetable(t)
		zone, err := ParseZone(drawZone.Draw(t, "zone"))
		require.NoError(t, err)
		now := drawInstant.Draw(t, "now")
		loc := zone.Location()
		rate := modelRate(table, now.In(loc))
		require.Equal(t, rate, table.At(now, loc))
		if next, ok := table.NextChange(now, loc); ok {
			require.NotEqual(t, rate, modelRate(table, next.In(loc)))
			require.Equal(t, rate, modelRate(table, next.Add(-time.Nanosecond).In(loc)))
			middle := now.Add(next.Sub(now) / 2)
			require.Equal(t, rate, modelRate(table, middle.In(loc)))
		}
		again, err := ParseTimetable(table.String())
		require.NoError(t, err)
		require.Equal(t, table, again, "the canonical form is read back")
	})
}

func drawPolicy(t *rapid.T) Policy {
	p := Default()
	p.Windows, _ = drawWindows(t)
	zone, err := ParseZone(drawZone.Draw(t, "zone"))
	require.NoError(t, err)
	p.Zone = zone
	p.Bandwidth = drawTimetable(t)
	minutes := func(name string) units.Duration {
		return units.Duration(rapid.Int64Range(0, 600).Draw(t, name)) * units.Duration(time.Minute)
	}
	if rapid.Bool().Draw(t, "has size") {
		p.Size = units.Size(rapid.Int64Range(1, 100).Draw(t, "size"))
	}
	if rapid.Bool().Draw(t, "has objects") {
		p.Objects = rapid.Int64Range(1, 100).Draw(t, "objects")
	}
	if rapid.Bool().Draw(t, "has age") {
		p.Age = minutes("age")
	}
	if rapid.Bool().Draw(t, "has deadline") {
		from, to := p.Windows.longestClosed()
		p.Deadline = max(p.Age, units.Duration(to-from)*units.Duration(time.Second)) + minutes("deadline")
	}
	if p.Age > 0 || p.Deadline > 0 {
		most := int64(p.Size)
		if most == 0 {
			most = 100
		}
		p.BatchMin = units.Size(rapid.Int64Range(0, most).Draw(t, "batch_min"))
	}
	if rapid.Bool().Draw(t, "has budget") {
		p.Budget = max(MinBudget, p.BatchMin)
	}
	require.NoError(t, Validate(&p))
	return p
}

func drawView(t *rapid.T, now time.Time) View {
	v := View{
		Objects: rapid.Int64Range(0, 120).Draw(t, "objects"), HighWater: rapid.IntRange(0, 4).Draw(t, "high water") == 0,
		Oldest: now.Add(-time.Duration(rapid.Int64Range(-60, 1500).Draw(t, "oldest"))*time.Minute + time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "ns"))),
	}
	if v.Objects > 0 {
		v.Bytes = rapid.Int64Range(0, 120).Draw(t, "bytes")
	}
	v.Spent = int64(MinBudget) - rapid.Int64Range(-3, 50).Draw(t, "budget left")
	if v.Bytes > 0 && rapid.Bool().Draw(t, "whole") {
		v.Whole = rapid.Int64Range(1, v.Bytes).Draw(t, "whole bytes")
	}
	soon := func(name string) time.Time {
		if rapid.IntRange(0, 3).Draw(t, name) > 0 {
			return time.Time{}
		}
		return now.Add(time.Duration(rapid.Int64Range(-90, 90).Draw(t, name)) * time.Minute)
	}
	v.Pause = Pause{rapid.IntRange(0, 5).Draw(t, "paused") == 0, soon("until")}
	v.Target.NextTry = soon("next try")
	v.Demand = Demand{soon("demand"), rapid.Bool().Draw(t, "ignore window")}
	return v
}

// outcome is what of a plan may not change before its NextLook.
func outcome(p Plan) string {
	s := fmt.Sprintln(p.Action, p.Forced, p.ByHand, p.MaxBytes)
	if p.Action == Flush {
		s += p.Rate.String()
	}
	return s
}

func TestDecideProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		now := drawInstant.Draw(t, "now")
		v := drawView(t, now)
		plan := Decide(v, now, p)
		loc := p.Zone.Location()
		open := p.Windows.Open(now, loc)
		paused := v.Pause.On && (v.Pause.Until.IsZero() || v.Pause.Until.After(now))
		overdue := p.Deadline > 0 && now.Sub(v.Oldest) >= p.Deadline.Std()

		require.NotEmpty(t, plan.Reason)
		require.True(t, plan.NextLook.IsZero() || plan.NextLook.After(now))
		if plan.Action == Flush {
			require.Positive(t, v.Objects)
			require.False(t, paused)
			// I14: outside the window only what forces, and it is shown.
			if !open {
				require.True(t, plan.Forced && (v.HighWater || overdue) || plan.ByHand && v.Demand.IgnoreWindow, "%+v", plan)
			}
			// And over the budget, too, but for what takes none of it.
			if left := p.BudgetLeft(v.Spent); p.Budget > 0 && v.Bytes > 0 && (left == 0 || left < v.Whole) {
				require.True(t, plan.OverBudget)
				require.True(t, plan.Forced && (v.HighWater || overdue) || plan.ByHand && v.Demand.IgnoreWindow, "%+v", plan)
			}
			if plan.Forced && !v.HighWater {
				require.True(t, plan.AckedUpTo.Equal(now.Add(-p.Deadline.Std())), "a deadline forces only what is past it")
			}
			if !plan.AckedUpTo.IsZero() {
				require.False(t, v.Oldest.After(plan.AckedUpTo), "a flush has something to do")
			}
		}
		// What forces is not held back by anything but a pause or an absent target.
		if v.Objects > 0 && (v.HighWater || overdue) && !paused && !v.Target.NextTry.After(now) {
			require.Equal(t, Flush, plan.Action)
		}
		// A backlog with an age or a deadline is let through some time: follow the looks.
		if v.Objects > 0 && plan.Action == Wait && (p.Age > 0 || p.Deadline > 0) && (!paused || !v.Pause.Until.IsZero()) {
			require.False(t, plan.NextLook.IsZero(), "%+v", plan)
			look, v := plan, v
			for range 200 {
				if look.Action == Flush {
					break
				}
				require.False(t, look.NextLook.IsZero(), "%+v", look)
				if !look.BudgetRenews.IsZero() && !look.NextLook.Before(look.BudgetRenews) {
					v.Spent = 0
				}
				look = Decide(v, look.NextLook, p)
			}
			require.Equal(t, Flush, look.Action, "%+v", look)
		}
		// Nothing changes before the next look.
		end := plan.NextLook
		if end.IsZero() {
			end = now.Add(10 * 24 * time.Hour)
		}
		for _, part := range []time.Duration{7, 3, 2} {
			at := now.Add(end.Sub(now) / part)
			require.Equal(t, outcome(plan), outcome(Decide(v, at, p)), "at %s, %+v", at, plan)
		}
		require.Equal(t, outcome(plan), outcome(Decide(v, end.Add(-1), p)), "%+v", plan)
	})
}
