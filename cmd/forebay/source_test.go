package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target/s3"
	"forebay/flush/target/sftp"
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

// A server with SFTP, the user's own key and known hosts, or files that the URL names, are enough to restore; a file with the targets
// alone is enough for all others.
func TestBackupsOnAServer(t *testing.T) {
	server := servers.OpenSSH(t)
	host, port, err := net.SplitHostPort(server.Addr)
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	folder := filepath.Join(server.Data, "some", "folder")
	require.NoError(t, os.MkdirAll(folder, 0o700))
	for _, prefix := range []string{"a", "b/c"} {
		cfg := sftp.Config{Host: host, Port: number, User: server.User, KnownHosts: server.KnownHosts, Path: folder, Prefix: prefix}
		d, err := sftp.Open(cfg, sftp.Deps{Now: time.Now, Secrets: func() (sftp.Secrets, error) { return sftp.Secrets{Key: server.Key}, nil }})
		require.NoError(t, err)
		backupTo(t, d, prefix)
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, server.Key, 0o600))
	at := "sftp://" + server.User + "@" + server.Addr
	own := "?key_file=" + url.QueryEscape(key) + "&known_hosts=" + url.QueryEscape(server.KnownHosts)
	some := filepath.Join(t.TempDir(), "targets.yaml")
	require.NoError(t, os.WriteFile(some, fmt.Appendf(nil, "targets:\n  off: {type: sftp, host: %s, port: %s, user: %s, path: %q, key_file: %q, known_hosts: %q}\n"+
		"links: [{name: first, from: primary/media, to: off, prefix: a}]\n", host, port, server.User, folder, key, server.KnownHosts), 0o600))
	restored := func(from string) {
		to := filepath.Join(t.TempDir(), "back")
		got := command(t, nil, "restore", "--from", from, "--config", some, "--to", to)
		require.Equal(t, exitDone, got.code, "%s: %s", from, got.errs)
		content, err := os.ReadFile(filepath.Join(to, "sub\n", "two"))
		require.NoError(t, err)
		assert.Equal(t, "content of sub\n/two", string(content))
	}
	refused := func(from, says string) {
		got := command(t, nil, "list", "--from", from, "--config", some)
		assert.NotEqual(t, exitDone, got.code, from)
		assert.Contains(t, got.errs, says, from)
	}
	restored(at + folder + "/a" + own)
	restored(at + folder + "/b/c/" + own)
	restored("first")
	refused("off", "holds several backups: name one of la")
	refused(at+folder+own, "name one of "+at+folder+"/a"+own)
	refused(at+server.Data+own, "nothing was ever backed up to")
	refused(at+folder+"/a", "there is no key in "+home)
	refused(at+own, "write sftp://USER@HOST/FOLDER")
	refused("sftp://"+server.Addr+folder+own, "write sftp://USER@HOST/FOLDER")
	refused("sftp://u:secret@"+server.Addr+folder, "u:xxxxx@")
	refused(at+folder+"?key=x", "key_file, passphrase_file, password_file, known_hosts are")
	require.NoError(t, os.MkdirAll(filepath.Join(home, ".ssh"), 0o700))
	require.NoError(t, os.Rename(key, filepath.Join(home, ".ssh", "id_ed25519")))
	refused(at+folder+"/a", filepath.Join(home, ".ssh", "known_hosts"))
	known, err := os.ReadFile(server.KnownHosts)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(home, ".ssh", "known_hosts"), known, 0o600))
	restored(at + folder + "/a")
}
