package agent

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/agent/agenttest"
	"forebay/proto"
)

// reports collects what agents report.
type reports struct {
	mu   sync.Mutex
	list []proto.Report
}

func (s *reports) note(rep proto.Report) *proto.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, rep)
	return nil
}

func (s *reports) any(want func(proto.Report) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.list, want)
}

// The relay may know a holder for one although its answer never came, or the index forgot the claim with its process: what is gone
// then is reported all the same, or the relay would wait for this holder's word for ever.
func TestWhatWasClaimedIsReportedGone(t *testing.T) {
	t.Parallel()
	var seen reports
	var claimed sync.Once
	asked := make(chan error, 1)
	var n *running
	old, ready := filepath.Join(t.TempDir(), "data"), make(chan struct{})
	r := &agenttest.Relay{Wanted: true, OnReport: seen.note, Refuse: func(path string) *proto.Error {
		if path != proto.PathClaim {
			return nil
		}
		claimed.Do(func() { // before the relay hears of it, the index knows that it will
			<-ready
			asked <- os.CopyFS(old, os.DirFS(n.cfg.DataDir))
		})
		return proto.Errorf(proto.ClassTransient, "the answer is lost")
	}}
	r.Start(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x"), 100, 1)
	write(t, filepath.Join(dir, "stays"), 100, 2) // an empty root would be taken for one that is not mounted
	n = node(t, r, "a", nil, dir)
	close(ready)
	require.NoError(t, <-asked)
	n.stop()
	require.NoError(t, os.Remove(filepath.Join(dir, "x")))
	n.cfg.DataDir = old // as it was when the process ended in that moment
	n.again(t)
	gone := func(rep proto.Report) bool {
		return slices.ContainsFunc(rep.Gone, func(g proto.GoneEntry) bool { return g.Path == "x" && g.Version == 0 })
	}
	eventually(t, func() bool { return seen.any(gone) }, "x is reported gone")
}

// Only a completed scan says that it is one, and which; a list of failures that changes between two scans does not.
func TestOnlyAScanIsReportedAsOne(t *testing.T) {
	t.Parallel()
	var seen reports
	r := &agenttest.Relay{Wanted: true, OnReport: seen.note}
	r.Start(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x"), 100, 1)
	n := node(t, r, "a", nil, dir)
	settled(t, r, dir, n)
	eventually(t, func() bool { return seen.any(func(rep proto.Report) bool { return rep.ScanDone }) }, "a scan is reported")
	n.stop()
	scans := map[int64]bool{}
	for _, rep := range seen.list {
		if rep.ScanDone {
			assert.True(t, rep.Listed, "with the failures that it found")
			assert.False(t, scans[rep.ScanNs], "scan %d is reported once", rep.ScanNs)
			scans[rep.ScanNs] = true
		}
	}
	assert.NotContains(t, scans, int64(0), "a report says of which scan it is")
	for _, rep := range seen.list {
		assert.False(t, rep.Bare, "it found something")
	}
	last := n.roots[0].ix.Counts().LastScanNs
	for at := range scans {
		assert.LessOrEqual(t, at, last, "by the agent's clock, as in its status")
	}
}

// The running time that a scan began at is that of one run of the relay: the next run is told of the scan as of one that proves nothing of
// what is not there (I13).
func TestScanOfAnEarlierRunProvesNothing(t *testing.T) {
	t.Parallel()
	var seen reports
	r := &agenttest.Relay{Wanted: true, UpNs: 50, OnReport: seen.note, Suspicion: 10 * time.Second}
	r.Start(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x"), 100, 1)
	n := node(t, r, "a", func(c *Config, _ *Deps) { c.Datasets[0].Scan = 24 * time.Hour }, dir)
	settled(t, r, dir, n)
	r.Look("media", func(d *agenttest.Dataset, _ *agenttest.Stats) { d.ScanToken = 1 })
	eventually(t, func() bool { return seen.any(func(rep proto.Report) bool { return rep.ScanDone && rep.ScanUp == 50 }) }, "one that began in this run")
	r.Stop()
	seen.mu.Lock()
	seen.list = nil
	seen.mu.Unlock()
	r.Restart()
	eventually(t, func() bool { return seen.any(func(rep proto.Report) bool { return rep.ScanDone }) }, "the next run is told")
	assert.False(t, seen.any(func(rep proto.Report) bool { return rep.ScanUp != 0 }))
}

// A scan that found nothing says so.
func TestScanOfAnEmptyRootIsBare(t *testing.T) {
	t.Parallel()
	var seen reports
	r := &agenttest.Relay{Wanted: true, OnReport: seen.note}
	r.Start(t)
	node(t, r, "a", nil, t.TempDir())
	eventually(t, func() bool { return seen.any(func(rep proto.Report) bool { return rep.ScanDone && rep.Bare }) }, "its scan is reported")
}

// The epochs of one relay say nothing of another's, which may have begun long after it with lower ones.
func TestWhatWasHeardOfAnotherRelayIsForgotten(t *testing.T) {
	t.Parallel()
	r := &agenttest.Relay{}
	r.Start(t)
	n := node(t, r, "a", nil, t.TempDir())
	root, at := n.roots[0], time.Unix(1000, 0)
	root.heard.Note("y", 3, proto.Epoch{Generation: 9, Counter: 1}, at)
	root.heard.Forget("x", 3, proto.Epoch{Generation: 9, Counter: 1})
	require.NoError(t, n.belong(proto.RelayID(77), 0))
	assert.False(t, root.heard.Since("y", at))
	root.heard.Note("x", 1, proto.Epoch{Generation: 1, Counter: 1}, at)
	assert.True(t, root.heard.Since("x", at), "another holder sends it")
}

// A report of what is gone that had no answer may be on its way still: whatever is told after it says that it counts no more.
func TestAnUnansweredReportOfWhatIsGoneIsGivenUp(t *testing.T) {
	t.Parallel()
	var seen reports
	failed := false // guarded by the stub's own lock
	r := &agenttest.Relay{Wanted: true, OnReport: func(rep proto.Report) *proto.Error {
		_ = seen.note(rep)
		if len(rep.Gone) > 0 && !failed {
			failed = true
			return proto.Errorf(proto.ClassTransient, "the answer is lost")
		}
		return nil
	}}
	r.Start(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x"), 100, 1)
	write(t, filepath.Join(dir, "stays"), 100, 2)
	n := node(t, r, "a", nil, dir)
	settled(t, r, dir, n)
	require.NoError(t, os.Remove(filepath.Join(dir, "x")))
	eventually(t, func() bool {
		return seen.any(func(rep proto.Report) bool { return len(rep.Gone) > 0 && rep.GivenUp > 0 })
	}, "it is told again")
	n.stop()
	var told []proto.Report
	for _, rep := range seen.list {
		if len(rep.Gone) > 0 {
			told = append(told, rep)
		}
	}
	assert.EqualValues(t, 1, told[0].Seq)
	assert.Positive(t, told[0].HavePast, "the claims from before are over")
	assert.EqualValues(t, 0, told[0].GivenUp)
	assert.EqualValues(t, 1, told[1].GivenUp)
	assert.Greater(t, told[1].Seq, told[1].GivenUp)
}

// One that was answered may come for the second time: what is told after it says so too.
func TestAnAnsweredReportOfWhatIsGoneIsGivenUp(t *testing.T) {
	t.Parallel()
	var seen reports
	r := &agenttest.Relay{Wanted: true, OnReport: seen.note}
	r.Start(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x"), 100, 1)
	write(t, filepath.Join(dir, "stays"), 100, 2)
	n := node(t, r, "a", nil, dir)
	settled(t, r, dir, n)
	require.NoError(t, os.Remove(filepath.Join(dir, "x")))
	eventually(t, func() bool { return seen.any(func(rep proto.Report) bool { return len(rep.Gone) > 0 }) }, "it is told")
	eventually(t, func() bool {
		return seen.any(func(rep proto.Report) bool { return len(rep.Gone) == 0 && rep.GivenUp == 1 })
	}, "it is told that no answer to it is waited for")
}
