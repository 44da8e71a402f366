package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/internal/bench"
	"forebay/internal/figures"
	"forebay/internal/operator"
	"forebay/internal/servers"
)

// large is what an operator waits for with large files: that they are acknowledged.
func (b *benchmark) large(t *testing.T) {
	m := largeFiles(t, b.count, b.size)
	b.save(bench.Work{
		Name: "large", Bytes: m.bytes, Title: fmt.Sprintf("Acknowledged: %d files of %d bytes, one store.", b.count, b.size),
		Sides: b.contest(t, m, b.rounds, m.acknowledged(), m.floor(), m.rsyncFsync(), b.toMinIO(t, m), b.toJetStream(m)),
	}, b.of("ROUNDS", b.rounds), b.of("COUNT", b.count), b.of("SIZE", b.size))
}

// coded is large with six stores on one disk: half as much again has to be written.
func (b *benchmark) coded(t *testing.T) {
	m := largeFiles(t, b.count, b.size)
	const script = `cp -r "$1" "$2" && mkdir "$2/half" && cd "$1" && cp $(ls | head -n $(($(ls | wc -l) / 2))) "$2/half" && sync -f "$2"`
	six := uploading{sources: []*material{m}, stores: 6, coding: "4+2", written: true}
	b.save(bench.Work{
		Name: "coded", Bytes: m.bytes,
		Title: fmt.Sprintf("Acknowledged: %d files of %d bytes, six stores on one disk, coding 4+2. The floor is of 1.5 times the bytes.", b.count, b.size),
		Sides: b.contest(t, m, b.rounds, six.side(figures.Forebay), m.command(figures.Floor, "cp", script)),
	}, b.of("ROUNDS", b.rounds), b.of("COUNT", b.count), b.of("SIZE", b.size))
}

// sourceTree is a tree of many files of all sizes.
func (b *benchmark) sourceTree(t *testing.T) {
	m := measure(t, b.source)
	b.save(bench.Work{
		Name: "source", Bytes: m.bytes, Objects: m.files,
		Title: fmt.Sprintf("Acknowledged: the source tree of Go, %d files, %d bytes, one store.", m.files, m.bytes),
		Sides: b.contest(t, m, b.rounds, m.acknowledged(), m.floor(), m.rsyncFsync(), m.rsync(), b.toMinIO(t, m), m.restic()),
	}, b.of("ROUNDS", b.rounds))
}

// small is very many small files: acknowledged, and confirmed on a directory.
func (b *benchmark) small(t *testing.T) {
	m := smallFiles(t, b.files)
	confirmed := uploading{sources: []*material{m}, confirm: true}.side(figures.Confirmed)
	b.save(bench.Work{
		Name: "small", Bytes: m.bytes, Objects: m.files,
		Title:    fmt.Sprintf("%d files of 4 KiB, one store: acknowledged, and confirmed on a directory.", m.files),
		Compared: map[string]string{figures.Rsync: figures.Confirmed},
		Sides:    b.contest(t, m, b.filesRounds, m.acknowledged(), confirmed, m.rsync()),
	}, b.of("FILESROUNDS", b.filesRounds), b.of("FILES", b.files))
}

// smallToS3 is small files confirmed in a bucket.
func (b *benchmark) smallToS3(t *testing.T) {
	m := smallFiles(t, b.s3files)
	ours := contender{name: figures.Confirmed, missing: b.minioNeeds()}
	ours.run = func(t *testing.T) bench.Run {
		to := newBucket(t, servers.MinIO(t, 1))
		to.wire.address = to.server.Addr // the proxy would be in the way of one of the two
		c := countFrom(t, to.server.PID())
		r := uploading{sources: []*material{m}, confirm: true, bucket: to}.run(t)
		whole := bench.Run{Wall: r.Wall}
		c.end(&whole)
		r.CPU, r.Peak, r.Written = r.CPU+whole.CPU, r.Peak+whole.Peak, r.Written+whole.Written
		return r
	}
	b.save(bench.Work{
		Name: "small-s3", Bytes: m.bytes, Objects: m.files,
		Title: fmt.Sprintf("%d files of 4 KiB, one store: confirmed on MinIO.", m.files),
		Sides: b.contest(t, m, b.rounds, ours, b.toMinIO(t, m)),
	}, b.of("ROUNDS", b.rounds), b.of("S3FILES", b.s3files))
}

// denseObject is one object that is larger than what anybody should keep in memory.
func (b *benchmark) denseObject(t *testing.T) {
	m := largeFiles(t, 1, b.dense)
	sides := b.contest(t, m, 1, m.acknowledged())
	more := sides[0].Runs[0].More
	b.save(bench.Work{
		Name: "dense", Bytes: m.bytes, Sides: sides,
		Title: fmt.Sprintf("Acknowledged: one object of %d bytes, dense, one store. The agent had %.0f MiB resident at most, the relay %.0f MiB.",
			b.dense, more[figures.AgentPeak]/(1<<20), more[figures.RelayPeak]/(1<<20)),
	}, b.of("DENSE", b.dense))
}

// ten are ten agents that bring together what one agent brings.
func (b *benchmark) ten(t *testing.T) {
	const agents = 10
	whole := &material{dir: t.TempDir()}
	var parts []*material
	for i := range agents {
		made := &tree{t: t, root: filepath.Join(whole.dir, fmt.Sprintf("part-%d", i)), uid: -1, gid: -1}
		require.NoError(t, os.Mkdir(made.root, 0o755))
		for k := range b.count {
			made.file(fmt.Sprintf("file-%d-%d", i, k), b.size/agents)
		}
		made.finish()
		parts = append(parts, measure(t, made.root))
	}
	whole = measure(t, whole.dir)
	b.save(bench.Work{
		Name: "ten", Bytes: whole.bytes,
		Title: fmt.Sprintf("Acknowledged: %d files of %d bytes, one store, by one agent, and by ten with a tenth each, which is "+
			"a dataset of its own. The speed is that of one agent.", agents*b.count, b.size/agents),
		Sides: b.contest(t, whole, b.rounds,
			uploading{sources: []*material{whole}}.side(figures.OneAgent), uploading{sources: parts}.side(figures.TenAgents)),
	}, b.of("ROUNDS", b.rounds), b.of("COUNT", b.count), b.of("SIZE", b.size))
}

// unchanged is what daemons do with a tree of which all is acknowledged: nothing, and looking whether that is still so.
func (b *benchmark) unchanged(t *testing.T, idle, rescan bool) {
	m := smallFiles(t, b.files)
	u := uploading{sources: []*material{m}}
	s := u.site(t)
	s.startNodes(s.order...)
	u.await(s)
	u.check(s)
	if idle {
		b.idleDaemons(t, s, m)
	}
	if rescan {
		b.rescan(t, s, m)
	}
}

// daemons are the processes of a site with one agent.
func daemons(s *site) []int {
	return []int{s.relay.cmd.Process.Pid, s.nodes[s.order[0]].agent.cmd.Process.Pid}
}

// rescan is what it costs to find that nothing has changed.
func (b *benchmark) rescan(t *testing.T, s *site, m *material) {
	watch := s.node(s.order[0]).Watch
	copied := filepath.Join(t.TempDir(), "copy")
	again := contender{name: figures.RsyncDryRun, missing: needs("rsync", "apt-get install rsync")}
	if again.missing == "" {
		timedRun(t, exec.CommandContext(t.Context(), "rsync", "-a", m.dir+"/", copied))
	}
	again.run = func(t *testing.T) bench.Run {
		return timedRun(t, exec.CommandContext(t.Context(), "rsync", "-a", "--dry-run", m.dir+"/", copied))
	}
	asked := contender{name: figures.Forebay, run: func(t *testing.T) (r bench.Run) {
		c := countFrom(t, daemons(s)...)
		scan, err := s.op.Scan(t.Context(), "media")
		require.NoError(t, err)
		require.True(t, s.seldom(func() bool {
			w, err := s.op.WaitState(t.Context(), "media", scan.Token, operator.UntilAck)
			return err == nil && w.Done
		}))
		c.end(&r)
		return r
	}}
	changed := 0
	watched := contender{name: figures.Watched, run: func(t *testing.T) (r bench.Run) {
		changed++
		head := s.dataset("primary/media").Head
		c := countFrom(t, daemons(s)...)
		require.NoError(t, os.WriteFile(filepath.Join(m.dir, "dir-0000", "file-000"), fmt.Appendf(nil, "%04096d", changed), 0o644))
		require.True(t, s.seldom(func() bool { return s.dataset("primary/media").Head > head }))
		c.end(&r)
		return r
	}}
	b.save(bench.Work{
		Name: "rescan", Objects: m.files,
		Title: fmt.Sprintf("Rescan of %d unchanged files of 4 KiB (watch: %s), all in memory. A change by the watch: one file is written anew, "+
			"until it is acknowledged; two seconds of that are waited until it may count as at rest.", m.files, watch),
		Sides: b.contest(t, m, b.rounds, asked, watched, again),
	}, b.of("ROUNDS", b.rounds), b.of("FILES", b.files))
}

// idleDaemons is what daemons use that have nothing to do.
func (b *benchmark) idleDaemons(t *testing.T, s *site, m *material) {
	idle := contender{name: figures.Forebay, run: func(t *testing.T) (r bench.Run) {
		pids := daemons(s)
		relay, agent := use(t, pids[0]).CPU, use(t, pids[1]).CPU
		c := countFrom(t, pids...)
		s.poll(b.idle, func() bool { return false }) // nobody asks the relay anything
		c.end(&r)
		r.More = map[string]float64{
			figures.RelayShare: (use(t, pids[0]).CPU - relay).Seconds() / r.Wall.Seconds(),
			figures.AgentShare: (use(t, pids[1]).CPU - agent).Seconds() / r.Wall.Seconds(),
		}
		return r
	}}
	w := bench.Work{
		Name: "idle", Title: fmt.Sprintf("Nothing to do for %s with %d objects, all acknowledged.", b.idle.Round(time.Second), m.objects),
		Sides: b.contest(t, m, 1, idle),
	}
	more := w.Sides[0].Runs[0].More
	w.Table = &figures.Table{Columns: []string{"", "of one core"}, Rows: [][]string{
		{"agent", fmt.Sprintf("%.2f %%", 100*more[figures.AgentShare])}, {"relay", fmt.Sprintf("%.2f %%", 100*more[figures.RelayShare])},
	}}
	b.save(w, b.of("FILES", b.files), b.of("IDLE", b.idle))
}
