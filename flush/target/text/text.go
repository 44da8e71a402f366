// Package text makes names out of paths for targets whose names are text, and paths out of those names. Bytes that are no UTF-8, control
// characters, U+FFFE and U+FFFF (which XML has not), and a '%' that two hexadecimal digits follow are written %XX, so that no two paths
// have one name. It imports nothing of Forebay.
package text

import (
	"strings"
	"unicode/utf8"
)

const hexDigits = "0123456789ABCDEF"

// Escape returns the name that stands for a path.
func Escape(p string) string {
	clean := true
	for i := 0; i < len(p) && clean; i++ {
		clean = p[i] >= 0x20 && p[i] < 0x7f && p[i] != '%'
	}
	if clean {
		return p
	}
	var b strings.Builder
	for i := 0; i < len(p); {
		r, n := utf8.DecodeRuneInString(p[i:])
		odd := r == utf8.RuneError && n == 1 || r < 0x20 || r == 0x7f || r == 0xfffe || r == 0xffff || r == '%' && isHex(p, i+1) && isHex(p, i+2)
		for _, c := range []byte(p[i : i+n]) {
			if odd {
				b.WriteByte('%')
				b.WriteByte(hexDigits[c>>4])
				c = hexDigits[c&15]
			}
			b.WriteByte(c)
		}
		i += n
	}
	return b.String()
}

// Unescape is its inverse. ok is false for names that Escape never makes.
func Unescape(name string) (p string, ok bool) {
	if !strings.Contains(name, "%") {
		return name, true
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '%' && isHex(name, i+1) && isHex(name, i+2) {
			b.WriteByte(unhex(name[i+1])<<4 | unhex(name[i+2]))
			i += 2
			continue
		}
		b.WriteByte(name[i])
	}
	p = b.String()
	return p, Escape(p) == name
}

func isHex(s string, i int) bool {
	return i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] >= 'A' && s[i] <= 'F' || s[i] >= 'a' && s[i] <= 'f')
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
