package api

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/agent/client"
	"forebay/proto"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	srv, _, a := serveAPI(t)
	c := client.New(srv.URL, 2, nil)
	defer c.Close()
	for _, n := range []int{0, 1, 3 << 20} {
		r, err := c.Probe(t.Context(), make([]byte, n))
		require.NoError(t, err)
		require.EqualValues(t, n, r.Bytes)
	}
	_, err := c.Probe(t.Context(), make([]byte, proto.MaxProbe+1))
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	req, err := http.NewRequest(http.MethodPut, srv.URL+proto.PathProbe, io.MultiReader(strings.NewReader("of no length")))
	require.NoError(t, err)
	resp, err := srv.Client().Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, proto.ClassPermanent.HTTPStatus(), resp.StatusCode)
	require.Empty(t, a.probes)
	require.Empty(t, a.slots)
}

// Probes that stand still keep other probes out, but no segments, and give their places back.
func TestProbesKeepNoSegmentsOut(t *testing.T) {
	t.Parallel()
	srv, _, a := serveAPI(t)
	var conns []net.Conn
	for range maxProbes {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		require.NoError(t, err)
		conns = append(conns, c)
		_, err = io.Copy(c, bytes.NewBufferString("PUT "+proto.PathProbe+" HTTP/1.1\r\nHost: relay\r\nContent-Length: 100\r\n\r\nx"))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return len(a.probes) == maxProbes }, 20*time.Second, time.Millisecond)
	c := client.New(srv.URL, 2, nil)
	defer c.Close()
	_, err := c.Probe(t.Context(), []byte("one more"))
	require.Equal(t, proto.ClassOverload, proto.ClassOf(err))
	require.Empty(t, a.slots)
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool { return len(a.probes) == 0 }, 20*time.Second, time.Millisecond)
	_, err = c.Probe(t.Context(), []byte("one more"))
	require.NoError(t, err)
}
