// Package upload reads objects and sends them to the relay: small ones whole, several to a segment, large ones in ranges
// of whole blocks, with a bounded number of bytes under way. It proves what it reads (the fingerprint is the same before
// and after) and what it did not send (block digests of ranges that the relay already had). It decides nothing about the
// index: each object ends in a Result. It imports proto, fsmeta, agent/index and agent/settle.
package upload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/fsmeta"
	"forebay/proto"
)

// Tree is one root as the uploader reads it. Its methods may be called concurrently. No method follows a link, nor leaves
// the root, whatever happens to the names meanwhile; errors are those of the file system (fs.ErrNotExist and so on). A
// snapshot or reflink clone of the root would be another Tree.
type Tree interface {
	// Open opens the regular file at path for reading, without blocking on anything else that may be there.
	Open(path string) (*os.File, error)
	// Stat returns the fingerprint of an open file.
	Stat(f *os.File) (index.Stat, error)
	// Meta returns the metadata of an open file.
	Meta(f *os.File) (proto.Meta, error)
	// Look returns fingerprint and metadata of whatever is at path.
	Look(path string) (index.Stat, proto.Meta, error)
}

// Spoiled says why an object could not be read as the index has it.
type Spoiled struct {
	Fault  settle.Fault
	Reason string
	Fresh  *index.Stat // its present fingerprint, where it was seen
	Gone   bool        // nothing, or something of another kind, has its name now
}

// Error returns the reason.
func (s *Spoiled) Error() string { return s.Reason }

// spoiled makes a Spoiled of a file system's error. What is no longer there as it was has changed; the scan finds out.
func spoiled(what string, err error) *Spoiled {
	s := &Spoiled{Fault: settle.FaultRead, Reason: fmt.Sprintf("%s: %v", what, err)}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EISDIR) {
		s.Fault, s.Gone = settle.FaultChanged, true
	}
	return s
}

// unchanged compares what the index has with what is there. The device number is left out: it may differ after a restart
// of the machine; the root's identity is checked by the scan.
func unchanged(have, is index.Stat) bool {
	return have.Size == is.Size && have.MtimeNs == is.MtimeNs && have.CtimeNs == is.CtimeNs && have.Ino == is.Ino &&
		have.Mode&unix.S_IFMT == is.Mode&unix.S_IFMT
}

// Dir is the Tree of a directory.
type Dir struct {
	Root  *fsmeta.Root
	Names *fsmeta.Names
}

// Open opens a regular file.
func (d Dir) Open(path string) (*os.File, error) {
	f, err := d.Root.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	st, err := fsmeta.StatOf(f)
	if err == nil && st.Kind() != proto.KindFile {
		err = fmt.Errorf("a %s now: %w", st.TypeName(), fs.ErrNotExist)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Stat returns the fingerprint of an open file.
func (d Dir) Stat(f *os.File) (index.Stat, error) {
	st, err := fsmeta.StatOf(f)
	return fingerprint(st), err
}

// Meta returns the metadata of an open file.
func (d Dir) Meta(f *os.File) (proto.Meta, error) {
	var o fsmeta.Object
	err := fsmeta.Use(f, func(fd int) (err error) {
		o, err = fsmeta.Read(fd, d.Names)
		return err
	})
	return o.Meta, err
}

// Look returns fingerprint and metadata of whatever is at path.
func (d Dir) Look(path string) (index.Stat, proto.Meta, error) {
	o, err := d.Root.Read(path, d.Names)
	return fingerprint(o.Stat), o.Meta, err
}

func fingerprint(s fsmeta.Stat) index.Stat {
	return index.Stat{
		Size: s.Size, MtimeNs: s.MtimeNs, CtimeNs: s.CtimeNs, Ino: s.Ino, Dev: s.Dev, Mode: s.Mode, UID: s.UID, GID: s.GID, Nlink: s.Nlink,
	}
}

// Look returns the metadata of e's object, if it is still as the index has it.
func Look(tree Tree, e index.Entry) (proto.Meta, *Spoiled) {
	is, meta, err := tree.Look(e.Path)
	if err != nil {
		return meta, spoiled("look", err)
	}
	if !unchanged(e.Stat, is) {
		return meta, &Spoiled{Fault: settle.FaultChanged, Reason: "changed since it was found", Fresh: &is}
	}
	return meta, nil
}

// holes returns the data and holes of an open object, nil when it has none.
func (o *opened) holes() ([]proto.Extent, *Spoiled) {
	list, err := fsmeta.Extents(o.f, o.entry.Stat.Size)
	if err != nil {
		if bad := o.check(); bad != nil {
			return nil, bad
		}
		return nil, spoiled("read", err)
	}
	return list, nil
}

// opened is an object open for reading, as the index has it.
type opened struct {
	tree  Tree
	entry index.Entry
	f     *os.File
}

// open opens the content of e. It fails with a Spoiled.
func open(tree Tree, e index.Entry) (*opened, *Spoiled) {
	f, err := tree.Open(e.Path)
	if err != nil {
		return nil, spoiled("open", err)
	}
	o := &opened{tree: tree, entry: e, f: f}
	if bad := o.check(); bad != nil {
		o.close()
		return nil, bad
	}
	return o, nil
}

func (o *opened) close() { _ = o.f.Close() } // it was only read

// check says whether the object is still as the index has it.
func (o *opened) check() *Spoiled {
	is, err := o.tree.Stat(o.f)
	if err != nil {
		return spoiled("stat", err)
	}
	if !unchanged(o.entry.Stat, is) {
		return &Spoiled{Fault: settle.FaultChanged, Reason: "changed since it was found, or while it was read", Fresh: &is}
	}
	return nil
}

// readAt fills p from the object at off, and calls step whenever something came. A file that has become shorter has changed.
func (o *opened) readAt(p []byte, off int64, step func()) *Spoiled {
	for n := 0; n < len(p); {
		m, err := o.f.ReadAt(p[n:min(n+readChunk, len(p))], off+int64(n))
		n += m
		if m > 0 {
			step()
		}
		if n < len(p) && err != nil {
			if bad := o.check(); bad != nil {
				return bad
			}
			return spoiled("read", err)
		}
	}
	return nil
}
