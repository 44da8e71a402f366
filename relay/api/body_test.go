package api

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/segment"
)

// Senders that stand still in the middle of segments have all places in memory. Once their session ends, others have them.
func TestStoppedSendersDoNotKeepOthersOut(t *testing.T) {
	t.Parallel()
	srv, r, a := serveAPI(t)
	stopped, other := hello(t, srv.Client(), srv.URL, "a"), hello(t, srv.Client(), srv.URL, "b")
	for range cap(a.slots) {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
		_, err = fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: relay\r\n%s: %d\r\nContent-Length: 100000\r\n\r\nForebay", proto.PathSegment, proto.HeaderSession, stopped.Session)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return len(a.slots) == cap(a.slots) }, 20*time.Second, time.Millisecond)

	raw, err := segment.Encode(segment.Header{Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Pieces: []segment.Piece{{Kind: segment.PieceMeta, Path: "x",
		Desc: &proto.Desc{Kind: proto.KindFile}}}}, nil)
	require.NoError(t, err)
	req, err := http.NewRequest(http.MethodPut, srv.URL+proto.PathSegment, bytes.NewReader(raw))
	require.NoError(t, err)
	req.Header.Set(proto.HeaderSession, fmt.Sprint(uint64(other.Session)))
	type answer struct {
		status int
		body   []byte
		err    error
	}
	got := make(chan answer, 1)
	go func() { // ends with the answer
		resp, err := srv.Client().Do(req)
		if err != nil {
			got <- answer{err: err}
			return
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		got <- answer{resp.StatusCode, b, err}
	}()
	r.EndSession(stopped.Session, "silent")
	end := <-got
	require.NoError(t, end.err)
	require.Equal(t, http.StatusOK, end.status, "%q", end.body)
	require.Eventually(t, func() bool { return len(a.slots) == 0 }, 20*time.Second, time.Millisecond)
}
