package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target/s3"
	"forebay/internal/servers"
)

// A bucket and the keys in the environment are enough to list and to restore; its folder may be the target, or where a link's prefix leads.
func TestBackupsInABucket(t *testing.T) {
	server := servers.Versitygw(t)
	t.Setenv("AWS_ACCESS_KEY_ID", server.Access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", server.Secret)
	t.Setenv("AWS_ENDPOINT_URL", server.Endpoint())
	c, err := minio.New(server.Addr, &minio.Options{Creds: credentials.NewStaticV4(server.Access, server.Secret, "")})
	require.NoError(t, err)
	put := func(bucket, folder, prefix string) {
		if there, err := c.BucketExists(t.Context(), bucket); err != nil || !there {
			require.NoError(t, c.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}))
		}
		keys := func() (s3.Secrets, error) { return s3.Secrets{Access: server.Access, Secret: server.Secret}, nil }
		d, err := s3.Open(s3.Config{Endpoint: server.Endpoint(), Bucket: bucket, Path: folder, Prefix: prefix}, s3.Deps{Now: time.Now, Keys: keys})
		require.NoError(t, err)
		backupTo(t, d, prefix)
	}
	put("several", "", "a")
	put("several", "", "b/c")
	put("below", "some/folder", "a")
	for from, says := range map[string]string{
		"s3://several/a":                "",
		"s3://several/b/c/":             "",
		"s3://below/some/folder":        "",
		"s3://below/some/folder/a":      "",
		"s3://several":                  "holds several backups: name one of s3://several/a (primary/media), s3://several/b/c (primary/media)",
		"s3://several/b":                "s3://several/b is not where a backup begins",
		"s3://several?region=us-east-1": "name one of s3://several/a?region=us-east-1",
		"s3://below/some":               "nothing was ever backed up to",
	} {
		to := filepath.Join(t.TempDir(), "back")
		got := command(t, nil, "restore", "--from", from, "--to", to)
		if says != "" {
			assert.Equal(t, exitUsage, got.code, from)
			assert.Contains(t, got.errs, says, from)
			continue
		}
		require.Equal(t, exitDone, got.code, "%s: %s", from, got.errs)
		content, err := os.ReadFile(filepath.Join(to, "sub\n", "two"))
		require.NoError(t, err)
		assert.Equal(t, "content of sub\n/two", string(content))
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	got := command(t, nil, "list", "--from", "s3://several/a")
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, "key")
}
