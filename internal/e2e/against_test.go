package e2e

import (
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/servers"
)

var (
	againstRounds = flag.Int("against.rounds", 0, "rounds of TestAgainstRclone; 0: it is skipped")
	againstRclone = flag.String("against.rclone", "rclone", "the rclone to compare with")
	againstLarge  = flag.Int64("against.large", 512<<20, "bytes of the large files together, four of them")
	againstSmall  = flag.Int("against.small", 5000, "how many small files of 4 KiB")
	againstReport = flag.String("against.report", "", "file to write the table to")
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
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d processors, %s; %s. %d rounds; large is 4 files of %d bytes, small is %d of 4096 bytes.\n\n", time.Now().Format(time.DateOnly), runtime.NumCPU(),
		runtime.Version(), strings.SplitN(string(version), "\n", 2)[0], *againstRounds, *againstLarge/4, *againstSmall)
	b.WriteString("| target | work | Forebay | rclone | ratio | least, most | CPU s, Forebay | CPU s, rclone |\n|---|---|---|---|---|---|---|---|\n")
	for _, p := range all {
		b.WriteString(p.row())
	}
	t.Log("\n" + b.String())
	if *againstReport != "" {
		require.NoError(t, os.WriteFile(*againstReport, []byte(againstHead+b.String()+againstStory), 0o644))
	}
}

const againstHead = `# Flush and restore beside rclone

` + "`make bench-targets REPORT=docs/benchmarks.md`" + ` (TIMES=5 rounds, or as below) writes this page. The same files go to the same server by a flush of the relay, from its cache, and by ` + "`rclone copy`" + `, from
the source, turn about; then both are brought back. Forebay's is confirmed in the end: synced where the target can do that, and with
its journal; rclone syncs nothing. Rates are medians; a ratio is that of the two transfers of a round, its median, and the least and the
most of the rounds. CPU seconds are those of the relay and of ` + "`forebay restore`" + `, and of rclone, for one transfer; what the servers use is not
counted. rclone runs with 32 transfers and checkers.

`

// againstStory is what the figures led to, and what is left.
const againstStory = `
## What was changed for these figures

Ratios before and after, by ` + "`go test ./internal/e2e -run '^TestAgainstRclone$/^(dir_on_ext4|versitygw)$' -against.rounds 4 -against.small 300`" + `
(with ` + "`-against.rclone`" + `), as ` + "`make bench-targets`" + ` runs it:

| change | large files | before | after |
|---|---|---|---|
| a restore fetches while it syncs and commits the batch before; the kernel begins to write a large content while the rest of it comes | dir on ext4, restore | 0.80 | 1.15 |
| the same | versitygw, restore | 0.67 | 0.91 |
| the kernel begins to write early | dir on ext4, flush | 0.67 | 0.83; it varies more than that from run to run |
| a batch takes several large contents (with ` + "`-against.large 1073741824 -against.small 100`" + `) | OpenSSH, flush | 0.61 (0.57 to 0.65) | 0.75 (0.50 to 0.98) |

` + "`forebay flush`" + ` looked every half second whether it was done, and looks after a tenth of the time that it took by now: a flush of 300 files of
4 KiB into a directory took 0.72 s, and takes 0.25 s.

What is left: a large flush to OpenSSH. Without the sync of each 32 MiB, which lets an upload go on after a kill, it came to 0.60 instead of
0.55 (` + "`OpenSSH`" + ` in the place of the two, 3 and 4 rounds): that is not it. A target of type sftp has one connection, so one process at the server,
while rclone has one per transfer; what that costs has not been measured. A flush stages, syncs and commits one batch after the other, as a restore did;
into a directory that costs little: of the 1.1 to 1.8 s of a batch of 512 MiB, 17 ms came after the staging.
`

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

// cpuOf is the CPU time that a running process has used, see proc_pid_stat(5).
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	const user, system, ticks = 11, 12, 100 // after the name; USER_HZ is 100 on all that Go runs on
	var sum int64
	for _, i := range []int{user, system} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		require.NoError(t, err)
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks
}

func (p *pairs) row() string {
	rate := func(runs []transfer) string {
		wall := median(runs, func(r transfer) float64 { return r.wall.Seconds() })
		if p.objects > 100 {
			return fmt.Sprintf("%.0f objects/s", float64(p.objects)/wall)
		}
		return fmt.Sprintf("%.0f MB/s", float64(p.bytes)/1e6/wall)
	}
	least, most := math.Inf(1), 0.0
	var ratios []transfer
	for i := range p.forebay {
		r := p.rclone[i].wall.Seconds() / p.forebay[i].wall.Seconds()
		least, most = min(least, r), max(most, r)
		ratios = append(ratios, transfer{wall: time.Duration(r * float64(time.Second))})
	}
	cpu := func(r transfer) float64 { return r.cpu.Seconds() }
	return fmt.Sprintf("| %s | %s | %s | %s | %.2f | %.2f, %.2f | %.2f | %.2f |\n", p.where, p.work, rate(p.forebay), rate(p.rclone),
		median(ratios, func(r transfer) float64 { return r.wall.Seconds() }), least, most, median(p.forebay, cpu), median(p.rclone, cpu))
}

func median(runs []transfer, of func(transfer) float64) float64 {
	var v []float64
	for _, r := range runs {
		v = append(v, of(r))
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
