package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"net/http"
	"time"

	"github.com/cloudsoda/go-smb2"
	"github.com/rclone/rclone/backend/webdav/api"
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fserrors"

	"forebay/proto"
)

// busyRetry is when a remote that is full is tried again.
const busyRetry = 10 * time.Second

// absent reports whether an error of rclone says that an object or directory is not there.
func absent(err error) bool {
	return errors.Is(err, fs.ErrorObjectNotFound) || errors.Is(err, fs.ErrorDirNotFound) || errors.Is(err, iofs.ErrNotExist)
}

// failed wraps an error with what was being done, and gives it a class. One that has a class keeps it.
func (r *remote) failed(err error, what string, args ...any) error {
	if err == nil {
		return nil
	}
	doing := fmt.Sprintf(what, args...)
	var known *proto.Error
	var dav *api.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &known):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, errTooLong): // who looks for it finds nothing; who makes it hears why
		return proto.Errorf(proto.ClassTransient, "%s: %w", doing, err)
	case absent(err):
		return proto.Errorf(proto.ClassTransient, "%s: %w", doing, iofs.ErrNotExist)
	case saysTooLong(err), errors.Is(err, fs.ErrorCantUploadEmptyFiles):
		return proto.Errorf(proto.ClassPermanent, "%s: the remote cannot hold it: %w", doing, err)
	case errors.As(err, &dav) && dav.StatusCode == http.StatusInsufficientStorage:
		return overloaded(busyRetry, "%s: the remote is full: %w", doing, err)
	case fserrors.IsRetryAfterError(err):
		return overloaded(busyRetry, "%s: the remote asks to slow down: %w", doing, err)
	}
	return proto.Errorf(proto.ClassTransient, "%s at %s: %w", doing, r.text, err)
}

func overloaded(after time.Duration, format string, args ...any) error {
	e := proto.Errorf(proto.ClassOverload, format, args...)
	e.RetryAfter = after
	return e
}

// A server of SMB refuses for the moment what somebody else has open in a way that does not go together with it, as Windows does.
const (
	sharingViolation = 0xc0000043
	accessDenied     = 0xc0000022 // what is to be replaced is open
	patience         = 40
	patienceStep     = 50 * time.Millisecond
)

// patiently calls fn again while it is refused for such a reason.
func patiently(ctx context.Context, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		var smb *smb2.ResponseError
		if try == patience || !errors.As(err, &smb) || smb.Code != sharingViolation && smb.Code != accessDenied {
			return err
		}
		t := time.NewTimer(patienceStep)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}
