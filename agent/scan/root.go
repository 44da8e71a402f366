package scan

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

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

// stillThere checks by path, at the end of a scan, that the root was not unmounted or exchanged meanwhile: not for the same file
// system with another number either, for the scan has the former one open.
func (r *run) stillThere() error {
	root, err := r.openRoot()
	if err != nil {
		return err
	}
	found, _, err := r.identify(root)
	if err == nil && !r.id.Same(found) {
		err = r.exchanged(r.id, found, "it was exchanged during the scan")
	}
	return errors.Join(err, root.Close())
}

// cause cuts the path off an error: Refused says it already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
