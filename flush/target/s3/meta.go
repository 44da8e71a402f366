package s3

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"forebay/proto"
)

// User metadata. mode, uid, gid and mtime are written as s3fs-fuse and rclone read them: st_mode in decimal with the type of file,
// mtime in seconds with nine decimals. The rest is ours.
const (
	metaMode   = "mode"
	metaUID    = "uid"
	metaGID    = "gid"
	metaMtime  = "mtime"
	metaDigest = "forebay-digest" // of the content, BLAKE3 in hex: tells whether an object is the one that was to be put
	metaFormat = "forebay-format"
	format     = "1"
)

// Types of file in st_mode.
const (
	modeType = 0o170000
	modeFile = 0o100000
	modeDir  = 0o040000
	modeLink = 0o120000
)

// userMeta is an object's user metadata.
func userMeta(d proto.Desc) map[string]string {
	typ := uint32(modeFile)
	mode := d.Meta.Mode
	switch d.Kind {
	case proto.KindDir:
		typ = modeDir
	case proto.KindSymlink:
		typ, mode = modeLink, 0o777
	}
	m := map[string]string{
		metaFormat: format,
		metaMode:   strconv.FormatUint(uint64(typ|mode&0o7777), 10),
		metaUID:    strconv.FormatUint(uint64(d.Meta.UID), 10),
		metaGID:    strconv.FormatUint(uint64(d.Meta.GID), 10),
		metaMtime:  formatTime(d.Meta.MtimeNs),
	}
	if d.Kind.HasContent() {
		m[metaDigest] = hex.EncodeToString(d.Digest[:])
	}
	return m
}

// formatTime prints nanoseconds as seconds with nine decimals.
func formatTime(ns int64) string {
	sign := ""
	u := uint64(ns)
	if ns < 0 {
		sign, u = "-", -u
	}
	return fmt.Sprintf("%s%d.%09d", sign, u/1e9, u%1e9)
}

// parseTime reads seconds with up to nine decimals.
func parseTime(s string) (int64, bool) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, frac, _ := strings.Cut(digits, ".")
	sec, err := strconv.ParseUint(whole, 10, 34)
	if err != nil || len(frac) > 9 {
		return 0, false
	}
	frac += strings.Repeat("0", 9-len(frac))
	ns, err := strconv.ParseUint(frac, 10, 32)
	if err != nil {
		return 0, false
	}
	out := int64(sec)*1e9 + int64(ns)
	if negative {
		out = -out
	}
	return out, true
}

// headers reads user metadata out of a response's headers, with names in lower case.
func headers(h http.Header) map[string]string {
	const start = "X-Amz-Meta-"
	m := map[string]string{}
	for k, v := range h {
		if name, ok := strings.CutPrefix(http.CanonicalHeaderKey(k), start); ok && len(v) > 0 {
			m[strings.ToLower(name)] = v[0]
		}
	}
	return m
}

// describe returns what metadata say of an object. One that somebody else put has none: it is a file, or a directory when its key
// ends with a slash.
func describe(m map[string]string, dir bool) (proto.Kind, proto.Meta) {
	kind := proto.KindFile
	if dir {
		kind = proto.KindDir
	}
	var meta proto.Meta
	number := func(name string) uint32 {
		n, err := strconv.ParseUint(m[name], 10, 32)
		if err != nil {
			return 0
		}
		return uint32(n)
	}
	mode := number(metaMode)
	if mode&modeType == modeLink && !dir {
		kind = proto.KindSymlink
	}
	meta.Mode, meta.UID, meta.GID = mode&0o7777, number(metaUID), number(metaGID)
	if kind == proto.KindSymlink {
		meta.Mode = 0
	}
	meta.MtimeNs, _ = parseTime(m[metaMtime])
	return kind, meta
}

// isOf reports whether an object of so many bytes with metadata m is what a description wants.
func isOf(m map[string]string, size int64, d proto.Desc) bool {
	if d.Kind.HasContent() && size != d.Size {
		return false
	}
	for k, v := range userMeta(d) {
		if m[k] != v {
			return false
		}
	}
	return true
}

// ours returns the user metadata without what others, such as the server, may have added.
func ours(m map[string]string) map[string]string {
	out := map[string]string{}
	for _, k := range [...]string{metaMode, metaUID, metaGID, metaMtime, metaDigest, metaFormat} {
		if v, ok := m[k]; ok {
			out[k] = v
		}
	}
	return out
}
