package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/servers"
	"forebay/proto"
)

// A tree with objects of all kinds is changed, deleted from and moved about, and the relay killed while it flushes that to a directory,
// a bucket and a server with SFTP. From each of them alone the tree of each moment comes back as it was, with all metadata; and the
// history outlives the ledger.
func TestHistory(t *testing.T) {
	t.Parallel()
	b := newBucket(t, servers.MinIO(t, 1))
	ssh := servers.OpenSSH(t)
	sp := spec{nodes: []nodeSpec{{name: "a", datasets: []string{"media"}}}, buckets: map[string]string{
		"dr":  b.target(),
		"off": sshAt(t, ssh, ssh.Addr).target(),
	}}
	links := []string{"media-nas", "media-dr", "media-off"}
	for _, to := range []string{"nas", "dr", "off"} {
		sp.links = append(sp.links, link{name: "media-" + to, from: "primary/media", to: to, prefix: "some/where",
			more: "history: {keep: 30d}, delete: {propagate: true, guard: {share: 100%, objects: off}}"})
	}
	s := runs(t, sp, func(s *site) {
		s.fill("media", func(t *tree) { // but for names that MinIO does not take
			kinds(t)
			t.dir("small", 0o755)
			for i := range 3 {
				t.dir(fmt.Sprintf("small/%d", i), 0o755)
				for n := range 100 {
					t.file(fmt.Sprintf("small/%d/file %03d", i, n), int64(n*i))
				}
			}
		}, "a")
	})
	root := s.root("a", "media")
	type moment struct {
		at   time.Time
		tree string
	}
	var moments []moment
	note := func() {
		s.settle(links...)
		m := moment{time.Now(), s.path(fmt.Sprintf("then-%d", len(moments)))}
		out, err := exec.Command("cp", "-a", root, m.tree).CombinedOutput()
		require.NoError(t, err, "%s", out)
		moments = append(moments, m)
	}
	note()
	full := func(path string) string { return filepath.Join(root, path) }
	tr := s.newTree(root)
	for i := range 100 {
		tr.text(fmt.Sprintf("small/1/file %03d", i), fmt.Sprintf("overwritten %d", i))
	}
	tr.chmod("attributes/mode 600", 0o640)
	tr.text("links/one", "a leader that is another file now")
	require.NoError(t, os.RemoveAll(full("empty")))
	require.NoError(t, os.RemoveAll(full("sizes/8388608")))
	require.NoError(t, os.Rename(full("small/2"), full("small/moved")))
	require.NoError(t, os.Remove(full("links/relative")))
	tr.symlink("links/relative", "somewhere else")
	tr.finish()
	s.acknowledged("media-nas")
	s.relay.kill()
	s.startRelay()
	s.awaitState("alive", "a")
	note()
	tr = s.newTree(root)
	tr.text("small/1/file 010", "overwritten again")
	tr.text("empty", "a directory that is a file now")
	require.NoError(t, os.RemoveAll(full("small/moved")))
	tr.file("sizes/8388608", 1000)
	tr.finish()
	note()

	kept := func(name string) { // SFTP sets nothing of a symlink itself, of which a deep verify tells
		out, _ := s.forebay("verify", name, "--deep")
		for line := range strings.Lines(out) {
			problem, _, _ := strings.Cut(line, " ")
			assert.NotContains(t, []string{"missing", "extra", "size", "content", "kept-missing", "kept-size", "kept-content", "stray"}, problem, "%s: %s", name, line)
		}
	}
	for _, name := range links {
		kept(name)
		var v proto.PathVersions
		require.NoError(t, json.Unmarshal([]byte(s.does("versions", name, "small/1/file 010", "--json")), &v))
		assert.Len(t, v.Versions, 3, name)
		assert.NotZero(t, s.link(name).KeptVersions, name)
	}
	s.relay.kill()
	require.NoError(t, os.RemoveAll(s.path("relay", "ledger")))
	s.does("relay", "--recover-ledger", "--config", s.path("relay.yaml"))
	s.startRelay()
	s.awaitState("alive", "a")
	tr = s.newTree(root)
	tr.text("small/1/file 010", "after the loss")
	tr.finish()
	note()
	for _, name := range links {
		kept(name)
	}
	s.relay.kill()
	for i, m := range moments {
		for _, to := range []string{"nas", "dr", "off"} {
			at := s.path(fmt.Sprintf("restored-%s-%d", to, i))
			s.does("restore", "--from", to, "--config", s.path("relay.yaml"), "--to", at, "--at", m.at.Format(time.RFC3339Nano))
			s.same(m.tree, at, os.Geteuid() == 0)
		}
	}
}
