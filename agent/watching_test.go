package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/agent/agenttest"
	"forebay/agent/watch"
	"forebay/internal/faultpoint"
)

func TestWatchFindsChangesBetweenScans(t *testing.T) {
	t.Parallel()
	r := (&agenttest.Relay{Wanted: true}).Start(t)
	dir := t.TempDir()
	sample(t, dir)
	n := node(t, r, "a", func(c *Config, d *Deps) {
		c.Datasets[0].Scan = 24 * time.Hour
		d.OpenWatch = watch.Open
	}, dir)
	settled(t, r, dir, n)
	eventually(t, func() bool {
		s := r.Status("a")
		return len(s) == 1 && s[0].Watch != watch.ModeScan && s[0].Watch != ""
	}, "watched")
	write(t, filepath.Join(dir, "src/d1/new"), 123, 6)
	write(t, filepath.Join(dir, "fresh/dir/new"), 124, 7)
	require.NoError(t, os.Chmod(filepath.Join(dir, "empty"), 0o640))
	settled(t, r, dir, n)
}

func TestPlanOfScans(t *testing.T) {
	t.Parallel()
	at := time.Unix(1e6, 0)
	hour := time.Hour
	for _, c := range []struct {
		name  string
		plan  plan
		in    time.Duration // from the last start, or from now when there was none
		share float64
	}{
		{"first: at once, at full speed", plan{}, 0, 1},
		{"watched", plan{started: at, cost: time.Second, watched: true}, hour, 0.01},
		{"alone", plan{started: at, cost: time.Second}, 5 * time.Minute, 0.01},
		{"alone and costly: 1 % of a core", plan{started: at, cost: 6 * time.Second}, 10 * time.Minute, 0.02},
		{"alone and very costly: still each hour", plan{started: at, cost: 10 * time.Minute}, hour, 1.0 / 3},
		{"configured", plan{started: at, cost: time.Second, every: 20 * time.Second, watched: true}, 20 * time.Second, 0.1},
		{"asked for", plan{started: at, cost: hour, asked: true}, -1, 1},
		{"refused: each minute", plan{started: at, problem: true, watched: true}, time.Minute, 1},
		{"refused: asking does not make it a load", plan{started: at, problem: true, asked: true}, time.Minute, 1},
		{"hints lost", plan{started: at, cost: 30 * time.Second, lost: true, watched: true}, 2 * time.Minute, 0.25},
		{"hints lost, never later than without", plan{started: at, cost: time.Second, every: 20 * time.Second, lost: true, watched: true}, 20 * time.Second, 0.25},
	} {
		c.plan.now = at.Add(time.Second)
		when, share, _ := c.plan.next()
		want := at.Add(c.in)
		if c.in <= 0 {
			want = c.plan.now
		}
		assert.Equal(t, want, when, c.name)
		assert.InDelta(t, c.share, share, 1e-9, c.name)
	}
}

// A scan answers what it was asked for when it began; what is asked for meanwhile is the next one's.
func TestScanAnswersWhatWasAskedForBefore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x"), 100, 1)
	var r *root
	a, err := New(Config{
		Node: "a", Cluster: "primary", Relays: []string{"http://127.0.0.1:1"}, DataDir: t.TempDir(), Software: "test",
		Datasets: []Dataset{{Name: "media", Paths: []string{dir}}},
	}, Deps{Now: ahead, Fault: func(p faultpoint.Point) {
		if p == faultpoint.AgentScanned {
			r.want(2)
		}
	}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, a.Close()) })
	r = a.roots[0]
	r.want(1)
	for token := uint64(1); token <= 2; token++ {
		_, err = r.scanAll(t.Context(), 1, time.Hour)
		require.NoError(t, err)
		_, answered, _ := r.Scans()
		require.Equal(t, token, answered)
		require.Equal(t, token < 2, r.plan(r.now(), 0).asked)
	}
}
