package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/bench"
	"forebay/internal/figures"
	"forebay/internal/proc"
)

// operations is how many reads and writes fio did.
const operations = "operations"

// memoryDir is where loads write to that are to burden the disk by reading alone.
const memoryDir = "/dev/shm"

// primary is what somebody notices who uses the disk of a node that is just backed up.
func (b *benchmark) primary(t *testing.T) {
	m := largeFiles(t, b.count, b.size)
	file := filepath.Join(t.TempDir(), "fio")
	missing := needs("fio", "apt-get install fio")
	if missing == "" {
		timedRun(t, exec.CommandContext(t.Context(), "fio", append(fioJob(file, b.size), "--create_only=1")...))
		fd, err := unix.Open(file, unix.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			missing = fmt.Sprintf("TMPDIR is on a file system that does not go past the page cache (%v): set it to a directory on a disk", err)
		} else {
			require.NoError(t, unix.Close(fd))
		}
	}
	// prepare does what comes before the load, into a directory in memory.
	beside := func(name, missingToo string, prepare func(t *testing.T, into string) (load func())) contender {
		c := contender{name: name, missing: cmp.Or(missing, missingToo)}
		c.run = func(t *testing.T) bench.Run {
			into, err := os.MkdirTemp(memoryDir, "forebay-bench-")
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, os.RemoveAll(into)) })
			load := prepare(t, into)
			m.evict(t)
			return withFio(t, file, b.size, load)
		}
		return c
	}
	w := bench.Work{
		Name:  "primary",
		Title: fmt.Sprintf("Reads and writes of 4 KiB by fio on the disk from which %d files of %d bytes are read meanwhile.", b.count, b.size),
		Sides: b.contest(t, m, b.rounds,
			beside(figures.Forebay, "", func(t *testing.T, into string) func() {
				u := uploading{sources: []*material{m}, memory: into}
				s := u.site(t)
				return func() {
					s.launch(s.order[0])
					u.await(s)
				}
			}),
			beside(figures.Nothing, "", func(t *testing.T, _ string) func() {
				return func() {
					alone, cancel := context.WithTimeout(t.Context(), b.alone)
					defer cancel()
					<-alone.Done()
				}
			}),
			beside(figures.Rsync, needs("rsync", "apt-get install rsync"), func(t *testing.T, into string) func() {
				return func() {
					timedRun(t, exec.CommandContext(t.Context(), "rsync", "-a", m.dir+"/", filepath.Join(into, "there")))
				}
			}),
			beside(figures.Rclone, needs(b.rclone, "make bench builds it"), func(t *testing.T, into string) func() {
				return func() {
					timedRun(t, exec.CommandContext(t.Context(), b.rclone, "copy", "--config", "", m.dir, filepath.Join(into, "there")))
				}
			})),
	}
	w.Table = latencies(w.Sides)
	b.save(w, b.of("ROUNDS", b.rounds), b.of("COUNT", b.count), b.of("SIZE", b.size), b.of("ALONE", b.alone))
}

// latencies are those that fio found, beside each load.
func latencies(sides []bench.Side) *figures.Table {
	t := &figures.Table{Columns: []string{
		"beside fio", "p99 of reads", "least, most", "p99 of writes", "least, most", "operations/s", "for so long",
	}}
	for _, s := range sides {
		row := []string{s.Name}
		of := func(what string) (v []float64) {
			for _, r := range s.Runs {
				v = append(v, r.More[what]*1e3)
			}
			return v
		}
		if s.Missing != "" {
			t.Rows = append(t.Rows, append(row, "SKIP: "+s.Missing, "", "", "", "", ""))
			continue
		}
		for _, what := range []string{figures.ReadP99, figures.WriteP99} {
			v := of(what)
			row = append(row, fmt.Sprintf("%.2f ms", bench.Median(v)), fmt.Sprintf("%.2f, %.2f", slices.Min(v), slices.Max(v)))
		}
		var rates, walls []float64
		for _, r := range s.Runs {
			rates = append(rates, r.More[operations]/r.Wall.Seconds())
			walls = append(walls, r.Wall.Seconds())
		}
		t.Rows = append(t.Rows, append(row, fmt.Sprintf("%.0f", bench.Median(rates)), fmt.Sprintf("%.1f s", bench.Median(walls))))
	}
	return t
}

// fioJob is a job on a file of a size.
func fioJob(file string, size int64) []string {
	return []string{
		"--name=primary", "--filename=" + file, fmt.Sprintf("--size=%d", size), "--rw=randrw", "--bs=4k", "--ioengine=psync", "--direct=1",
		"--thread", "--time_based", fmt.Sprintf("--runtime=%d", int(benchPatience.Seconds())), "--output-format=json",
	}
}

// withFio measures a job of fio for as long as a load lasts. The run is the job's, but for its time.
func withFio(t *testing.T, file string, size int64, load func()) (r bench.Run) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "fio", fioJob(file, size)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	forks() <- func() { started <- cmd.Start() }
	require.NoError(t, <-started)
	pid, ended := cmd.Process.Pid, make(chan struct{})
	go func() { // ends with fio
		_ = cmd.Wait() // it says that it was interrupted
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended but for a failure
		<-ended
	})
	before := use(t, pid)
	require.Eventually(t, func() bool { // it has begun to write
		u, err := proc.Of(pid)
		return err == nil && u.Written > before.Written
	}, time.Minute, 5*time.Millisecond)
	began := time.Now()
	load()
	r.Wall = time.Since(began)
	r.Peak = use(t, pid).Peak
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	<-ended
	l, err := bench.ParseFio(out.Bytes())
	require.NoError(t, err)
	r.CPU, r.Written = cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), proc.WrittenBy(cmd.ProcessState)
	r.More = map[string]float64{figures.ReadP99: l.Read.Seconds(), figures.WriteP99: l.Write.Seconds(), operations: float64(l.IOs)}
	return r
}
