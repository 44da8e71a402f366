package main

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

func TestStoreVerbs(t *testing.T) {
	t.Parallel()
	change := proto.StoreChange{Store: proto.StoreStatus{Path: "/d4", State: "ok"}, Configure: "cache.stores: [/d1, /d4]"}
	lossy := proto.StoreChange{Store: proto.StoreStatus{Path: "/d2", State: "missing"}, Segments: 9, Lost: 4}
	for _, c := range []struct {
		line []string
		call string
		says []string
	}{
		{[]string{"stores", "add", "/d4"}, "POST /v1/stores/add?path=%2Fd4", []string{"store /d4: ok", "put into relay.yaml: cache.stores: [/d1, /d4]"}},
		{[]string{"stores", "drain", "/d2/"}, "POST /v1/stores/drain?path=%2Fd2", []string{"9 segments with a shard in it"}},
		{[]string{"stores", "drain", "/d2", "--lost", "--yes"}, "POST /v1/stores/drain?lost=1&path=%2Fd2", []string{"4 segments cannot be read without it"}},
		{[]string{"stores", "drain", "/d2", "--lost", "--dry-run"}, "POST /v1/stores/drain?dry_run=1&lost=1&path=%2Fd2", []string{"4 segments cannot be read without it"}},
		{[]string{"stores", "replace", "/d2", "--yes"}, "POST /v1/stores/replace?path=%2Fd2", []string{"4 segments cannot be read without it"}},
		{[]string{"stores", "replace", "/d2", "--dry-run"}, "POST /v1/stores/replace?dry_run=1&path=%2Fd2", []string{"store /d2: missing, 9 segments"}},
	} {
		r := newFakeRelay(t, map[string]any{"POST /v1/stores/add": change, "POST /v1/stores/drain": lossy, "POST /v1/stores/replace": lossy})
		got := r.command(c.line...)
		require.Equal(t, exitDone, got.code, "%v: %s", c.line, got.errs)
		assert.Equal(t, []string{c.call}, r.calls(), "%v", c.line)
		for _, s := range c.says {
			assert.Contains(t, got.out, s, "%v", c.line)
		}
	}
	// What gives something up asks, with what it would cost; without a terminal nothing is done.
	r := newFakeRelay(t, map[string]any{"POST /v1/stores/replace": lossy})
	got := r.command("stores", "replace", "/d2")
	assert.Equal(t, exitUsage, got.code)
	assert.Equal(t, []string{"POST /v1/stores/replace?dry_run=1&path=%2Fd2"}, r.calls())
	assert.Contains(t, got.out, "4 segments cannot be read without it")
}

func TestDrainWaits(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	status := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s := proto.StoreStatus{Path: "/d2", State: "ok", Role: "draining", Segments: 5}
		if asked.Add(1) > 2 {
			s = proto.StoreStatus{Path: "/d2", State: "drained", Role: "drained"}
		}
		_ = json.NewEncoder(w).Encode(proto.Status{Cache: proto.CacheStatus{Stores: []proto.StoreStatus{s}}})
	})
	r := newFakeRelay(t, map[string]any{"GET /v1/status": status, "POST /v1/stores/drain": proto.StoreChange{Store: proto.StoreStatus{Path: "/d2", State: "ok", Role: "draining"}}})
	got := r.command("stores", "drain", "/d2", "--wait")
	require.Equal(t, exitDone, got.code, got.errs)
	assert.EqualValues(t, 3, asked.Load())
	assert.Contains(t, got.out, "store /d2: ok, draining")
}

func TestScrubVerb(t *testing.T) {
	t.Parallel()
	running := proto.ScrubStatus{State: "running", Now: &proto.ScrubRound{StartedAt: "t0", Bytes: 1 << 20, TotalBytes: 4 << 20, Found: 1}, RateBytesPerSecond: 1 << 20, ETASeconds: 3}
	r := newFakeRelay(t, map[string]any{"POST /v1/scrub": running, "GET /v1/scrub": running})
	got := r.command("scrub")
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Contains(t, got.out, "1.0 MiB of 4.0 MiB, 1.0 MiB/s, 3 s left; 1 bad shard, 0 written anew")
	got = r.command("scrub", "show", "--json")
	assert.Contains(t, got.out, `"state": "running"`)
	assert.Equal(t, []string{"POST /v1/scrub", "GET /v1/scrub"}, r.calls())

	for _, c := range []struct {
		last proto.ScrubRound
		code int
	}{
		{proto.ScrubRound{EndedAt: "t2", Found: 3, Healed: 3, Segments: 7}, exitDone},
		{proto.ScrubRound{EndedAt: "t2", Found: 3, Healed: 2, Segments: 7}, exitPart},
		{proto.ScrubRound{EndedAt: "t2", Lost: 1, Segments: 7}, exitPart},
	} {
		var asked atomic.Int64
		state := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			s := proto.ScrubStatus{State: "running", Now: running.Now, Last: &proto.ScrubRound{EndedAt: "t1"}}
			if asked.Add(1) > 2 {
				s = proto.ScrubStatus{State: "idle", Last: &c.last}
			}
			_ = json.NewEncoder(w).Encode(s)
		})
		r := newFakeRelay(t, map[string]any{"GET /v1/scrub": state, "POST /v1/scrub": running})
		got := r.command("scrub", "--wait")
		assert.Equal(t, c.code, got.code, got.errs)
		assert.Contains(t, got.out, "last: ended t2")
	}
}
