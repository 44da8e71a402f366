package bench

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/internal/figures"
	"forebay/internal/proc"
)

func TestEverySideIsFirstInItsTurn(t *testing.T) {
	t.Parallel()
	first := map[int]int{}
	for round := range 6 {
		o := Order(3, round)
		first[o[0]]++
		require.Equal(t, []int{0, 1, 2}, slices.Sorted(slices.Values(o)), "each once")
	}
	require.Equal(t, map[int]int{0: 2, 1: 2, 2: 2}, first)
	require.Equal(t, []int{1, 0}, Order(2, 1))
}

func TestStatistics(t *testing.T) {
	t.Parallel()
	require.Equal(t, 3.0, Median([]float64{9, 1, 3}))
	require.Equal(t, 2.0, Median([]float64{3, 1}))
	require.True(t, math.IsNaN(Median(nil)))
	values := []float64{5, 1, 3}
	Median(values)
	require.Equal(t, []float64{5, 1, 3}, values, "the rounds stay in order: ratios are of the same round")
	require.Equal(t, []float64{2, 0.5}, Ratios([]float64{4, 1}, []float64{2, 2, 7}))
}

// What a command and the children of it use is counted, and what comes of it is seen.
func TestCommandIsCounted(t *testing.T) {
	t.Parallel()
	to := filepath.Join(t.TempDir(), "written")
	const bytes = 5 << 20
	script := `dd if=/dev/zero of="$1" bs=1M count=5 conv=fsync 2>&1; x=0; while [ $x -lt 100000 ]; do x=$((x+1)); done`
	r, err := Command(t.Context(), time.Now, exec.CommandContext(t.Context(), "sh", "-c", script, "sh", to))
	require.NoError(t, err)
	require.Positive(t, r.CPU)
	require.LessOrEqual(t, r.CPU, r.Wall*time.Duration(2))
	require.Positive(t, r.Peak)
	if onDisk(t, filepath.Dir(to)) {
		require.GreaterOrEqual(t, r.Written, int64(bytes))
	}
	_, err = Command(t.Context(), time.Now, exec.CommandContext(t.Context(), "sh", "-c", "echo why; exit 3"))
	require.ErrorContains(t, err, "why")
}

// onDisk reports whether what is written to a directory is counted: not so in memory.
func onDisk(t *testing.T, dir string) bool {
	t.Helper()
	before, err := proc.Of(os.Getpid())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "probe"), make([]byte, 1<<20), 0o600))
	after, err := proc.Of(os.Getpid())
	require.NoError(t, err)
	return after.Written > before.Written
}

func TestFioIsRead(t *testing.T) {
	t.Parallel()
	l, err := ParseFio([]byte("fio: terminating on signal 2\n" +
		`{"jobs":[{"read":{"total_ios":7,"runtime":1500,"clat_ns":{"percentile":{"90.000000":1,"99.000000":2500000}}},` +
		`"write":{"total_ios":5,"runtime":1400,"clat_ns":{"percentile":{"99.000000":4000000}}}}]}` + "\nthe end"))
	require.NoError(t, err)
	require.Equal(t, Latency{Read: 2500 * time.Microsecond, Write: 4 * time.Millisecond, Ran: 1500 * time.Millisecond, IOs: 12}, l)
	for said, why := range map[string]string{
		"killed": "no JSON", `{"jobs":[]}`: "no job", `{"jobs":[{}]}`: "no 99th", `{"jobs":3}`: "report",
	} {
		_, err := ParseFio([]byte(said))
		require.ErrorContains(t, err, why)
	}
}

func TestWorkIsReported(t *testing.T) {
	t.Parallel()
	w := Work{
		Name: "large", Title: "Large.", Command: "make bench", Bytes: 1 << 30, Notes: []string{"much"},
		Sides: []Side{
			{Name: "Forebay", Runs: []Run{
				{Wall: 2 * time.Second, CPU: time.Second, Peak: 64 << 20, Written: 1 << 30, Wire: 3 << 29, More: map[string]float64{"x": 1}},
				{Wall: 4 * time.Second, CPU: 3 * time.Second, Peak: 64 << 20, Written: 1 << 30, Wire: 3 << 29, More: map[string]float64{"x": 2}},
			}},
			{Name: "rsync", Runs: []Run{
				{Wall: 3 * time.Second, CPU: time.Second, Peak: 1 << 20}, {Wall: 8 * time.Second, CPU: time.Second, Peak: 1 << 20},
			}},
			{Name: "restic", Missing: "apt-get install restic"},
		},
	}
	r := w.Report("2026-11-28")
	require.NoError(t, r.Validate())
	require.Equal(t, [][]string{
		{"Forebay", "3.00 s, 358 MB/s", "", "", "2.00 s/GiB", "64", "1.000 ×", "1.500 ×"},
		{"rsync", "5.50 s, 195 MB/s", "1.75 ×", "1.50, 2.00", "1.00 s/GiB", "1", "–", "–"},
		{"restic", "SKIP: apt-get install restic", "", "", "", "", "", ""},
	}, r.Table.Rows)
	require.Equal(t, []float64{1, 2}, r.Samples[figures.SampleOf("Forebay", "x")])
	require.Equal(t, []string{"much", "restic: SKIP, apt-get install restic"}, r.NotCovered)

	w.Objects = 300
	w.Sides[0].Runs[1].More = map[string]float64{figures.AgentPeak: 3 << 20, figures.RelayPeak: 5 << 20}
	w.Compared = map[string]string{"restic": "rsync"}
	rows := w.Report("2026-11-28").Table.Rows
	require.Equal(t, []string{"Forebay", "3.00 s, 100 objects/s"}, rows[0][:2])
	require.Equal(t, []string{"2.00 s/GiB, 6.667 ms an object", "64 (an agent 3, the relay 5)"}, rows[0][4:6])
	require.Equal(t, []string{"", ""}, rows[1][2:4], "a side that others are compared with is Forebay's, too")
}
