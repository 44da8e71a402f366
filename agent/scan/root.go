package scan

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"forebay/agent/index"
	"forebay/fsmeta"
)

// Cause says why a root is not scanned.
type Cause string

// The causes.
const (
	RootMissing    Cause = "missing"    // not there, or not a directory
	RootUnreadable Cause = "unreadable" // there, and this process may not read it
	RootExchanged  Cause = "exchanged"  // another file system or directory than at the first scan
	RootEmpty      Cause = "empty"      // nothing in it, though the index has objects
	RootOwn        Cause = "no dataset" // a store, a relay's data, or the dataset's own backup
)

// Refused is the error of a scan that would conclude nonsense: nothing was marked gone. Its text is for the operator, as
// the dataset's problem.
type Refused struct {
	Cause Cause
	Root  string
	Do    string // what to do
	err   error
}

// Error says what is wrong, and what to do.
func (r *Refused) Error() string {
	s := fmt.Sprintf("root %s is %s", r.Root, r.Cause)
	if r.err != nil {
		s += fmt.Sprintf(" (%v)", r.err)
	}
	return s + ": " + r.Do
}

// Unwrap returns the cause from below, if any.
func (r *Refused) Unwrap() error { return r.err }

// openRoot opens the root and checks that it is the one that the index knows.
func (s *Scanner) openRoot() (*fsmeta.Root, error) {
	r, err := fsmeta.OpenRoot(s.cfg.Root, fsmeta.NoXDev)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, &Refused{Cause: RootMissing, Root: s.cfg.Root, err: cause(err), Do: "mount it, or correct the dataset's path; nothing counts as deleted meanwhile"}
	case errors.Is(err, fs.ErrPermission):
		return nil, s.unreadable(err)
	case err != nil:
		return nil, fmt.Errorf("open root %s: %w", s.cfg.Root, err)
	}
	err = s.checkIdentity(r)
	if err == nil {
		err = s.notOwn(r)
	}
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

func (s *Scanner) unreadable(err error) error {
	do := "look at the disk it lies on"
	if errors.Is(err, fs.ErrPermission) {
		do = "give the agent the right to read it, by its user or by CAP_DAC_READ_SEARCH"
	}
	return &Refused{Cause: RootUnreadable, Root: s.cfg.Root, err: cause(err), Do: do}
}

// checkIdentity compares a root with what is remembered. An index without objects has nothing to lose: it takes what is
// there, so that a file system mounted after the agent's first start is no exchange.
func (s *Scanner) checkIdentity(r *fsmeta.Root) error {
	fsType, fsID, ino, err := r.FSIdentity()
	if err != nil {
		return fmt.Errorf("identify root %s: %w", s.cfg.Root, err)
	}
	found := index.Identity{FSType: fsType, FSID: fsID, Ino: ino}
	known, ok := s.index.Identity()
	if ok && known == found {
		return nil
	}
	if c := s.index.Counts(); ok && c.Objects+c.Gone+c.Skipped > 0 {
		return &Refused{Cause: RootExchanged, Root: s.cfg.Root,
			err: fmt.Errorf("file system %x, inode %d, and was file system %x, inode %d", found.FSID, found.Ino, known.FSID, known.Ino),
			Do:  "mount the file system that was there; if this is meant to be the dataset from now on, remove the agent's index of it (it is made anew by a scan)"}
	}
	if err := s.index.SetIdentity(found); err != nil {
		return err
	}
	return nil
}

// stillThere checks by path, at the end of a scan, that the root was not unmounted or exchanged meanwhile.
func (s *Scanner) stillThere() error {
	r, err := s.openRoot()
	if err != nil {
		return err
	}
	return r.Close()
}

// cause cuts the path off an error: Refused says it already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
