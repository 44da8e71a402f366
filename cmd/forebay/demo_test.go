package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/demo"
)

// demoTree is a source of some hundred files, directories and links.
func demoTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for i := range 40 {
		dir := filepath.Join(root, fmt.Sprintf("d%d", i%7), fmt.Sprintf("e%d", i))
		require.NoError(t, os.MkdirAll(dir, 0o755))
		for j := range 12 {
			path := filepath.Join(dir, fmt.Sprintf("f%d", j))
			require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte{byte(i), byte(j)}, 1+i*j*97), 0o644))
		}
	}
	require.NoError(t, os.Symlink("d0", filepath.Join(root, "link")))
	require.NoError(t, os.Link(filepath.Join(root, "d0/e0/f1"), filepath.Join(root, "d1/other name")))
	return root
}

// startDemo starts forebay demo as a process of its own, as a user does.
func startDemo(t *testing.T, args ...string) (cmd *exec.Cmd, out, errs *bytes.Buffer) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs the whole demo")
	}
	cmd, out, errs = exec.Command(os.Args[0], append([]string{"demo"}, args...)...), new(bytes.Buffer), new(bytes.Buffer)
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	cmd.Stdout, cmd.Stderr = out, errs
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // its children die with it
	return cmd, out, errs
}

// nothingLeft checks that a demo in dir left neither files nor processes.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, file := range lines {
		raw, err := os.ReadFile(file)
		assert.False(t, err == nil && strings.Contains(string(raw), dir), "%s: %q", file, raw)
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, out, errs := startDemo(t, "--source", demoTree(t), "--dir", dir, "--large", "128MiB", "--json")
	require.NoError(t, cmd.Wait(), "%s", errs)
	var s demo.Summary
	require.NoError(t, json.Unmarshal(out.Bytes(), &s))
	assert.Equal(t, demo.VerdictEqual, s.Verdict)
	assert.True(t, s.Mirror.Equal() && s.Restored.Equal())
	assert.Equal(t, s.Mirror.Objects, s.Restored.Objects)
	assert.Greater(t, s.Mirror.Objects, int64(500))

	k := s.Takeover
	assert.NotEqual(t, k.Killed, k.Successor)
	assert.GreaterOrEqual(t, k.FromByte, k.KilledAt, "what was acknowledged is not sent again")
	assert.Less(t, k.FirstAfter, 60.0)
	const window = 32 << 20
	assert.LessOrEqual(t, s.WastedBytes, int64(window), "at most the window in flight is sent twice (I9)")
	assert.Less(t, s.WriteAmplification, 1.5)
	assert.Positive(t, s.RelayPeakRSS)
	assert.Positive(t, s.AgentPeakRSS)
	assert.Contains(t, errs.String(), "took over from")
	nothingLeft(t, dir)
}

func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, _, errs := startDemo(t, "--source", demoTree(t), "--dir", dir, "--large", "256MiB")
	require.Eventually(t, func() bool { // all of it runs
		logs, err := filepath.Glob(dir + "/*/logs/node-?.log")
		return err == nil && len(logs) == 3
	}, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT)) // an impatient one
	err := cmd.Wait()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, exitInterrupted, exit.ExitCode(), "%s", errs)
	nothingLeft(t, dir)
}
