package main

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/agent"
	"forebay/proto"
)

func contextEnded(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx, cancel
}

func sampleStatus() proto.Status {
	return proto.Status{
		Schema: 1, Relay: "relay-1", Version: "v1", Now: "2026-11-22T10:00:00Z", Health: proto.Yellow,
		Problems: []proto.Problem{
			{Code: "slow", Health: proto.Yellow, Since: "2026-11-22T09:00:00Z", What: "it is slow", Do: "wait"},
			{Code: "store-failed", Health: proto.Red, Since: "2026-11-22T09:58:00Z", What: "store /d2 failed", Do: "replace the disk"},
		},
		Cache: proto.CacheStatus{State: "degraded", Coding: "2+1", CodingNow: "1+1", UsedBytes: 1 << 30, CapacityBytes: 4 << 30,
			InflowBytesPerSecond: 1 << 20, OutageSeconds: 7200, Stores: []proto.StoreStatus{{Path: "/d1", State: "ok"}, {Path: "/d2", State: "failed", LastError: "EIO"}}},
		Nodes: []proto.NodeStatus{{Node: "node-a", Cluster: "primary", State: "alive", Watch: "inotify", Unreadable: 2}},
		Links: []proto.LinkStatus{{Name: "media-nas", From: "primary/media", To: "nas", State: "waiting", Reason: "window opens 22:00",
			BacklogObjects: 12345, BacklogBytes: 3 << 20, LagSeconds: 65}},
		Bandwidth: proto.BandwidthStatus{Setting: "08:00,20MiB/s 19:00,off", Timezone: "UTC", LimitBytesPerSecond: 20 << 20},
		Datasets:  []proto.DatasetInfo{{Name: "primary/media", Objects: 7, Bytes: 9, Linked: true, UnderHeld: 1}},
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	r := newFakeRelay(t, map[string]any{"GET /v1/status": sampleStatus()})
	got := r.command("status")
	require.Equal(t, exitDone, got.code, got.errs)
	for _, want := range []string{
		"relay relay-1  YELLOW", "2 problems:", "-> replace the disk", "(for 2 min)", "coding 2+1 (new segments 1+1)", "1.0 GiB of 4.0 GiB used (25 %)",
		"room for an outage of 2 h", "store /d2 is failed: EIO", "12,345", "1 min 5 s", "window opens 22:00", "all links together: 20.0 MiB/s (08:00,20MiB/s 19:00,off)", "primary/node-a", "2 unreadable", "1 gone from some holders",
	} {
		assert.Contains(t, got.out, want)
	}
	assert.Less(t, strings.Index(got.out, "store-failed"), strings.Index(got.out, "slow"), "the worst first")
	assert.Less(t, strings.Index(got.out, "problems"), strings.Index(got.out, "cache"), "problems first")
}

func TestStatusJSONIsTheRelaysOwn(t *testing.T) {
	t.Parallel()
	r := newFakeRelay(t, map[string]any{"GET /v1/status": map[string]any{"health": "green", "from_the_future": 12345678901234567}})
	got := r.command("status", "--json", "--check")
	assert.Equal(t, exitDone, got.code)
	assert.JSONEq(t, `{"health":"green","from_the_future":12345678901234567}`, got.out)
	assert.Contains(t, got.out, "12345678901234567")
}

func TestStatusCheck(t *testing.T) {
	t.Parallel()
	for h, code := range map[proto.Health]int{proto.Green: exitDone, proto.Yellow: exitPart, proto.Red: exitFailed, "": exitFailed} {
		r := newFakeRelay(t, map[string]any{"GET /v1/status": proto.Status{Health: h}})
		got := r.command("status", "--check")
		assert.Equal(t, code, got.code, h)
		assert.Empty(t, got.errs, "the code says it")
	}
	assert.Equal(t, exitFailed, command(t, nil, "status", "--check", "--relay", "http://127.0.0.1:1").code)
}

func TestStatusOfAnAgent(t *testing.T) {
	t.Parallel()
	status := agent.Status{Node: "node-a", Cluster: "primary", Health: "red", Problems: []agent.Problem{{Code: "root", What: "/srv/media is not mounted"}},
		Roots: []agent.RootStatus{{Dataset: "media", Path: "/srv/media", Watch: "inotify", Objects: 12345, Unreadable: 1, Problem: "not mounted"}}}
	r := newFakeRelay(t, map[string]any{"GET /v1/status": status})
	got := command(t, nil, "status", "--agent", r.url, "--check")
	assert.Equal(t, exitFailed, got.code, got.errs)
	for _, want := range []string{"agent primary/node-a  RED", "root: /srv/media is not mounted", "relay    none", "12,345", "1 unreadable; not mounted", "never"} {
		assert.Contains(t, got.out, want)
	}
	got = command(t, nil, "status", "--agent", "http://127.0.0.1:1")
	assert.Contains(t, got.errs, "the agent at http://127.0.0.1:1 does not answer")
}

func TestListsFromStatus(t *testing.T) {
	t.Parallel()
	r := newFakeRelay(t, map[string]any{"GET /v1/status": sampleStatus()})
	got := r.command("nodes", "--json")
	require.Equal(t, exitDone, got.code, got.errs)
	var nodes []proto.NodeStatus
	require.NoError(t, json.Unmarshal([]byte(got.out), &nodes))
	assert.Equal(t, "node-a", nodes[0].Node)

	got = r.command("stores")
	assert.Equal(t, []string{"/d2", "failed", "0", "B", "0", "B", "0", "EIO"}, strings.Fields(strings.Split(got.out, "\n")[2]))
}

func TestNamesArePrintedHarmless(t *testing.T) {
	t.Parallel()
	r := newFakeRelay(t, map[string]any{
		"GET /v1/backlog": []proto.BacklogItem{{Link: "l", Path: "a\nb\x1b[2J", Kind: "file", State: "cached"}},
		"GET /v1/where":   proto.Where{Object: "p/d/\xff", Uploading: &proto.WhereUpload{Node: "node-b", Acked: 5, Size: 10, Epoch: "1.2"}},
	})
	got := r.command("backlog", "l", "--limit", "5")
	assert.Contains(t, got.out, `"a\nb\x1b[2J"`)
	assert.Equal(t, 2, strings.Count(got.out, "\n"))
	got = r.command("where", "p/d/\xff")
	assert.Contains(t, got.out, "5 B of 10 B (50 %) acknowledged, sent by node-b")
	assert.Equal(t, []string{"GET /v1/backlog?limit=5&link=l", "GET /v1/where?object=p%2Fd%2F%FF"}, r.calls())
}

func TestTableWrapsOnNarrowTerminals(t *testing.T) {
	t.Parallel()
	r := newFakeRelay(t, map[string]any{"GET /v1/backlog": []proto.BacklogItem{{Link: "l", Path: "p", Reason: strings.Repeat("because ", 20)}}})
	got := (&cli{width: 80}).try(t, map[string]string{"FOREBAY_RELAY": r.url}, "backlog")
	for _, line := range strings.Split(got.out, "\n") {
		assert.LessOrEqual(t, len(line), 80, line)
	}
	assert.Equal(t, 20, strings.Count(got.out, "because"))
}

func events(n int) []proto.Event {
	var all []proto.Event
	for i := range n {
		all = append(all, proto.Event{Seq: uint64(i + 1), At: time.Unix(int64(i), 0), Kind: "takeover", What: "event", Fields: map[string]string{"to": "node-b", "from": "node-a"}})
	}
	return all
}

func TestEvents(t *testing.T) {
	t.Parallel()
	all := events(2500)
	var waits atomic.Int64
	r := newFakeRelay(t, map[string]any{"GET /v1/events": http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		after, err := strconv.Atoi(req.URL.Query().Get("after"))
		assert.NoError(t, err)
		limit, err := strconv.Atoi(req.URL.Query().Get("limit"))
		assert.NoError(t, err)
		page := all[min(after, len(all)):min(len(all), after+limit)]
		if req.URL.Query().Get("wait") == "1" {
			if waits.Add(1) > 1 { // enough followed
				refuse(w, http.StatusInternalServerError, proto.ClassPermanent, "the end")
				return
			}
			page = []proto.Event{{Seq: 2501, Kind: "late", What: "came later"}}
		}
		_ = json.NewEncoder(w).Encode(page)
	})})
	got := r.command("events", "--last", "2", "--follow")
	assert.Equal(t, exitFailed, got.code)
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	require.Len(t, lines, 3)
	assert.Equal(t, "1970-01-01T00:41:38Z  takeover          event  [from=node-a to=node-b]", lines[0])
	assert.Contains(t, lines[2], "came later")

	got = r.command("events", "--last", "0", "--json")
	assert.Equal(t, exitDone, got.code)
	assert.Equal(t, 2500, strings.Count(got.out, "\n"))
}

// waiting serves a wait whose states come one after the other, the last again and again.
func waiting(t *testing.T, failures []proto.FailureInfo, states ...proto.WaitState) *relay {
	var n atomic.Int64
	return newFakeRelay(t, map[string]any{
		"POST /v1/links/l/scan": proto.ScanRequest{Token: 9},
		"GET /v1/links/l/wait": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(states[min(int(n.Add(1)), len(states))-1])
		}),
		"GET /v1/failures": failures,
	})
}

func TestWait(t *testing.T) {
	t.Parallel()
	busy := proto.WaitState{WaitingFor: []string{"window opens 22:00"}, Objects: 3, Bytes: 100}

	r := waiting(t, nil, busy, busy, proto.WaitState{Done: true})
	got := r.command("wait", "l")
	assert.Equal(t, exitDone, got.code, got.errs)
	assert.Equal(t, 1, strings.Count(got.errs, "waiting: window opens 22:00"), "said when it changes: %s", got.errs)
	assert.Contains(t, r.calls(), "GET /v1/links/l/wait?for=confirm&token=9")

	r = waiting(t, []proto.FailureInfo{{Kind: proto.FailUnreadable, Node: "node-a", Path: "secret", Reason: "permission denied"}}, proto.WaitState{Partial: true, Failures: 1})
	got = r.command("wait", "l", "--for", "ack")
	assert.Equal(t, exitPart, got.code)
	assert.Contains(t, got.out, "permission denied")
	assert.Contains(t, got.errs, "all but 1 object")

	r = waiting(t, nil, busy)
	got = r.command("wait", "l", "--timeout", "1s")
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, "not done after 1s, still waiting: window opens 22:00 (3 objects, 100 B to come)")

	r = waiting(t, []proto.FailureInfo{{Kind: proto.FailParked, Path: "x"}}, proto.WaitState{Partial: true, Failures: 1})
	got = r.command("wait", "l", "--json")
	assert.Equal(t, exitPart, got.code)
	var answer struct {
		Partial bool
		Listed  []proto.FailureInfo
	}
	require.NoError(t, json.Unmarshal([]byte(got.out), &answer))
	assert.True(t, answer.Partial)
	assert.Len(t, answer.Listed, 1)

	held := slices.Repeat([]proto.FailureInfo{{Kind: proto.FailHeld, Path: "held", Reason: "waits for the guard"}}, 1000)
	r = waiting(t, held, proto.WaitState{Partial: true, Failures: 1000})
	got = r.command("wait", "l")
	assert.Equal(t, exitPart, got.code)
	assert.Equal(t, 20, strings.Count(got.out, "waits for the guard"))
	assert.Contains(t, got.errs, "all but 1,000 objects, the first 20 are listed above; with --json, all are")
	got = r.command("wait", "l", "--json")
	assert.Equal(t, 1000, strings.Count(got.out, "waits for the guard"))
}

func TestFlush(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	backlog := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		items := []proto.BacklogItem{{Version: 3, State: "parked"}, {Version: 9, State: "cached"}} // parked, and newer than the flush
		if n.Add(1) == 1 {
			items = append(items, proto.BacklogItem{Version: 5, State: "cached"})
		}
		_ = json.NewEncoder(w).Encode(items)
	})
	r := newFakeRelay(t, map[string]any{
		"POST /v1/links/l/flush": proto.FlushReply{Objects: 2, Bytes: 10, Until: 5},
		"GET /v1/backlog":        backlog,
		"GET /v1/status":         proto.Status{Links: []proto.LinkStatus{{Name: "l", State: "stalled", Reason: "the target is not there"}}},
	})
	got := r.command("flush", "l", "--ignore-window")
	assert.Equal(t, exitPart, got.code, got.errs)
	assert.Contains(t, got.errs, "stalled: the target is not there")
	assert.Contains(t, got.errs, "1 object still parked or held")
	assert.Equal(t, "POST /v1/links/l/flush?ignore_window=1", r.calls()[1])

	before := len(r.calls())
	got = r.command("flush", "l", "--no-wait")
	assert.Equal(t, exitDone, got.code)
	assert.Equal(t, "2 objects, 10 B to be flushed\n", got.out)
	assert.Len(t, r.calls(), before+1)
}

func TestFlushEndsWhereTheTargetIsNotThere(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	r := newFakeRelay(t, map[string]any{
		"POST /v1/links/l/flush": proto.FlushReply{Objects: 2, Bytes: 10, Until: 5},
		"GET /v1/backlog":        []proto.BacklogItem{{Version: 5, State: "cached"}},
		"GET /v1/status": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			l := proto.LinkStatus{Name: "l", State: "stalled", Reason: "unmounted", NextTry: "2026-01-02T03:04:05Z"}
			if n.Add(1) > 2 { // it was tried anew
				l.NextTry = "2026-01-02T03:05:05Z"
			}
			_ = json.NewEncoder(w).Encode(proto.Status{Links: []proto.LinkStatus{l}})
		}),
	})
	got := r.command("flush", "l")
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, "link l is stalled: unmounted")
	assert.Equal(t, int64(3), n.Load(), "not before the target was tried")
}

func TestVerify(t *testing.T) {
	t.Parallel()
	stream := func(lines ...proto.VerifyLine) *relay {
		return newFakeRelay(t, map[string]any{"POST /v1/links/l/verify": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for _, l := range lines {
				_ = json.NewEncoder(w).Encode(l)
			}
		})})
	}
	diff := proto.VerifyLine{Path: "a\tb", Problem: "content", Detail: "at byte 7"}
	done := proto.VerifyLine{Done: true, Objects: 10, Total: 10}

	r := stream(proto.VerifyLine{Objects: 5, Total: 10}, done)
	got := r.command("verify", "l", "--deep", "--repair")
	assert.Equal(t, exitDone, got.code, got.errs)
	assert.Equal(t, []string{"POST /v1/links/l/verify?deep=1&repair=1"}, r.calls())

	got = stream(diff, done).command("verify", "l")
	assert.Equal(t, exitPart, got.code)
	assert.Equal(t, "content  \"a\\tb\"  at byte 7\n", got.out)

	got = stream(diff, done).command("verify", "l", "--json")
	assert.Equal(t, exitPart, got.code)
	assert.Equal(t, 2, strings.Count(got.out, "\n"))

	got = stream(proto.VerifyLine{Done: true, Error: "the target is not there"}).command("verify", "l")
	assert.Equal(t, exitFailed, got.code)
	got = stream(proto.VerifyLine{Objects: 1}).command("verify", "l")
	assert.Equal(t, exitFailed, got.code, "an end without Done is no clean end")
}

func TestPolicyAndSimpleCalls(t *testing.T) {
	t.Parallel()
	values := []proto.PolicyValue{{Key: "flush.age", Value: "5m", Origin: "set", SetAt: "2026-11-22T10:00:00Z"}}
	r := newFakeRelay(t, map[string]any{
		"GET /v1/links/l/policy": values, "POST /v1/links/l/policy": values, "POST /v1/links/l/pause": struct{}{}, "POST /v1/links/l/resume": struct{}{},
		"POST /v1/links/l/retry": map[string]int64{"objects": 2}, "POST /v1/nodes/n/cordon": struct{}{}, "POST /v1/links/l/deletes/approve": proto.HeldDeletes{Held: 7},
	})
	for _, c := range []struct{ line, call, body, out string }{
		{"policy show l", "GET /v1/links/l/policy", "", "set 2026-11-22T10:00:00Z"},
		{"policy set l age=5m size=1GiB", "POST /v1/links/l/policy", `{"set":["age=5m","size=1GiB"],"reset":null}`, "flush.age"},
		{"policy reset l", "POST /v1/links/l/policy", `{"set":null,"reset":["*"]}`, ""},
		{"policy reset l age", "POST /v1/links/l/policy", `{"set":null,"reset":["age"]}`, ""},
		{"pause l --for 1d", "POST /v1/links/l/pause?for=24h", "", ""},
		{"pause l", "POST /v1/links/l/pause", "", ""},
		{"resume l", "POST /v1/links/l/resume", "", ""},
		{"retry l a b", "POST /v1/links/l/retry", `["a","b"]`, "2 objects"},
		{"retry l", "POST /v1/links/l/retry", "", "2 objects"},
		{"nodes cordon n", "POST /v1/nodes/n/cordon", "", ""},
		{"deletes approve l --yes", "POST /v1/links/l/deletes/approve", "", "7 deletes approved"},
	} {
		got := r.command(strings.Fields(c.line)...)
		require.Equal(t, exitDone, got.code, "%s: %s", c.line, got.errs)
		assert.Contains(t, got.out, c.out, c.line)
		r.mu.Lock()
		assert.Equal(t, c.call, r.asked[len(r.asked)-1], c.line)
		assert.Equal(t, c.body, r.body[len(r.body)-1], c.line)
		r.mu.Unlock()
	}
	got := r.command("retry", "l", "a", "b", "c")
	assert.Equal(t, exitPart, got.code)
	assert.Contains(t, got.errs, "2 of 3 objects: the others are not parked")
}

func TestDeletesAreApprovedOnlyWhenSeen(t *testing.T) {
	t.Parallel()
	held := proto.HeldDeletes{Link: "l", Held: 2, Reason: "more than 20%", Paths: []string{"a"}}
	answers := map[string]any{"GET /v1/links/l/deletes": held, "POST /v1/links/l/deletes/approve": held}
	r := newFakeRelay(t, answers)
	got := r.command("deletes", "approve", "l")
	assert.Equal(t, exitUsage, got.code)
	assert.Len(t, r.calls(), 1)

	got = (&cli{in: strings.NewReader("y\n"), inTerminal: true, errTerminal: true}).try(t, map[string]string{"FOREBAY_RELAY": r.url}, "deletes", "approve", "l")
	assert.Equal(t, exitDone, got.code, got.errs)
	assert.Contains(t, got.out, "2 deletes held: more than 20%\n  a\n  and 1 more\n2 deletes approved")
}

func TestTargets(t *testing.T) {
	t.Parallel()
	r := newFakeRelay(t, map[string]any{
		"GET /v1/targets":            []proto.TargetInfo{{Name: "nas", Type: "dir", Where: "/mnt/nas", OK: true, Free: 1 << 30, Confirm: "sync"}},
		"POST /v1/targets/nas/check": proto.TargetInfo{Name: "nas", Error: "not mounted"},
	})
	got := r.command("targets")
	assert.Contains(t, got.out, "1.0 GiB")
	got = r.command("targets", "check", "nas")
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.out, "not mounted")
}

func TestObjectsAreNamedAsTheyAreListed(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"c/d/plain":         "c/d/plain",
		`c/d/"a\nb"`:        "c/d/a\nb",
		`"c/d/a\xff"`:       "c/d/a\xff",
		`c/d/"in quotes"`:   `c/d/"in quotes"`,
		`c/d/"\"quoted\""`:  `c/d/"quoted"`,
		`c/d/" blank"`:      "c/d/ blank",
		`c/d/"not\xclosed"`: `c/d/"not\xclosed"`,
	} {
		assert.Equal(t, want, unquoted(in), in)
	}
}
