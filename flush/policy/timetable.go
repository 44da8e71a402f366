package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"forebay/units"
)

// Timetable says how fast a link may send and when. The zero value is off: always unlimited.
type Timetable struct {
	single  units.Rate // when there are no entries
	entries []entry    // as written, sorted by day and time; every day first
	steps   []step     // entries laid out over the week, sorted
	marks   []int      // moments of steps
}

// entry is one line of the timetable.
type entry struct {
	day  int // Monday is 0; everyDay
	at   int // seconds since midnight
	rate units.Rate
}

const everyDay = -1

// step is where the rate changes.
type step struct {
	moment int
	rate   units.Rate
}

const timetableHelp = `write one rate such as 10MiB/s, off, or a timetable such as "08:00,10M 19:00,50M Sat-10:00,off"`

// ParseTimetable reads one rate, or a timetable as rclone has it: entries HH:MM,RATE or Day-HH:MM,RATE separated by
// spaces. An entry is in force until the next one of the week; the last one of a week until the first of the next.
func ParseTimetable(s string) (Timetable, error) {
	s = strings.TrimSpace(s)
	if s == "" || s == "none" {
		return Timetable{}, nil
	}
	if !strings.Contains(s, ",") {
		rate, err := units.ParseRate(s)
		if err != nil && strings.ContainsAny(s, " :") {
			err = fmt.Errorf("timetable %q has no rate behind its time: %s", s, timetableHelp)
		}
		return Timetable{single: rate}, err
	}
	var t Timetable
	for _, item := range strings.Fields(s) {
		e, err := parseEntry(item)
		if err != nil {
			return Timetable{}, fmt.Errorf("timetable entry %q: %w: %s", item, err, timetableHelp)
		}
		t.entries = append(t.entries, e)
	}
	slices.SortStableFunc(t.entries, func(a, b entry) int { return (a.day-b.day)*daySeconds + a.at - b.at })
	if err := t.layOut(); err != nil {
		return Timetable{}, fmt.Errorf("timetable %q: %w", s, err)
	}
	return t, nil
}

func parseEntry(item string) (e entry, err error) {
	when, rate, ok := strings.Cut(item, ",")
	if !ok {
		return e, errors.New("has no rate")
	}
	if strings.Contains(rate, ",") {
		return e, errors.New("has two commas, put spaces between entries")
	}
	e.day = everyDay
	if day, clock, ok := strings.Cut(when, "-"); ok {
		if e.day, err = parseDay(day); err != nil {
			return e, err
		}
		when = clock
	}
	if e.at, err = parseClock(when); err != nil {
		return e, err
	}
	if e.at == daySeconds {
		return e, errors.New("24:00 is 00:00 of the next day")
	}
	e.rate, err = units.ParseRate(rate)
	return e, err
}

// layOut fills steps and marks. Two entries at one moment are refused: which one was meant is anybody's guess.
func (t *Timetable) layOut() error {
	for _, e := range t.entries {
		first, last := e.day, e.day
		if e.day == everyDay {
			first, last = 0, 6
		}
		for d := first; d <= last; d++ {
			t.steps = append(t.steps, step{d*daySeconds + e.at, e.rate})
		}
	}
	slices.SortStableFunc(t.steps, func(a, b step) int { return a.moment - b.moment })
	for i, s := range t.steps {
		if i > 0 && s.moment == t.steps[i-1].moment {
			return fmt.Errorf("%s-%s is given twice: keep one", dayNames[s.moment/daySeconds], formatClock(s.moment%daySeconds))
		}
		t.marks = append(t.marks, s.moment)
	}
	return nil
}

// rateAt returns the rate in force at a moment of the week.
func (t Timetable) rateAt(moment int) int64 {
	if len(t.steps) == 0 {
		return int64(t.single)
	}
	i, found := slices.BinarySearch(t.marks, moment)
	if !found {
		i = (i - 1 + len(t.steps)) % len(t.steps) // before the first of the week: the last of the week before
	}
	return int64(t.steps[i].rate)
}

// At returns the rate in force at now by the clocks of loc.
func (t Timetable) At(now time.Time, loc *time.Location) units.Rate {
	return units.Rate(t.rateAt(momentOf(now.In(loc))))
}

// NextChange returns the first instant after now at which the rate changes; false when it never does.
func (t Timetable) NextChange(now time.Time, loc *time.Location) (time.Time, bool) {
	return nextChange(now, loc, t.marks, t.rateAt)
}

// String prints the timetable in canonical form: off, 10MiB/s, or "08:00,10MiB/s Sat-10:00,off".
func (t Timetable) String() string {
	if len(t.entries) == 0 {
		return t.single.String()
	}
	out := make([]string, len(t.entries))
	for i, e := range t.entries {
		if e.day != everyDay {
			out[i] = dayNames[e.day] + "-"
		}
		out[i] += formatClock(e.at) + "," + e.rate.String()
	}
	return strings.Join(out, " ")
}

// MarshalText prints as String does.
func (t Timetable) MarshalText() ([]byte, error) { return []byte(t.String()), nil }
