package figures

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// of is a report of a work with samples of sides: "SIDE | WHAT" and its values.
func of(layer string, samples map[string][]float64) Report {
	table := &Table{Columns: []string{""}, Rows: [][]string{{"x"}}}
	return Report{Layer: layer, Command: "make bench", Measured: "2026-11-28", Samples: samples, Table: table}
}

func judged(t *testing.T, all []Judgement, work, required string) Judgement {
	t.Helper()
	i := slices.IndexFunc(all, func(j Judgement) bool {
		return strings.HasPrefix(j.Work, work) && strings.Contains(j.Required, required)
	})
	require.GreaterOrEqual(t, i, 0, "%s: %s", work, required)
	return all[i]
}

func TestRequiredIsJudged(t *testing.T) {
	t.Parallel()
	for _, j := range Judge(nil) {
		require.Equal(t, Unmeasured, j.Verdict, j.Required)
		require.Equal(t, "–", j.Measured)
	}
	wall := func(side string) string { return SampleOf(side, Wall) }
	all := Judge([]Report{
		of("large", map[string][]float64{
			wall(Forebay): {2, 4, 2}, wall(RsyncFsync): {2, 6, 2.6}, wall(RcloneMinIO): {3.8, 8, 3}, wall(Floor): {1.7, 3.2, 1.6},
			SampleOf(Forebay, Wire): {1001, 1002, 1000.5}, Bytes: {1000}, Objects: {0},
		}),
		of("coded", map[string][]float64{
			wall(Forebay): {2}, wall(Floor): {1.4}, SampleOf(Forebay, RelayWritten): {1531}, Bytes: {1000}, Objects: {0},
		}),
		of("small", map[string][]float64{
			wall(Forebay): {50}, wall(Confirmed): {90}, wall(Rsync): {90},
			SampleOf(Forebay, AgentPeak): {150 << 20}, SampleOf(Forebay, RelayPeak): {513 << 20},
			SampleOf(Forebay, Wire): {4_096_000_000 + 149_000_000}, Bytes: {4_096_000_000}, Objects: {1_000_000},
		}),
		of("rescan", map[string][]float64{SampleOf(Watched, CPU): {1}, SampleOf(RsyncDryRun, CPU): {2}}),
		of("ten", map[string][]float64{SampleOf(TenAgents, RelayPeak): {300}, SampleOf(OneAgent, RelayPeak): {200}}),
		of("primary", map[string][]float64{SampleOf(Forebay, ReadP99): {12.1}, SampleOf(Nothing, ReadP99): {10}}),
		of("targets", map[string][]float64{SampleOf("MinIO: large, restore", "ratio"): {0.9, 1.1, 1}}),
	})
	for _, want := range []struct{ work, required, measured, verdict string }{
		{"acknowledged, large files, one", "rsync -a --fsync", "1.30 × (1.00 to 1.50 in 3 rounds)", "met, the aim is not"},
		{"acknowledged, large files, one", "rclone", "1.90 × (1.50 to 2.00 in 3 rounds)", Missed},
		{"acknowledged, large files, one", "JetStream", "–", Unmeasured},
		{"acknowledged, large files, one", "floor", "0.80 × (0.80 to 0.85 in 3 rounds)", "aim met"},
		{"acknowledged, large files, six", "bytes written", "1.02 ×", Missed},
		{"acknowledged, large files, six", "floor", "0.70 ×", "met, the aim is not"},
		{"a million files", "objects/s", "20000 objects/s", Met},
		{"a million files", "agent", "150 MiB", Met},
		{"a million files", "relay", "513 MiB", Missed},
		{"a million files", "`dir`", "1.00 ×", Met},
		{"a million files", "S3", "–", Unmeasured},
		{"rescan", "half its CPU", "0.50 ×", Met},
		{"restore", "MinIO, large", "1.00 × (0.90 to 1.10 in 3 rounds)", Met},
		{"ten agents", "memory", "1.50 ×", Shown},
		{"control, large", "0.1 %", "0.100 % (0.050 to 0.200 in 3 rounds)", Met},
		{"control, small", "150 B", "149 B", Met},
		{"the primary", "p99 of reads", "1.21 ×", Missed},
	} {
		j := judged(t, all, want.work, want.required)
		require.Equal(t, want.measured, j.Measured, "%s: %s", j.Work, j.Required)
		require.Equal(t, want.verdict, j.Verdict, "%s: %s", j.Work, j.Required)
	}
}

func TestBenchmarksPage(t *testing.T) {
	t.Parallel()
	large, other := of("large", map[string][]float64{Bytes: {1}, Objects: {0}}), of("another", nil)
	large.Title, large.NotCovered = "Large files.", []string{"restic: SKIP, apt-get install restic"}
	text := Benchmarks("# Head\n", "## Story\n\nIt was.\n", []Report{other, large})
	require.Regexp(t, `(?s)^# Head\n\n## What is required\n\n\| work .*not measured.*\n## large\n\n`+"`make bench`"+
		`.*\n\nLarge files.\n.*## another.*## Story\n\nIt was.\n\n## Not covered\n\n- \*large\*: restic: SKIP`, text)
}
