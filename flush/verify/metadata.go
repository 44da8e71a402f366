package verify

import (
	"fmt"
	"strings"

	"forebay/flush/target"
	"forebay/proto"
)

// coarse is how far times may be off on file systems that do not keep nanoseconds.
const coarse = 2_000_000_000

// metadata says in which of the fields that a target carries an object differs from its description, "" when in none.
func metadata(want, have proto.Desc, c target.Carries) string {
	var diffs []string
	if c.Mode && want.Kind != proto.KindSymlink {
		mask := uint32(0o7777)
		if !c.Owner {
			mask = 0o1777 // setuid and setgid need the owner
		}
		if !c.Shut {
			want.Meta.Mode, have.Meta.Mode = target.Legible(want.Kind, want.Meta.Mode), target.Legible(have.Kind, have.Meta.Mode)
		}
		if w, h := want.Meta.Mode&mask, have.Meta.Mode&mask; w != h {
			diffs = append(diffs, fmt.Sprintf("mode %04o instead of %04o", h, w))
		}
	}
	if c.Owner && (want.Meta.UID != have.Meta.UID || want.Meta.GID != have.Meta.GID) {
		diffs = append(diffs, fmt.Sprintf("owner %d:%d instead of %d:%d", have.Meta.UID, have.Meta.GID, want.Meta.UID, want.Meta.GID))
	}
	if c.Mtime && !sameTime(want.Meta.MtimeNs, have.Meta.MtimeNs, c) {
		diffs = append(diffs, fmt.Sprintf("mtime %d ns instead of %d ns", have.Meta.MtimeNs, want.Meta.MtimeNs))
	}
	if c.Xattrs {
		diffs = append(diffs, xattrs(want.Meta.Xattrs, have.Meta.Xattrs, c.Owner)...)
	}
	return strings.Join(diffs, ", ")
}

func sameTime(a, b int64, c target.Carries) bool {
	if !c.Coarse {
		return a == b
	}
	return a-b <= coarse && b-a <= coarse
}

// xattrs compares attributes. Those that need privileges are compared only where the target's writer has them.
func xattrs(want, have []proto.Xattr, privileged bool) (diffs []string) {
	values := func(xs []proto.Xattr) map[string]string {
		m := make(map[string]string, len(xs))
		for _, x := range xs {
			if privileged || strings.HasPrefix(x.Name, "user.") || strings.HasPrefix(x.Name, "system.") {
				m[x.Name] = string(x.Value)
			}
		}
		return m
	}
	w, h := values(want), values(have)
	for _, x := range want {
		v, ok := h[x.Name]
		if _, counts := w[x.Name]; counts && (!ok || v != string(x.Value)) {
			diffs = append(diffs, "extended attribute "+x.Name)
		}
	}
	for _, x := range have {
		if _, counts := h[x.Name]; counts {
			if _, ok := w[x.Name]; !ok {
				diffs = append(diffs, "extended attribute "+x.Name+" too many")
			}
		}
	}
	return diffs
}
