package units

import (
	"fmt"
	"strconv"
	"strings"
)

// Percent is a share in hundredths of a percent: 10000 is all.
type Percent int32

// Hundred is the whole.
const Hundred Percent = 10000

const percentHelp = "write a number from 0% to 100%, such as 20% or 12.5%"

// ParsePercent reads 20% or 12.5%; at most two digits behind the point. The sign is needed, except for zero.
func ParsePercent(s string) (Percent, error) {
	s = strings.TrimSpace(s)
	number, unit, err := split(s)
	if err != nil {
		return 0, fmt.Errorf("percentage %q %w: %s", s, err, percentHelp)
	}
	if unit != "%" && (unit != "" || number.Sign() != 0) {
		return 0, fmt.Errorf("percentage %q has no %% sign at its end: %s", s, percentHelp)
	}
	v, err := whole(number, 100, "hundredths of a percent")
	if err != nil {
		return 0, fmt.Errorf("percentage %q %w: %s", s, err, percentHelp)
	}
	if v > int64(Hundred) {
		return 0, fmt.Errorf("percentage %q is more than 100%%: %s", s, percentHelp)
	}
	return Percent(v), nil
}

// Of returns p of n, rounded down; n is not negative. It does not overflow.
func (p Percent) Of(n int64) int64 {
	h := int64(Hundred)
	return n/h*int64(p) + n%h*int64(p)/h
}

// String prints p with as many digits as it needs: 20%, 12.5%.
func (p Percent) String() string {
	s := strconv.Itoa(int(p / 100))
	if f := p % 100; f != 0 {
		s += strings.TrimRight(fmt.Sprintf(".%02d", f), "0")
	}
	return s + "%"
}

// MarshalText prints as String does.
func (p Percent) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads as ParsePercent does.
func (p *Percent) UnmarshalText(b []byte) error {
	v, err := ParsePercent(string(b))
	if err != nil {
		return err
	}
	*p = v
	return nil
}
