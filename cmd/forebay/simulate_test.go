package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

func simulateRelay(t *testing.T) *relay {
	t.Helper()
	s := sampleStatus()
	s.Cache.HighWaterBytes, s.Cache.LowWaterBytes, s.Cache.CapacityBytes = 300<<30, 200<<30, 400<<30
	s.Links[0].RateBytesPerSecond, s.Links[0].LastBytesPerSecond = 0, 64<<20
	in := proto.Inflow{Schema: 1, Dataset: "primary/media", StepSeconds: 300}
	for _, at := range []string{"2026-11-16T00:00:00Z", "2026-11-20T12:00:00Z", "2026-11-22T23:55:00Z"} {
		in.Slots = append(in.Slots, proto.InflowSlot{At: at, Bytes: 20 << 30, Objects: 1000})
	}
	return newFakeRelay(t, map[string]any{
		"GET /v1/status":                       s,
		"GET /v1/links/media-nas/inflow":       in,
		"GET /v1/links/media-nas/policy":       []proto.PolicyValue{{Key: "flush.window", Value: "22:00-06:00"}, {Key: "flush.batch_max", Value: "1GiB"}},
		"GET /v1/links/new/policy":             []proto.PolicyValue{},
		"GET /v1/links/new/inflow":             in,
		"GET /v1/links/bad/policy":             []proto.PolicyValue{{Key: "flush.moon", Value: "full"}},
		"GET /v1/links/bad/inflow":             in,
		"GET /v1/links/quiet/inflow":           proto.Inflow{Schema: 1, Dataset: "primary/quiet"},
		"GET /v1/links/from-the-future/inflow": proto.Inflow{Schema: 2},
	})
}

func TestPolicySimulate(t *testing.T) {
	t.Parallel()
	r := simulateRelay(t)
	got := r.command("policy", "simulate", "media-nas", "budget=10GiB", "window=always", "--days", "14", "--rate", "100MiB/s")
	require.Equal(t, exitDone, got.code, got.errs)
	for _, want := range []string{
		"link media-nas, 14 days of the recorded inflow of 7 d of primary/media, repeated every 7d: 120.0 GiB in 6,000 objects",
		"target at 100.0 MiB/s, cache for 200.0 GiB of contents up to high water", "PRESENT", "CANDIDATE", "lag p95", "forced flushes", "bytes a window, most",
		"lag, 2026-11-16 to 2026-11-30", "█", "the last 10 windows:", "coalescing: what is overwritten",
	} {
		assert.Contains(t, got.out, want)
	}
	assert.NotContains(t, got.out, "\x1b", "no colour where it is no terminal")
	assert.Contains(t, r.command("policy", "simulate", "media-nas").out, "target at 64.0 MiB/s", "that of the last batch, while the link waits")

	got = r.command("policy", "simulate", "media-nas", "budget=10GiB", "window=always", "--days", "14", "--rate", "100MiB/s", "--json")
	var out simulation
	require.NoError(t, json.Unmarshal([]byte(got.out), &out), got.errs)
	assert.Equal(t, []any{1, 14}, []any{out.Schema, out.Days})
	for _, w := range out.Candidate.Windows {
		assert.LessOrEqual(t, w.Bytes, int64(10<<30))
	}
	assert.Greater(t, out.Candidate.LagMax, 24*3600.0, "twenty at once are two days' worth")
	assert.Equal(t, int64(120<<30), out.Present.SentBytes+out.Present.LeftBytes)
	assert.Less(t, out.Present.LagMax, 24*3600.0)

	got = r.command("policy", "simulate", "media-nas", "--inflow", "200GiB/day", "--days", "3", "--rate", "1MiB/s", "--capacity", "100GiB", "--json")
	out = simulation{}
	require.NoError(t, json.Unmarshal([]byte(got.out), &out), got.errs)
	assert.Nil(t, out.Candidate)
	assert.LessOrEqual(t, out.Present.PeakCacheBytes, int64(51<<30), "half of three quarters of it, at coding 2+1")
	assert.Positive(t, out.Present.BlockedSeconds)
}

func TestPolicySimulateSavesATrace(t *testing.T) {
	t.Parallel()
	r := simulateRelay(t)
	file := filepath.Join(t.TempDir(), "week")
	got := r.command("policy", "simulate", "media-nas", "--save", file)
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Equal(t, "3 slots in "+file+"\n", got.out)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, string(text), "# forebay trace 1\nstep 5m\n2026-11-16T00:00:00Z 21474836480 1000\n")
	got = r.command("policy", "simulate", "media-nas", "--save", file)
	assert.Equal(t, exitFailed, got.code, "nothing is overwritten")
	got = r.command("policy", "simulate", "media-nas", "--trace", file, "--days", "7", "--rate", "100M")
	assert.Equal(t, exitDone, got.code, got.errs)
	assert.Contains(t, got.out, "7 days of the inflow of "+file+": 60.0 GiB in 3,000 objects")
}

func TestPolicySimulateSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	r := simulateRelay(t)
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{exitUsage, "--rate 100MiB/s", []string{"new"}},
		{exitUsage, "want a rate", []string{"media-nas", "--rate", "quick"}},
		{exitUsage, "200GiB/day", []string{"media-nas", "--inflow", "200GiB", "--rate", "1M"}},
		{exitUsage, "two inflows", []string{"media-nas", "--inflow", "200GiB/day", "--trace", "x"}},
		{exitUsage, "1 to 366", []string{"media-nas", "--days", "0"}},
		{exitUsage, "want KEY=VALUE", []string{"media-nas", "budget", "--rate", "1M"}},
		{exitUsage, "want a size", []string{"media-nas", "--rate", "1M", "--capacity", "much"}},
		{exitFailed, "did you mean budget?", []string{"media-nas", "budgte=1GiB", "--rate", "1M"}},
		{exitFailed, "no window can meet the deadline of 2h", []string{"media-nas", "deadline=2h", "--rate", "1M"}},
		{exitFailed, "has recorded no inflow of primary/quiet yet", []string{"quiet", "--rate", "1M"}},
		{exitFailed, "use a newer release", []string{"from-the-future", "--rate", "1M"}},
		{exitFailed, "is it of another release?", []string{"bad", "--rate", "1M"}},
		{exitFailed, "no such file", []string{"media-nas", "--trace", "/nowhere", "--rate", "1M"}},
	} {
		got := r.command(append([]string{"policy", "simulate"}, c.args...)...)
		assert.Equal(t, c.code, got.code, c.args)
		assert.Contains(t, got.errs, c.says, c.args)
	}
}
