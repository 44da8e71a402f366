package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
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

	"forebay/internal/figures"
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
	return fmt.Sprintf("type: s3, endpoint: \"http://%s\", bucket: %s, access_key: %s, secret_key_file: %q",
		b.wire.address, b.name, b.server.Access, secretFile)
}

// watch starts a poller of all objects, which asks the server itself: each must be a content that the source had (I10).
func (b *bucket) watch(s *site, sources ...string) *poller {
	b.t.Helper()
	p, read := &poller{}, map[string]string{}
	p.round = func(ctx context.Context) {
		for o := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Recursive: true}) {
			if o.Err != nil {
				p.trouble(ctx, fmt.Errorf("list the bucket: %w", o.Err))
				continue // to its end, which an error is
			}
			if strings.HasPrefix(o.Key, proto.ReservedName) || strings.HasSuffix(o.Key, "/") || read[o.Key] == o.ETag {
				continue
			}
			if strings.Contains(o.Key, ".sgwtmp.") { // versitygw lists files of its own that it is just writing
				continue
			}
			sum, err := b.digest(ctx, o.Key)
			var answer minio.ErrorResponse
			switch {
			case err == nil:
				read[o.Key] = o.ETag // what has replaced it by now has another one
				p.saw(o.Key, sum)
			case !errors.As(err, &answer) || answer.Code != minio.NoSuchKey:
				p.trouble(ctx, fmt.Errorf("read %q: %w", o.Key, err))
			}
		}
	}
	p.begin(s, sources...)
	return p
}

func (b *bucket) digest(ctx context.Context, key string) (sum [32]byte, err error) {
	r, err := b.client.GetObject(ctx, b.name, key, minio.GetObjectOptions{})
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	_, err = io.Copy(h, r)
	return [32]byte(h.Sum(nil)), errors.Join(err, r.Close())
}

// uploads are those that are begun for a key and not completed. MinIO lists them by a whole key only.
func (b *bucket) uploads(key string) (n int) {
	b.t.Helper()
	for u := range b.client.ListIncompleteUploads(b.t.Context(), b.name, key, true) {
		require.NoError(b.t, u.Err)
		n++
	}
	return n
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
	return fmt.Sprintf("type: sftp, host: %s, port: %s, user: %s, path: %q, key_file: %q, known_hosts: %q",
		l.host, l.port, l.user, l.path, l.key, l.knownHosts)
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
	s.awaitLink("media-nas", "stalled", func(l proto.LinkStatus) bool {
		return l.State == "stalled" && strings.Contains(l.Reason, "127.0.0.1")
	})
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
	untimed := func(d treecmp.Difference) bool { return d.What != "mtime" }
	s.compare(s.root("a", "media"), server.Data+"/backup/media", treecmp.Options{Owner: os.Geteuid() == 0}, untimed)
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

// bucketFlight is what the driver for S3 may have sent without the server's word that it is there, when the relay is killed: its memory for
// parts on their way (Config.Buffers), twelve of 8 MiB, of which none need be acknowledged. All that is acknowledged is not sent again.
const bucketFlight = 96 << 20

// bucketAside is what goes to a bucket beside contents: heads of requests, metadata, records and the journal.
const bucketAside = 8 << 20

// renewed are files of content that are replaced, by their sizes.
func renewed() map[string]int64 {
	files := map[string]int64{"large/0": 9 << 20}
	for i := range 40 {
		files[fmt.Sprintf("dir/small-%03d", 7*i)] = int64(1000 + 500*i)
	}
	return files
}

// renew replaces them for the n-th time on all nodes, each at once by a file from beside the root: no source ever has a part of one.
// It returns their bytes.
func (s *site) renew(p *poller, n int) (bytes int64) {
	s.t.Helper()
	for _, node := range s.order {
		root := s.root(node, "media")
		for path, size := range renewed() {
			o := op{kind: opReplace, path: path, n: n, size: size}
			full := filepath.Join(root, path)
			require.NoError(s.t, change(o, "renewed", full, "", s.path("aside-"+node), time.Unix(1_700_000_000+int64(n), int64(n))))
			p.note(full)
			if node == s.order[0] {
				bytes += size
			}
		}
		t := s.newTree(root)
		for _, dir := range []string{"dir", "large"} { // the replicas were changed one after the other
			t.stamp(dir, t.when(fmt.Sprint(dir, n)))
		}
	}
	return bytes
}

// A bucket is filled, the relay killed when seven eighths of a large object have gone to it, and the object goes on from the parts that are
// there: what is sent after the kill is what was left, and what was on its way. Before, meanwhile and after it files are replaced, and
// whoever reads the bucket all the time sees contents that there were. The second link, to a directory, sees nothing of it.
func TestBucket(t *testing.T) {
	t.Parallel()
	all := [...]struct {
		name  string
		start func(t *testing.T) *servers.S3
	}{
		{"versitygw", servers.Versitygw},
		{"MinIO", func(t *testing.T) *servers.S3 { return servers.MinIO(t, 1) }},
		{"MinIO on 4 drives", func(t *testing.T) *servers.S3 { return servers.MinIO(t, 4) }},
	}
	var found [len(all)]figures.Figure
	t.Run("servers", func(t *testing.T) {
		for i, s := range all {
			t.Run(s.name, func(t *testing.T) {
				if *reportDir == "" { // else its size is more than several at once have room for
					t.Parallel()
				}
				sent, left := testBucket(t, newBucket(t, s.start(t)), *bucketSize)
				found[i] = figures.Figure{Name: s.name, Value: fmt.Sprintf("%.1f MB for %.1f MB that were left", float64(sent)/1e6, float64(left)/1e6),
					Note: "sent to the server after the kill: with files that were replaced meanwhile, heads and the journal"}
			})
		}
	})
	publish(t, figures.Report{Layer: "resume", Command: "make targets REPORT=docs/targets",
		Figures: append([]figures.Figure{{Name: "a large object", Value: fmt.Sprintf("%d bytes", *bucketSize),
			Note: "the relay is killed when seven eighths of it have gone to the bucket, and started again; what it then sends to the bucket is counted at its connections"}}, found[:]...)})
}

// publish saves a report where -report says, if nothing has failed and nothing that it tells of was skipped.
func publish(t *testing.T, r figures.Report) {
	t.Helper()
	if *reportDir == "" || t.Failed() {
		return
	}
	r.Measured = time.Now().UTC().Format(time.DateOnly)
	require.NoError(t, r.Save(*reportDir), "was something skipped?")
}

// testBucket returns what was sent after the kill, and what was left of the large object at it, in bytes.
func testBucket(t *testing.T, b *bucket, large int64) (sent, rest int64) {
	require.Less(t, large/8+bucketFlight+bucketAside, large, "else a beginning from zero costs no more: give a larger -bucket.size")
	const prefix = "backup/media"
	sp := three("")
	sp.links[0].to, sp.links[0].prefix = "dr", prefix
	sp.buckets = map[string]string{"dr": b.target()}
	sp.cache = fmt.Sprintf("capacity: %dB", 8<<30+2*large) // else it is streamed, and goes to a place of its own first
	s := runs(t, sp, func(s *site) { s.fill("media", content, "a", "b", "c") })
	p := b.watch(s, s.root("a", "media"))
	s.settle("media-nas", "media-vault")
	const files = 303 // of content
	s.until("the poller to have read all files", func() bool { looks, _ := p.counts(); return looks >= files })

	base := b.wire.sent.Load()
	b.wire.stopAt(base + large*7/8)
	for _, n := range s.order {
		require.NoError(t, os.Mkdir(s.root(n, "media")+"/more", 0o755))
	}
	s.fill("media", func(t *tree) { t.file("more/huge", large) }, s.order...)
	for _, n := range s.order {
		p.note(s.root(n, "media") + "/more/huge")
		tr := s.newTree(s.root(n, "media"))
		tr.stamp("more", tr.when("more"))
		tr.stamp(".", tr.when("."))
	}
	s.until("most of the large object to be sent", b.wire.stopped)
	newer := s.renew(p, 1) // while the link can do nothing
	require.Equal(t, 1, b.uploads(prefix+"/more/huge"), "the large object is on its way")
	s.relay.kill()
	newer += s.renew(p, 2)
	b.wire.reset(false)
	before := b.wire.sent.Load()
	s.startRelay()
	s.awaitState("alive", "a", "b", "c")
	newer += s.renew(p, 3)
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-vault")
	after, left := b.wire.sent.Load()-before, large-(before-base)
	t.Logf("of %d bytes %d were left at the kill; %d were sent after it, with up to %d of newer files", large, left, after, newer)
	require.Less(t, after, left+bucketFlight+newer+bucketAside, "what was left and on its way is sent, and no more")
	s.until("the poller to have read what replaced them", func() bool { _, newer := p.counts(); return newer >= len(renewed()) })
	p.whole(files + 1 + len(renewed()))

	s.does("verify", "media-nas", "--deep")
	s.relay.kill()
	to := s.path("restored")
	s.does("restore", "--from", "dr", "--config", s.path("relay.yaml"), "--to", to)
	s.same(s.root("a", "media"), to, os.Geteuid() == 0)
	for _, key := range []string{"", prefix + "/more/huge", prefix + "/large/0", prefix + "/large/1", prefix + "/large/2"} {
		assert.Zero(t, b.uploads(key), "uploads of %q are left", key)
	}
	for o := range b.client.ListObjects(t.Context(), b.name, minio.ListObjectsOptions{Recursive: true, Prefix: ".forebay/stage/"}) {
		t.Errorf("%q is left: %v", o.Key, o.Err)
	}
	return after, left
}
