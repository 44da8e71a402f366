package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a span of time that is not negative. A day is 24 hours and a week 7 days, whatever clocks do.
type Duration time.Duration

// The units of a Duration beyond those of package time.
const (
	Day  = Duration(24 * time.Hour)
	Week = 7 * Day
)

type durationUnit struct {
	name string
	span Duration
}

var durationUnits = [...]durationUnit{
	{"w", Week}, {"d", Day}, {"h", Duration(time.Hour)}, {"m", Duration(time.Minute)}, {"s", Duration(time.Second)},
	{"ms", Duration(time.Millisecond)},
}

const durationHelp = "write numbers with units out of w d h m s ms, the largest first, such as 90s, 24h or 1d12h"

// ParseDuration reads numbers with units, the largest unit first and each at most once: 24h, 1d12h, 1.5s, 250ms. Zero
// needs no unit.
func ParseDuration(s string) (Duration, error) {
	s = strings.TrimSpace(s)
	if s == "0" {
		return 0, nil
	}
	fail := func(format string, args ...any) (Duration, error) {
		return 0, fmt.Errorf("duration %q %w: %s", s, fmt.Errorf(format, args...), durationHelp)
	}
	var sum Duration
	last := -1 // index of the last unit used: units have to become smaller
	for rest := s; ; {
		number, tail, err := split(rest)
		if err != nil {
			return fail("%w", err)
		}
		end := 0
		for end < len(tail) && tail[end] >= 'a' && tail[end] <= 'z' {
			end++
		}
		i := findDurationUnit(tail[:end])
		switch {
		case i < 0 && tail == "":
			return fail("has a number without a unit")
		case i < 0:
			return fail("has the unknown unit %q", tail)
		case i <= last:
			return fail("has its units out of order")
		}
		v, err := whole(number, int64(durationUnits[i].span), "nanoseconds")
		if err != nil {
			return fail("%w", err)
		}
		if Duration(v) > math.MaxInt64-sum {
			return fail("is too large")
		}
		sum, last, rest = sum+Duration(v), i, tail[end:]
		if rest == "" {
			return sum, nil
		}
	}
}

func findDurationUnit(name string) int {
	for i, u := range durationUnits {
		if u.name == name {
			return i
		}
	}
	return -1
}

// String prints d in canonical form. Hours are used up to 47h and days up to 13d, since people say 24h and 7d; weeks only
// for whole weeks: 5m, 1h30m, 24h, 36h, 2d, 7d, 2w, 30d, 1m0.25s as 1m250ms.
func (d Duration) String() string {
	if d <= 0 {
		return "0s"
	}
	var b strings.Builder
	rest := d
	for _, u := range durationUnits {
		if u.span == Week && (d%Week != 0 || d < 2*Week) || u.span == Day && d < 2*Day {
			continue
		}
		if u.name == "ms" {
			break
		}
		if n := rest / u.span; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + u.name)
			rest -= n * u.span
		}
	}
	if rest > 0 {
		ms := fmt.Sprintf("%d.%06d", rest/Duration(time.Millisecond), rest%Duration(time.Millisecond))
		b.WriteString(strings.TrimSuffix(strings.TrimRight(ms, "0"), ".") + "ms")
	}
	return b.String()
}

// Std returns d as package time has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalText prints as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads as ParseDuration does.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	if err != nil {
		return err
	}
	*d = v
	return nil
}
