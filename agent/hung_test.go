package agent

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/agent/agenttest"
	"forebay/agent/upload"
	"forebay/fsmeta"
	"forebay/proto"
)

// hanging is a disk that can be made to answer nothing to those who open a root on it.
type hanging struct {
	mu    sync.Mutex
	hangs chan struct{} // nil: it answers
	kept  atomic.Int64
}

func (h *hanging) hang() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hangs = make(chan struct{})
}

func (h *hanging) answer() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hangs != nil {
		close(h.hangs)
		h.hangs = nil
	}
}

func (h *hanging) wait() {
	h.mu.Lock()
	c := h.hangs
	h.mu.Unlock()
	if c != nil {
		h.kept.Add(1)
		<-c
	}
}

func (h *hanging) under(r *root) {
	dir := r.tree
	r.tree = func(f *fsmeta.Root) upload.Tree {
		h.wait()
		return dir(f)
	}
}

// A root whose disk hangs costs its node neither the session nor its end: after a restart of the relay the other roots go on, the agent ends when it
// is told to, another one begins in its place, and what comes back from the disk after all finds nothing to break.
func TestHungRootLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	bad, good := t.TempDir(), t.TempDir()
	write(t, filepath.Join(bad, "one"), 1000, 1)
	write(t, filepath.Join(good, "two"), 1000, 2)
	r := (&agenttest.Relay{Wanted: true, Suspicion: time.Second}).Start(t)
	cfg := Config{
		Node: "a", Cluster: "primary", Relays: []string{r.URL()}, DataDir: t.TempDir(), Software: "test",
		Datasets: []Dataset{{Name: "bad", Paths: []string{bad}, Scan: time.Second}, {Name: "good", Paths: []string{good}, Scan: time.Second}},
	}
	deps := Deps{Now: ahead, Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)}
	disk := &hanging{}
	under := func(a *Agent) { disk.under(a.roots[0]) }
	n := launch(t, cfg, deps, under)
	t.Cleanup(disk.answer) // before n is stopped
	has := func(dataset, path string) (is bool) {
		r.Look(dataset, func(d *agenttest.Dataset, _ *agenttest.Stats) { is = d.Rows[path] != nil })
		return is
	}
	eventually(t, func() bool { return has("bad", "one") && has("good", "two") }, "both are sent")

	disk.hang()
	write(t, filepath.Join(bad, "three"), 1000, 3)
	eventually(t, func() bool { return disk.kept.Load() > 0 }, "its disk keeps the worker")
	another := func(file string) {
		before := n.Status().Session.ID
		r.ForgetSessions()
		eventually(t, func() bool { id := n.Status().Session.ID; return id != 0 && id != before }, "another session")
		write(t, filepath.Join(good, file), 1000, 4)
		eventually(t, func() bool { return has("good", file) }, "the other root goes on")
	}
	another("four")
	assert.False(t, has("bad", "three"))
	kept := disk.kept.Load()
	another("again")
	assert.Equal(t, kept, disk.kept.Load(), "each session puts another worker onto the disk that hangs")

	n.stop()
	n = launch(t, cfg, deps, under)
	write(t, filepath.Join(good, "five"), 1000, 5)
	eventually(t, func() bool { return has("good", "five") }, "another agent on the same data")
	disk.answer()
	eventually(t, func() bool { return has("bad", "three") }, "the root goes on once its disk answers")
}

// Who got a lease and cannot even open the root gives it back when another holder could go on.
func TestLeaseOfARootThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := &hanging{}
	r := &agenttest.Relay{Wanted: true, Suspicion: time.Second}
	var asked atomic.Int64
	r.OnSlow = func(s proto.Slow) bool {
		assert.GreaterOrEqual(t, s.Waited, 5*time.Second)
		return asked.Add(1) > 1 // nobody else is there at first
	}
	r.Start(t)
	leased := func(path string) (is bool) {
		r.Look("media", func(d *agenttest.Dataset, _ *agenttest.Stats) { is = d.Lease(path) != 0 })
		return is
	}
	cfg := Config{
		Node: "a", Cluster: "primary", Relays: []string{r.URL()}, DataDir: t.TempDir(), Software: "test",
		Datasets: []Dataset{{Name: "media", Paths: []string{dir}, Scan: time.Second}},
	}
	var once sync.Once
	n := launch(t, cfg, Deps{Now: ahead, Log: zerolog.New(zerolog.NewTestWriter(t))}, func(a *Agent) {
		disk.under(a.roots[0])
		tree := a.roots[0].tree
		a.roots[0].tree = func(f *fsmeta.Root) upload.Tree {
			if leased("big") {
				once.Do(disk.hang)
			}
			return tree(f)
		}
	})
	t.Cleanup(disk.answer) // before n is stopped
	require.NoError(t, os.WriteFile(filepath.Join(dir, "big"), content(10<<20, 1), 0o600))
	eventually(t, func() bool { return disk.kept.Load() > 0 && leased("big") }, "the root hangs under a lease")
	eventually(t, func() bool { return n.RelayStatus()[0].SlowFor > 0 }, "it is told")
	eventually(t, func() bool { return !leased("big") }, "it is given back")
	assert.EqualValues(t, 2, asked.Load())
	disk.answer()
	settled(t, r, dir, n)
}
