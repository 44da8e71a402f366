package s3

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// What servers answer, in their own codes, means to the link what it says: wait, try later, or set this object aside.
func TestWhatServersSay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status     int
		code       string
		class      proto.Class
		says       string
		retryAfter time.Duration
	}{
		{http.StatusInsufficientStorage, "XMinioStorageFull", proto.ClassOverload, "the target is full", busyRetry},
		{http.StatusInsufficientStorage, "", proto.ClassOverload, "the target is full", busyRetry},
		{http.StatusForbidden, "QuotaExceeded", proto.ClassOverload, "the target is full", busyRetry},
		{http.StatusServiceUnavailable, "SlowDown", proto.ClassOverload, "slow down", busyRetry},
		{http.StatusServiceUnavailable, "", proto.ClassOverload, "slow down", busyRetry},
		{http.StatusTooManyRequests, "", proto.ClassOverload, "slow down", busyRetry},
		{http.StatusBadRequest, "ExpiredToken", proto.ClassTransient, "does not accept the access key", 0},
		{http.StatusForbidden, "InvalidAccessKeyId", proto.ClassTransient, "does not accept the access key", 0},
		{http.StatusForbidden, "SignatureDoesNotMatch", proto.ClassTransient, "check access_key and secret_key_file", 0},
		{http.StatusForbidden, "AccessDenied", proto.ClassTransient, "has no right to", 0},
		{http.StatusForbidden, "RequestTimeTooSkewed", proto.ClassTransient, "set the clocks right", 0},
		{http.StatusNotFound, "NoSuchBucket", proto.ClassTransient, "there is no bucket backup", 0},
		{http.StatusBadRequest, "KeyTooLongError", proto.ClassPermanent, "the target cannot hold it", 0},
		{http.StatusBadRequest, "EntityTooLarge", proto.ClassPermanent, "the target cannot hold it", 0},
		{http.StatusInternalServerError, "InternalError", proto.ClassTransient, "status 500", 0},
		{http.StatusBadGateway, "", proto.ClassTransient, "status 502", 0},
	} {
		t.Run(fmt.Sprint(c.status, c.code), func(t *testing.T) {
			t.Parallel()
			body := "<html>not XML of S3</html>"
			if c.code != "" {
				body = "<?xml version=\"1.0\"?><Error><Code>" + c.code + "</Code><Message>as the server has it</Message></Error>"
			}
			answer := roundTrip(func(r *http.Request) (*http.Response, error) {
				if r.Body != nil {
					_, _ = io.Copy(io.Discard, r.Body)
				}
				return &http.Response{Request: r, StatusCode: c.status, Status: http.StatusText(c.status), Header: http.Header{"Content-Type": {"application/xml"}},
					Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}, nil
			})
			d, err := Open(Config{Endpoint: "http://127.0.0.1:1", Bucket: "backup", Region: "us-east-1"}, Deps{Now: time.Now,
				Around: func(http.RoundTripper) http.RoundTripper { return answer },
				Keys:   func() (Secrets, error) { return Secrets{Access: "a", Secret: "s"}, nil }})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, d.Close()) })
			err = d.Records().Put(t.Context(), "r", []byte("x"))
			require.Equal(t, c.class, proto.ClassOf(err), "%v", err)
			require.ErrorContains(t, err, c.says)
			var e *proto.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.retryAfter, e.RetryAfter)
			require.NotErrorIs(t, err, target.ErrNotThere)
		})
	}
}

// A server may find out that it cannot copy after it has answered 200.
func TestCopyThatFailsAfterItsAnswer(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		lie := false
		p.around = func(base http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				resp, err := base.RoundTrip(r)
				if err == nil && lie && r.Header.Get("X-Amz-Copy-Source") != "" {
					body := "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>We encountered an internal error</Message></Error>"
					_ = resp.Body.Close()
					resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
				}
				return resp, err
			})
		}
		d := p.open(t, Config{Path: "root"})
		for _, part := range []uint64{copyPart, 1 << 20} { // in one request, and in parts
			d.copyPart = part
			k := putContent(t, d, fmt.Sprint("f", part), []byte(strings.Repeat("forebay ", 3<<20/8)))
			lie = true
			errs := d.History().Keep(t.Context(), []target.Keep{k})
			lie = false
			require.Error(t, errs[0], "part %d", part)
			require.Equal(t, proto.ClassTransient, proto.ClassOf(errs[0]), "%v", errs[0])
			// A server may still be at another part when it is told to abort: what it then keeps goes with the next start.
			d = p.open(t, Config{Path: "root"})
			require.Eventually(t, func() bool {
				return d.Unstage(t.Context(), func(target.StageID) bool { return false }) == nil && len(p.uploads()) == 0
			}, time.Minute, 20*time.Millisecond)
		}
	})
}
