package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/segment"
	"forebay/relay"
	"forebay/shard"
)

// serve runs a relay behind its API on a free loopback port.
func serve(t *testing.T) (*httptest.Server, *relay.Relay) {
	srv, r, _ := serveAPI(t)
	return srv, r
}

func serveAPI(t *testing.T) (*httptest.Server, *relay.Relay, *API) {
	dir := t.TempDir()
	st := filepath.Join(dir, "store")
	require.NoError(t, os.MkdirAll(st, 0o700))
	r, err := relay.Open(relay.Config{Name: "relay-t", Data: filepath.Join(dir, "data"), Stores: []string{st}, Coding: shard.Geometry{Data: 1}, Capacity: 1 << 30,
		High: 0.85, Low: 0.7, Suspicion: time.Minute, Software: "test",
		Links: []relay.Link{{Name: "l1", From: proto.Dataset{Cluster: "primary", Name: "media"}, Target: "dir:/x", To: "nas", Coalesce: true}}}, relay.Deps{Log: zerolog.Nop(), Now: time.Now})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }() // ended by the cleanup
	a := New(r)
	srv := httptest.NewUnstartedServer(a.Handler())
	srv.Config.ConnContext = a.ConnContext
	srv.Config.ConnState = a.ConnState
	srv.Start()
	t.Cleanup(func() {
		srv.Close()
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, r.Close())
	})
	return srv, r, a
}

// post sends one agent call and decodes its answer.
func post(t *testing.T, c *http.Client, url string, in, out any) error {
	resp, err := c.Post(url, proto.ContentType, bytes.NewReader(proto.Marshal(in)))
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if resp.StatusCode != http.StatusOK {
		var e proto.Error
		require.NoError(t, proto.Unmarshal(body, &e))
		return &e
	}
	return proto.Unmarshal(body, out)
}

func hello(t *testing.T, c *http.Client, url, node string) proto.HelloReply {
	var rep proto.HelloReply
	require.NoError(t, post(t, c, url+proto.PathHello, proto.Hello{Version: 1, Cluster: "primary", Node: node, Instance: node,
		Roots: []proto.Root{{Dataset: "media", Path: "/m", Index: "i"}}, ClockNs: time.Now().UnixNano()}, &rep))
	return rep
}

func TestSegmentsThatAreRefused(t *testing.T) {
	t.Parallel()
	srv, _ := serve(t)
	h := hello(t, srv.Client(), srv.URL, "a")
	put := func(session string, body []byte) (int, proto.Error) {
		req, err := http.NewRequest(http.MethodPut, srv.URL+proto.PathSegment, bytes.NewReader(body))
		require.NoError(t, err)
		req.Header.Set(proto.HeaderSession, session)
		resp, err := srv.Client().Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		var e proto.Error
		if resp.StatusCode != http.StatusOK {
			require.NoError(t, proto.Unmarshal(b, &e))
		}
		return resp.StatusCode, e
	}
	content := []byte("hello")
	raw, err := segment.Encode(segment.Header{Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Pieces: []segment.Piece{{Kind: segment.PieceObject, Path: "x",
		Length: 5, Blocks: proto.BlockDigests(nil, content), Desc: &proto.Desc{Kind: proto.KindFile, Size: 5, Digest: proto.ContentDigest(content)}}}}, content)
	require.NoError(t, err)
	session := fmt.Sprint(uint64(h.Session))
	flipped := bytes.Clone(raw)
	flipped[len(flipped)-1] ^= 1
	newer := bytes.Clone(raw)
	newer[5] = 9
	lies := bytes.Clone(raw)
	lies[28] = 0x7f // a payload length over the limit, with a checksum that no longer fits
	for name, c := range map[string]struct {
		session string
		body    []byte
		class   proto.Class
		says    string
	}{
		"no session":     {"", raw, proto.ClassPermanent, "want a session number"},
		"unknown":        {"7", raw, proto.ClassConflict, "say hello again"},
		"wrong digest":   {session, flipped, proto.ClassCorrupt, "digest"},
		"newer format":   {session, newer, proto.ClassPermanent, "newer release"},
		"header lies":    {session, lies, proto.ClassCorrupt, "checksum"},
		"no segment":     {session, bytes.Repeat([]byte("x"), 100), proto.ClassPermanent, "not a segment"},
		"cut short":      {session, raw[:len(raw)-2], proto.ClassTransient, "read segment"},
		"more behind it": {session, append(bytes.Clone(raw), 0), proto.ClassPermanent, "more bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			status, e := put(c.session, c.body)
			require.Equal(t, c.class, e.Class)
			require.Contains(t, e.Message, c.says)
			require.Equal(t, c.class.HTTPStatus(), status)
		})
	}
}

func TestOperatorsSeeWhatTheyAskFor(t *testing.T) {
	t.Parallel()
	srv, _ := serve(t)
	hello(t, srv.Client(), srv.URL, "a")
	read := func(path string, status int) []byte {
		resp, err := srv.Client().Get(srv.URL + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, status, resp.StatusCode, "%s: %s", path, b)
		return b
	}
	var st proto.Status
	require.NoError(t, json.Unmarshal(read("/v1/status", 200), &st))
	require.Equal(t, "relay-t", st.Relay)
	require.Len(t, st.Nodes, 1)
	require.Equal(t, "alive", st.Nodes[0].State)
	require.Equal(t, "primary/media", st.Datasets[0].Name)
	require.Contains(t, string(read("/metrics", 200)), `forebay_link_backlog_bytes{link="l1"} 0`)
	require.Equal(t, "ok\n", string(read("/healthz", 200)))
	read("/readyz?lag=10m", 200)
	read("/readyz?lag=10parsecs", 400)
	require.Contains(t, string(read("/v1/where?object=primary/media/nothing", 404)), "there is no object")
	require.Contains(t, string(read("/v1/where?object=primary/medai/x", 404)), "primary/media")
	require.Contains(t, string(read("/v1/links/nope/wait", 404)), `there are: l1`)
	require.Contains(t, string(read("/v1/backlog?link=nope", 404)), "there is no link")
	require.Equal(t, "[]\n", string(read("/v1/backlog", 200)))
	var evs []proto.Event
	require.Eventually(t, func() bool {
		require.NoError(t, json.Unmarshal(read("/v1/events", 200), &evs))
		return len(evs) > 0
	}, 10*time.Second, 10*time.Millisecond)
}

func TestLostConnectionEndsTheSession(t *testing.T) {
	t.Parallel()
	srv, r := serve(t)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	h := hello(t, client, srv.URL, "a")
	var rep proto.PollReply
	require.NoError(t, post(t, client, srv.URL+proto.PathPoll, proto.Poll{Session: h.Session, ClockNs: time.Now().UnixNano()}, &rep))
	client.CloseIdleConnections()
	require.Eventually(t, func() bool {
		_, err := r.Claim(context.Background(), proto.ClaimBatch{Session: h.Session, Holder: h.Holders[0]})
		return err != nil && strings.Contains(err.Error(), "say hello again")
	}, 10*time.Second, 5*time.Millisecond, "long before the suspicion time of a minute")
}

// An agent whose connection was cut off polls over another. That the old one is closed, which the relay may hear of much later, ends nothing
// then.
func TestConnectionThatWasReplacedEndsNoSession(t *testing.T) {
	t.Parallel()
	srv, r, a := serveAPI(t)
	h := hello(t, srv.Client(), srv.URL, "a")
	lives := func() bool {
		_, err := r.Poll(t.Context(), proto.Poll{Session: h.Session, ClockNs: time.Now().UnixNano()})
		return err == nil
	}
	before, now := net.Pipe()
	for _, c := range []net.Conn{before, now} {
		a.bind(a.ConnContext(t.Context(), c), h.Session)
	}
	a.ConnState(before, http.StateClosed)
	require.True(t, lives())
	a.ConnState(now, http.StateClosed)
	require.False(t, lives(), "the last one")
}
