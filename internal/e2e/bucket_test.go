package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/servers"
	"forebay/internal/treecmp"
	"forebay/proto"
)

// bucket is a bucket on a real server, which the relay reaches through a proxy.
type bucket struct {
	t      *testing.T
	server *servers.S3
	client *minio.Client
	wire   *proxy
	name   string
}

func newBucket(t *testing.T, server *servers.S3) *bucket {
	t.Helper()
	b := &bucket{t: t, server: server, name: "media", wire: newProxy(t, server.Addr)}
	var err error
	b.client, err = minio.New(server.Addr, &minio.Options{Creds: credentials.NewStaticV4(server.Access, server.Secret, "")})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return b.client.MakeBucket(context.Background(), b.name, minio.MakeBucketOptions{}) == nil
	}, time.Minute, 50*time.Millisecond)
	return b
}

// target is the bucket as the relay's configuration has it.
func (b *bucket) target() string {
	b.t.Helper()
	secretFile := filepath.Join(b.t.TempDir(), "secret")
	require.NoError(b.t, os.WriteFile(secretFile, []byte(b.server.Secret+"\n"), 0o600))
	return fmt.Sprintf("type: s3, endpoint: \"http://%s\", bucket: %s, access_key: %s, secret_key_file: %q", b.wire.address, b.name, b.server.Access, secretFile)
}

// poll reads all objects again and again, at 10 ms between two rounds, until stop: each must be a content that source has (I10).
func (b *bucket) poll(source string) (stop func() (looks int)) {
	known := map[[32]byte]bool{{}: true}
	p := &poller{known: known, s: &site{t: b.t}}
	p.learn(source)
	ctx, cancel := context.WithCancel(context.Background())
	looks, done := 0, make(chan struct{})
	seen := map[string]string{}
	go func() { // ends with stop
		defer close(done)
		for ctx.Err() == nil {
			for o := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Recursive: true}) {
				if o.Err != nil || strings.HasPrefix(o.Key, proto.ReservedName) || strings.HasSuffix(o.Key, "/") || seen[o.Key] == o.ETag {
					continue
				}
				r, err := b.client.GetObject(ctx, b.name, o.Key, minio.GetObjectOptions{})
				if err != nil {
					continue
				}
				h := sha256.New()
				_, err = io.Copy(h, r)
				_ = r.Close()
				if err != nil {
					continue
				}
				if looks++; !known[[32]byte(h.Sum(nil))] {
					b.t.Errorf("%q was seen at the target with a content that it never had (I10)", o.Key)
				}
				seen[o.Key] = o.ETag
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() int {
		cancel()
		<-done
		return looks
	}
}

// sftpTarget is a real server, reached through a proxy, as the relay's configuration has it.
func sftpTarget(t *testing.T, server *servers.SSH) (wire *proxy, target string) {
	t.Helper()
	wire = newProxy(t, server.Addr)
	return wire, sshAt(t, server, wire.address).target()
}

// login is how a server with SFTP is reached at an address, which need not be its own.
type login struct{ host, port, user, path, key, knownHosts string }

func sshAt(t *testing.T, server *servers.SSH, address string) login {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	keys := t.TempDir()
	require.NoError(t, os.WriteFile(keys+"/key", server.Key, 0o600))
	known, err := os.ReadFile(server.KnownHosts)
	require.NoError(t, err)
	known = bytes.ReplaceAll(known, []byte(":"+server.Addr[strings.LastIndexByte(server.Addr, ':')+1:]+" "), []byte(":"+port+" "))
	require.NoError(t, os.WriteFile(keys+"/known_hosts", known, 0o600))
	return login{host, port, server.User, server.Data, keys + "/key", keys + "/known_hosts"}
}

// target is the server as the relay's configuration has it.
func (l login) target() string {
	return fmt.Sprintf("type: sftp, host: %s, port: %s, user: %s, path: %q, key_file: %q, known_hosts: %q", l.host, l.port, l.user, l.path, l.key, l.knownHosts)
}

// A server with SFTP is filled, it and the relay are killed on the way, and a restore needs the server alone.
func TestSFTP(t *testing.T) {
	t.Parallel()
	server := servers.OpenSSH(t)
	wire, off := sftpTarget(t, server)
	sp := three("")
	sp.links[0].to, sp.links[0].prefix = "off", "backup/media"
	sp.buckets = map[string]string{"off": off}
	const large = 240 << 20 // of which more than is sent twice has come when the server is killed
	s := runs(t, sp, func(s *site) {
		s.places = map[string]string{"target-off": server.Data}
		s.fill("media", content, "a", "b", "c")
		s.fill("media", func(t *tree) { t.file("huge", large) }, "a", "b", "c")
	})
	p := s.watch("media-nas", s.root("a", "media"))
	s.until("the large object to be under way", func() bool { return wire.sent.Load() > 200<<20 })
	server.Kill()
	s.awaitLink("media-nas", "stalled", func(l proto.LinkStatus) bool { return l.State == "stalled" && strings.Contains(l.Reason, "127.0.0.1") })
	server.Start()
	before := wire.sent.Load()
	s.until("it to go on", func() bool { return wire.sent.Load() > before+10<<20 })
	s.relay.kill()
	s.startRelay()
	s.awaitState("alive", "a", "b", "c")
	s.settle("media-nas", "media-vault")
	p.whole(5)
	sent, acked := wire.sent.Load(), s.status().Cache.AckedBytes
	t.Logf("%d bytes to the server for %d of content, %.4f", sent, acked, float64(sent)/float64(acked))
	require.Less(t, sent, acked+acked/50+2*40<<20, "at each kill what was not durable is sent again, and no more")
	assert.Equal(t, "sync", s.link("media-nas").Confirm)
	// The mirror is plain: with times to the second.
	s.compare(s.root("a", "media"), server.Data+"/backup/media", treecmp.Options{Owner: os.Geteuid() == 0}, func(d treecmp.Difference) bool { return d.What != "mtime" })
	s.does("verify", "media-nas", "--deep")
	s.relay.kill()
	to := s.path("restored")
	s.does("restore", "--from", "off", "--config", s.path("relay.yaml"), "--to", to)
	s.same(s.root("a", "media"), to, os.Geteuid() == 0)
	left, err := os.ReadDir(server.Data + "/.forebay/stage")
	require.NoError(t, err)
	for _, e := range left {
		files, err := os.ReadDir(server.Data + "/.forebay/stage/" + e.Name())
		require.NoError(t, err)
		require.Empty(t, files)
	}
}

var bucketSize = flag.Int64("bucket.size", 200<<20, "bytes of the large object in TestBucket")

// A bucket is filled, the relay killed in the middle of a large object, and the object goes on from the parts that are there. The
// second link, to a directory, sees nothing of it.
func TestBucket(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T) *servers.S3{
		"versitygw":         servers.Versitygw,
		"MinIO":             func(t *testing.T) *servers.S3 { return servers.MinIO(t, 1) },
		"MinIO on 4 drives": func(t *testing.T) *servers.S3 { return servers.MinIO(t, 4) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			large := *bucketSize
			b := newBucket(t, start(t))
			sp := three("")
			sp.links[0].to, sp.links[0].prefix = "dr", "backup/media"
			sp.buckets = map[string]string{"dr": b.target()}
			s := runs(t, sp, func(s *site) {
				s.fill("media", content, "a", "b", "c")
				s.fill("media", func(t *tree) { t.file("huge", large) }, "a", "b", "c")
			})
			looks := b.poll(s.root("a", "media"))
			s.until("the large object to be under way", func() bool { return b.wire.sent.Load() > large/2 })
			s.relay.kill()
			before := b.wire.sent.Load()
			s.startRelay()
			s.awaitState("alive", "a", "b", "c")
			s.settle("media-nas", "media-vault")
			s.equal(s.root("a", "media"), "media-vault")
			acked := s.status().Cache.AckedBytes
			sent := b.wire.sent.Load()
			t.Logf("%d bytes to the bucket for %d of content, %.4f; %d of them before the kill; %d objects read meanwhile", sent, acked, float64(sent)/float64(acked), before, looks())
			require.Less(t, sent, acked+acked/50+100<<20, "what was on its way is sent again, and no more")

			out, code := s.forebay("verify", "media-nas", "--deep")
			require.Zero(t, code, out)
			s.relay.kill()
			to := s.path("restored")
			s.does("restore", "--from", "dr", "--config", s.path("relay.yaml"), "--to", to)
			s.same(s.root("a", "media"), to, os.Geteuid() == 0)
			for u := range b.client.ListIncompleteUploads(t.Context(), b.name, "", true) {
				t.Errorf("an upload of %q is left", u.Key)
			}
			for o := range b.client.ListObjects(t.Context(), b.name, minio.ListObjectsOptions{Recursive: true, Prefix: ".forebay/stage/"}) {
				t.Errorf("%q is left", o.Key)
			}
		})
	}
}
