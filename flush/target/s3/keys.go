package s3

import (
	"strings"
	"unicode/utf8"

	"forebay/flush/target"
	"forebay/flush/target/tree"
	"forebay/proto"
)

// Keys are UTF-8 text of at most 1,024 bytes, and travel in XML. A path's bytes that cannot are written %XX: those that are no
// UTF-8, control characters, and a '%' that two hexadecimal digits follow, so that no two paths have one key.

// maxKey is the longest key in bytes.
const maxKey = 1024

const hexDigits = "0123456789ABCDEF"

// escape returns the key of a path below the target's root.
func escape(p string) string {
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

// unescape is escape's inverse. ok is false for keys that escape never makes.
func unescape(key string) (p string, ok bool) {
	if !strings.Contains(key, "%") {
		return key, true
	}
	var b strings.Builder
	for i := 0; i < len(key); i++ {
		if key[i] == '%' && isHex(key, i+1) && isHex(key, i+2) {
			b.WriteByte(unhex(key[i+1])<<4 | unhex(key[i+2]))
			i += 2
			continue
		}
		b.WriteByte(key[i])
	}
	p = b.String()
	return p, escape(p) == key
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

// object is the key of a path in the mirror; "" is the mirror itself.
func (d *S3) object(p string) string { return escape(tree.Join(d.cfg.Path, d.cfg.Prefix, p)) }

// record is the key of a record.
func (d *S3) record(name string) string {
	return escape(tree.Join(d.cfg.Path, proto.ReservedName, name))
}

// stageFolder is what the keys of this prefix's stage records begin with.
func (d *S3) stageFolder() string { return d.record(target.StageDir+"/"+d.key) + "/" }

// checkKey refuses a key that no server takes.
func checkKey(key string) error {
	if len(key) > maxKey {
		return proto.Errorf(proto.ClassPermanent, "its key has %d bytes, S3 allows %d: the name is too long for this target", len(key), maxKey)
	}
	return nil
}
