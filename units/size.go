package units

import (
	"fmt"
	"strconv"
	"strings"
)

// Size is a number of bytes.
type Size int64

// The units of a Size.
const (
	Byte Size = 1

	KiB = 1024 * Byte
	MiB = 1024 * KiB
	GiB = 1024 * MiB
	TiB = 1024 * GiB

	KB = 1000 * Byte
	MB = 1000 * KB
	GB = 1000 * MB
	TB = 1000 * GB
)

type sizeUnit struct {
	name string
	size Size
}

// sizeUnits is ordered as String prefers them: binary before decimal, large before small.
var sizeUnits = [...]sizeUnit{
	{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB},
	{"TB", TB}, {"GB", GB}, {"MB", MB}, {"KB", KB}, {"B", Byte},
}

const sizeHelp = "write a number with one of B KiB MiB GiB TiB KB MB GB TB, such as 512MiB"

// ParseSize reads a size: a number, which may have a fraction, and a unit. Zero needs no unit. Case matters, since Mb is
// read as megabit by some and as megabyte by others.
func ParseSize(s string) (Size, error) {
	s = strings.TrimSpace(s)
	number, name, err := split(s)
	if err != nil {
		return 0, fmt.Errorf("size %q %w: %s", s, err, sizeHelp)
	}
	if name == "" {
		if number.Sign() == 0 {
			return 0, nil
		}
		return 0, fmt.Errorf("size %q has no unit: %s", s, sizeHelp)
	}
	unit, ok := findSizeUnit(name)
	if !ok {
		return 0, fmt.Errorf("size %q has the unknown unit %q%s: %s", s, name, meantSize(name), sizeHelp)
	}
	v, err := whole(number, int64(unit), "bytes")
	if err != nil {
		return 0, fmt.Errorf("size %q %w: %s", s, err, sizeHelp)
	}
	return Size(v), nil
}

func findSizeUnit(name string) (Size, bool) {
	for _, u := range sizeUnits {
		if u.name == name {
			return u.size, true
		}
	}
	return 0, false
}

// meantSize guesses what a wrong unit was meant to be: other case, or the B left out.
func meantSize(name string) string {
	for _, u := range sizeUnits {
		if strings.EqualFold(u.name, name) || strings.EqualFold(u.name, name+"iB") || strings.EqualFold(u.name, name+"B") {
			return fmt.Sprintf(" (did you mean %s?)", u.name)
		}
	}
	return ""
}

// String prints s exactly, in the unit that needs the fewest digits, binary units first: 1GiB, 1536MiB, 10MB, 1001B.
func (s Size) String() string {
	best := strconv.FormatInt(int64(s), 10) + "B"
	digits := len(best) - 1
	for _, u := range sizeUnits {
		if s == 0 || s%u.size != 0 {
			continue
		}
		if n := strconv.FormatInt(int64(s/u.size), 10); len(n) < digits {
			best, digits = n+u.name, len(n)
		}
	}
	return best
}

// Human prints s for people, rounded to about three digits in binary units: 1.46GiB. It is not for reading back.
func (s Size) Human() string {
	for _, u := range sizeUnits[:4] {
		if s < u.size {
			continue
		}
		v := float64(s) / float64(u.size)
		switch {
		case v < 10:
			return strconv.FormatFloat(v, 'f', 2, 64) + u.name
		case v < 100:
			return strconv.FormatFloat(v, 'f', 1, 64) + u.name
		}
		return strconv.FormatFloat(v, 'f', 0, 64) + u.name
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText prints as String does, which makes JSON show sizes as people write them.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads as ParseSize does.
func (s *Size) UnmarshalText(b []byte) error {
	v, err := ParseSize(string(b))
	if err != nil {
		return err
	}
	*s = v
	return nil
}
