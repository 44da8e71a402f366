package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/cmd/forebay/bench"
	"forebay/cmd/forebay/bench/advice"
)

var update = flag.Bool("update", false, "write what the bench prints anew to testdata")

// benchFiles writes a relay.yaml and an agent.yaml.
func benchFiles(t *testing.T) (dir, relay, agent string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "nas"), 0o755))
	relay, agent = filepath.Join(dir, "relay.yaml"), filepath.Join(dir, "agent.yaml")
	require.NoError(t, os.WriteFile(relay, fmt.Appendf(nil, "name: r\ndata: %[1]s/data\ncache: {stores: [%[1]s/store]}\ntargets:\n  nas: "+
		"{type: dir, path: %[1]s/nas}\n"+
		"links:\n  - {name: media-nas, from: primary/media, to: nas}\n", dir), 0o600))
	require.NoError(t, os.WriteFile(agent, []byte("node: n\ncluster: c\nrelays: [\"http://127.0.0.1:1\"]\ndatasets: [{name: media, path: "+
		"/srv}]\n"), 0o600))
	return dir, relay, agent
}

func TestBench(t *testing.T) {
	t.Parallel()
	dir, relay, _ := benchFiles(t)
	got := command(t, nil, "bench", "--config", relay, "--time", "1s", "--size", "16MiB", "--inflow", "10GiB/day", "--json")
	require.Equal(t, exitDone, got.code, got.errs)
	var r benchResult
	require.NoError(t, json.Unmarshal([]byte(got.out), &r))
	assert.Equal(t, 1, r.Schema)
	assert.Len(t, r.Disks, 2)
	assert.NotNil(t, r.Coding)
	require.NotNil(t, r.Ingest)
	assert.Equal(t, "1+0", r.Ingest.Coding)
	assert.Len(t, r.Targets, 1)
	assert.Empty(t, r.Skipped)
	assert.Positive(t, r.Advice.Acknowledged)
	assert.NotContains(t, got.out, "null")
	assert.Contains(t, got.out, "10.0 GiB come in")
	assert.Contains(t, got.errs, "store "+dir+"/store, write: ", "progress is shown")
	for _, name := range []string{"data", "store"} {
		assert.NoDirExists(t, filepath.Join(dir, name))
	}
	left, err := filepath.Glob(filepath.Join(dir, "forebay-bench-*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestBenchUsage(t *testing.T) {
	t.Parallel()
	dir, relay, agent := benchFiles(t)
	bad := filepath.Join(dir, "bad.yaml")
	require.NoError(t, os.WriteFile(bad, []byte("name: r\ncache: {stores: [store]}\n"), 0o600))
	for _, c := range []struct{ line, says string }{
		{"disk", `"disk" cannot be measured: want disks, coding, ingest, network or target NAME`},
		{"target", "target needs the NAME of one"},
		{"target nosuch --config " + relay, `has no target "nosuch" (it has nas)`},
		{"--time 1ms", "--time 1ms: want 1s to 1h"},
		{"--size 1KiB", "--size 1KiB: what is smaller than 16MiB tells nothing of a disk"},
		{"--inflow 3GiB", "want SIZE/day"},
		{"--relay localhost", "want http://HOST:PORT"},
		{"disks --config " + agent, "is an agent's configuration"},
		{"--config " + filepath.Join(dir, "none.yaml"), "no such file"},
		{"--config " + bad, "bad.yaml:2:"},
	} {
		got := command(t, nil, append([]string{"bench"}, strings.Fields(c.line)...)...)
		assert.Equal(t, exitUsage, got.code, c.line)
		assert.Contains(t, got.errs, c.says, c.line)
		assert.Empty(t, got.out, c.line)
	}
	if _, err := os.Stat(defaultConfig); err != nil {
		got := command(t, nil, "bench")
		assert.Equal(t, exitUsage, got.code)
		assert.Contains(t, got.errs, "name the relay's configuration with --config")
	}
}

// With an agent's file the way to its relay is measured; what could not be is told, and is the exit code.
func TestBenchOfAnAgent(t *testing.T) {
	t.Parallel()
	_, _, agent := benchFiles(t)
	got := command(t, nil, "bench", "--config", agent, "--time", "1s")
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.out, "not measured:\n  network: ")
	assert.Contains(t, got.out, "is the relay at http://127.0.0.1:1 running")
	got = command(t, nil, "bench", "coding", "network", "--config", agent, "--time", "1s")
	assert.Equal(t, exitPart, got.code)
	assert.Contains(t, got.out, "coding 2+1")
}

func TestBenchInterrupted(t *testing.T) {
	t.Parallel()
	dir, relay, _ := benchFiles(t)
	ctx, cancel := contextEnded(t)
	defer cancel()
	var out, errs bytes.Buffer
	c := &cli{in: strings.NewReader(""), out: &out, errs: &errs, lookupEnv: func(string) (string, bool) { return "", false }, now: time.Now}
	assert.Equal(t, exitInterrupted, c.run(ctx, []string{"bench", "--config", relay}))
	assert.Empty(t, out.String())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 3)
}

func TestBenchIsPrintedTheSameEachTime(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	r := &benchResult{
		Measured: advice.Measured{
			Disks: []advice.Disk{{Role: "store", Path: "/d1/s", Device: "sda", FileSystem: "ext4", FreeBytes: 1 << 40, TableBytes: 4 * mib,
				Write: 150 * mib, Together: 140 * mib, Read: 200 * mib, SyncP50: 0.004, SyncP99: 0.0123},
				{Role: "ledger", Path: "/var/lib/forebay", Device: "sdb", FileSystem: "xfs", FreeBytes: 1 << 30, Write: 90 * mib, Read: 80 * mib,
					SyncP50: 0.0001, SyncP99: 0.0002}},
			Coding: &advice.Coding{Coding: "2+1", Cores: 8, EncodeCore: 1 << 33, EncodeAll: 1 << 35, DigestCore: 1 << 31, DigestAll: 1 << 33},
			Ingest: &advice.Ingest{Coding: "2+1", Large: 100 * mib, LargeBytes: 1 << 30, Small: 20_000, SmallObjects: 100_000, SmallSize: 4096,
				Busy: 0.5},
			Network: &advice.Network{Relay: "http://relay:7480", TripP50: 0.001, TripP99: 0.002, Upload: 110 * mib, Uploaded: 1 << 30},
			Targets: []advice.Target{{Name: "nas", Type: "dir", Where: "/mnt/nas", Confirm: "sync", Write: 50 * mib, Read: 60 * mib, Small: 321,
				Bytes: 64 * mib}},
		},
		Skipped: []bench.Skipped{{What: "store /d2/s", Why: "it is away"}},
		Advice: advice.Advice{
			Items: []advice.Item{{Level: advice.Note, Text: "about nothing"}, {Level: advice.Set, Key: "cache.coding", Value: "2+1",
				Text: "better"}, {Level: advice.Warn, Key: "cache.stores", Text: "at risk"}},
			Codings: []advice.Option{{Coding: "2+1", Chosen: true, Disks: 1, Usable: 2.0 / 3, Rate: 100 * mib}, {Coding: "1+1", Disks: 1,
				Usable: 0.5}},
			Bounds: []advice.Bound{{Part: "stores", Rate: 100 * mib}}, Acknowledged: 100 * mib, Bottleneck: "stores",
		},
	}
	var out bytes.Buffer
	(&cli{out: &out}).printBench(r)
	const golden = "testdata/bench.txt"
	if *update {
		require.NoError(t, os.WriteFile(golden, out.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), out.String())
}
