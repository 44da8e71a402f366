package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/proc"
	"forebay/internal/servers"
	"forebay/proto"
)

// rcloneDriver is forebay-rclone as make rclone has built it: a module of its own, with two minutes of a core to compile.
func rcloneDriver(t *testing.T) string {
	t.Helper()
	built, err := filepath.Abs(filepath.Join("..", "..", "bin", "forebay-rclone"))
	require.NoError(t, err)
	b, err := os.ReadFile(built)
	if os.IsNotExist(err) {
		t.Skip("bin/forebay-rclone is not built: run make rclone")
	}
	require.NoError(t, err)
	to := filepath.Join(t.TempDir(), "forebay-rclone") // a name that no other process runs under
	require.NoError(t, os.WriteFile(to, b, 0o755))
	return to
}

// running are the processes that run a program.
func running(program string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is right
	for _, exe := range all {
		if name, err := os.Readlink(exe); err != nil || name != program { // it may have ended
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(exe, "/proc/%d/exe", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// A WebDAV server is filled through rclone's driver, while the driver and then the relay are killed in the middle of what they send: the
// server has whole objects only, all of them in the end and nothing else, no driver outlives its relay, and a restore needs the server
// alone.
func TestRclone(t *testing.T) {
	t.Parallel()
	driver := rcloneDriver(t)
	server := servers.Apache(t)
	wire := newProxy(t, server.Addr)
	sp := three("")
	sp.links[0].to, sp.links[0].prefix = "dav", "backup/media"
	remote := fmt.Sprintf(":webdav,url='http://%s',vendor=other:/", wire.address)
	sp.buckets = map[string]string{"dav": fmt.Sprintf("type: rclone, remote: %q, command: [%q]", remote, driver)}
	const step = 12 << 20  // of 90 MiB
	wire.stopAt(step >> 3) // among the small ones, which come first
	s := runs(t, sp, func(s *site) {
		s.places = map[string]string{"target-dav": server.Data}
		s.fill("media", content, "a", "b", "c")
		s.fill("media", func(t *tree) { t.file("huge", 40<<20) }, "a", "b", "c")
	})
	p := s.watch("media-nas", s.root("a", "media"))
	stopped := func() []int {
		s.until("some more to be sent", wire.stopped)
		pids := running(driver)
		require.Len(t, pids, 1, "one driver for the link")
		require.Equal(t, pids, proc.Children(s.relay.cmd.Process.Pid), "and it is the relay's")
		return pids
	}
	killed := map[int]bool{}
	kill := func() {
		pid := stopped()[0]
		killed[pid] = true
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		s.awaitLink("media-nas", "in trouble, and to say why", func(l proto.LinkStatus) bool { return strings.Contains(l.LastError, "killed") })
		wire.reset(false)
	}
	for range 3 {
		kill()
		wire.stopAt(wire.sent.Load() + step)
	}
	stopped()
	s.relay.kill()
	s.until("no driver to outlive its relay", func() bool { return len(running(driver)) == 0 })
	wire.reset(false)
	s.startRelay()
	s.awaitState("alive", "a", "b", "c")
	s.settle("media-nas", "media-vault")

	// What is there is replaced, and the driver killed in the middle of that.
	s.until("the poller to have read all files", func() bool { looks, _ := p.counts(); return looks >= 304 })
	wire.stopAt(wire.sent.Load() + 5<<20) // of 9 MiB
	s.renew(p, 1)
	kill()
	s.renew(p, 2)
	s.settle("media-nas", "media-vault")
	s.until("the poller to have read what replaced them", func() bool { _, newer := p.counts(); return newer >= len(renewed()) })
	p.whole(304 + len(renewed()))
	assert.Len(t, killed, 4)
	t.Logf("%d bytes sent to the server", wire.sent.Load())
	assert.Equal(t, "ack", s.link("media-nas").Confirm)
	s.sameContent(s.root("a", "media"), s.mirror("media-nas"))
	s.does("verify", "media-nas", "--deep")
	left, err := filepath.Glob(server.Data + "/" + proto.ReservedName + "/stage/*/*")
	require.NoError(t, err)
	assert.Empty(t, left, "nothing staged is left")

	s.relay.kill()
	to := s.path("restored")
	s.does("restore", "--from", "dav", "--config", s.path("relay.yaml"), "--to", to)
	s.same(s.root("a", "media"), to, os.Geteuid() == 0)
	s.until("no driver to be left", func() bool { return len(running(driver)) == 0 })
}
