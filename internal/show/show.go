// Package show is how figures, names and progress look to people: on a terminal and in plain lines. It stands at the edge,
// used by the command line and the demo; it imports no other package of Forebay, and no core package imports it.
package show

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bytes prints a size rounded for people: 512 B, 1.5 MiB, 12.3 GiB.
func Bytes(n int64) string {
	if n < 0 {
		return "-" + Bytes(-n)
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	units := []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := -1
	for v >= 1023.95 && i < len(units)-1 { // what would be printed as 1024.0 is one of the next unit
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// Rate prints bytes a second.
func Rate(bytesPerSecond float64) string { return Bytes(int64(bytesPerSecond)) + "/s" }

// Count prints a number with its thousands set apart: 12,345.
func Count(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// Things prints a count with its noun, which takes an s unless it is one: 1 object, 2,000 objects.
func Things(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Count(n) + " " + noun + "s"
}

// Span prints a duration in at most two units: 350 ms, 4.2 s, 3 min 20 s, 5 h 3 min, 12 d.
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Span(-d)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Truncate(100*time.Millisecond).Seconds()), ".0") + " s"
	case d < time.Hour:
		return two(d, time.Minute, "min", time.Second, "s")
	case d < 48*time.Hour:
		return two(d, time.Hour, "h", time.Minute, "min")
	}
	return two(d, 24*time.Hour, "d", time.Hour, "h")
}

func two(d, large time.Duration, name string, small time.Duration, rest string) string {
	n, m := d/large, d%large/small
	if m == 0 {
		return fmt.Sprintf("%d %s", n, name)
	}
	return fmt.Sprintf("%d %s %d %s", n, name, m, rest)
}

// Seconds is Span of a number of seconds as the relay's status has them.
func Seconds(s float64) string {
	if math.IsNaN(s) || s > 100*365*24*3600 {
		return "very long"
	}
	return Span(time.Duration(s * float64(time.Second)))
}

// Name prints the name of an object: as it is when that is harmless on a terminal and unambiguous, else quoted and escaped.
func Name(s string) string {
	if s == "" || s[0] == '"' || s[0] == ' ' || s[len(s)-1] == ' ' || !harmless(s) {
		return strconv.Quote(s)
	}
	return s
}

// Text prints a message that may hold foreign bytes: what could move a terminal's cursor is escaped.
func Text(s string) string {
	if harmless(s) {
		return s
	}
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

func harmless(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
