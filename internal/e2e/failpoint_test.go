package e2e

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/internal/faultpoint"
	"forebay/internal/figures"
)

// TestShippedProgramHasNoFailpoints finds nothing in the program of the variable at which the variant for tests kills itself.
func TestShippedProgramHasNoFailpoints(t *testing.T) {
	t.Parallel()
	const name = "FOREBAY_FAILPOINT"
	source, err := os.ReadFile("../../cmd/forebay/failpoint.go")
	require.NoError(t, err)
	require.Contains(t, string(source), "//go:build failpoint\n")
	require.Contains(t, string(source), name, "else this test looks for a name that nothing has")
	binary, err := os.ReadFile(program)
	require.NoError(t, err)
	require.False(t, strings.Contains(string(binary), name), "the program that ships reads %s", name)
}

var (
	everyPoint = flag.Bool("failpoints", false, "kill real processes at every named point, not at some")
	atPoint    = flag.String("failpoint", "", "kill at these points only, with commas")
)

// somePoints are those of the short form: on an object's way through agent, relay, ledger and flush.
func somePoints() []faultpoint.Point {
	return []faultpoint.Point{faultpoint.AgentAcked, faultpoint.AgentFeedFetched, faultpoint.RelayIngestStored, faultpoint.FlushIntent}
}

// Real processes kill themselves at a named point while there is work. They are started again, as a service manager does it,
// and all of it is on the target; what was acknowledged is not sent for again.
func TestKilledAtPoints(t *testing.T) {
	t.Parallel()
	points := somePoints()
	if *everyPoint {
		points = faultpoint.All()
	}
	if *atPoint != "" {
		points = nil
		for _, p := range strings.Split(*atPoint, ",") {
			points = append(points, faultpoint.Point(p))
		}
	}
	dir := t.TempDir()
	failing, err := build(dir, "failpoint")
	require.NoError(t, err)
	sp := spec{
		program: failing,
		nodes:   []nodeSpec{{name: "a", datasets: []string{"media"}}, {name: "b", datasets: []string{"media"}}},
		links:   []link{{name: "media-nas", from: "primary/media", to: "nas", more: "delete: {propagate: true}"}},
	}
	s := runs(t, sp, func(s *site) { s.killRound(-1) })
	s.settle("media-nas")
	var killed, never []string
	for i, p := range points {
		if s.killedAt(p, i) {
			killed = append(killed, string(p))
		} else {
			never = append(never, string(p))
		}
		s.settle("media-nas")
		s.until(fmt.Sprintf("the delete after %s", p), func() bool {
			_, err := os.Lstat(filepath.Join(s.mirror("media-nas"), fmt.Sprintf("round %d", i-1), "small 0"))
			return errors.Is(err, fs.ErrNotExist)
		})
		s.equal(s.root("a", "media"), "media-nas")
		if t.Failed() {
			t.Fatalf("after a kill at %s: go test ./internal/e2e -run %s -failpoint %s", p, t.Name(), p)
		}
	}
	s.sound("media-nas")
	t.Logf("killed at %d of %d points: %s", len(killed), len(points), strings.Join(killed, " "))
	if len(never) > 0 {
		t.Logf("never passed: %s", strings.Join(never, " "))
	}
	if !*everyPoint {
		require.Empty(t, never, "points that this work is to pass")
	}
	if *everyPoint && *reportDir != "" {
		require.NoError(t, figures.Report{Layer: "failpoints", Command: "make crash REPORT=docs/reliability", Measured: time.Now().UTC().Format(time.DateOnly),
			Figures: []figures.Figure{
				{Name: "points at which real processes killed themselves", Value: fmt.Sprintf("%d of %d", len(killed), len(points)), Note: "SIGKILL, while two agents upload, follow, change and delete; then an ordinary start, and the mirror is compared"},
				{Name: "mirrors that differed after a kill", Value: "0"},
			},
			Invariants: map[string]string{"I1": "all is on the target after each kill", "I10": "the mirror is compared with the source after each kill"},
			NotCovered: []string{"points that this work does not pass, which layer crash-singles ends a relay at where they are the relay's: " + strings.Join(never, ", ")},
		}.Save(*reportDir))
	}
}

// killRound makes, changes and deletes something on both nodes, the n-th time.
func (s *site) killRound(n int) {
	s.t.Helper()
	dir, before := fmt.Sprintf("round %d", n), fmt.Sprintf("round %d", n-1)
	s.fill("media", func(t *tree) {
		t.salt = dir
		t.dir(dir, 0o755)
		for i := range 10 {
			t.file(fmt.Sprintf("%s/small %d", dir, i), int64(i)*3000+1)
		}
		t.file(dir+"/large", 18<<20)
		if _, err := os.Lstat(t.full(before)); err == nil {
			t.file(before+"/small 1", 5000) // anew
			t.chmod(before+"/small 2", 0o600)
			require.NoError(t.t, os.Remove(t.full(before+"/small 0")))
			t.note(before)
		}
	}, s.order...)
}

// killedAt has a relay, or the agents, kill itself at a point, and starts it again without one. It reports false when the
// point was not passed within a while.
func (s *site) killedAt(p faultpoint.Point, n int) bool {
	s.t.Helper()
	agents := slices.Contains(faultpoint.Agent(), p)
	if agents {
		for _, name := range s.order {
			s.nodes[name].agent.stop()
		}
	} else {
		s.relay.stop()
	}
	s.extra = []string{"FOREBAY_FAILPOINT=" + string(p)}
	var victims []*process
	if agents {
		for _, name := range s.order {
			s.launch(name)
			victims = append(victims, s.nodes[name].agent)
		}
	} else {
		s.launchRelay()
		victims = append(victims, s.relay)
	}
	s.extra = nil
	for _, v := range victims {
		v.expected.Store(true)
	}
	s.killRound(n)
	died := s.poll(pointWithin, func() bool { return slices.ContainsFunc(victims, func(v *process) bool { return !v.running() }) })
	for _, v := range victims {
		if v.running() {
			v.kill()
			continue
		}
		var exit *exec.ExitError
		require.ErrorAs(s.t, v.err, &exit, "%s at %s", v.name, p)
		require.Equal(s.t, "signal: killed", exit.Error(), "%s at %s", v.name, p)
	}
	if agents {
		s.startNodes(s.order...)
	} else {
		s.startRelay()
		s.awaitState("alive", s.order...)
	}
	return died
}

// pointWithin is how long a point may take to be passed, from when its process is started and there is work.
const pointWithin = 15 * time.Second
