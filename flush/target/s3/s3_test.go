package s3

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
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
	cfg.Endpoint, cfg.Bucket = p.server.Endpoint(), p.bucket
	d, err := Open(cfg, p.deps())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// suite runs the conformance suite, each case below a folder of its own.
func suite(t *testing.T, s *servers.S3) {
	p := newPlace(t, s)
	folders := make(chan int, 1)
	folders <- 0
	conformance.Run(t, func(t *testing.T) target.Target {
		n := <-folders
		folders <- n + 1
		return p.open(t, Config{Path: "root" + string(rune('a'+n%26)) + string(rune('a'+n/26)), Prefix: "some/prefix"})
	}, conformance.Caps{Reopen: func(t *testing.T, old target.Target) target.Target {
		return p.open(t, old.(*S3).cfg)
	}})
}

func TestVersitygw(t *testing.T) {
	t.Parallel()
	suite(t, servers.Versitygw(t))
}

func TestMinIO(t *testing.T) {
	t.Parallel()
	suite(t, servers.MinIO(t, 1))
}
