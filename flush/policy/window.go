package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Windows are the times in which a link may flush; none means always. The zero value has none.
type Windows struct {
	list  []window
	marks []int // sorted moments at which some window opens or closes
}

// window opens on each of days at from and closes at to; a to that is not after from is on the next day.
type window struct {
	days     [7]bool // Monday first; the day on which it opens
	from, to int     // seconds since midnight
}

const windowHelp = `write "22:00-06:00", "Mon-Fri 22:00-06:00", several separated by commas, or "always"`

// ParseWindows reads windows, separated by commas or semicolons: an optional list of days (Mon, Mon-Fri, Sat,Sun), a
// space, and from-to. A window that ends before it begins goes over midnight and belongs to the day on which it opens.
func ParseWindows(s string) (Windows, error) {
	if s = strings.TrimSpace(s); s == "" || s == "always" || s == "none" {
		return Windows{}, nil
	}
	var w Windows
	var days []string // day items waiting for their times: the comma stands between days and between windows
	for _, item := range strings.FieldsFunc(strings.ReplaceAll(s, " - ", "-"), func(r rune) bool { return r == ',' || r == ';' }) {
		item = strings.TrimSpace(item)
		if !strings.Contains(item, ":") {
			days = append(days, item)
			continue
		}
		if i := strings.LastIndexByte(item, ' '); i >= 0 {
			days = append(days, strings.TrimSpace(item[:i]))
			item = item[i+1:]
		}
		one, err := parseWindow(days, item)
		if err != nil {
			return Windows{}, fmt.Errorf("window %q: %w: %s", s, err, windowHelp)
		}
		w.list, days = append(w.list, one), nil
	}
	if days != nil || w.list == nil {
		return Windows{}, fmt.Errorf("window %q: no time follows the days: %s", s, windowHelp)
	}
	w.setMarks()
	return w, nil
}

func parseWindow(days []string, times string) (w window, err error) {
	for i := range w.days {
		w.days[i] = len(days) == 0
	}
	for _, d := range days {
		if err := w.addDays(d); err != nil {
			return w, err
		}
	}
	from, to, ok := strings.Cut(times, "-")
	if !ok {
		return w, fmt.Errorf("%q has no end", times)
	}
	if w.from, err = parseClock(from); err != nil {
		return w, err
	}
	if w.to, err = parseClock(to); err != nil {
		return w, err
	}
	switch {
	case w.from == daySeconds:
		return w, fmt.Errorf("24:00 can only be an end, write 00:00 of the next day")
	case w.from == w.to:
		return w, fmt.Errorf("%q ends when it begins: for whole days write 00:00-24:00", times)
	}
	return w, nil
}

// addDays adds Mon or Mon-Fri; a range may go over the end of the week.
func (w *window) addDays(s string) error {
	first, last, isRange := strings.Cut(s, "-")
	from, err := parseDay(strings.TrimSpace(first))
	if err != nil {
		return err
	}
	to := from
	if isRange {
		if to, err = parseDay(strings.TrimSpace(last)); err != nil {
			return err
		}
	}
	for d := from; ; d = (d + 1) % 7 {
		w.days[d] = true
		if d == to {
			return nil
		}
	}
}

// length returns the seconds that the window is open on a day without clock changes.
func (w window) length() int {
	if w.to <= w.from {
		return w.to + daySeconds - w.from
	}
	return w.to - w.from
}

func (w *Windows) setMarks() {
	for _, one := range w.list {
		for d, on := range one.days {
			if on {
				start := d*daySeconds + one.from
				w.marks = append(w.marks, start, (start+one.length())%weekSeconds)
			}
		}
	}
	slices.Sort(w.marks)
	w.marks = slices.Compact(w.marks)
}

// openAt returns 1 when some window is open at the moment, else 0.
func (w Windows) openAt(moment int) int64 {
	for _, one := range w.list {
		for d, on := range one.days {
			since := (moment - d*daySeconds - one.from + 2*weekSeconds) % weekSeconds
			if on && since < one.length() {
				return 1
			}
		}
	}
	return 0
}

// Always reports whether there are no windows.
func (w Windows) Always() bool { return len(w.list) == 0 }

// Open reports whether a window is open at t by the clocks of loc.
func (w Windows) Open(t time.Time, loc *time.Location) bool {
	return w.Always() || w.openAt(momentOf(t.In(loc))) == 1
}

// NextChange returns the first instant after t at which the windows open or close; false when they never do.
func (w Windows) NextChange(t time.Time, loc *time.Location) (time.Time, bool) {
	return nextChange(t, loc, w.marks, w.openAt)
}

// longestClosed returns the longest stretch of a week in which all windows are closed, as moments of the week; to is in the next
// week where it is after the end of this one. Both are 0 where they are never all closed.
func (w Windows) longestClosed() (from, to int) {
	for i, begin := range w.marks {
		if w.openAt(begin) == 1 {
			continue
		}
		end := w.marks[(i+1)%len(w.marks)] // the first to open: while all are closed, none can close
		if end <= begin {
			end += weekSeconds
		}
		if end-begin > to-from {
			from, to = begin, end
		}
	}
	return from, to
}

// String prints the windows in canonical form: Mon-Fri 22:00-06:00, Sat,Sun 00:00-24:00; always when there are none.
func (w Windows) String() string {
	if w.Always() {
		return "always"
	}
	out := make([]string, len(w.list))
	for i, one := range w.list {
		if days := formatDays(one.days); days != "" {
			out[i] = days + " "
		}
		out[i] += formatClock(one.from) + "-" + formatClock(one.to)
	}
	return strings.Join(out, ", ")
}

// formatDays prints runs of three days and more as a range; nothing for the whole week.
func formatDays(days [7]bool) string {
	if days == [7]bool{true, true, true, true, true, true, true} {
		return ""
	}
	var out []string
	for d := 0; d < 7; d++ {
		if !days[d] {
			continue
		}
		end := d
		for end+1 < 7 && days[end+1] {
			end++
		}
		if end-d >= 2 {
			out = append(out, dayNames[d]+"-"+dayNames[end])
			d = end
			continue
		}
		out = append(out, dayNames[d])
	}
	return strings.Join(out, ",")
}

// MarshalText prints as String does.
func (w Windows) MarshalText() ([]byte, error) { return []byte(w.String()), nil }
