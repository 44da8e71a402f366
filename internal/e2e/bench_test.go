package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/bench"
	"forebay/internal/figures"
)

// The benchmark beside other programs, see make bench.
var (
	benchWorks   = flag.String("bench.works", "", "works of TestBench, a regular expression; empty: it is skipped")
	benchRounds  = flag.Int("bench.rounds", 5, "rounds of each work")
	benchCount   = flag.Int("bench.count", 8, "large files")
	benchSize    = flag.Int64("bench.size", 256<<20, "bytes of each")
	benchSource  = flag.String("bench.source", "", "tree of the work source; default: the sources of the Go that runs")
	benchFiles   = flag.Int("bench.files", 1_000_000, "small files, of 4 KiB each")
	benchLong    = flag.Int("bench.filesrounds", 1, "rounds of the work that brings them somewhere")
	benchS3Files = flag.Int("bench.s3files", 10_000, "small files for a bucket")
	benchDense   = flag.Int64("bench.dense", 16<<30, "bytes of the one dense object")
	benchIdle    = flag.Duration("bench.idle", time.Minute, "how long daemons are watched that have nothing to do")
	benchAlone   = flag.Duration("bench.alone", 10*time.Second, "how long fio runs with nothing beside it")
	benchCold    = flag.Bool("bench.cold", false, "drop the source from the page cache before each side")
	benchRclone  = flag.String("bench.rclone", "rclone", "the rclone to compare with")
)

// benchPatience is how long a side may take, on the slowest machine.
const benchPatience = 3 * time.Hour

// sizes is how large the works are.
type sizes struct {
	rounds, filesRounds   int
	count, files, s3files int
	size, dense           int64
	source                string
	idle, alone           time.Duration
	cold                  bool
	rclone                string
}

// benchmark measures works, one after the other.
type benchmark struct {
	sizes
	programs string // where peers are built to
	report   func(figures.Report)
}

// contender is one side of a work.
type contender struct {
	name    string
	missing string // why it cannot run; empty: it can
	run     func(t *testing.T) bench.Run
}

// TestBench measures Forebay beside what operators would use instead. What it asserts is that every side has done its work.
func TestBench(t *testing.T) {
	if *benchWorks == "" {
		t.Skip("a measurement: make bench")
	}
	s := sizes{
		rounds: *benchRounds, filesRounds: *benchLong, count: *benchCount, size: *benchSize, source: *benchSource, files: *benchFiles, s3files: *benchS3Files,
		dense: *benchDense, idle: *benchIdle, alone: *benchAlone, cold: *benchCold, rclone: *benchRclone,
	}
	if s.source == "" {
		root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
		require.NoError(t, err)
		s.source = filepath.Join(strings.TrimSpace(string(root)), "src")
	}
	b := newBenchmark(t, s, func(r figures.Report) {
		t.Log(figures.Targets("", []figures.Report{r}))
		if *reportDir != "" {
			require.NoError(t, r.Save(*reportDir))
		}
	})
	b.works(t, regexp.MustCompile(*benchWorks))
}

// The harness of the benchmark works: each work, as small as it can be, ends with a report by which what is required of it can be judged.
func TestBenchIsMeasured(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	tree := &tree{t: t, root: source, uid: -1, gid: -1}
	tree.dir("d", 0o755)
	tree.file("d/a", 10_000)
	tree.symlink("d/b", "a")
	tree.finish()
	s := sizes{
		rounds: 1, filesRounds: 2, count: 2, size: 1 << 20, source: source, files: 150, s3files: 30, dense: 20 << 20, idle: 200 * time.Millisecond,
		alone: 200 * time.Millisecond, rclone: *benchRclone,
	}
	if found, err := filepath.Glob("../../bin/tools/rclone-v*"); err == nil && len(found) > 0 && s.rclone == "rclone" {
		s.rclone = found[len(found)-1] // what make bench has built
	}
	var reports []figures.Report
	b := newBenchmark(t, s, func(r figures.Report) { reports = append(reports, r) })
	b.works(t, regexp.MustCompile(""))
	dir := t.TempDir()
	skipped := ""
	for _, r := range reports {
		require.NoError(t, r.Save(dir))
		skipped += strings.Join(r.NotCovered, "\n")
		assert.NotEmpty(t, r.Samples, r.Layer)
		for name, values := range r.Samples {
			what := name[strings.Index(name, " | ")+3:]
			if what == figures.Wire {
				continue // other tests are on the loopback interface, too
			}
			for _, v := range values {
				assert.False(t, v < 0 || v == 0 && (what == figures.Wall || what == figures.Peak), "%s: %s is %v", r.Layer, name, values)
			}
		}
	}
	for _, j := range figures.Judge(reports) {
		if j.Verdict == figures.Unmeasured && !strings.Contains(j.Required, "rclone") { // bench-targets has those of restore
			assert.Contains(t, skipped, "SKIP", "%s: %s was not measured", j.Work, j.Required)
		}
	}
	t.Log(figures.Benchmarks("", "", reports))
}

func newBenchmark(t *testing.T, s sizes, report func(figures.Report)) *benchmark {
	t.Helper()
	b := &benchmark{sizes: s, programs: t.TempDir(), report: report}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", b.programs, "forebay/internal/bench/jetstream")
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s: %s", cmd, out)
	return b
}

// works measures those whose name fits.
func (b *benchmark) works(t *testing.T, wanted *regexp.Regexp) {
	t.Helper()
	for _, w := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"large", b.large}, {"coded", b.coded}, {"source", b.sourceTree}, {"dense", b.denseObject}, {"ten", b.ten}, {"primary", b.primary},
		{"small-s3", b.smallToS3}, {"small", b.small},
	} {
		if wanted.MatchString(w.name) && !t.Run(w.name, w.run) {
			t.FailNow()
		}
	}
	idle, rescan := wanted.MatchString("idle"), wanted.MatchString("rescan")
	if (idle || rescan) && !t.Run("unchanged", func(t *testing.T) { b.unchanged(t, idle, rescan) }) {
		t.FailNow()
	}
}

// save makes the report of a work. What of make's variables it depends on stands in its command.
func (b *benchmark) save(w bench.Work, variables ...string) {
	w.Command = fmt.Sprintf("make bench BENCH=%s %s REPORT=docs/benchmarks", w.Name, strings.Join(variables, " "))
	if b.cold {
		w.Command += " CACHES=cold"
	}
	b.report(w.Report(time.Now().Format(time.DateOnly)))
}

func (b *benchmark) of(name string, value any) string { return fmt.Sprintf("%s=%v", name, value) }

// contest has all sides do their work, in turns, round by round.
func (b *benchmark) contest(t *testing.T, m *material, rounds int, sides ...contender) []bench.Side {
	t.Helper()
	out := make([]bench.Side, len(sides))
	for i, c := range sides {
		out[i] = bench.Side{Name: c.name, Missing: c.missing}
		if c.missing != "" {
			t.Logf("SKIP: %s: %s", c.name, c.missing)
		}
	}
	m.settle(t)
	for round := range rounds {
		m.read(t)
		for _, i := range bench.Order(len(sides), round) {
			if out[i].Missing != "" {
				continue
			}
			ok := t.Run(fmt.Sprintf("%d %s", round+1, out[i].Name), func(t *testing.T) {
				if b.cold {
					m.evict(t)
				}
				unix.Sync()
				r := sides[i].run(t)
				out[i].Runs = append(out[i].Runs, r)
				t.Logf("%s: %.2f s, %.2f s of CPU", out[i].Name, r.Wall.Seconds(), r.CPU.Seconds())
			})
			if !ok {
				t.FailNow()
			}
		}
	}
	return out
}

// material is a tree that all sides find.
type material struct {
	dir     string
	objects int64 // files, directories and links in it
	files   int64
	bytes   int64
	made    time.Time
}

// settle waits until nothing of it counts as just written, as what an agent holds back for a while.
func (m *material) settle(t *testing.T) {
	t.Helper()
	const quiet = 3 * time.Second
	old, cancel := context.WithDeadline(t.Context(), m.made.Add(quiet))
	defer cancel()
	<-old.Done()
}

// measure counts what is in a directory.
func measure(t *testing.T, dir string) *material {
	t.Helper()
	m := &material{dir: dir, bytes: total(t, dir), made: time.Now()}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && path != dir {
			m.objects++
			if d.Type().IsRegular() {
				m.files++
			}
		}
		return err
	}))
	return m
}

// largeFiles makes count files of a size.
func largeFiles(t *testing.T, count int, size int64) *material {
	t.Helper()
	made := &tree{t: t, root: t.TempDir(), uid: -1, gid: -1}
	for i := range count {
		made.file(fmt.Sprintf("file-%02d", i), size)
	}
	made.finish()
	return measure(t, made.root)
}

// smallFiles makes count files of 4 KiB, a thousand in a directory.
func smallFiles(t *testing.T, count int) *material {
	t.Helper()
	made := &tree{t: t, root: t.TempDir(), uid: -1, gid: -1}
	for i := range count {
		dir := fmt.Sprintf("dir-%04d", i/1000)
		if i%1000 == 0 {
			made.dir(dir, 0o755)
		}
		made.file(fmt.Sprintf("%s/file-%03d", dir, i%1000), 4096)
	}
	made.finish()
	return measure(t, made.root)
}

// read brings the tree into the page cache.
func (m *material) read(t *testing.T) {
	t.Helper()
	const script = `find "$1" -type f -print0 | xargs -0 -r cat >/dev/null`
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", m.dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// evict drops its content from the page cache, and nobody else's.
func (m *material) evict(t *testing.T) {
	t.Helper()
	unix.Sync() // what is dirty stays
	require.NoError(t, filepath.WalkDir(m.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}))
}
