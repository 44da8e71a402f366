package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// result is what a run of the command left.
type result struct {
	code      int
	out, errs string
}

// command runs the command line as if typed, without a terminal.
func command(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	return (&cli{in: strings.NewReader("")}).try(t, env, args...)
}

func (c *cli) try(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	c.out, c.errs, c.now = &out, &errs, time.Now
	c.lookupEnv = func(key string) (string, bool) {
		v, ok := env[key]
		return v, ok
	}
	code := c.run(t.Context(), args)
	return result{code, out.String(), errs.String()}
}

// relay is a relay with canned answers, and a record of what it was asked.
type relay struct {
	t   *testing.T
	url string

	mu    sync.Mutex
	asked []string
	body  []string
}

// newFakeRelay serves answers by "METHOD /path". A value is a http.HandlerFunc, or is sent as JSON.
func newFakeRelay(t *testing.T, answers map[string]any) *relay {
	t.Helper()
	r := &relay{t: t}
	mux := http.NewServeMux()
	for pattern, answer := range answers {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			body, err := io.ReadAll(req.Body)
			assert.NoError(t, err)
			r.mu.Lock()
			r.asked = append(r.asked, req.Method+" "+req.URL.RequestURI())
			r.body = append(r.body, string(body))
			r.mu.Unlock()
			if h, ok := answer.(http.HandlerFunc); ok {
				h(w, req)
				return
			}
			assert.NoError(t, json.NewEncoder(w).Encode(answer))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, proto.ClassPermanent, "no such thing here")
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	r.url = srv.URL
	return r
}

func refuse(w http.ResponseWriter, code int, class proto.Class, msg string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(proto.Error{Class: class, Message: msg})
}

func (r *relay) command(args ...string) result {
	r.t.Helper()
	return command(r.t, map[string]string{"FOREBAY_RELAY": r.url}, args...)
}

func (r *relay) calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.asked...)
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, says string }{
		{"statsu", `unknown verb "statsu", did you mean "status"?`},
		{"policy shw", `did you mean "show"?`},
		{"policy", "needs a verb"},
		{"link", "needs a verb"},
		{"status --nonsense", "unknown flag: --nonsense"},
		{"status more", "usage: forebay status"},
		{"wait", "usage: forebay wait LINK"},
		{"wait l --for confirmation", "want ack or confirm"},
		{"wait l --timeout soon", "soon"},
		{"nodes --relay localhost", "want http://HOST:PORT"},
		{"policy set l age", "want KEY=VALUE"},
		{"scrub show more", "usage: forebay scrub show"},
		{"versions media-nas", "name a LINK and a PATH"},
		{"conflicts media-nas a", "conflicts comes with a later release"},
		{"nodes revoke n", "nodes revoke comes with a later release"},
		{"stores add", "usage: forebay stores add PATH"},
		{"stores drain disk1", "want an absolute path"},
		{"policy simulate l --age 1d", "unknown flag: --age"},
	} {
		r := command(t, nil, strings.Fields(c.line)...)
		assert.Equal(t, exitUsage, r.code, c.line)
		assert.Contains(t, r.errs, c.says, c.line)
		assert.Equal(t, 1, strings.Count(r.errs, "\n"), "one line: %q", r.errs)
		assert.True(t, strings.HasPrefix(r.errs, "forebay: "), r.errs)
		assert.Empty(t, r.out, c.line)
	}
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	r := command(t, nil)
	assert.Equal(t, exitDone, r.code)
	assert.Contains(t, r.out, "Exit codes")
	assert.NotContains(t, r.out, "rebuild")
	r = command(t, nil, "version", "--json")
	require.Equal(t, exitDone, r.code)
	var v buildInfo
	require.NoError(t, json.Unmarshal([]byte(r.out), &v))
	assert.Equal(t, proto.Version, v.API)
}

func TestEnvironmentGivesFlags(t *testing.T) {
	t.Parallel()
	r := command(t, map[string]string{"FOREBAY_RELAY": "http://127.0.0.1:1"}, "status")
	assert.Equal(t, exitFailed, r.code)
	assert.Contains(t, r.errs, "the relay at http://127.0.0.1:1 does not answer (connect: connection refused)")
	r = command(t, map[string]string{"FOREBAY_RELAY": "http://127.0.0.1:1"}, "status", "--relay", "http://127.0.0.1:2")
	assert.Contains(t, r.errs, "127.0.0.1:2", "a flag beats the environment")
	r = command(t, map[string]string{"FOREBAY_TIMEOUT": "never"}, "wait", "l")
	assert.Equal(t, exitUsage, r.code)
	assert.Contains(t, r.errs, "FOREBAY_TIMEOUT")
}

func TestRelayErrorIsPassedOn(t *testing.T) {
	t.Parallel()
	r := newFakeRelay(t, nil)
	got := r.command("plan", "media")
	assert.Equal(t, exitFailed, got.code)
	assert.Equal(t, "forebay: no such thing here\n", got.errs)
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := contextEnded(t)
	defer cancel()
	r := newFakeRelay(t, map[string]any{"GET /v1/status": proto.Status{}})
	c := &cli{in: strings.NewReader(""), now: time.Now, lookupEnv: func(string) (string, bool) { return "", false }}
	var out, errs bytes.Buffer
	c.out, c.errs = &out, &errs
	assert.Equal(t, exitInterrupted, c.run(ctx, []string{"status", "--relay", r.url}))
	assert.Equal(t, "forebay: interrupted\n", errs.String())
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	status := proto.Status{Links: []proto.LinkStatus{{Name: "media-nas", BacklogObjects: 3, BacklogBytes: 2048}}}
	for _, c := range []struct {
		name     string
		args     []string
		terminal bool
		answer   string
		code     int
		dropped  bool
	}{
		{"no terminal", nil, false, "y\n", exitUsage, false},
		{"no terminal, --yes", []string{"--yes"}, false, "", exitDone, true},
		{"no", nil, true, "n\n", exitFailed, false},
		{"nothing typed", nil, true, "", exitFailed, false},
		{"yes", nil, true, " YES \n", exitDone, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newFakeRelay(t, map[string]any{"GET /v1/status": status, "POST /v1/links/media-nas/drop": struct{}{}})
			got := (&cli{in: strings.NewReader(c.answer), inTerminal: c.terminal, errTerminal: c.terminal}).
				try(t, map[string]string{"FOREBAY_RELAY": r.url}, append([]string{"link", "drop", "media-nas"}, c.args...)...)
			assert.Equal(t, c.code, got.code, got.errs)
			assert.Equal(t, c.dropped, strings.Contains(strings.Join(r.calls(), "\n"), "drop"))
			if c.terminal {
				assert.Contains(t, got.errs, "still owes 3 objects, 2.0 KiB")
			}
		})
	}
}
