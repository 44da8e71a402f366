package s3

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/internal/servers"
	"forebay/proto"
)

// putContent stages and commits a content.
func putContent(t *testing.T, d *S3, path string, content []byte) target.Keep {
	t.Helper()
	digest := proto.ContentDigest(content)
	desc := proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: digest, Meta: proto.Meta{Mode: 0o640, MtimeNs: 1_600_000_000_000_000_000}}
	id := target.StageID("s-" + digest.Short())
	w, err := d.Stage(t.Context(), target.Content{ID: id, Size: desc.Size, Path: path, Desc: desc})
	require.NoError(t, err)
	_, err = w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, errors.Join(d.Commit(t.Context(), []target.Change{{Op: target.OpPut, Path: path, Stage: id, Desc: desc}})...))
	return target.Keep{Path: path, Name: target.NameKept(path, digest), Size: desc.Size, Digest: digest}
}

func listKept(t *testing.T, d *S3) (n int) {
	t.Helper()
	require.NoError(t, d.History().List(t.Context(), func(target.Kept) error { n++; return nil }))
	return n
}

// A bucket with object lock keeps what it has locked: that is told with until when, and goes when it may, with all its versions.
func TestLockedBucketKeepsUntilItMayGo(t *testing.T) {
	t.Parallel()
	p := newPlace(t, servers.MinIO(t, 1))
	c := p.client()
	p.bucket = "locked"
	require.NoError(t, c.MakeBucket(t.Context(), p.bucket, minio.MakeBucketOptions{ObjectLocking: true}))
	mode, days, unit := minio.Governance, uint(1), minio.Days
	require.NoError(t, c.SetObjectLockConfig(t.Context(), p.bucket, &mode, &days, &unit))
	d := p.open(t, Config{Path: "root"})
	k := putContent(t, d, "a", []byte("old"))
	require.NoError(t, errors.Join(d.History().Keep(t.Context(), []target.Keep{k})...))
	putContent(t, d, "a", []byte("new one"))

	err := errors.Join(d.History().Remove(t.Context(), []target.KeptName{k.Name})...)
	var locked *target.LockedError
	require.ErrorAs(t, err, &locked)
	assert.WithinDuration(t, time.Now().Add(24*time.Hour), locked.Until, time.Hour)
	assert.Equal(t, 1, listKept(t, d), "it is neither gone nor hidden")
	in, err := d.History().Open(t.Context(), k.Name)
	require.NoError(t, err)
	b, err := io.ReadAll(in)
	require.NoError(t, errors.Join(err, in.Close()))
	assert.Equal(t, "old", string(b))

	key, err := history{d}.key(k.Name)
	require.NoError(t, err)
	versions := func() (all []minio.ObjectInfo) {
		for o := range c.ListObjects(t.Context(), p.bucket, minio.ListObjectsOptions{Prefix: key, WithVersions: true}) {
			require.NoError(t, o.Err)
			all = append(all, o)
		}
		return all
	}
	for _, o := range versions() { // as if the day had passed
		require.NoError(t, c.PutObjectRetention(t.Context(), p.bucket, key, minio.PutObjectRetentionOptions{GovernanceBypass: true, VersionID: o.VersionID}))
	}
	require.NoError(t, errors.Join(d.History().Remove(t.Context(), []target.KeptName{k.Name})...))
	assert.Empty(t, versions(), "no version takes room any more")
}

// What a server does not copy in one request is copied in parts.
func TestLargeContentsAreKeptInParts(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]func(*testing.T) *servers.S3{"versitygw": func(t *testing.T) *servers.S3 { return servers.Versitygw(t) }, "minio": func(t *testing.T) *servers.S3 { return servers.MinIO(t, 1) }} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, server(t))
			d := p.open(t, Config{Path: "root"})
			d.copyPart = 8 << 20
			content := bytes.Repeat([]byte("forebay "), 13<<20/8+1)
			k := putContent(t, d, "large", content)
			require.NoError(t, errors.Join(d.History().Keep(t.Context(), []target.Keep{k})...))
			require.Empty(t, p.uploads())
			require.Empty(t, p.staged())
			putContent(t, d, "large", content[:100])
			in, err := d.History().Open(t.Context(), k.Name)
			require.NoError(t, err)
			b, err := io.ReadAll(in)
			require.NoError(t, errors.Join(err, in.Close()))
			assert.True(t, bytes.Equal(content, b), "%d bytes of %d", len(b), len(content))
		})
	}
}

// A relay that is killed while the server copies leaves no upload behind for longer than to the next start.
func TestCopiesThatAreKilledLeaveNothing(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		var armed, dead atomic.Bool
		c := p.count()
		count := p.around
		p.around = func(base http.RoundTripper) http.RoundTripper {
			base = count(base)
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				if dead.Load() || armed.Load() && r.Method == http.MethodPost && r.URL.Query().Has("uploadId") {
					dead.Store(true)
					return nil, errors.New("killed here")
				}
				return base.RoundTrip(r)
			})
		}
		d := p.open(t, Config{Path: "root"})
		k := putContent(t, d, "small", []byte("old"))
		c.take()
		require.NoError(t, errors.Join(d.History().Keep(t.Context(), []target.Keep{k})...))
		_, calls := c.take()
		require.Equal(t, map[string]int{"HEAD": 2, "PUT": 1}, calls, "a small object is copied in one request")

		d.copyPart = 8 << 20
		k = putContent(t, d, "large", bytes.Repeat([]byte("forebay "), 13<<20/8))
		armed.Store(true)
		require.Error(t, errors.Join(d.History().Keep(t.Context(), []target.Keep{k})...))
		require.True(t, dead.Load())
		armed.Store(false)
		dead.Store(false)
		require.NotEmpty(t, p.uploads())
		d = p.open(t, Config{Path: "root"})
		require.NoError(t, d.Unstage(t.Context(), func(target.StageID) bool { return false }))
		require.Empty(t, p.uploads(), "left for ever")
		require.Empty(t, p.staged())
		require.NoError(t, errors.Join(d.History().Keep(t.Context(), []target.Keep{k})...))
	})
}

// The digest in an object's metadata tells that it is not what is to be kept, though it has the same size.
func TestAnotherContentIsNotKept(t *testing.T) {
	t.Parallel()
	p := newPlace(t, servers.Versitygw(t))
	d := p.open(t, Config{Path: "root"})
	k := putContent(t, d, "a", []byte("old"))
	putContent(t, d, "a", []byte("new"))
	require.ErrorIs(t, errors.Join(d.History().Keep(t.Context(), []target.Keep{k})...), target.ErrNotThere)
	assert.Zero(t, listKept(t, d))
}
