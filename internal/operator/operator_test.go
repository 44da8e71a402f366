package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// fake serves handlers by method and path, "GET /v1/status".
func fake(t *testing.T, handlers map[string]http.HandlerFunc) *Client {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, h := range handlers {
		mux.HandleFunc(pattern, h)
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	c, err := New(srv.URL + "/")
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func answer(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "127.0.0.1", "ftp://x", "http://", "http://x?y", "http://a b"} {
		_, err := New(bad)
		assert.Error(t, err, bad)
	}
	for _, good := range []string{"http://127.0.0.1:7480/", "127.0.0.1:7480"} {
		c, err := New(good)
		require.NoError(t, err)
		assert.Equal(t, "http://127.0.0.1:7480", c.URL())
	}
}

func TestObjectsTravelAsBytes(t *testing.T) {
	t.Parallel()
	object := "primary/media/a b\n\xff+%&?#"
	c := fake(t, map[string]http.HandlerFunc{"GET /v1/where": func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, object, r.URL.Query().Get("object"))
		_ = json.NewEncoder(w).Encode(proto.Where{Uploading: &proto.WhereUpload{Node: "node-b", Acked: 7}})
	}})
	w, err := c.Where(t.Context(), object)
	require.NoError(t, err)
	assert.EqualValues(t, 7, w.Uploading.Acked)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	c := fake(t, map[string]http.HandlerFunc{
		"POST /v1/links/{link}/scan": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(proto.Errorf(proto.ClassPermanent, "no link %q; there is %q", r.PathValue("link"), "media-nas"))
		},
		"GET /v1/status": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
	})
	_, err := c.Scan(t.Context(), "media-nsa")
	require.EqualError(t, err, `no link "media-nsa"; there is "media-nas"`)
	assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err))

	_, err = c.Status(t.Context())
	require.ErrorContains(t, err, "is that a Forebay relay")
	var raw json.RawMessage
	require.ErrorContains(t, c.Get(t.Context(), "/v1/status", nil, &raw), "did not answer in JSON")
	require.ErrorContains(t, c.Get(t.Context(), "/v1/nothing", nil, &raw), "404 Not Found: is that a Forebay relay")
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	url := srv.URL
	srv.Close()
	c, err := New(url)
	require.NoError(t, err)
	_, err = c.Status(t.Context())
	var u *UnreachableError
	require.ErrorAs(t, err, &u)
	assert.ErrorContains(t, err, url)
	assert.ErrorContains(t, err, "FOREBAY_RELAY")
	assert.ErrorContains(t, err, "connection refused")
	assert.NotContains(t, err.Error(), "Get ")

	a, err := NewAgent(url)
	require.NoError(t, err)
	_, err = a.Status(t.Context())
	assert.ErrorContains(t, err, "agent.yaml")
}

func TestStream(t *testing.T) {
	t.Parallel()
	c := fake(t, map[string]http.HandlerFunc{"POST /v1/links/l/verify": func(w http.ResponseWriter, _ *http.Request) {
		for i := range 3 {
			_ = json.NewEncoder(w).Encode(proto.VerifyLine{Objects: int64(i), Done: i == 2})
		}
	}})
	var lines int
	require.NoError(t, c.Stream(t.Context(), LinkPath("l", "verify"), nil, func(json.RawMessage) error { lines++; return nil }))
	assert.Equal(t, 3, lines)
	stop := errors.New("enough")
	require.ErrorIs(t, c.Stream(t.Context(), LinkPath("l", "verify"), nil, func(json.RawMessage) error { return stop }), stop)
}

func TestWaitGoesOnUntilDone(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	c := fake(t, map[string]http.HandlerFunc{
		"POST /v1/links/l/scan": answer(proto.ScanRequest{Token: 42}),
		"GET /v1/links/l/wait": func(w http.ResponseWriter, r *http.Request) {
			assert.Equal(t, "42", r.URL.Query().Get("token"))
			assert.Equal(t, "ack", r.URL.Query().Get("for"))
			switch calls.Add(1) {
			case 1:
				_ = json.NewEncoder(w).Encode(proto.WaitState{WaitingFor: []string{"a scan of node-a"}, Objects: 5})
			case 2: // a relay that restarts
				w.WriteHeader(http.StatusInternalServerError)
				_ = json.NewEncoder(w).Encode(proto.Errorf(proto.ClassTransient, "starting"))
			default:
				_ = json.NewEncoder(w).Encode(proto.WaitState{Done: true})
			}
		},
	})
	var told []proto.WaitState
	last, err := c.Wait(t.Context(), "l", UntilAck, func(s proto.WaitState) { told = append(told, s) })
	require.NoError(t, err)
	assert.True(t, last.Done)
	assert.Len(t, told, 2)
}

func TestWaitEnds(t *testing.T) {
	t.Parallel()
	c := fake(t, map[string]http.HandlerFunc{
		"POST /v1/links/l/scan":    answer(proto.ScanRequest{}),
		"GET /v1/links/l/wait":     answer(proto.WaitState{WaitingFor: []string{"window opens 22:00"}}),
		"POST /v1/links/gone/scan": answer(proto.ScanRequest{}),
		"GET /v1/links/gone/wait": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(proto.Errorf(proto.ClassPermanent, "no such link"))
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last, err := c.Wait(ctx, "l", UntilConfirm, func(proto.WaitState) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, []string{"window opens 22:00"}, last.WaitingFor)

	_, err = c.Wait(t.Context(), "gone", UntilConfirm, func(proto.WaitState) {})
	require.EqualError(t, err, fmt.Sprintf("wait for link gone: %s", "no such link"))
}
