package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/internal/bench"
	"forebay/internal/figures"
	"forebay/internal/operator"
	"forebay/internal/proc"
	"forebay/internal/servers"
	"forebay/proto"
)

// counting is what is counted from its beginning on, of daemons that are up by then.
type counting struct {
	t      *testing.T
	pids   []int
	before []proc.Usage
	wire   int64
	began  time.Time
}

func countFrom(t *testing.T, pids ...int) *counting {
	t.Helper()
	c := &counting{t: t, pids: pids}
	for _, pid := range pids {
		require.NoError(t, proc.Rest(pid))
		c.before = append(c.before, use(t, pid))
	}
	c.wire = wire(t)
	c.began = time.Now()
	return c
}

// end adds what the daemons have used to what is known of a run, and that of processes that began meanwhile. It sets the time that the run
// took, unless that is known.
func (c *counting) end(r *bench.Run, began ...int) {
	c.t.Helper()
	if r.Wall == 0 {
		r.Wall = time.Since(c.began)
	}
	r.Wire = wire(c.t) - c.wire
	for i, pid := range append(c.pids, began...) {
		u := use(c.t, pid)
		r.Peak += u.Peak
		if i < len(c.before) {
			u.CPU -= c.before[i].CPU
			u.Written -= c.before[i].Written
		}
		r.CPU += u.CPU
		r.Written += u.Written
	}
}

func use(t testing.TB, pid int) proc.Usage {
	t.Helper()
	u, err := proc.Of(pid)
	require.NoError(t, err)
	return u
}

func wire(t testing.TB) int64 {
	t.Helper()
	n, err := proc.Wire()
	require.NoError(t, err)
	return n
}

// uploading is how Forebay does its part.
type uploading struct {
	sources []*material // each a dataset on a node of its own; the first is called media
	stores  int         // default 1
	coding  string      // default that of so many stores
	bucket  *bucket     // the target; nil: a directory
	confirm bool        // until all is confirmed; else until it is acknowledged, while flushing is paused
	memory  string      // directory for the relay's own; empty: in the site
	written bool        // the relay is stopped in the end, to count all that it has written until then
}

// dataset is the name of the i-th source, and of the link that it has.
func (u uploading) dataset(i int) string {
	if i == 0 {
		return "media"
	}
	return fmt.Sprintf("media-%d", i+1)
}

// site is a relay that waits for its agents.
func (u uploading) site(t *testing.T) *site {
	t.Helper()
	sp := spec{stores: max(u.stores, 1), log: "info"}
	bytes := int64(0)
	for i, m := range u.sources {
		name := u.dataset(i)
		sp.nodes = append(sp.nodes, nodeSpec{name: fmt.Sprintf("node-%d", i+1), datasets: []string{name}, at: m.dir})
		sp.links = append(sp.links, link{name: name, from: "primary/" + name, to: "there", prefix: name})
		bytes += m.bytes + m.objects<<10
	}
	sp.cache = fmt.Sprintf("capacity: %dMiB", (2*bytes+bytes/2)>>20+2048) // it may be coded, and is never full
	if u.coding != "" {
		sp.cache += "\ncoding: " + u.coding
	}
	if u.bucket != nil {
		sp.buckets = map[string]string{"there": u.bucket.target()}
	}
	s := newSite(t, sp)
	if u.memory != "" {
		s.relocate("relay", filepath.Join(u.memory, "relay"))
		s.relocate("store-1", filepath.Join(u.memory, "store"))
	}
	s.startRelay()
	if !u.confirm {
		for i := range u.sources {
			s.does("pause", u.dataset(i))
		}
	}
	return s
}

// run measures from the start of the agents on.
func (u uploading) run(t *testing.T) bench.Run {
	t.Helper()
	s := u.site(t)
	relay := s.relay.cmd.Process.Pid
	before := use(t, relay)
	c := countFrom(t, relay)
	var agents []int
	for _, name := range s.order {
		s.launch(name)
		agents = append(agents, s.nodes[name].agent.cmd.Process.Pid)
	}
	asked := u.await(s)
	var r bench.Run
	c.end(&r, agents...)
	r.Wire -= asked * costOfAsking(s)
	r.More = map[string]float64{figures.RelayPeak: float64(use(t, relay).Peak), figures.AgentPeak: float64(use(t, agents[0]).Peak)}
	u.check(s)
	if u.written {
		s.relay.stop()
		r.More[figures.RelayWritten] = float64(proc.WrittenBy(s.relay.cmd.ProcessState) - before.Written)
	}
	return r
}

// seldom polls until ok, not as often as poll does: an answer costs the relay a millisecond or two of what is being measured. What it finds
// is late by a fiftieth at most, from the third second on.
func (s *site) seldom(ok func() bool) bool {
	s.t.Helper()
	const least, share, most = 50 * time.Millisecond, 50, time.Second
	began := time.Now()
	deadline := time.NewTimer(benchPatience)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-s.t.Context().Done():
			return false
		case <-deadline.C:
			return false
		case <-time.After(min(max(least, time.Since(began)/share), most)):
		}
	}
	return true
}

// costOfAsking is what a look at the relay's status puts on the wire.
func costOfAsking(s *site) int64 {
	s.t.Helper()
	const looks = 20 // daemons say little meanwhile
	before := wire(s.t)
	for range looks {
		s.status()
	}
	return (wire(s.t) - before) / looks
}

// await waits until the relay says that it has all of it, and has done with it what is wanted, and returns how often it has asked.
func (u uploading) await(s *site) (asked int64) {
	s.t.Helper()
	var last []proto.LinkStatus
	ok := s.seldom(func() bool {
		asked++
		st, err := s.op.Status(s.t.Context())
		if err != nil {
			return false
		}
		last = st.Links
		for i, m := range u.sources {
			l, _ := linkOf(st, u.dataset(i))
			if u.confirm && (l.BacklogObjects > 0 || l.ConfirmedObjects < m.objects) || !u.confirm && l.BacklogObjects < m.objects {
				return false
			}
		}
		return true
	})
	require.True(s.t, ok, "%+v", last)
	return asked
}

// check requires that forebay wait comes to the same end.
func (u uploading) check(s *site) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), benchPatience)
	defer cancel()
	until := operator.UntilAck
	if u.confirm {
		until = operator.UntilConfirm
	}
	states, errs := make([]proto.WaitState, len(u.sources)), make([]error, len(u.sources))
	var wg sync.WaitGroup
	for i := range u.sources {
		wg.Go(func() { // ends with the wait
			states[i], errs[i] = s.op.Wait(ctx, u.dataset(i), until, func(proto.WaitState) {})
		})
	}
	wg.Wait()
	require.NoError(s.t, errors.Join(errs...))
	for i, w := range states {
		require.True(s.t, w.Done, "not all is there: %+v: %+v", w, s.failures(u.dataset(i)))
	}
}

// side is Forebay as one of those that do a work.
func (u uploading) side(name string) contender {
	return contender{name: name, run: u.run}
}

// acknowledged is Forebay with one store, until a tree is acknowledged.
func (m *material) acknowledged() contender {
	return uploading{sources: []*material{m}}.side(figures.Forebay)
}

// needs says what a program is missing for, and how it comes.
func needs(program, how string) string {
	if _, err := exec.LookPath(program); err != nil {
		return program + " is not there: " + how
	}
	return ""
}

// command is a side that is one program, which puts a tree into a new directory. $1 is the tree, $2 the directory.
func (m *material) command(name, program, script string, env ...string) contender {
	return contender{name: name, missing: needs(program, "apt-get install "+program), run: func(t *testing.T) bench.Run {
		return timedRun(t, exec.CommandContext(t.Context(), "sh", "-ec", script, "sh", m.dir, filepath.Join(t.TempDir(), "there")), env...)
	}}
}

func timedRun(t *testing.T, cmd *exec.Cmd, env ...string) bench.Run {
	t.Helper()
	cmd.Env = append(os.Environ(), env...)
	r, err := bench.Command(t.Context(), time.Now, cmd)
	require.NoError(t, err)
	return r
}

func (m *material) floor() contender {
	return m.command(figures.Floor, "cp", `cp -r "$1" "$2" && sync -f "$2"`)
}

func (m *material) rsync() contender {
	return m.command(figures.Rsync, "rsync", `exec rsync -a "$1/" "$2"`)
}

func (m *material) rsyncFsync() contender {
	return m.command(figures.RsyncFsync, "rsync", `exec rsync -a --fsync "$1/" "$2"`)
}

// restic backs up into a repository that is there.
func (m *material) restic() contender {
	return contender{name: figures.Restic, missing: needs("restic", "apt-get install restic"), run: func(t *testing.T) bench.Run {
		repository := t.TempDir()
		env := []string{"RESTIC_PASSWORD=x", "RESTIC_REPOSITORY=" + repository, "RESTIC_CACHE_DIR=" + t.TempDir(), "HOME=" + repository}
		timedRun(t, exec.CommandContext(t.Context(), "restic", "init", "--quiet"), env...)
		return timedRun(t, exec.CommandContext(t.Context(), "restic", "backup", "--quiet", m.dir), env...)
	}}
}

// minioNeeds says what of MinIO and rclone is missing.
func (b *benchmark) minioNeeds() string {
	if !servers.Built("minio") {
		return "MinIO is not built: make servers"
	}
	return needs(b.rclone, "make bench builds it")
}

// toMinIO is rclone to a MinIO that is up. All rounds have the same one.
func (b *benchmark) toMinIO(t *testing.T, m *material) contender {
	t.Helper()
	c := contender{name: figures.RcloneMinIO, missing: b.minioNeeds()}
	if c.missing != "" {
		return c
	}
	to := newBucket(t, servers.MinIO(t, 1))
	round := 0
	c.run = func(t *testing.T) bench.Run {
		round++
		folder := fmt.Sprintf("round-%d", round)
		remote := fmt.Sprintf(":s3,provider=Minio,access_key_id=%s,secret_access_key=%s,endpoint='http://%s':%s/%s",
			to.server.Access, to.server.Secret, to.server.Addr, to.name, folder)
		pid := to.server.PID()
		c := countFrom(t, pid)
		r := timedRun(t, exec.CommandContext(t.Context(), b.rclone, "copy", "--config", "",
			"--transfers", "32", "--checkers", "32", "--links", m.dir, remote))
		c.end(&r)
		require.NoError(t, os.RemoveAll(filepath.Join(to.server.Data, "a", to.name, folder)))
		return r
	}
	return c
}

// toJetStream is the object store of a NATS server, which is up.
func (b *benchmark) toJetStream(m *material) contender {
	program := filepath.Join(b.programs, "jetstream")
	return contender{name: figures.JetStream, run: func(t *testing.T) bench.Run {
		server := exec.CommandContext(t.Context(), program, "serve", t.TempDir())
		server.Stderr = os.Stderr
		server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := server.StdoutPipe()
		require.NoError(t, err)
		started := make(chan error)
		forks() <- func() { started <- server.Start() }
		require.NoError(t, <-started)
		t.Cleanup(func() {
			_ = server.Process.Signal(syscall.SIGTERM) // it may have ended
			_ = server.Wait()
		})
		url, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		c := countFrom(t, server.Process.Pid)
		r := timedRun(t, exec.CommandContext(t.Context(), program, "put", strings.TrimSpace(url), m.dir))
		c.end(&r)
		return r
	}}
}
