package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/internal/treecmp"
	"forebay/proto"
)

// helperEnv makes this test binary one of the processes that the tests start.
const helperEnv = "FOREBAY_DEMO_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "":
		os.Exit(m.Run())
	case "sleep": // until killed
		select {}
	case "parent": // of a sleeper in the same group; prints its id
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), helperEnv+"=sleep")
		if err := c.Start(); err != nil {
			os.Exit(9)
		}
		fmt.Println(c.Process.Pid)
		select {}
	case "demo": // starts a sleeper as the demo does; prints its id
		c, err := newSpawner(true).start("sleeper", os.Args[0], nil, append(os.Environ(), helperEnv+"=sleep"), os.Args[1], nil)
		if err != nil {
			os.Exit(9)
		}
		fmt.Println(c.pid())
		select {}
	case "fail":
		fmt.Println("something is wrong here")
		os.Exit(3)
	}
}

func helper(kind string) []string { return append(os.Environ(), helperEnv+"="+kind) }

// gone waits until a process is no more.
func gone(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(raw), ") Z ") // a zombie of nobody's is as good as gone
	}, 10*time.Second, 5*time.Millisecond)
}

func printed(t *testing.T, read func() string) int {
	t.Helper()
	var pid int
	require.Eventually(t, func() bool {
		n, err := strconv.Atoi(strings.TrimSpace(read()))
		pid = n
		return err == nil
	}, 10*time.Second, 5*time.Millisecond)
	return pid
}

func TestChildrenAreKilledWithTheirGroup(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	s := newSpawner(true)
	c, err := s.start("parent", os.Args[0], nil, helper("parent"), log, func(*child) { t.Error("its end was wanted") })
	require.NoError(t, err)
	grandchild := printed(t, func() string { b, _ := os.ReadFile(log); return string(b) })
	c.sample()
	assert.Greater(t, c.peak.Load(), int64(1<<20))
	assert.Len(t, s.running(), 1)
	s.killAll()
	assert.False(t, c.alive())
	gone(t, c.pid())
	gone(t, grandchild)
}

func TestChildrenDieWithTheDemo(t *testing.T) {
	t.Parallel()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer func() { _ = out.Close() }()
	cmd := exec.Command(os.Args[0], filepath.Join(t.TempDir(), "log"))
	cmd.Env, cmd.Stdout = helper("demo"), out
	require.NoError(t, cmd.Start())
	pid := printed(t, func() string { b, _ := os.ReadFile(out.Name()); return string(b) })
	require.NoError(t, syscall.Kill(pid, 0), "the child runs")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	gone(t, pid)
}

func TestAnUnwantedEndIsTold(t *testing.T) {
	t.Parallel()
	s := newSpawner(true)
	defer s.killAll()
	told := make(chan *child, 1)
	c, err := s.start("failing", os.Args[0], nil, helper("fail"), filepath.Join(t.TempDir(), "log"), func(c *child) { told <- c })
	require.NoError(t, err)
	assert.Same(t, c, <-told)
	assert.ErrorContains(t, c.err, "exit status 3")
	assert.Equal(t, "    something is wrong here", tail(c.log))
	require.Error(t, c.stop(t.Context()), "no clean end")
}

// run runs a demo with a program that is no forebay.
func run(t *testing.T, ctx context.Context, kind string, keep bool) (string, error) {
	t.Helper()
	var out bytes.Buffer
	dir := t.TempDir()
	d := New(Options{Source: plant(t), Dir: dir, LargeBytes: 1 << 20, Executable: os.Args[0], Keep: keep},
		Deps{Now: time.Now, Progress: show.NewProgress(&out, false, time.Now), Environ: helper(kind)})
	_, err := d.Run(ctx)
	for _, c := range d.cluster.spawner.all() {
		assert.False(t, c.alive())
	}
	return dir, err
}

func TestFailureKeepsTheLogsOnly(t *testing.T) {
	t.Parallel()
	dir, err := run(t, t.Context(), "fail", false)
	var failed *FailedError
	require.ErrorAs(t, err, &failed)
	assert.ErrorContains(t, err, "relay ended by itself (exit status 3)")
	assert.ErrorContains(t, err, "something is wrong here")
	assert.FileExists(t, filepath.Join(failed.Logs, "relay.log"))
	left, err := filepath.Glob(dir + "/*/*")
	require.NoError(t, err)
	for _, path := range left {
		st, err := os.Stat(path)
		require.NoError(t, err)
		assert.True(t, !st.IsDir() || filepath.Base(path) == "logs", path)
	}
}

func TestInterruptLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel) // the relay never answers: it is still waited for
	dir, err := run(t, ctx, "sleep", true)
	require.ErrorIs(t, err, context.Canceled)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestNoSourceNoSpace(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	dep := Deps{Now: time.Now, Progress: show.NewProgress(&out, false, time.Now)}
	_, err := New(Options{Source: "/no/such", Dir: t.TempDir()}, dep).Run(t.Context())
	require.ErrorContains(t, err, "--source")
	dir := t.TempDir()
	_, err = New(Options{Source: t.TempDir(), Dir: dir, LargeBytes: 1 << 60}, dep).Run(t.Context())
	require.ErrorContains(t, err, "are free")
	assert.Contains(t, out.String(), "of disk space")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestGuardCatchesAPanic(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	func() {
		defer guard(cancel)
		panic("oh")
	}()
	require.ErrorContains(t, context.Cause(ctx), "panic: oh")
}

// upload is a relay that knows one object, in the states that the test puts one after the other.
func upload(t *testing.T, states []proto.Where, events []proto.Event) *operator.Client {
	t.Helper()
	var n atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/where", func(w http.ResponseWriter, _ *http.Request) {
		i := n.Add(1)
		if i == 1 { // not known yet
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(proto.Errorf(proto.ClassPermanent, "no such object"))
			return
		}
		_ = json.NewEncoder(w).Encode(states[min(int(i)-2, len(states)-1)])
	})
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		after, err := strconv.Atoi(r.URL.Query().Get("after"))
		assert.NoError(t, err)
		_ = json.NewEncoder(w).Encode(events[min(after, len(events)):])
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	c, err := operator.New(srv.URL)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func sent(node string, acked int64) proto.Where {
	return proto.Where{Uploading: &proto.WhereUpload{Node: node, Acked: acked, Size: 100}}
}

func TestTakeoverIsWatched(t *testing.T) {
	t.Parallel()
	events := []proto.Event{
		{Seq: 1, Kind: "hello"},
		{Seq: 2, Kind: "takeover", Fields: map[string]string{"object": "primary/tree/other", "from": "node-a", "to": "node-c", "offset": "7"}},
		{Seq: 3, Kind: "takeover", Fields: map[string]string{"object": "primary/tree/large", "from": "node-a", "to": "node-b", "offset": "30", "cause": "connection lost"}},
	}
	c := upload(t, []proto.Where{
		{}, sent("", 0), sent("node-a", 10), sent("node-a", 25), // under way
		sent("node-a", 30), sent("", 30), sent("node-b", 30), sent("node-b", 30), sent("node-b", 38),
	}, events)
	w := &watcher{relay: c, object: object("large"), size: 100, now: time.Now}
	after, err := lastEvent(t.Context(), c)
	require.NoError(t, err)
	assert.EqualValues(t, 3, after)
	node, acked, err := w.untilUnderWay(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "node-a", node)
	assert.EqualValues(t, 25, acked)
	at := time.Now()
	got, err := w.successor(t.Context(), node, at, 0)
	require.NoError(t, err)
	assert.Equal(t, "node-b", got.Successor)
	assert.EqualValues(t, 30, got.FromByte)
	assert.Positive(t, got.FirstAfter)
	assert.Equal(t, "node-b took over from node-a at byte 30 of 100 (connection lost)", got.String())
}

func TestNothingToTakeOver(t *testing.T) {
	t.Parallel()
	c := upload(t, []proto.Where{sent("node-a", 3), {Current: &proto.WhereVersion{Size: 100}}}, nil)
	_, _, err := (&watcher{relay: c, object: object("large"), size: 100, now: time.Now}).untilUnderWay(t.Context())
	require.ErrorIs(t, err, errTooFast)

	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("node-b ended by itself")
	cancel(why)
	_, err = (&watcher{relay: c, object: "x", size: 100, now: time.Now}).successor(ctx, "node-a", time.Now(), 0)
	require.Error(t, err)
}

func TestFigures(t *testing.T) {
	t.Parallel()
	start := time.Unix(1e9, 0)
	now := start
	var out bytes.Buffer
	p := show.NewProgress(&out, false, func() time.Time { return now })
	m := &meter{link: "l", now: func() time.Time { return now }, started: start, total: 1000, firstCopy: 1000,
		acked: p.Start("acknowledged", show.InBytes), confirmed: p.Start("confirmed", show.InBytes)}
	note := func(after time.Duration, acked, confirmed int64) {
		now = start.Add(after)
		m.note(proto.Status{Cache: proto.CacheStatus{Coding: "2+1", AckedBytes: acked, WastedBytes: 50, WrittenBytes: 1650},
			Links:    []proto.LinkStatus{{Name: "other"}, {Name: "l", ConfirmedBytes: confirmed, ConfirmedObjects: 3}},
			Datasets: []proto.DatasetInfo{{Objects: 4, Bytes: 900}}})
	}
	note(time.Second, 500, 0)
	note(2*time.Second, 1000, 500)
	m.expect(100)
	note(4*time.Second, 1000, 1000)
	note(100*time.Second, 1100, 1100) // a change, much later: no matter of speed
	var s Summary
	m.figures(&s)
	assert.InDelta(t, 500, s.AckedPerSecond, 0.1)
	assert.InDelta(t, 250, s.FlushedPerSecond, 0.1)
	assert.EqualValues(t, 1100, s.LogicalBytes)
	assert.EqualValues(t, 1150, s.WireBytes)
	assert.InDelta(t, 1150.0/1100, s.WireOverObjects, 1e-9)
	assert.InDelta(t, 1, s.WriteAmplification, 1e-9)
	assert.EqualValues(t, 4, s.Objects)
	assert.EqualValues(t, 1100, s.ConfirmedBytes)
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	s := Summary{Mirror: treecmp.Result{Objects: 3}}
	s.judge()
	assert.Equal(t, VerdictEqual, s.Verdict)
	s.LeftOut = []leftOut{{"a\nb", "permission denied"}}
	s.judge()
	assert.Equal(t, VerdictPart, s.Verdict)
	var out bytes.Buffer
	s.Print(&out)
	assert.Contains(t, out.String(), `"a\nb": permission denied`)
	assert.Contains(t, out.String(), "IN PART")
	s.Restored.Differences = 1
	s.judge()
	assert.Equal(t, VerdictDifferent, s.Verdict)
}
