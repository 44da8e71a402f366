package e2e

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var soakTime = flag.Duration("soak", 10*time.Second, "how long faults go on in TestSoak; make soak TIME=4h")

// soakRound is a schedule of the soak: after each everything drains, and processes are measured at rest.
const soakRound = 2 * time.Minute

// gauge is what a process has at rest. Agents do not tell their goroutines; theirs are 0.
type gauge struct {
	rss, files, goroutines int64
}

// The same processes live through all faults that leave them alive, again and again. At rest they have what they had in
// the beginning: memory, files, goroutines; nothing staged is left at a target, and the cache is empty.
func TestSoak(t *testing.T) {
	if *soakTime <= soakRound {
		t.Parallel()
	}
	const suspicion = 2 * time.Second
	kinds := slices.DeleteFunc(slices.Clone(chaosKinds(t)), faultKind.endsProcess)
	c := newChaos(t, suspicion, false)
	length := min(soakRound, *soakTime/2)
	var course []map[string]gauge
	for began, round := time.Now(), int64(0); round < 2 || time.Since(began) < *soakTime; round++ {
		t.Logf("seed %d", *seed+round)
		below := fmt.Sprintf("round %d", round)
		c.run(draw(*seed+round, length, kinds, c.order, suspicion), below)
		course = append(course, c.atRest())
		t.Logf("at rest after round %d: %v", round, course[round])
		if round > 2 { // the dataset does not grow for ever
			for _, n := range c.order {
				require.NoError(t, os.RemoveAll(filepath.Join(c.root(n, "media"), fmt.Sprintf("round %d", round-2))))
			}
		}
	}
	for name := range course[0] {
		c.noGrowth(name, course)
	}
	t.Log(c.outcome(length * time.Duration(len(course))))
}

// noGrowth requires that a process has at the end about what it had after a quarter of the rounds. The lowest of some rounds
// counts: what is in use for a moment is no leak.
func (c *chaos) noGrowth(name string, course []map[string]gauge) {
	c.t.Helper()
	some := max(1, len(course)/4)
	least := func(part []map[string]gauge) gauge {
		g := part[0][name]
		for _, p := range part[1:] {
			g = gauge{min(g.rss, p[name].rss), min(g.files, p[name].files), min(g.goroutines, p[name].goroutines)}
		}
		return g
	}
	first, last := least(course[:some]), least(course[len(course)-some:])
	assert.LessOrEqual(c.t, last.rss, first.rss*3/2+64<<20, "%s: resident memory in bytes, %v", name, course)
	assert.LessOrEqual(c.t, last.files, first.files+20, "%s: open files, %v", name, course)
	assert.LessOrEqual(c.t, last.goroutines, first.goroutines+20, "%s: goroutines, %v", name, course)
}

// atRest waits until nothing is under way and measures all processes.
func (c *chaos) atRest() map[string]gauge {
	c.t.Helper()
	c.until("the cache to be empty", func() bool { return c.status().Cache.Segments == 0 })
	out := map[string]gauge{"relay": c.measure(c.relay.process(), c.url)}
	for _, n := range c.order {
		out[n] = c.measure(c.agents[n].process(), "http://"+c.nodes[n].address)
	}
	return out
}

// measure reads what a process has from the kernel and from its metrics.
func (c *chaos) measure(p *process, url string) (g gauge) {
	c.t.Helper()
	proc := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	files, err := os.ReadDir(proc + "/fd")
	require.NoError(c.t, err)
	g.files = int64(len(files))
	raw, err := os.ReadFile(proc + "/statm")
	require.NoError(c.t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(raw))[1], 10, 64)
	require.NoError(c.t, err)
	g.rss = pages * int64(os.Getpagesize())
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	require.NoError(c.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(c.t, err)
	defer func() { _ = resp.Body.Close() }()
	g.goroutines = metric(resp.Body, "go_goroutines")
	if url == c.url {
		require.Positive(c.t, g.goroutines)
	}
	return g
}

// metric is the value of a plain metric, 0 when there is none.
func metric(in io.Reader, name string) int64 {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, _ := strconv.ParseFloat(rest, 64)
			return int64(v)
		}
	}
	return 0
}
