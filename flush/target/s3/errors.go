package s3

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"forebay/proto"
)

// busyRetry is when a server that is full is tried again.
const busyRetry = 10 * time.Second

// failed wraps err with what was being done, and gives it the class that the server's answer means. An error with a class keeps it.
func (d *S3) failed(err error, what string, args ...any) error {
	if err == nil {
		return nil
	}
	doing := fmt.Sprintf(what, args...)
	var known *proto.Error
	if errors.As(err, &known) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) || answer.StatusCode == 0 {
		return proto.Errorf(proto.ClassTransient, "%s at %s: %w", doing, d.cfg.Endpoint, err)
	}
	return d.answered(answer, doing)
}

// answered is failed for an answer of the server.
func (d *S3) answered(a minio.ErrorResponse, doing string) error {
	said := a.Code
	if a.Message != "" {
		said += ": " + a.Message
	}
	switch a.Code {
	case minio.NoSuchKey, "NoSuchVersion":
		return proto.Errorf(proto.ClassTransient, "%s: %w", doing, fs.ErrNotExist)
	case "NoSuchUpload":
		return proto.Errorf(proto.ClassTransient, "%s: the multipart upload is gone: %w", doing, fs.ErrNotExist)
	case minio.NoSuchBucket:
		return proto.Errorf(proto.ClassTransient, "%s: there is no bucket %s at %s: make it, or correct the target", doing, d.cfg.Bucket, d.cfg.Endpoint)
	case "RequestTimeTooSkewed", "RequestExpired":
		return proto.Errorf(proto.ClassTransient, "%s: the server's clock is %s off ours: set the clocks right (%s)", doing, d.wire.skew().Round(time.Second), said)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidTokenId", "ExpiredToken", "TokenRefreshRequired", "AuthorizationHeaderMalformed", "InvalidClientTokenId":
		d.keys.refused()
		return proto.Errorf(proto.ClassTransient, "%s: the server does not accept the access key (%s): check access_key and secret_key_file", doing, said)
	case minio.AccessDenied, "AllAccessDisabled", "AccountProblem":
		d.keys.refused()
		return proto.Errorf(proto.ClassTransient, "%s: the access key has no right to (%s)", doing, said)
	case "KeyTooLongError", "XMinioInvalidObjectName", "InvalidObjectName", "EntityTooLarge", "MetadataTooLarge", "InvalidURI":
		return proto.Errorf(proto.ClassPermanent, "%s: the target cannot hold it (%s)", doing, said)
	case "PreconditionFailed", "ConditionalRequestConflict":
		return proto.Errorf(proto.ClassConflict, "%s: something else is there (%s)", doing, said)
	case "XMinioParentIsObject", "ObjectParentIsFile", "ExistingObjectIsDirectory", "ExistingObjectIsFile", "XMinioObjectExistsAsDirectory":
		return proto.Errorf(proto.ClassTransient, "%s: an object is where a directory has to be, or the other way round (%s)", doing, said)
	case "XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "StorageFull":
		return overloaded("%s: the target is full (%s)", doing, said)
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "TooManyRequests", "Busy", "RequestLimitExceeded", "Throttling":
		return overloaded("%s: the server asks to slow down (%s)", doing, said)
	}
	switch a.StatusCode {
	case http.StatusNotFound:
		return proto.Errorf(proto.ClassTransient, "%s: %w", doing, fs.ErrNotExist)
	case http.StatusPreconditionFailed:
		return proto.Errorf(proto.ClassConflict, "%s: something else is there (%s)", doing, said)
	case http.StatusInsufficientStorage:
		return overloaded("%s: the target is full (%s)", doing, said)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return overloaded("%s: the server asks to slow down (%s)", doing, said)
	}
	return proto.Errorf(proto.ClassTransient, "%s at %s: status %d (%s)", doing, d.cfg.Endpoint, a.StatusCode, said)
}

func overloaded(format string, args ...any) error {
	e := proto.Errorf(proto.ClassOverload, format, args...)
	e.RetryAfter = busyRetry
	return e
}

// silent reports whether a request may have been carried out although it failed: no answer came, or one of a server in trouble.
func silent(err error) bool {
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) || answer.StatusCode == 0 {
		return err != nil
	}
	return answer.StatusCode >= http.StatusInternalServerError
}

// unholdable reports whether a server said that it can have nothing of that name.
func unholdable(err error) bool { return proto.ClassOf(err) == proto.ClassPermanent }

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
