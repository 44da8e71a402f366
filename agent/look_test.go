package agent

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/agent/agenttest"
	"forebay/proto"
)

// An agent that is asked to look for a path says that it lacks it only when it is neither in the index nor in the root, and nothing at all
// of a root that is not what it was (I13).
func TestWhatIsAskedForAndNotThereIsTold(t *testing.T) {
	t.Parallel()
	var seen reports
	r := &agenttest.Relay{Wanted: true, OnReport: seen.note}
	for _, p := range []string{"absent", "no/such/directory", "known/below a file", "known", "new", "../outside"} {
		r.Looks = append(r.Looks, proto.Look{Path: p, Version: 7})
	}
	r.Start(t)
	lacks := func(path string) bool {
		return seen.any(func(rep proto.Report) bool { return slices.Contains(rep.Lack, proto.GoneEntry{Path: path, Version: 7}) })
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "known"), 100, 1)
	n := node(t, r, "a", func(c *Config, _ *Deps) { c.Datasets[0].Exclude = []string{"new"} }, dir)
	write(t, filepath.Join(dir, "new"), 100, 2) // in the root, and never in the index
	eventually(t, func() bool { return lacks("absent") && lacks("no/such/directory") && lacks("known/below a file") }, "what is not there is told")
	assert.False(t, lacks("known"))
	assert.False(t, lacks("new"))
	assert.False(t, lacks("../outside"))

	require.NoError(t, os.Rename(dir, dir+"-aside"))
	require.NoError(t, os.Mkdir(dir, 0o755))
	eventually(t, func() bool { return n.Status().Health == "red" }, "another root is there")
	assert.False(t, lacks("known"), "of a root that was exchanged nothing is said")
	assert.False(t, lacks("new"))
}

// An agent whose last scan proves nothing, for it began before the relay was known, makes another one soon when it is asked to, and not
// again and again.
func TestScanThatProvesSomethingIsMadeWhenAskedFor(t *testing.T) {
	t.Parallel()
	r := &root{wake: make(chan struct{}, 1)}
	lost := func() bool {
		r.proveSoon()
		return r.overflow
	}
	require.True(t, lost())
	r.overflow, r.runningUp = false, 5
	require.False(t, lost(), "one is being made")
	r.runningUp, r.scanUp = 0, 5
	require.False(t, lost(), "one was made")
	r.heardUp(0)
	require.True(t, lost(), "in another run of the relay")
}
