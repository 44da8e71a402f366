package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"forebay/proto"
)

// fullRetry is when a full disk is looked at again.
const fullRetry = 10 * time.Second

// classify wraps err with what was being done and gives it the class that its errno means. An error with a class keeps it.
func classify(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	var known *proto.Error
	if errors.As(err, &known) {
		return fmt.Errorf("%s: %w", what, err)
	}
	switch {
	case is(err, unix.ENOSPC, unix.EDQUOT):
		e := proto.Errorf(proto.ClassOverload, "%s: the target is full: %w", what, err)
		e.RetryAfter = fullRetry
		return e
	case is(err, unix.EACCES, unix.EPERM):
		return proto.Errorf(proto.ClassPermanent, "%s: %w (the user this runs as needs the right)", what, err)
	case is(err, unix.EXDEV):
		return proto.Errorf(proto.ClassPermanent, "%s: another file system is mounted on the way: %w", what, err)
	case is(err, unix.ENAMETOOLONG, unix.EINVAL, unix.EFBIG, unix.EILSEQ):
		return proto.Errorf(proto.ClassPermanent, "%s: the target cannot hold it: %w", what, err)
	case is(err, unix.ELOOP, unix.ENOTDIR):
		return proto.Errorf(proto.ClassTransient, "%s: a parent is no directory: %w", what, err)
	}
	return proto.Errorf(proto.ClassTransient, "%s: %w", what, err)
}

func is(err error, errnos ...unix.Errno) bool {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// absent reports whether err means that there is nothing at a path: nor can there be below a file or a link.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || is(err, unix.ENOTDIR, unix.ELOOP)
}

// notThere is the error for a target that is not mounted, or not the one it was.
func notThere(path, why string, err error) error {
	if err != nil {
		return proto.Errorf(proto.ClassTransient, "target %s is not there (unmounted?): %s: %w", path, why, err)
	}
	return proto.Errorf(proto.ClassTransient, "target %s is not there (unmounted?): %s", path, why)
}

// retry repeats a system call that a signal interrupted.
func retry(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
