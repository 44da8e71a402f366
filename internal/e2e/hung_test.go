package e2e

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/faultfs"
	"forebay/proto"
)

// A disk that hangs, neither failing nor giving anything, costs its node the upload of that object alone, within a few suspicion times:
// another holder carries it on from what is acknowledged while the node goes on with the others. It is shown for as long as the
// disk does not answer, and the node goes on by itself then.
func TestDiskThatHangsEndsOneUploadAlone(t *testing.T) {
	t.Parallel()
	objects := []string{"hangs", "good 1", "good 2"}
	s := uploadsOfAFaultyDisk(t, objects)
	disk := s.nodes["a"].disk
	disk.Set(faultfs.Rule{Path: "hangs", From: 70 << 20, P: 1, Delay: 45 * time.Second})
	s.until("another to carry it on", func() bool { return len(s.events("takeover")) > 0 })
	took := s.events("takeover")[0]
	assert.Equal(t, "a", took.Fields["from"])
	assert.Contains(t, took.Fields["cause"], "slow read")
	assert.Less(t, took.At.Sub(disk.First()), 30*time.Second, "a few suspicion times")
	s.until("it to be shown", func() bool { return s.problem("slow-read", "a") != nil })
	for _, o := range objects {
		s.whole("primary/media/" + o)
	}
	require.Len(t, s.events("takeover"), 1, "the good one is not touched by it, and it stays with who has it")
	require.Len(t, s.events("slow-read"), 1)
	assert.Empty(t, s.events("agent-lost"), "its session is untouched")
	s.fill("media", func(t *tree) { t.file("later", 1000) }, "a")
	s.whole("primary/media/later")
	assert.LessOrEqual(t, s.status().Cache.WastedBytes, int64(2*proto.DefaultWindow))
	disk.Set()
	s.until("its disk to answer", func() bool { return s.problem("slow-read", "a") == nil && s.node("a").Unreadable == 0 })
	s.settle("media-nas")
	s.agreed("primary/media/hangs", 3)
}

// All of a root's disk hangs, as a hard mount does whose server is away. It is shown; the other holders send; and it costs the node nothing else: its
// other datasets go on after a restart of the relay, its agent ends when it is told to and begins again, and all is well once the disk answers.
func TestRootThatHangs(t *testing.T) {
	t.Parallel()
	needsFaults(t)
	sp := oneLink("", "a", "b", "c")
	sp.links = append(sp.links, link{name: "home-nas", from: "primary/home", to: "nas", prefix: "home"})
	sp.links[0].prefix = "media"
	for i := range sp.nodes {
		sp.nodes[i].datasets, sp.nodes[i].scan = []string{"media", "home"}, "5s"
	}
	sp.nodes[0].faulty = true
	s := newSite(t, sp)
	s.fill("media", func(t *tree) { t.file("before", 1000) }, "a", "b", "c")
	s.startRelay()
	s.startNodes("a", "b", "c")
	s.settle("media-nas")
	disk := s.nodes["a"].disk
	disk.Stall()
	s.fill("media", func(t *tree) { t.file("after", 1000) }, "b", "c")
	require.NoError(t, os.WriteFile(filepath.Join(s.path("disk-a-media-0"), "behind"), []byte("found later"), 0o600))
	s.whole("primary/media/after")
	s.until("it to be shown", func() bool {
		return s.problem("root", "the disk has not answered") != nil && s.status().Health == proto.Red
	})
	require.Positive(t, disk.Asked())

	s.relay.stop()
	s.startRelay()
	s.awaitState("alive", "a", "b", "c")
	s.fill("home", func(t *tree) { t.file("later", 1000) }, "a")
	s.whole("primary/home/later")
	s.nodes["a"].agent.stop()
	s.startNodes("a")
	s.fill("home", func(t *tree) { t.file("last", 1000) }, "a")
	s.whole("primary/home/last")

	disk.Answer()
	s.whole("primary/media/behind")
	s.until("its disk to answer", func() bool { return s.problem("root", "") == nil })
	s.settle("media-nas", "home-nas")
	s.well()
}

// A target's directory hangs, as a hard mount does whose server is away. Its link says so, the other one goes on, also when the relay is restarted
// meanwhile, and it catches up once the directory answers.
func TestTargetThatHangs(t *testing.T) {
	t.Parallel()
	needsFaults(t)
	sp := oneLink("", "a", "b")
	sp.links = append(sp.links, link{name: "media-vault", from: "primary/media", to: "vault"})
	s := newSite(t, sp)
	s.makeDirs("disk-nas")
	disk := faultfs.Mount(t, s.path("disk-nas"), s.path("target-nas"), uint64(*seed))
	s.fill("media", func(t *tree) { t.file("before", 1000) }, "a", "b")
	s.startRelay()
	s.startNodes("a", "b")
	s.settle("media-nas", "media-vault")
	disk.Stall()
	s.fill("media", func(t *tree) { t.file("after", 1000) }, "a", "b")
	s.settle("media-vault")
	s.until("it to be shown", func() bool { return s.problem("link-stalled", "media-nas") != nil })
	require.Positive(t, disk.Asked())

	s.relayEndsWithout("its target")
	require.Error(t, s.relay.err, "it says which target it left")
	s.startRelay()
	s.awaitState("alive", "a", "b")
	s.fill("media", func(t *tree) { t.file("later", 1000) }, "a", "b")
	s.settle("media-vault")

	disk.Answer()
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-nas")
	s.well()
}

// relayEndsWithout ends the relay, which does not wait for what hangs.
func (s *site) relayEndsWithout(what string) {
	s.t.Helper()
	s.relay.expected.Store(true)
	s.relay.signal(syscall.SIGTERM)
	s.until("the relay to end without "+what, func() bool { return !s.relay.running() })
}

// A store's directory hangs. The relay goes on without it, also when it is restarted meanwhile, and takes it back once it answers.
func TestStoreThatHangs(t *testing.T) {
	t.Parallel()
	needsFaults(t)
	sp := oneLink("", "a", "b")
	sp.links[0].more = "flush: {age: 1h}" // what is acknowledged stays in the stores
	s := newSite(t, sp)
	s.makeDirs("disk-store")
	disk := faultfs.Mount(t, s.path("disk-store"), s.path("store-3"), uint64(*seed))
	s.fill("media", func(t *tree) { t.file("before", 1<<20) }, "a", "b")
	s.startRelay()
	s.startNodes("a", "b")
	s.whole("primary/media/before")
	disk.Stall()
	s.fill("media", func(t *tree) { t.file("after", 1<<20) }, "a", "b")
	s.whole("primary/media/after")
	s.until("it to be shown", func() bool { return s.problem("store-failed", "store-3") != nil })

	s.relayEndsWithout("its store")
	s.startRelay()
	s.awaitState("alive", "a", "b")
	s.fill("media", func(t *tree) { t.file("later", 1<<20) }, "a", "b")
	s.whole("primary/media/later")

	disk.Answer()
	s.well()
	s.does("flush", "media-nas")
	s.settle("media-nas")
	s.equal(s.root("a", "media"), "media-nas")
	s.relay.stop() // it has files of the store open
}

// The disk of the ledger hangs: the relay acknowledges nothing, says so in red while it answers operators, is not ready, and goes on by itself
// when the disk does.
func TestLedgerDiskThatHangs(t *testing.T) {
	t.Parallel()
	needsDisks(t)
	sp := oneLink("", "a", "b")
	s := newSite(t, sp)
	_, err := s.disks().Cuttable(s.path("relay"), 128<<20)
	require.NoError(t, err)
	s.fill("media", func(t *tree) { t.file("before", 1000) }, "a", "b")
	s.startRelay()
	s.startNodes("a", "b")
	s.settle("media-nas")
	require.NoError(t, s.ready())
	thaw := func() error { return exec.Command("fsfreeze", "-u", s.path("relay")).Run() } //nolint:noctx // whatever ended the test
	t.Cleanup(func() { _ = thaw() })                                                      // it is thawed by then, unless the test failed
	require.NoError(t, exec.CommandContext(t.Context(), "fsfreeze", "-f", s.path("relay")).Run())
	s.fill("media", func(t *tree) { t.file("after", 1000) }, "a", "b")
	s.until("the ledger to be shown as stalled", func() bool { return s.problem("ledger-stalled", "") != nil && s.status().Health == proto.Red })
	assert.Equal(t, "stalled", s.status().Ledger.State)
	require.ErrorContains(t, s.ready(), "503")
	require.NoError(t, thaw())
	s.whole("primary/media/after")
	s.until("it to be over", func() bool { return s.problem("ledger-stalled", "") == nil })
	require.NoError(t, s.ready())
	require.Len(t, s.events("ledger-stalled"), 1)
	require.Len(t, s.events("ledger-answers"), 1)
	s.settle("media-nas")
	s.equal(s.root("a", "media"), "media-nas")
	s.well()
}

// ready asks whether the relay says that it is.
func (s *site) ready() error {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+"/readyz", nil)
	require.NoError(s.t, err)
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return nil
}
