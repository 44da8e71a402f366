// Package openfiles says how many files this process may have open and has, and divides them among those that keep files open. A process that
// runs out of them can open no table, take no connection, and look at no object.
package openfiles

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"forebay/proto"
)

// Limit is how many files this process may have open: the soft limit, which Go raises to the hard one at its start.
func Limit() (int, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("ask for the limit of open files: %w", err)
	}
	return int(min(r.Cur, 1<<30)), nil // infinity is larger than any int
}

// Used is how many it has open: files, sockets and all else that has a descriptor.
func Used() (int, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, fmt.Errorf("count open files: %w", err)
	}
	defer func() { _ = dir.Close() }() // only read
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, fmt.Errorf("count open files: %w", err)
	}
	return len(names) - 1, nil // but dir
}

// Divide returns how many files each of users may keep open: between least and most, so that rest are left for everything else. It fails with
// ClassPermanent where limit does not have that many.
func Divide(limit, users, least, most, rest int) (int, error) {
	if need := users*least + rest; limit < need {
		return 0, proto.Errorf(proto.ClassPermanent,
			"this process may have %d files open and needs %d at least: raise its limit (LimitNOFILE in a unit of systemd, ulimit -n in a shell)", limit, need)
	}
	return min((limit-rest)/users, most), nil
}
