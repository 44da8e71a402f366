package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/bench"
	"forebay/internal/figures"
	"forebay/internal/proc"
	"forebay/internal/servers"
)

var (
	againstRounds = flag.Int("against.rounds", 0, "rounds of TestAgainstRclone; 0: it is skipped")
	againstRclone = flag.String("against.rclone", "rclone", "the rclone to compare with")
	againstLarge  = flag.Int64("against.large", 512<<20, "bytes of the large files together, four of them")
	againstSmall  = flag.Int("against.small", 5000, "how many small files of 4 KiB")
)

// against is where both bring the same files to, and how rclone calls it.
type against struct {
	name    string
	target  func(t *testing.T, v *servable) string // the relay's target in YAML's flow style, "" for a directory
	remote  func(v *servable) string               // rclone's remote for the same server, another place
	options []string                               // rclone's, for many small files: its best
}

// servable is what a comparison has running.
type servable struct {
	bucket *bucket
	ssh    login
	dir    string
}

// transfer is one, by one of the two.
type transfer struct{ wall, cpu time.Duration }

// pairs are the runs of both on the same work, round by round.
type pairs struct {
	where, work string
	bytes       int64
	objects     int
	forebay     []transfer
	rclone      []transfer
}

// TestAgainstRclone compares what a relay flushes and restore brings back with rclone copy, on the same files and the same server, turn
// about. It is a measurement: what it asserts is that both arrive.
func TestAgainstRclone(t *testing.T) {
	if *againstRounds == 0 {
		t.Skip("a measurement: make bench-targets")
	}
	version, err := exec.CommandContext(t.Context(), *againstRclone, "version").Output()
	require.NoError(t, err, "make bench-targets builds it")
	s3 := func(provider string) func(*servable) string {
		return func(v *servable) string {
			return fmt.Sprintf(":s3,provider=%s,access_key_id=%s,secret_access_key=%s,endpoint='http://%s':%s/rclone", provider, v.bucket.server.Access,
				v.bucket.server.Secret, v.bucket.server.Addr, v.bucket.name)
		}
	}
	fast := []string{"--transfers", "32", "--checkers", "32"}
	bucketOf := func(start func(*testing.T) *servers.S3) func(*testing.T, *servable) string {
		return func(t *testing.T, v *servable) string {
			v.bucket = newBucket(t, start(t))
			v.bucket.wire.address = v.bucket.server.Addr // the proxy would be in the way of one of the two
			return v.bucket.target()
		}
	}
	var all []*pairs
	for _, a := range []against{
		{"dir on ext4", func(*testing.T, *servable) string { return "" }, func(v *servable) string { return v.dir }, fast},
		{"versitygw", bucketOf(servers.Versitygw), s3("Other"), fast},
		{"MinIO", bucketOf(func(t *testing.T) *servers.S3 { return servers.MinIO(t, 1) }), s3("Minio"), fast},
		{"OpenSSH", func(t *testing.T, v *servable) string {
			server := servers.OpenSSH(t)
			v.ssh = sshAt(t, server, server.Addr)
			return v.ssh.target()
		}, func(v *servable) string {
			return fmt.Sprintf(":sftp,host=%s,port=%s,user=%s,key_file=%s,known_hosts_file=%s:%s/rclone", v.ssh.host, v.ssh.port, v.ssh.user, v.ssh.key, v.ssh.knownHosts, v.ssh.path)
		}, fast},
	} {
		t.Run(a.name, func(t *testing.T) { all = append(all, a.run(t)...) })
	}
	r := figures.Report{
		Layer: "targets", Measured: time.Now().Format(time.DateOnly),
		Command: fmt.Sprintf("make bench-targets TIMES=%d REPORT=docs/benchmarks", *againstRounds),
		Title: fmt.Sprintf("Flush and restore beside rclone, on each target. %s. %d rounds; large is 4 files of %d bytes, small is %d of 4096 bytes.",
			strings.SplitN(string(version), "\n", 2)[0], *againstRounds, *againstLarge/4, *againstSmall),
		Table:   &figures.Table{Columns: []string{"", "Forebay", "rclone", "ratio", "least, most", "CPU s, Forebay", "CPU s, rclone"}},
		Samples: map[string][]float64{},
	}
	for _, p := range all {
		r.Table.Rows = append(r.Table.Rows, p.row())
		r.Samples[figures.SampleOf(p.where+": "+p.work, "ratio")] = p.ratios()
		t.Logf("%q", p.row())
	}
	if *reportDir != "" {
		require.NoError(t, r.Save(*reportDir))
	}
}

func (a against) run(t *testing.T) []*pairs {
	v := &servable{dir: t.TempDir()}
	sp := spec{nodes: []nodeSpec{{name: "a", datasets: []string{"media"}}}, links: []link{{name: "media", from: "primary/media", to: "there"}}}
	if target := a.target(t, v); target != "" {
		sp.buckets = map[string]string{"there": target}
	}
	s := runs(t, sp, func(*site) {})
	s.does("pause", "media")
	var all []*pairs
	for work, fill := range map[string]func(*tree, string){
		"large": func(t *tree, in string) {
			for i := range 4 {
				t.file(fmt.Sprintf("%s/%d", in, i), *againstLarge/4)
			}
		},
		"small": func(t *tree, in string) {
			for i := range *againstSmall {
				t.file(fmt.Sprintf("%s/%d", in, i), 4096)
			}
		},
	} {
		there := &pairs{where: a.name, work: work + ", flush", bytes: *againstLarge, objects: 4}
		back := &pairs{where: a.name, work: work + ", restore", bytes: *againstLarge, objects: 4}
		if work == "small" {
			there.objects, there.bytes = *againstSmall, int64(*againstSmall)*4096
			back.objects, back.bytes = there.objects, there.bytes
		}
		for i := range *againstRounds {
			name := fmt.Sprintf("%s-%d", work, i)
			s.fill("media", func(t *tree) { t.dir(name, 0o755); fill(t, name) }, "a")
			s.acknowledged("media")
			source, remote := s.root("a", "media")+"/"+name, a.remote(v)+"/"+name
			there.round(i, func() transfer {
				before := cpuOf(t, s.relay.cmd.Process.Pid)
				began := time.Now()
				s.does("resume", "media")
				s.does("flush", "media")
				r := transfer{wall: time.Since(began), cpu: cpuOf(t, s.relay.cmd.Process.Pid) - before}
				s.does("pause", "media")
				return r
			}, func() transfer { return a.copy(t, source, remote) })
			one, two := s.path("back-forebay"), s.path("back-rclone")
			back.round(i, func() transfer {
				cmd := exec.CommandContext(t.Context(), program, "restore", "--config", s.path("relay.yaml"), "--from", "there", "--path", name, "--to", one)
				cmd.Env = s.env()
				return timed(t, cmd)
			}, func() transfer { return a.copy(t, remote, two) })
			s.same(source, one+"/"+name, false)
			require.NoError(t, os.RemoveAll(one))
			require.NoError(t, os.RemoveAll(two))
		}
		all = append(all, there, back)
	}
	slices.SortFunc(all, func(a, b *pairs) int { return strings.Compare(a.work, b.work) })
	return all
}

// round has both do the work, in turns the one first and the other. What is left to be written does not burden who comes next.
func (p *pairs) round(i int, forebay, rclone func() transfer) {
	do := []func(){
		func() { p.forebay = append(p.forebay, forebay()) },
		func() { p.rclone = append(p.rclone, rclone()) },
	}
	if i%2 == 1 {
		slices.Reverse(do)
	}
	for _, f := range do {
		unix.Sync()
		f()
	}
}

func (a against) copy(t *testing.T, from, to string) transfer {
	t.Helper()
	args := append([]string{"copy", "--config", "", from, to}, a.options...)
	return timed(t, exec.CommandContext(t.Context(), *againstRclone, args...))
}

func timed(t *testing.T, cmd *exec.Cmd) transfer {
	t.Helper()
	began := time.Now()
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s: %s", cmd, out)
	return transfer{time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
}

// cpuOf is the CPU time that a running process has used.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	u, err := proc.Of(pid)
	require.NoError(t, err)
	return u.CPU
}

// ratios are the times of rclone by those of Forebay, round by round.
func (p *pairs) ratios() (out []float64) {
	for i := range p.forebay {
		out = append(out, p.rclone[i].wall.Seconds()/p.forebay[i].wall.Seconds())
	}
	return out
}

func (p *pairs) row() []string {
	rate := func(runs []transfer) string {
		wall := median(runs, func(r transfer) float64 { return r.wall.Seconds() })
		if p.objects > 100 {
			return fmt.Sprintf("%.0f objects/s", float64(p.objects)/wall)
		}
		return fmt.Sprintf("%.0f MB/s", float64(p.bytes)/1e6/wall)
	}
	cpu := func(r transfer) float64 { return r.cpu.Seconds() }
	ratios := p.ratios()
	return []string{
		p.where + ": " + p.work, rate(p.forebay), rate(p.rclone), fmt.Sprintf("%.2f", bench.Median(ratios)),
		fmt.Sprintf("%.2f, %.2f", slices.Min(ratios), slices.Max(ratios)), fmt.Sprintf("%.2f", median(p.forebay, cpu)), fmt.Sprintf("%.2f", median(p.rclone, cpu)),
	}
}

func median(runs []transfer, of func(transfer) float64) float64 {
	var v []float64
	for _, r := range runs {
		v = append(v, of(r))
	}
	return bench.Median(v)
}
