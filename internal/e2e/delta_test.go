package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	mc "github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/baddisk"
	"forebay/internal/figures"
	"forebay/internal/servers"
	"forebay/internal/treecmp"
)

var deltaSize = flag.Int64("delta.size", 96<<20, "bytes of the object in TestChangeInALargeObject")

// onSharingDisk puts a target on an XFS of its own, whose files can share blocks, where one can be made. written is how many bytes its disk
// was given so far, nil without one.
func (s *site) onSharingDisk(target string, room int64) (written func() int64) {
	s.t.Helper()
	if why := baddisk.Check(); why != "" {
		s.t.Logf("what is written to the disk of target %s is not counted: %s", target, why)
		return nil
	}
	at := s.target(target)
	_, err := s.disks().Failing(at, room) // it does not fail until it is told to
	require.NoError(s.t, err)
	dir, err := os.Open(at)
	require.NoError(s.t, err)
	s.atEnd(func() { _ = dir.Close() }) // before it is unmounted
	var st unix.Stat_t
	require.NoError(s.t, unix.Fstat(int(dir.Fd()), &st))
	stat := fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev))
	return func() int64 {
		s.t.Helper()
		require.NoError(s.t, unix.Syncfs(int(dir.Fd())))
		raw, err := os.ReadFile(stat)
		require.NoError(s.t, err)
		fields := strings.Fields(string(raw))
		const written = 6 // sectors of 512 bytes
		require.Greater(s.t, len(fields), written)
		n, err := strconv.ParseInt(fields[written], 10, 64)
		require.NoError(s.t, err)
		return n * 512
	}
}

// deltaCounts are bytes: acknowledged by the relay, on each way, and written to the disk of the directory.
type deltaCounts struct{ acked, agents, gateway, minio, toOff, fromOff, disk int64 }

func (c deltaCounts) since(b deltaCounts) deltaCounts {
	return deltaCounts{
		acked: c.acked - b.acked, agents: c.agents - b.agents, gateway: c.gateway - b.gateway, minio: c.minio - b.minio,
		toOff: c.toOff - b.toOff, fromOff: c.fromOff - b.fromOff, disk: c.disk - b.disk,
	}
}

// changed requires that what went where for a change within so many blocks of a large object, in two parts of it at most, is what
// docs/operating.md says.
func (c deltaCounts) changed(t *testing.T, blocks, size int64, counted bool) {
	t.Helper()
	t.Logf("%d of %d blocks: %+v", blocks, size>>20, c)
	const part = 8 << 20
	assert.LessOrEqual(t, c.acked, blocks<<20)
	assert.Less(t, c.agents, (blocks+3)<<20, "what changed, with all else: no target's needs bring the rest from the agents")
	assert.Less(t, c.gateway, int64(2*part+2<<20), "two parts at most")
	assert.Less(t, c.minio, int64(2*part+2<<20), "two parts at most")
	// A server with SFTP copies nothing: all but what changed is read, and all of it written back, once each.
	assert.GreaterOrEqual(t, c.fromOff, size-blocks<<20, "read from the server")
	assert.Less(t, c.fromOff, size+size/20, "and not twice")
	assert.GreaterOrEqual(t, c.toOff, size, "written to the server")
	assert.Less(t, c.toOff, size+size/20, "and not twice")
	if counted { // else that the rest is copied there follows from what the agents sent alone
		assert.GreaterOrEqual(t, c.disk, int64(1<<20), "what changed is on the directory's disk")
		assert.Less(t, c.disk, (blocks+6)<<20, "the rest shares its blocks, and is not written")
	}
}

// report is what went where for one change of 1 MiB that two blocks have a part of.
func (c deltaCounts) report(disk bool) figures.Report {
	mb := func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
	all := []figures.Figure{
		{Name: "the object", Value: fmt.Sprintf("%d bytes", *deltaSize), Note: "1 MiB in the middle of it is written anew in place, on three nodes; two of its blocks of 1 MiB have a part of that"},
		{Name: "agents to relay", Value: mb(c.agents), Note: "all that the three agents sent, reports and gossip with it"},
		{Name: "relay to versitygw", Value: mb(c.gateway), Note: "the rest is copied there"},
		{Name: "relay to MinIO", Value: mb(c.minio), Note: "the rest is copied there"},
		{Name: "relay to OpenSSH", Value: mb(c.toOff), Note: "the server copies nothing: the relay reads " + mb(c.fromOff) + " from it, and writes all"},
	}
	if disk {
		all = append(all, figures.Figure{Name: "written to the disk of a directory on xfs", Value: mb(c.disk), Note: "by the kernel's count; the rest shares its blocks"})
	}
	return figures.Report{Layer: "change", Command: "make targets REPORT=docs/targets", Figures: all}
}

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
	var disk func() int64
	s := runs(t, sp, func(s *site) {
		disk = s.onSharingDisk("nas", 2*(*deltaSize)+128<<20)
		s.fill("media", content, "a", "b", "c")
		s.fill("media", func(t *tree) { t.file("image", *deltaSize) }, "a", "b", "c")
	})
	s.settle(links...)
	count := func() deltaCounts {
		c := deltaCounts{
			acked: s.status().Cache.AckedBytes, gateway: gateway.wire.sent.Load(), minio: minio.wire.sent.Load(),
			toOff: wire.sent.Load(), fromOff: wire.got.Load(),
		}
		for _, n := range s.nodes {
			c.agents += n.proxy.sent.Load()
		}
		if disk != nil {
			c.disk = disk()
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
	counted := count().since(before)
	counted.changed(t, 2, *deltaSize, disk != nil)
	publish(t, counted.report(disk != nil))
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
	count().since(before).changed(t, 4, *deltaSize, disk != nil)
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
