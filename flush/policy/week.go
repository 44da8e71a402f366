package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Windows and timetables repeat weekly by the clock on the wall. A moment of the week is the number of seconds since Monday
// 00:00 as that clock shows it. Where the clock is set forward, the skipped moments do not happen: a window that lies
// within them does not open in that week. Where it is set back, the repeated moments happen twice, and so does what they
// mean. This is what people see who compare the policy with the clock, it needs no rule about which of two equal times is
// meant, and nothing ever runs while the clock shows a time outside the window.
const (
	daySeconds  = 24 * 60 * 60
	weekSeconds = 7 * daySeconds
)

// horizon is how far ahead changes are looked for. A weekly moment can fall into the gap of a clock change and be skipped
// once, or, on both sides of a change, twice.
const horizon = 4 * weekSeconds * time.Second

// momentOf returns the moment of the week that local shows.
func momentOf(local time.Time) int {
	day := (int(local.Weekday()) + 6) % 7
	return day*daySeconds + local.Hour()*3600 + local.Minute()*60 + local.Second()
}

// nextChange returns the first instant after t at which value differs from its value at t; false when it does not change.
// marks are the sorted moments at which value may change.
func nextChange(t time.Time, loc *time.Location, marks []int, value func(moment int) int64) (time.Time, bool) {
	if len(marks) == 0 {
		return time.Time{}, false
	}
	at := t.Round(0).Truncate(time.Second).In(loc)
	before := value(momentOf(at))
	for end := at.Add(horizon); at.Before(end); {
		next := at.Add(time.Duration(untilMark(momentOf(at), marks)) * time.Second)
		// The step above holds only as long as the offset of the zone does.
		if _, change := at.ZoneBounds(); !change.IsZero() && change.Before(next) {
			next = change.In(loc)
		}
		if value(momentOf(next)) != before {
			return next, true
		}
		at = next
	}
	return time.Time{}, false
}

// lastChange returns the last instant up to t at which value changed; false when it did not within the horizon, with the
// beginning of that.
func lastChange(t time.Time, loc *time.Location, marks []int, value func(moment int) int64) (time.Time, bool) {
	at := t.Round(0).Truncate(time.Second).In(loc)
	begin := at.Add(-horizon)
	for at.After(begin) && len(marks) > 0 {
		from := at.Add(-time.Duration(sinceMark(momentOf(at), marks)) * time.Second)
		// As in nextChange: the step holds only as long as the offset of the zone does.
		if change, _ := at.ZoneBounds(); !change.IsZero() && change.After(from) {
			from = change.In(loc)
		}
		before := from.Add(-time.Second)
		if value(momentOf(before)) != value(momentOf(from)) {
			return from, true
		}
		at = before
	}
	return begin, false
}

// sinceMark returns the seconds from the last mark up to moment, less than a week.
func sinceMark(moment int, marks []int) int {
	i, found := slices.BinarySearch(marks, moment)
	switch {
	case found:
		return 0
	case i > 0:
		return moment - marks[i-1]
	}
	return moment + weekSeconds - marks[len(marks)-1]
}

// untilMark returns the seconds from moment to the next mark, at least one and at most a week.
func untilMark(moment int, marks []int) int {
	i, found := slices.BinarySearch(marks, moment)
	if found {
		i++
	}
	if i < len(marks) {
		return marks[i] - moment
	}
	return marks[0] + weekSeconds - moment
}

// Zone is a time zone by its IANA name. The zero value is UTC.
type Zone struct{ loc *time.Location }

// ParseZone loads a zone. The machine's own zone ("Local") is refused, since a policy must mean the same on each machine.
func ParseZone(name string) (Zone, error) {
	if name == "" || name == "UTC" {
		return Zone{}, nil
	}
	if name == "Local" {
		return Zone{}, errors.New("time zone Local differs between machines: write its IANA name, such as Europe/Berlin")
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return Zone{}, fmt.Errorf("time zone %q is not known: write an IANA name, such as Europe/Berlin or UTC", name)
	}
	return Zone{loc: loc}, nil
}

// Location returns the zone for package time.
func (z Zone) Location() *time.Location {
	if z.loc == nil {
		return time.UTC
	}
	return z.loc
}

// String returns the IANA name.
func (z Zone) String() string { return z.Location().String() }

var dayNames = [7]string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}

// parseDay reads Mon or Monday in any case; Monday is 0.
func parseDay(s string) (int, error) {
	for i, short := range dayNames {
		if strings.EqualFold(s, short) || strings.EqualFold(s, time.Weekday((i+1)%7).String()) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("day %q is not one of Mon Tue Wed Thu Fri Sat Sun", s)
}

// parseClock reads HH:MM and returns seconds since midnight; 24:00 is the end of the day.
func parseClock(s string) (int, error) {
	h, m, ok := strings.Cut(s, ":")
	hours, err1 := strconv.ParseUint(h, 10, 8)
	minutes, err2 := strconv.ParseUint(m, 10, 8)
	if !ok || err1 != nil || err2 != nil || len(h) > 2 || len(m) != 2 {
		return 0, fmt.Errorf("time %q is not HH:MM", s)
	}
	if minutes > 59 || hours > 24 || hours == 24 && minutes > 0 {
		return 0, fmt.Errorf("time %q does not exist: use 00:00 to 24:00", s)
	}
	return int(hours)*3600 + int(minutes)*60, nil
}

// formatMoment prints a moment of this week or the next one, such as Fri 06:00.
func formatMoment(moment int) string {
	return dayNames[moment/daySeconds%7] + " " + formatClock(moment%daySeconds)
}

func formatClock(seconds int) string { return fmt.Sprintf("%02d:%02d", seconds/3600, seconds/60%60) }
