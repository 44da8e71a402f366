package units

import (
	"fmt"
	"strings"
)

// Rate is a number of bytes per second; 0 is off, which means unlimited.
type Rate int64

const rateHelp = "write off, a number of KiB/s, 10M (which is 10MiB/s), 10MiB/s, 10MB/s or 80Mbit/s"

// bitUnits are decimal, as those who sell lines count; values are in bits.
var bitUnits = map[string]int64{"bit/s": 1, "kbit/s": 1e3, "Kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}

// rcloneUnits are the suffixes of rclone's bandwidth option, which are binary.
var rcloneUnits = map[string]Size{"": KiB, "B": Byte, "K": KiB, "M": MiB, "G": GiB, "T": TiB}

// ParseRate reads a rate as rclone writes it (10M is 10 MiB/s, a bare number KiB/s, off is unlimited) or with a unit that
// says bits or bytes (10MiB/s, 10MB/s, 80Mbit/s). Zero is refused: some read it as unlimited, others as nothing at all.
func ParseRate(s string) (Rate, error) {
	s = strings.TrimSpace(s)
	if strings.EqualFold(s, "off") {
		return 0, nil
	}
	number, name, err := split(s)
	if err != nil {
		return 0, fmt.Errorf("rate %q %w: %s", s, err, rateHelp)
	}
	if number.Sign() == 0 {
		return 0, fmt.Errorf("rate %q is not clear: write off for unlimited; to send nothing at all use a window or a pause", s)
	}
	if strings.Contains(name, ":") {
		return 0, fmt.Errorf("rate %q names two directions, a link has only one: %s", s, rateHelp)
	}
	if bits, ok := bitUnits[name]; ok {
		v, err := whole(number, bits, "bits")
		switch {
		case err != nil:
			return 0, fmt.Errorf("rate %q %w: %s", s, err, rateHelp)
		case v%8 != 0:
			return 0, fmt.Errorf("rate %q is no whole number of bytes per second: %s", s, rateHelp)
		}
		return Rate(v / 8), nil
	}
	unit, ok := rcloneUnits[strings.ToUpper(name)]
	if !ok {
		unit, ok = findSizeUnit(strings.TrimSuffix(name, "/s"))
	}
	if !ok {
		return 0, fmt.Errorf("rate %q has the unknown unit %q: %s", s, name, rateHelp)
	}
	v, err := whole(number, int64(unit), "bytes per second")
	if err != nil {
		return 0, fmt.Errorf("rate %q %w: %s", s, err, rateHelp)
	}
	return Rate(v), nil
}

// String prints off or bytes per second as a Size is: 10MiB/s.
func (r Rate) String() string {
	if r == 0 {
		return "off"
	}
	return Size(r).String() + "/s"
}

// MarshalText prints as String does.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads as ParseRate does.
func (r *Rate) UnmarshalText(b []byte) error {
	v, err := ParseRate(string(b))
	if err != nil {
		return err
	}
	*r = v
	return nil
}
