package scan

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"forebay/fsmeta"
	"forebay/proto"
)

// What Forebay itself keeps on disk must not be part of a dataset: a cache that backs itself up never comes to an end, nor
// does a dataset that contains its own backup. A configuration file cannot tell, for relay and agent have one each; the
// directories can.

// marks are files by which a relay's directories are known, with how they begin. See docs/format.md.
var marks = [...]struct{ file, begins, what string }{
	{"store", "FBST", "a store of a relay's cache"},
	{"lock", "forebay relay", "the data directory of a relay"},
}

// targetMarks is where a target has its owner marks, one for each mirror on it.
const targetMarks = proto.ReservedName + "/target"

// maxMark bounds what is read of a mark, and maxMarks how many of them are.
const (
	maxMark  = 64 << 10
	maxMarks = 1000
)

// own says what of Forebay's own a directory is, "" for nothing. What cannot be read is nothing.
func (s *Scanner) own(dirfd int, name string) string {
	for _, m := range marks {
		if b := head(dirfd, name+"/"+m.file, len(m.begins)); string(b) == m.begins {
			return m.what
		}
	}
	fd, err := unix.Openat(dirfd, name+"/"+targetMarks, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	dir := os.NewFile(uintptr(fd), targetMarks)
	defer func() { _ = dir.Close() }() // only read from
	names, _ := dir.Readdirnames(maxMarks)
	for _, n := range names {
		var owner struct {
			Link    string        `json:"link"`
			Dataset proto.Dataset `json:"dataset"`
		}
		if json.Unmarshal(head(int(dir.Fd()), n, maxMark), &owner) == nil && owner.Dataset == s.cfg.Dataset {
			return fmt.Sprintf("the target that link %q backs this very dataset up to", owner.Link)
		}
	}
	return ""
}

// head returns the first bytes of a regular file, at most n; nil when there is none.
func head(dirfd int, name string, n int) []byte {
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }() // only read from
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	b, _ := io.ReadAll(io.LimitReader(f, int64(n)))
	return b
}

// notOwn refuses a root that is Forebay's own.
func (s *Scanner) notOwn(r *fsmeta.Root) error {
	top, err := r.Open("", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil // the listing says what is wrong
	}
	defer func() { _ = top.Close() }() // only a place
	if what := s.own(int(top.Fd()), "."); what != "" {
		return &Refused{Cause: RootOwn, Root: s.cfg.Root, err: fmt.Errorf("it is %s", what), Do: "give the dataset a directory of its own"}
	}
	return nil
}

// outside returns dir, or the directory above the one around it that is Forebay's own: hints from within one must not make
// what is in it objects.
func (r *run) outside(dir string) string {
	top, err := r.root.Open("", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return dir // the listing says what is wrong
	}
	defer func() { _ = top.Close() }() // only a place
	for at := dir; at != ""; at = parent(at) {
		if r.own(int(top.Fd()), at) != "" {
			dir = parent(at)
		}
	}
	return dir
}
