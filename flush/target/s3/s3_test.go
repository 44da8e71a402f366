package s3

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
	"forebay/internal/servers"
)

// place is a bucket on a real server.
type place struct {
	t      *testing.T
	server *servers.S3
	bucket string
	around func(http.RoundTripper) http.RoundTripper
}

func newPlace(t *testing.T, s *servers.S3) *place {
	t.Helper()
	p := &place{t: t, server: s, bucket: "backup"}
	c := p.client()
	require.Eventually(t, func() bool {
		err := c.MakeBucket(context.Background(), p.bucket, minio.MakeBucketOptions{})
		return err == nil || minio.ToErrorResponse(err).Code == "BucketAlreadyOwnedByYou"
	}, time.Minute, 50*time.Millisecond)
	return p
}

func (p *place) client() *minio.Client {
	c, err := minio.New(p.server.Addr, &minio.Options{Creds: credentials.NewStaticV4(p.server.Access, p.server.Secret, "")})
	require.NoError(p.t, err)
	return c
}

func (p *place) deps() Deps {
	return Deps{Now: time.Now, Around: p.around, Keys: func() (Secrets, error) {
		return Secrets{Access: p.server.Access, Secret: p.server.Secret}, nil
	}}
}

func (p *place) open(t *testing.T, cfg Config) *S3 {
	t.Helper()
	if cfg.Endpoint == "" {
		cfg.Endpoint = p.server.Endpoint()
	}
	cfg.Bucket = p.bucket
	d, err := Open(cfg, p.deps())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// suite runs the conformance suite, each case below a folder of its own.
func suite(t *testing.T, p *place, cfg Config) {
	folders := make(chan int, 1)
	folders <- 0
	conformance.Run(t, func(t *testing.T) target.Target {
		n := <-folders
		folders <- n + 1
		cfg := cfg
		cfg.Path, cfg.Prefix = "root"+string(rune('a'+n%26))+string(rune('a'+n/26)), "some/prefix"
		return p.open(t, cfg)
	}, conformance.Caps{Creates: true, Reopen: func(t *testing.T, old target.Target) target.Target {
		return p.open(t, old.(*S3).cfg)
	}})
}

func TestVersitygw(t *testing.T) {
	t.Parallel()
	suite(t, newPlace(t, servers.Versitygw(t)), Config{})
}

func TestMinIO(t *testing.T) {
	t.Parallel()
	suite(t, newPlace(t, servers.MinIO(t, 1)), Config{})
}

// hosts sends requests for any host to a server, whose own name is in none of them.
type hosts struct {
	t       *testing.T
	addr    string
	next    http.RoundTripper
	buckets *atomic.Int64 // requests whose host names a bucket
}

func (h hosts) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Host = cmp.Or(req.Host, req.URL.Host)
	if strings.HasPrefix(req.Host, "backup."+servers.Domain) {
		h.buckets.Add(1)
		assert.False(h.t, strings.HasPrefix(req.URL.Path, "/backup"), "the bucket is in the host's name alone")
	}
	req.URL.Host = h.addr
	return h.next.RoundTrip(req)
}

// The whole suite with the bucket in the host's name, as Amazon's own servers want it.
func TestHostStyle(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		var buckets atomic.Int64
		t.Cleanup(func() { assert.Greater(t, buckets.Load(), int64(1000), "requests with the bucket's host") })
		p.around = func(rt http.RoundTripper) http.RoundTripper { return hosts{t, p.server.Addr, rt, &buckets} }
		suite(t, p, Config{Endpoint: "http://" + servers.Domain, Style: StyleHost})
	})
}
