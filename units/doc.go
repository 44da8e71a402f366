// Package units reads and prints the quantities of the configuration: sizes, durations, rates and percentages. Reading is
// strict and its errors say what is allowed; printing is canonical, and what String prints is read back as the same value.
//
// It stands beside package proto at the bottom of the house: it imports no other package of Forebay.
package units

import (
	"fmt"
	"math/big"
	"strings"
)

// maxDigits bounds how long a number may be written, so that hostile input costs nothing.
const maxDigits = 30

// split cuts s into a number (digits, at most one point) and the unit behind it; blanks between them are dropped.
func split(s string) (number *big.Rat, unit string, err error) {
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.') {
		end++
	}
	digits := s[:end]
	switch {
	case strings.HasPrefix(s, "-"):
		return nil, "", fmt.Errorf("must not be negative")
	case digits == "":
		return nil, "", fmt.Errorf("does not start with a number")
	case len(digits) > maxDigits:
		return nil, "", fmt.Errorf("number is longer than %d digits", maxDigits)
	case strings.Count(digits, ".") > 1 || digits[0] == '.' || digits[end-1] == '.':
		return nil, "", fmt.Errorf("%q is not a number", digits)
	}
	number, ok := new(big.Rat).SetString(digits)
	if !ok {
		return nil, "", fmt.Errorf("%q is not a number", digits)
	}
	return number, strings.TrimLeft(s[end:], " "), nil
}

// whole multiplies number by unit and refuses what is no whole number of basic units or does not fit.
func whole(number *big.Rat, unit int64, basic string) (int64, error) {
	v := new(big.Rat).Mul(number, new(big.Rat).SetInt64(unit))
	if !v.IsInt() {
		return 0, fmt.Errorf("is no whole number of %s", basic)
	}
	if !v.Num().IsInt64() {
		return 0, fmt.Errorf("is too large")
	}
	return v.Num().Int64(), nil
}
