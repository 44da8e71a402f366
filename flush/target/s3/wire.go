package s3

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// Deadlines. A server that is there and thinks (completing a large upload) sends something now and then.
const (
	dialTimeout = 10 * time.Second
	quietLimit  = 2 * time.Minute // without a byte in either direction
	idleLimit   = 90 * time.Second
)

// wire is the transport: connections on which nothing moves for long are given up, and the server's clock is remembered.
type wire struct {
	now  func() time.Time
	base *http.Transport

	mu     sync.Mutex
	server time.Time     // by its last answer
	off    time.Duration // less our clock then
}

func newWire(now func() time.Time, tlsConfig *tls.Config, conns int) *wire {
	w := &wire{now: now}
	dial := &net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}}
	w.base = &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig, TLSHandshakeTimeout: dialTimeout, MaxIdleConns: conns, MaxIdleConnsPerHost: conns,
		IdleConnTimeout: idleLimit, DisableCompression: true, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &movingConn{Conn: c, now: now}, nil
		},
	}
	return w
}

func (w *wire) close() { w.base.CloseIdleConnections() }

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.base.RoundTrip(r)
	if err != nil {
		return resp, err
	}
	if at, perr := http.ParseTime(resp.Header.Get("Date")); perr == nil {
		w.mu.Lock()
		w.server, w.off = at, at.Sub(w.now())
		w.mu.Unlock()
	}
	return resp, nil
}

// clock is the server's at its last answer, zero when it has told none.
func (w *wire) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.server
}

// skew is how far the server's clock was ahead of ours, to a second.
func (w *wire) skew() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.off
}

// movingConn gives each read and write quietLimit.
type movingConn struct {
	net.Conn
	now func() time.Time
}

func (c *movingConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(c.now().Add(quietLimit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *movingConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(c.now().Add(quietLimit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
