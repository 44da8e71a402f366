package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	mc "github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"

	"forebay/internal/servers"
	"forebay/internal/treecmp"
	"forebay/proto"
)

// Three targets of different make lose all that they have while data comes in. It is noticed, and nothing is written there from then on
// until an operator says so; then all of it comes again, from the holders. Links that are then pointed elsewhere, while data comes in,
// fill what they point at, and leave the old place as it was.
func TestTargetsWipedAndExchanged(t *testing.T) {
	t.Parallel()
	gateway, shell := newBucket(t, servers.Versitygw(t)), servers.OpenSSH(t)
	_, off := sftpTarget(t, shell)
	sp := three("")
	sp.targets = []string{"nas", "other"}
	sp.buckets = map[string]string{"gateway": gateway.target(), "off": off}
	sp.links = []link{{name: "nas", from: "primary/media", to: "nas"}}
	for _, to := range []string{"gateway", "off"} {
		sp.links = append(sp.links, link{name: to, from: "primary/media", to: to, prefix: "media"})
	}
	links := []string{"nas", "gateway", "off"}
	s := runs(t, sp, func(s *site) { s.fill("media", content, "a", "b", "c") })
	s.settle(links...)
	l, _ := linkOf(s.status(), "nas")
	objects := l.ConfirmedObjects
	add := func(name string) { // something comes in
		s.fill("media", func(t *tree) {
			t.dir(name, 0o755)
			for i := range 40 {
				t.file(fmt.Sprintf("%s/%d", name, i), int64(i)<<13)
			}
		}, "a", "b", "c")
	}
	noticed := func() {
		for _, l := range links {
			s.awaitLink(l, "stalled", func(l proto.LinkStatus) bool {
				return l.State == "stalled" && strings.Contains(l.Reason, "--repair --wiped")
			})
		}
	}
	untimed := func(d treecmp.Difference) bool { return d.What != "mtime" } // SFTP keeps seconds; the replicas are written one after the other
	filled := func(dir, off string) {                                       // each target has what the source has
		s.settle(links...)
		for _, got := range []string{dir, off} {
			s.compare(s.root("a", "media"), got, treecmp.Options{Owner: os.Geteuid() == 0}, untimed)
		}
		for _, l := range links {
			s.does("verify", l, "--deep")
		}
	}

	out, code := s.forebay("verify", "nas", "--repair", "--wiped")
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "was not wiped")

	empty := func(dir string) {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	wiped := func() (left int) {
		for _, dir := range []string{s.target("nas"), shell.Data} {
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			left += len(entries)
		}
		for range gateway.client.ListObjects(t.Context(), gateway.name, mc.ListObjectsOptions{Recursive: true}) {
			left++
		}
		return left
	}
	add("just before the wipe") // the targets are known to be there
	for _, l := range links {
		s.awaitLink(l, "done", func(l proto.LinkStatus) bool { return l.ConfirmedObjects >= objects+41 && l.BacklogObjects == 0 })
	}
	empty(s.target("nas"))
	empty(shell.Data)
	add("after") // the bucket is emptied amid it
	for o := range gateway.client.ListObjects(t.Context(), gateway.name, mc.ListObjectsOptions{Recursive: true}) {
		require.NoError(t, o.Err)
		require.NoError(t, gateway.client.RemoveObject(t.Context(), gateway.name, o.Key, mc.RemoveObjectOptions{}))
	}
	noticed()
	entries, err := os.ReadDir(s.target("nas"))
	require.NoError(t, err)
	require.Empty(t, entries, "a directory is looked at with each batch")
	left := wiped() // what was under way to the others came there
	s.relay.kill()
	s.startRelay()
	s.awaitState("alive", "a", "b", "c")
	noticed()
	for _, l := range links {
		out, code := s.forebay("verify", l, "--repair")
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "--wiped")
	}
	require.Equal(t, left, wiped(), "nothing is written where an operator may have to mount something")
	for _, l := range links {
		s.does("verify", l, "--repair", "--wiped")
	}
	add("meanwhile")
	filled(s.mirror("nas"), shell.Data+"/media")

	// Pointed elsewhere: another directory, another folder of the bucket, another one of the server.
	nas, old := s.mirror("nas"), shell.Data+"/media"
	before, beforeOff, beforeBucket := treeOf(t, nas), treeOf(t, old), gateway.sizes("media/")
	s.spec.links[0].to, s.spec.links[1].prefix, s.spec.links[2].prefix = "other", "elsewhere/media", "elsewhere"
	s.writeRelay(strings.TrimPrefix(s.url, "http://"))
	add("just before")
	s.reload()
	add("just after")
	filled(s.target("other"), shell.Data+"/elsewhere")
	require.Len(t, s.status().Links, len(links), "the links that were are given up")
	stays := func(before, after map[string]int64) {
		require.Greater(t, len(before), 300)
		for path, was := range before {
			require.Equal(t, was, after[path], "%s: what was backed up there stays", path)
		}
	}
	stays(before, treeOf(t, nas))
	stays(beforeOff, treeOf(t, old))
	stays(beforeBucket, gateway.sizes("media/"))
	s.until("the cache to be empty: nothing is kept for links that are gone", func() bool { return s.status().Cache.Segments == 0 })
}

// sizes are those of the objects below a prefix.
func (b *bucket) sizes(prefix string) map[string]int64 {
	b.t.Helper()
	out := map[string]int64{}
	for o := range b.client.ListObjects(b.t.Context(), b.name, mc.ListObjectsOptions{Recursive: true, Prefix: prefix}) {
		require.NoError(b.t, o.Err)
		out[o.Key] = o.Size
	}
	return out
}

// treeOf names the files below a directory with their sizes.
func treeOf(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	require.NoError(t, filepath.Walk(dir, func(path string, st os.FileInfo, err error) error {
		if err == nil && st.Mode().IsRegular() && !strings.Contains(path, proto.ReservedName) {
			out[strings.TrimPrefix(path, dir)] = st.Size()
		}
		return err
	}))
	return out
}
