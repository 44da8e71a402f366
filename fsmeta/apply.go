package fsmeta

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"forebay/proto"
)

// Missed says what Apply could not give an object, for lack of rights or because the file system cannot hold it. The zero
// Missed is success.
type Missed struct {
	Fields proto.MetaField // what is not, or not wholly, as described
	Xattrs []string        // extended attributes not set, or not removed
}

// None reports whether everything was applied.
func (m Missed) None() bool { return m.Fields == 0 }

// Apply gives the object behind fd, which is of kind kind and may be opened in any way, the metadata m: owner, then mode
// and extended attributes, mtime last, each because it undoes what would come after it (a change of owner clears setuid and
// capabilities, an ACL changes the group's bits, everything but utimensat changes times). Carried extended attributes
// that m does not have are removed. Owners are set by number.
//
// What is not permitted or not possible here is told in Missed and does not stop the rest. A file that could not be given
// its owner gets no setuid bit, without its group no setgid bit: they would hand out the rights of whoever runs this. A
// symlink has no mode of its own. Errors (I/O error, full, read-only) leave the object partly changed: apply again.
func Apply(fd int, kind proto.Kind, m proto.Meta) (Missed, error) {
	a := applier{p: procPath(fd), fd: fd, kind: kind, m: m}
	for _, step := range []func() error{a.owner, a.open, a.xattrs, a.mode, a.mtime} {
		if err := step(); err != nil {
			return a.missed, err
		}
	}
	return a.missed, nil
}

type applier struct {
	p      string
	fd     int
	kind   proto.Kind
	m      proto.Meta
	missed Missed
}

// miss notes err as a field that cannot be applied, or returns it when it is another fault.
func (a *applier) miss(field proto.MetaField, what string, err error) error {
	if err == nil {
		return nil
	}
	if !cannot(err) {
		return fmt.Errorf("set %s: %w", what, diskFull(err))
	}
	a.missed.Fields |= field
	return nil
}

func (a *applier) owner() error {
	st, err := StatAt(a.fd, "")
	if err != nil {
		return err
	}
	if st.UID == a.m.UID && st.GID == a.m.GID {
		return nil
	}
	err = a.chown(int(a.m.UID), int(a.m.GID))
	if errors.Is(err, unix.EPERM) && st.GID != a.m.GID { // the group alone may be one of ours
		if err := a.chown(-1, int(a.m.GID)); err != nil {
			return a.miss(proto.FieldOwner, "group", err)
		}
		if st.UID == a.m.UID {
			return nil
		}
	}
	return a.miss(proto.FieldOwner, "owner", err)
}

func (a *applier) chown(uid, gid int) error {
	return retry(func() error { return unix.Fchownat(a.fd, "", uid, gid, unix.AT_EMPTY_PATH) })
}

// open sets the mode before the extended attributes, so that the object is as closed as it should be when it gets them, but
// open to its owner: an ordinary user may not set user.* on a file without the right to write it.
func (a *applier) open() error { return a.chmod(0o600) }

// mode sets it as it should be; attributes may have changed it.
func (a *applier) mode() error { return a.chmod(0) }

func (a *applier) chmod(extra uint32) error {
	if a.kind == proto.KindSymlink {
		return nil
	}
	st, err := StatAt(a.fd, "")
	if err != nil {
		return err
	}
	mode := a.m.Mode & 0o7777
	if a.kind != proto.KindDir {
		if st.UID != a.m.UID {
			mode &^= unix.S_ISUID
		}
		if st.GID != a.m.GID {
			mode &^= unix.S_ISGID
		}
	}
	if mode != a.m.Mode&0o7777 {
		a.missed.Fields |= proto.FieldMode
	}
	mode |= extra
	if st.Mode&0o7777 == mode {
		return nil
	}
	if err := retry(func() error { return unix.Chmod(a.p, mode) }); err != nil {
		return a.miss(proto.FieldMode, "mode", err)
	}
	// The kernel drops setgid without an error where the caller is not in the group.
	if st, err = StatAt(a.fd, ""); err != nil {
		return err
	}
	if st.Mode&0o7777 != mode {
		a.missed.Fields |= proto.FieldMode
	}
	return nil
}

func (a *applier) xattrs() error {
	missed, err := applyXattrs(a.p, a.m.Xattrs)
	if len(missed) > 0 {
		a.missed.Fields |= proto.FieldXattrs
		a.missed.Xattrs = missed
	}
	return err
}

func (a *applier) mtime() error {
	return a.miss(proto.FieldMtime, "mtime", SetMtime(a.p, a.m.MtimeNs))
}

// SetMtime gives the object behind a path of /proc/self/fd its time of change in nanoseconds since 1970, and the access time that
// it has. UTIME_OMIT would spare the look, but file systems on libfuse 2 (exfat-fuse for one) set neither time then, and say
// nothing.
func SetMtime(procPath string, ns int64) error {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Stat(procPath, &st) }); err != nil {
		return err
	}
	ts := []unix.Timespec{st.Atim, Timespec(ns)}
	return retry(func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, procPath, ts, 0) })
}

// Timespec converts nanoseconds since 1970, negative before, so that its nanoseconds are never negative.
func Timespec(ns int64) unix.Timespec {
	sec, nsec := ns/1e9, ns%1e9
	if nsec < 0 {
		sec, nsec = sec-1, nsec+1e9
	}
	return unix.Timespec{Sec: sec, Nsec: nsec}
}
