package proto

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what a version is.
type Kind uint8

// The kinds. Their numbers are on disk and on the wire.
const (
	KindNone      Kind = 0 // no version
	KindFile      Kind = 1
	KindDir       Kind = 2
	KindSymlink   Kind = 3 // LinkTo is the link's text, Digest the BLAKE3-256 of it
	KindHardlink  Kind = 4 // LinkTo is the path in the dataset whose inode it shares, Digest and Size that content's
	KindTombstone Kind = 5 // the path is gone
)

// String returns the kind as people write it.
func (k Kind) String() string {
	switch k {
	case KindNone:
		return "none"
	case KindFile:
		return "file"
	case KindDir:
		return "directory"
	case KindSymlink:
		return "symlink"
	case KindHardlink:
		return "hard link"
	case KindTombstone:
		return "tombstone"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// HasContent reports whether a version of this kind stands for file bytes, so that File and Hardlink of equal Digest are
// the same content.
func (k Kind) HasContent() bool { return k == KindFile || k == KindHardlink }

// Meta is what an object carries besides its content.
type Meta struct {
	Mode    uint32  `cbor:"1,keyasint,omitempty"` // permission bits with setuid, setgid and sticky, as in st_mode & 07777
	UID     uint32  `cbor:"2,keyasint,omitempty"`
	GID     uint32  `cbor:"3,keyasint,omitempty"`
	User    string  `cbor:"4,keyasint,omitempty"` // the owner's name on the node, "" when it has none
	Group   string  `cbor:"5,keyasint,omitempty"`
	MtimeNs int64   `cbor:"6,keyasint,omitempty"` // nanoseconds since 1970, may be negative
	Xattrs  []Xattr `cbor:"7,keyasint,omitempty"` // sorted by name; POSIX ACLs are the system.posix_acl_* attributes
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string `cbor:"1,keyasint"`
	Value []byte `cbor:"2,keyasint"`
}

// Equal reports whether two metadata are the same in every field.
func (m Meta) Equal(o Meta) bool { return m.Diff(o) == 0 }

// MetaField is a set of metadata fields.
type MetaField uint8

// The fields that are compared one by one: a change to one of them on one holder is a change of that field alone.
const (
	FieldMode  MetaField = 1 << iota
	FieldOwner           // uid, gid and their names
	FieldMtime
	FieldXattrs
)

// Diff returns the fields in which m and o differ.
func (m Meta) Diff(o Meta) (f MetaField) {
	if m.Mode != o.Mode {
		f |= FieldMode
	}
	if m.UID != o.UID || m.GID != o.GID || m.User != o.User || m.Group != o.Group {
		f |= FieldOwner
	}
	if m.MtimeNs != o.MtimeNs {
		f |= FieldMtime
	}
	if len(m.Xattrs) != len(o.Xattrs) {
		return f | FieldXattrs
	}
	for i := range m.Xattrs {
		if m.Xattrs[i].Name != o.Xattrs[i].Name || string(m.Xattrs[i].Value) != string(o.Xattrs[i].Value) {
			return f | FieldXattrs
		}
	}
	return f
}

// Overlay returns m with the given fields taken from o.
func (m Meta) Overlay(o Meta, fields MetaField) Meta {
	if fields&FieldMode != 0 {
		m.Mode = o.Mode
	}
	if fields&FieldOwner != 0 {
		m.UID, m.GID, m.User, m.Group = o.UID, o.GID, o.User, o.Group
	}
	if fields&FieldMtime != 0 {
		m.MtimeNs = o.MtimeNs
	}
	if fields&FieldXattrs != 0 {
		m.Xattrs = o.Xattrs
	}
	return m
}

// ExtentKind says where an extent's bytes come from.
type ExtentKind uint8

// The extent kinds. ExtentParent is in the format from the first so that incremental sending needs no new one; nothing
// writes it yet, and a reader that meets it refuses it.
const (
	ExtentData   ExtentKind = 1
	ExtentHole   ExtentKind = 2
	ExtentParent ExtentKind = 3 // same bytes as the parent version at ParentOffset
)

// Extent is a run of an object's bytes. A version without extents is one data extent over its whole size.
type Extent struct {
	Kind         ExtentKind `cbor:"1,keyasint"`
	Offset       int64      `cbor:"2,keyasint"`
	Length       int64      `cbor:"3,keyasint"`
	ParentOffset int64      `cbor:"4,keyasint,omitempty"`
}

// Desc describes a version: everything but its bytes.
type Desc struct {
	Kind    Kind     `cbor:"1,keyasint"`
	Size    int64    `cbor:"2,keyasint,omitempty"` // bytes of content; 0 unless Kind.HasContent
	Digest  Digest   `cbor:"3,keyasint"`           // of the content; zero for directories and tombstones
	LinkTo  string   `cbor:"4,keyasint,omitempty"` // symlinks and hard links
	Meta    Meta     `cbor:"5,keyasint"`
	Extents []Extent `cbor:"6,keyasint,omitempty"` // sorted, without gaps; empty: one data extent
}

// SameContent reports whether two descriptions stand for the same thing but for metadata: the same bytes, the same link,
// both directories, both gone. A file and a hard link of equal digest are the same content.
func (d Desc) SameContent(o Desc) bool {
	if d.Kind.HasContent() && o.Kind.HasContent() {
		return d.Size == o.Size && d.Digest == o.Digest
	}
	return d.Kind == o.Kind && d.Digest == o.Digest && d.LinkTo == o.LinkTo
}

// ReservedName is the folder name that is never part of a dataset: scans skip it, targets keep their own records in it.
const ReservedName = ".forebay"

// CheckPath says why p cannot be an object's path: relative, slash-separated, clean, 1 to MaxPath bytes, no component
// empty, "." or ".." or longer than 255 bytes, no NUL, no component equal to ReservedName. Names are bytes: newlines and
// invalid UTF-8 are allowed. The dataset's root directory itself is not an object. Whoever turns a path into a file name
// calls it first (I12).
func CheckPath(p string) error {
	if p == "" {
		return errors.New("path is empty")
	}
	if len(p) > MaxPath {
		return fmt.Errorf("path of %d bytes, at most %d are allowed", len(p), MaxPath)
	}
	if strings.IndexByte(p, 0) >= 0 {
		return fmt.Errorf("path %q contains a NUL byte", p)
	}
	for rest := p; ; {
		name, tail, more := strings.Cut(rest, "/")
		switch {
		case name == "":
			return fmt.Errorf("path %q has an empty component", p)
		case name == "." || name == "..":
			return fmt.Errorf("path %q has a component %q", p, name)
		case name == ReservedName:
			return fmt.Errorf("path %q lies in the reserved folder %s", p, ReservedName)
		case len(name) > 255:
			return fmt.Errorf("path %q has a component of %d bytes, at most 255 are allowed", p, len(name))
		}
		if !more {
			return nil
		}
		rest = tail
	}
}
