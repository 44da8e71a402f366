package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"net/http"
	"strings"
	"syscall"

	"github.com/rclone/rclone/backend/webdav/api"
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fserrors"

	"forebay/proto"
)

// A name that is too long for a remote will be so for ever; what is escaped in it makes it up to three times as long. Some remotes say so.
// Others refuse it with the same words as much else (S3 answers a HEAD with 400 and nothing more, Apache with 403): there the remote is
// asked about a name of the same length that has nothing else to it.

// errTooLong says that there is nothing, for there cannot be.
var errTooLong = fmt.Errorf("the remote cannot hold so long a name: %w", iofs.ErrNotExist)

// Lengths up to which a name and a path are not suspected.
const (
	shortName = 100
	shortPath = 500
)

// tooLong reports whether a request about a name of the remote failed with err because the name, or the path, is too long.
func (r *remote) tooLong(ctx context.Context, err error, name string) bool {
	if saysTooLong(err) {
		return true
	}
	var known *proto.Error
	if err == nil || absent(err) || errors.Is(err, fs.ErrorIsDir) || errors.As(err, &known) || ctx.Err() != nil || fserrors.IsRetryAfterError(err) {
		return false
	}
	longest := ""
	same := strings.Split(name, "/")
	for i, part := range same {
		same[i] = strings.Repeat("x", len(part))
		longest = max(longest, same[i])
	}
	return len(longest) > shortName && r.refuses(ctx, longest) || len(name) > shortPath && r.refuses(ctx, strings.Join(same, "/"))
}

// saysTooLong reports whether an error is the word of a remote for that.
func saysTooLong(err error) bool {
	var dav *api.Error
	var coded interface{ ErrorCode() string } // of S3
	switch {
	case errors.Is(err, errTooLong), errors.Is(err, fs.ErrorFileNameTooLong), errors.Is(err, syscall.ENAMETOOLONG):
		return true
	case errors.As(err, &dav):
		return dav.StatusCode == http.StatusRequestURITooLong
	case errors.As(err, &coded):
		return coded.ErrorCode() == "KeyTooLongError"
	}
	return false
}

// refuses reports whether the remote refuses a long name of nothing, each time, and not a short one.
func (r *remote) refuses(ctx context.Context, long string) bool {
	for _, name := range []string{long, "x", long, "x"} { // a fault may pass, or come, between two requests
		_, err := r.f.NewObject(ctx, name)
		is := err == nil || absent(err) || errors.Is(err, fs.ErrorIsDir)
		if is != (name == "x") || ctx.Err() != nil {
			return false
		}
	}
	return true
}
