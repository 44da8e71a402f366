package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// few has the daemons started with fewer files that they may have open.
func (s *site) few(relay, agent int) {
	s.t.Helper()
	s.first(fmt.Sprintf("case \"$1\" in relay) ulimit -n %d;; agent) ulimit -n %d;; esac", relay, agent))
}

// first has a shell run a line before each daemon, in its process; $1 is the daemon's verb.
func (s *site) first(line string) {
	s.t.Helper()
	at := s.path("first")
	require.NoError(s.t, os.WriteFile(at, fmt.Appendf(nil, "#!/bin/sh\n%s\nexec %q \"$@\"\n", line, program), 0o755))
	s.spec.program = at
}

// With as few files as they may have open at least, relay and agents do all of their work, with more segments in each store than tables that it
// may keep open. With fewer they say so, and do not begin.
func TestFewOpenFiles(t *testing.T) {
	t.Parallel()
	sp := spec{stores: 6, cache: "capacity: 8GiB\nscrub_rate: off", links: []link{{name: "media-nas", from: "primary/media", to: "nas", more: "flush: {age: 1h}"}}}
	for _, n := range []string{"a", "b"} {
		sp.nodes = append(sp.nodes, nodeSpec{name: n, datasets: []string{"media"}})
	}
	s := newSite(t, sp)
	s.few(256+7*74, 256)
	s.fill("media", func(t *tree) {
		for i := range 40 {
			t.dir(fmt.Sprint(i), 0o755)
			for k := range 60 {
				t.file(fmt.Sprintf("%d/%d", i, k), int64(k)*100)
			}
		}
	}, "a", "b")
	s.fill("media", func(t *tree) { t.file("big", 560<<20) }, "a") // 70 segments
	s.startRelay()
	s.startNodes("a", "b")
	s.acknowledged("media-nas")
	s.does("scrub", "--wait")
	s.does("flush", "media-nas")
	s.settle("media-nas")
	s.equal(s.root("a", "media"), "media-nas")
	s.does("verify", "media-nas", "--deep")
	require.Empty(t, s.events("object-deleted"))
	require.Empty(t, s.events("store-failed"))

	s.few(256+7*74-1, 255)
	for _, n := range s.order {
		s.nodes[n].agent.stop()
	}
	s.relay.stop()
	for verb, config := range map[string]string{"relay": s.path("relay.yaml"), "agent": s.nodes["a"].config} {
		cmd := exec.CommandContext(t.Context(), s.spec.program, verb, "--config", config)
		cmd.Env = s.env()
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%s", out)
		require.Equal(t, 1, exit.ExitCode(), "%s", out)
		require.Contains(t, string(out), "LimitNOFILE")
	}
}
