package policy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests must not depend on the machine's database

	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files in testdata")

// TestClockChanges prints when windows open and close and rates change around clock changes, and compares with
// testdata/clock.golden, which was checked by hand. go test -rewrite rewrites it.
func TestClockChanges(t *testing.T) {
	t.Parallel()
	cases := []struct {
		zone, from string
		days       int
		windows    []string
		timetables []string
	}{
		{"Europe/Berlin", "2026-03-28T12:00:00Z", 2, []string{"22:00-06:00", "02:00-03:00", "02:15-02:45", "01:30-02:30", "02:30-03:30", "Sat 22:00-02:30", "Sun 00:00-24:00"},
			[]string{"00:00,1M 02:30,2M 03:00,3M", "Sun-02:15,9M Mon-00:00,off"}},
		{"Europe/Berlin", "2026-10-24T12:00:00Z", 2, []string{"22:00-06:00", "02:00-03:00", "02:15-02:45", "01:30-02:30", "02:30-03:30", "Sat 22:00-02:30", "Sun 00:00-24:00"},
			[]string{"00:00,1M 02:30,2M 03:00,3M", "Sun-02:15,9M Mon-00:00,off"}},
		{"America/New_York", "2026-03-07T18:00:00Z", 2, []string{"22:00-06:00", "01:00-02:30"}, []string{"02:30,1M 20:00,off"}},
		{"America/New_York", "2026-10-31T18:00:00Z", 2, []string{"22:00-06:00", "01:00-01:30"}, []string{"01:30,1M 20:00,off"}},
		{"Australia/Lord_Howe", "2026-04-04T00:00:00Z", 2, []string{"22:00-06:00", "01:45-02:15", "01:30-02:00"}, []string{"01:45,1M 20:00,off"}},
		{"Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2, []string{"22:00-06:00", "02:00-02:30", "02:10-02:20", "02:15-03:00"}, []string{"02:15,1M 20:00,off"}},
		{"UTC", "2026-01-01T00:00:00Z", 1, []string{"22:00-06:00", "00:00-24:00"}, []string{"08:00,10M 19:00,50M 23:00,off"}},
		{"Asia/Kolkata", "2026-01-01T00:00:00Z", 1, []string{"22:00-06:00"}, nil},
	}
	var out strings.Builder
	for _, c := range cases {
		zone, err := ParseZone(c.zone)
		require.NoError(t, err)
		start, err := time.Parse(time.RFC3339, c.from)
		require.NoError(t, err)
		end := start.AddDate(0, 0, c.days)
		loc := zone.Location()
		stamp := func(at time.Time) string {
			return at.UTC().Format("2006-01-02 15:04Z") + " = " + at.In(loc).Format("Mon 15:04 -0700")
		}
		for _, text := range c.windows {
			w, err := ParseWindows(text)
			require.NoError(t, err)
			fmt.Fprintf(&out, "%s window %s\n", c.zone, w)
			at := start
			for n := 0; ; n++ {
				next, ok := w.NextChange(at, loc)
				if !ok || !next.Before(end) || n > 20 {
					break
				}
				fmt.Fprintf(&out, "  %s %s\n", stamp(next), map[bool]string{true: "opens", false: "closes"}[w.Open(next, loc)])
				at = next
			}
		}
		for _, text := range c.timetables {
			table, err := ParseTimetable(text)
			require.NoError(t, err)
			fmt.Fprintf(&out, "%s bandwidth %s\n  at first %s\n", c.zone, table, table.At(start, loc))
			at := start
			for n := 0; ; n++ {
				next, ok := table.NextChange(at, loc)
				if !ok || !next.Before(end) || n > 20 {
					break
				}
				fmt.Fprintf(&out, "  %s %s\n", stamp(next), table.At(next, loc))
				at = next
			}
		}
	}
	golden := filepath.Join("testdata", "clock.golden")
	if *rewrite {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, []byte(out.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), out.String())
}
