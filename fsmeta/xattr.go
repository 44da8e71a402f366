package fsmeta

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/proto"
)

// carried reports whether an extended attribute is part of an object: what users and root set, capabilities and POSIX
// ACLs. Labels of security modules (security.selinux, …) belong to the machine and are not.
func carried(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}

// procPath names an open object for system calls that do not take a descriptor opened with O_PATH. The kernel goes from
// there to the object itself, without looking at any path again; for a symlink, to the symlink. It needs /proc.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// noXattrs reports whether err means that there can be no such attribute.
func noXattrs(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA)
}

// readXattrs returns the carried attributes of the object behind fd, sorted by name. Attributes that vanish meanwhile are
// left out.
func readXattrs(fd int) ([]proto.Xattr, error) {
	p := procPath(fd)
	names, err := listXattrs(p)
	if err != nil {
		return nil, err
	}
	var out []proto.Xattr
	total := 0
	for _, name := range names {
		v, err := getXattr(p, name)
		if noXattrs(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if total += len(name) + len(v); total > proto.MaxXattrBytes {
			return nil, proto.Errorf(proto.ClassPermanent, "extended attributes have more than %d bytes", proto.MaxXattrBytes)
		}
		out = append(out, proto.Xattr{Name: name, Value: v})
	}
	return out, nil
}

// listXattrs returns the sorted names of the carried attributes.
func listXattrs(p string) ([]string, error) {
	b, err := grow(func(b []byte) (int, error) { return unix.Listxattr(p, b) })
	if noXattrs(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var names []string
	for _, name := range strings.Split(string(b), "\x00") {
		if name != "" && carried(name) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names, nil
}

func getXattr(p, name string) ([]byte, error) {
	v, err := grow(func(b []byte) (int, error) { return unix.Getxattr(p, name, b) })
	if err != nil {
		return nil, fmt.Errorf("read extended attribute %s: %w", name, err)
	}
	return v, nil
}

// grow calls fn with buffers that grow until the value fits; it may change size between calls. Most values are small, so
// that one call does.
func grow(fn func([]byte) (int, error)) ([]byte, error) {
	b := make([]byte, 256)
	for {
		var n int
		err := retry(func() (err error) { n, err = fn(b); return err })
		if err == nil {
			return b[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || len(b) > 2*proto.MaxXattrBytes {
			return nil, err
		}
		b = make([]byte, 4*len(b))
	}
}

// applyXattrs makes the carried attributes of the object behind p equal to want and returns the names of those that this
// process or this file system could not. Errors are those of a disk that fails or is full.
func applyXattrs(p string, want []proto.Xattr) (missed []string, err error) {
	have, err := listXattrs(p)
	if err != nil {
		return nil, err
	}
	wanted := make(map[string]bool, len(want))
	for _, x := range want {
		wanted[x.Name] = true
	}
	for _, name := range have {
		if wanted[name] {
			continue
		}
		err := retry(func() error { return unix.Removexattr(p, name) })
		if err != nil && !noXattrs(err) {
			if !cannot(err) {
				return missed, fmt.Errorf("remove extended attribute %s: %w", name, err)
			}
			missed = append(missed, name)
		}
	}
	for _, x := range want {
		if !carried(x.Name) { // a name that came over the wire is not to reach other namespaces
			missed = append(missed, x.Name)
			continue
		}
		ok, err := setXattr(p, x)
		if err != nil {
			return missed, err
		}
		if !ok {
			missed = append(missed, x.Name)
		}
	}
	return missed, nil
}

// setXattr sets an attribute unless it is set already, and reports whether it could.
func setXattr(p string, x proto.Xattr) (bool, error) {
	if v, err := getXattr(p, x.Name); err == nil && string(v) == string(x.Value) {
		return true, nil
	}
	err := retry(func() error { return unix.Setxattr(p, x.Name, x.Value, 0) })
	if err == nil {
		return true, nil
	}
	if cannot(err) {
		return false, nil
	}
	return false, fmt.Errorf("set extended attribute %s: %w", x.Name, diskFull(err))
}

// cannot reports whether err means that no repetition would help here: no right to, or nothing this file system can hold.
func cannot(err error) bool {
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.ENOTSUP, unix.EINVAL, unix.E2BIG, unix.ERANGE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func diskFull(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return proto.Errorf(proto.ClassOverload, "%w", err)
	}
	return err
}
