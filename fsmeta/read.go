package fsmeta

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"forebay/proto"
)

// Object is what Read found. Its Kind is never KindHardlink: that is for whoever knows the other paths.
type Object struct {
	Kind   proto.Kind // KindNone: a socket, device or pipe
	Stat   Stat
	Meta   proto.Meta
	LinkTo string // text of a symlink
}

// Read describes the object behind fd, which may be opened in any way, O_PATH included. Extended attributes that this
// process may not even list (trusted.*, without CAP_SYS_ADMIN) are left out; one that it may list but not read is an error
// (EACCES), for without it the object would be described as something it is not.
func Read(fd int, names *Names) (Object, error) {
	st, err := StatAt(fd, "")
	if err != nil {
		return Object{}, err
	}
	o := Object{Kind: st.Kind(), Stat: st, Meta: proto.Meta{
		Mode: st.Mode & 0o7777, UID: st.UID, GID: st.GID, User: names.User(st.UID), Group: names.Group(st.GID), MtimeNs: st.MtimeNs,
	}}
	if o.Kind == proto.KindNone {
		return o, nil
	}
	if o.Meta.Xattrs, err = readXattrs(fd); err != nil {
		return Object{}, err
	}
	if o.Kind == proto.KindSymlink {
		o.LinkTo, err = ReadlinkAt(fd, "")
	}
	return o, err
}

// ReadAt describes name in the directory dirfd, without following a link.
func ReadAt(dirfd int, name string, names *Names) (Object, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return Object{}, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	o, err := Read(fd, names)
	if err != nil {
		return Object{}, fmt.Errorf("%q: %w", name, err)
	}
	return o, nil
}

// Read describes path below the root.
func (r *Root) Read(path string, names *Names) (Object, error) {
	f, err := r.Open(path, unix.O_PATH, 0)
	if err != nil {
		return Object{}, err
	}
	defer func() { _ = f.Close() }()
	o, err := Read(int(f.Fd()), names)
	if err != nil {
		return Object{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return o, nil
}

// MaxExtents bounds what Extents returns, so that the description of a file stays small whatever its holes.
const MaxExtents = 16384

// Extents returns the data and the holes of f, a file of size bytes, as SEEK_DATA and SEEK_HOLE tell them: sorted, without
// gaps, 0 to size. Nil means one data extent: no holes, or a file system that does not tell. It moves f's offset: read
// with ReadAt. When there are more than MaxExtents, the smallest holes become data, which is right, for they read as
// zeros. Holes may be reported smaller than they are, never larger, as long as nobody writes.
func Extents(f *os.File, size int64) ([]proto.Extent, error) {
	var out []proto.Extent
	minHole := int64(1)
	add := func(kind proto.ExtentKind, from, to int64) {
		if kind == proto.ExtentHole && to-from < minHole {
			kind = proto.ExtentData
		}
		if n := len(out); n > 0 && out[n-1].Kind == kind {
			out[n-1].Length += to - from
		} else if to > from {
			out = append(out, proto.Extent{Kind: kind, Offset: from, Length: to - from})
		}
	}
	for at := int64(0); at < size; {
		data, err := f.Seek(at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // a hole up to the end
			data = size
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTSUP):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("look for holes: %w", err)
		}
		data = min(data, size)
		add(proto.ExtentHole, at, data)
		if data == size {
			break
		}
		if at, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
			return nil, fmt.Errorf("look for holes: %w", err)
		}
		at = min(at, size)
		if at <= data { // the file was cut while we looked
			return nil, proto.Errorf(proto.ClassConflict, "look for holes: the file changed: %w", io.ErrUnexpectedEOF)
		}
		add(proto.ExtentData, data, at)
		if len(out) >= MaxExtents {
			minHole = coarsen(minHole, &out)
		}
	}
	if len(out) == 0 || len(out) == 1 && out[0].Kind == proto.ExtentData {
		return nil, nil
	}
	return out, nil
}

// coarsen turns holes smaller than a growing bound into data until there is room again, and returns that bound.
func coarsen(minHole int64, out *[]proto.Extent) int64 {
	for len(*out) > MaxExtents/2 {
		minHole = max(2*minHole, 4096)
		kept := (*out)[:0]
		for _, e := range *out {
			if e.Kind == proto.ExtentHole && e.Length < minHole {
				e.Kind = proto.ExtentData
			}
			if n := len(kept); n > 0 && kept[n-1].Kind == e.Kind {
				kept[n-1].Length += e.Length
			} else {
				kept = append(kept, e)
			}
		}
		*out = kept
	}
	return minHole
}
