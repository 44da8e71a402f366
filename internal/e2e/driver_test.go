package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/internal/proc"
	"forebay/proto"
)

// sampleDriver builds the driver of the documentation's, under a name that no other process runs under.
func sampleDriver(t *testing.T) string {
	t.Helper()
	driver := filepath.Join(t.TempDir(), "driver")
	out, err := exec.Command("go", "build", "-o", driver, "forebay/cmd/forebay-sample-driver").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return driver
}

// A target behind a driver process is filled while the driver is killed again and again, and then the relay: it holds whole objects only,
// all of them in the end, no driver outlives its relay, and the target alone is enough to restore from.
func TestDriverProcess(t *testing.T) {
	t.Parallel()
	driver := sampleDriver(t)
	shelf := t.TempDir()
	sp := three("")
	sp.links[0].to, sp.links[0].prefix = "shelf", "backup/media"
	sp.buckets = map[string]string{"shelf": fmt.Sprintf("type: process, command: [%q], settings: {path: %q}, memory: 256MiB", driver, shelf)}
	s := runs(t, sp, func(s *site) {
		s.places = map[string]string{"target-shelf": shelf}
		s.fill("media", content, "a", "b", "c")
		s.fill("media", func(t *tree) { t.file("huge", 40<<20) }, "a", "b", "c")
	})
	p := s.watch("media-nas", s.root("a", "media"))
	relay := s.relay.cmd.Process.Pid
	killed, last := 0, 0
	s.until("the driver to be killed five times", func() bool {
		for _, pid := range proc.Children(relay) {
			name, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // it may have ended
			if name == driver && pid != last && syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed, last = killed+1, pid
			}
		}
		return killed >= 5
	})
	s.awaitLink("media-nas", "an error that says so", func(l proto.LinkStatus) bool {
		return strings.Contains(l.LastError, "signal: killed") || l.ConfirmedObjects > 0
	})
	s.until("another driver", func() bool { return len(proc.Children(relay)) > 0 })
	left := proc.Children(relay)
	s.relay.kill()
	s.until("no driver to outlive its relay", func() bool {
		for _, pid := range left {
			if name, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && name == driver {
				return false
			}
		}
		return true
	})
	s.startRelay()
	s.awaitState("alive", "a", "b", "c")
	s.settle("media-nas", "media-vault")
	p.whole(5)
	s.does("verify", "media-nas", "--deep")
	s.relay.kill()
	to := s.path("restored")
	s.does("restore", "--from", "shelf", "--config", s.path("relay.yaml"), "--to", to)
	s.same(s.root("a", "media"), to, os.Geteuid() == 0)
}
