package client

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// polled is a server, which start starts, with a client, and counts its connections.
func polled(t *testing.T, start func(*httptest.Server), serve http.HandlerFunc) (cl *Client, s *httptest.Server, opened, closed *atomic.Int64) {
	t.Helper()
	opened, closed = new(atomic.Int64), new(atomic.Int64)
	s = httptest.NewUnstartedServer(serve)
	s.Config.ConnState = func(_ net.Conn, c http.ConnState) {
		switch c {
		case http.StateNew:
			opened.Add(1)
		case http.StateClosed:
			closed.Add(1)
		}
	}
	start(s)
	t.Cleanup(s.Close)
	cl = New(s.URL, 1, nil)
	t.Cleanup(cl.Close)
	return cl, s, opened, closed
}

func answers(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write(proto.Marshal(proto.PollReply{}))
}

// lateConn is a connection of a process that is not run for a while after it has written.
type lateConn struct{ net.Conn }

func (c lateConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	<-time.After(80 * time.Millisecond) // longer than net/http waits for the end of a write
	return n, err
}

func TestPollKeepsItsConnectionOnABusyNode(t *testing.T) {
	t.Parallel()
	cl, _, opened, closed := polled(t, (*httptest.Server).Start, answers)
	cl.poll.Transport.(*steady).dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialer().DialContext(ctx, network, address)
		return lateConn{c}, err
	}
	for range 3 {
		_, err := cl.Poll(t.Context(), proto.Poll{})
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, opened.Load())
	require.Zero(t, closed.Load())
}

func TestPollOverTLS(t *testing.T) {
	t.Parallel()
	cl, s, opened, _ := polled(t, (*httptest.Server).StartTLS, answers)
	_, err := cl.Poll(t.Context(), proto.Poll{})
	require.ErrorContains(t, err, "certificate")
	cl.poll.Transport.(*steady).tls.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for range 2 {
		_, err = cl.Poll(t.Context(), proto.Poll{})
		require.NoError(t, err)
	}
	require.EqualValues(t, 2, opened.Load())
	require.EqualValues(t, tls.VersionTLS13, tlsConfig().MinVersion)
}

// A relay that was restarted has closed the connection: the poll goes over a new one.
func TestPollAfterItsConnectionWasClosed(t *testing.T) {
	t.Parallel()
	cl, s, opened, _ := polled(t, (*httptest.Server).Start, answers)
	for n := range int64(3) {
		_, err := cl.Poll(t.Context(), proto.Poll{})
		require.NoError(t, err)
		require.Equal(t, n+1, opened.Load())
		s.CloseClientConnections()
	}
	s.Close()
	_, err := cl.Poll(t.Context(), proto.Poll{})
	require.ErrorContains(t, err, "refused")
}

// A poll that is given up closes its connection, and the next goes over a new one.
func TestPollThatIsGivenUp(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	release := sync.OnceFunc(func() { close(hang) })
	reached := make(chan struct{}, 2)
	cl, _, opened, closed := polled(t, (*httptest.Server).Start, func(w http.ResponseWriter, q *http.Request) {
		reached <- struct{}{}
		<-hang
		answers(w, q)
	})
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // ends with the first poll
		<-reached
		cancel()
	}()
	_, err := cl.Poll(ctx, proto.Poll{})
	require.ErrorIs(t, err, context.Canceled)
	release()
	_, err = cl.Poll(t.Context(), proto.Poll{})
	require.NoError(t, err)
	require.EqualValues(t, 2, opened.Load())
	require.Eventually(t, func() bool { return closed.Load() == 1 }, 10*time.Second, time.Millisecond)
}
