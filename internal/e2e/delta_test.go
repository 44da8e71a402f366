package e2e

import (
	"bytes"
	"flag"
	"os"
	"testing"

	mc "github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/servers"
	"forebay/internal/treecmp"
)

var deltaSize = flag.Int64("delta.size", 96<<20, "bytes of the object in TestChangeInALargeObject")

// Of a large object that changes in place, what changed goes to the relay, and to targets that can take the rest from what they have.
// Then it changes twice more while nothing is flushed and the relay is killed: still nothing is sent that was there.
func TestChangeInALargeObject(t *testing.T) {
	t.Parallel()
	gateway, minio := newBucket(t, servers.Versitygw(t)), newBucket(t, servers.MinIO(t, 1))
	shell := servers.OpenSSH(t)
	wire, off := sftpTarget(t, shell)
	sp := three("")
	sp.proxied = true
	sp.buckets = map[string]string{"off": off}
	for name, b := range map[string]*bucket{"gateway": gateway, "minio": minio} {
		sp.buckets[name] = b.target()
	}
	sp.links = []link{{name: "nas", from: "primary/media", to: "nas"}}
	for _, to := range []string{"gateway", "minio", "off"} {
		sp.links = append(sp.links, link{name: to, from: "primary/media", to: to, prefix: "media"})
	}
	untimed := func(d treecmp.Difference) bool { return d.What != "mtime" } // the replicas are written one after the other
	links := []string{"nas", "gateway", "minio", "off"}
	s := runs(t, sp, func(s *site) {
		s.fill("media", content, "a", "b", "c")
		s.fill("media", func(t *tree) { t.file("image", *deltaSize) }, "a", "b", "c")
	})
	s.settle(links...)
	type counts struct{ acked, agents, gateway, minio, off int64 }
	count := func() counts {
		c := counts{acked: s.status().Cache.AckedBytes, gateway: gateway.wire.sent.Load(), minio: minio.wire.sent.Load(), off: wire.sent.Load()}
		for _, n := range s.nodes {
			c.agents += n.proxy.sent.Load()
		}
		return c
	}
	rewrite := func(at int64, seed byte) {
		for _, n := range []string{"a", "b", "c"} {
			f, err := os.OpenFile(s.root(n, "media")+"/image", os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt(bytes.Repeat([]byte{seed, 'x', seed + 1}, 1<<20/3), at)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
	}
	before := count()
	rewrite(*deltaSize/2+12345, 1)
	s.settle(links...)
	after := count()
	t.Logf("1 MiB changed in %d bytes: %d acknowledged, %d from agents to the relay with all else; to versitygw %d, to MinIO %d, to SFTP %d", *deltaSize,
		after.acked-before.acked, after.agents-before.agents, after.gateway-before.gateway, after.minio-before.minio, after.off-before.off)
	assert.LessOrEqual(t, after.acked-before.acked, int64(2<<20), "two blocks are touched")
	assert.Less(t, after.agents-before.agents, int64(5<<20))
	assert.Less(t, after.gateway-before.gateway, int64(18<<20), "two parts at most")
	assert.Less(t, after.minio-before.minio, int64(18<<20))
	s.compare(s.root("a", "media"), s.mirror("nas"), treecmp.Options{Owner: os.Geteuid() == 0}, untimed)

	for _, l := range links {
		s.does("pause", l)
	}
	before = count()
	rewrite(20<<20, 2)
	s.acknowledged("nas")
	rewrite(60<<20, 3)
	s.acknowledged("nas")
	s.relay.kill()
	s.startRelay()
	s.awaitState("alive", "a", "b", "c")
	for _, l := range links {
		s.does("resume", l)
	}
	s.settle(links...)
	after = count()
	assert.LessOrEqual(t, after.acked-before.acked, int64(4<<20))
	s.compare(s.root("a", "media"), s.mirror("nas"), treecmp.Options{Owner: os.Geteuid() == 0}, untimed)
	s.compare(s.root("a", "media"), shell.Data+"/media", treecmp.Options{Owner: os.Geteuid() == 0}, untimed)
	for _, l := range links { // targets are called like the links; a trial leaves no trace
		out, code := s.forebay("targets", "check", l)
		require.Zero(t, code, out)
		class := map[string]string{"gateway": "ack", "minio": "ack", "off": "sync"}[l] // a directory's is its file system's
		require.Contains(t, out, "links can ask for confirm: "+class)
		t.Log(out)
	}
	for _, b := range []*bucket{gateway, minio} {
		for o := range b.client.ListObjects(t.Context(), b.name, mc.ListObjectsOptions{Recursive: true}) {
			require.NotContains(t, o.Key, "forebay-check")
		}
	}
	for _, l := range links {
		out, code := s.forebay("verify", l, "--deep")
		require.Zero(t, code, out)
	}
}
