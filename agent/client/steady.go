package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"forebay/proto"
)

// steady carries requests to one server over one connection, which it closes on errors alone. An http.Transport also closes one whose
// goroutine was not run for 50 ms after it had written a request (persistConn.wroteRequest in net/http), as happens to an agent on a
// busy node; the relay would take that for the agent's end, and its uploads would go to others.
//
// Requests must be safe to repeat: one that finds its connection dead goes out again over a new one.
type steady struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	tls  *tls.Config

	mu   sync.Mutex // one request at a time
	conn net.Conn   // nil when there is none
	in   *bufio.Reader
}

// RoundTrip sends a request and returns the answer with all of its body, which must be at most proto.MaxMessage+1 bytes.
func (s *steady) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.conn != nil && req.GetBody != nil
	resp, err := s.try(req)
	if err == nil || !again || req.Context().Err() != nil {
		return resp, err
	}
	body, berr := req.GetBody()
	if berr != nil {
		return nil, errors.Join(err, berr)
	}
	req = req.Clone(req.Context())
	req.Body = body
	return s.try(req)
}

// try sends a request over the connection that is there, or a new one. The lock is held.
func (s *steady) try(req *http.Request) (resp *http.Response, err error) {
	ctx := req.Context()
	if s.conn == nil {
		if err := s.open(ctx, req); err != nil {
			return nil, err
		}
	}
	conn := s.conn
	defer func() {
		if err != nil {
			s.drop()
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
		}
	}()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a dead connection fails anyway
	defer func() {
		if !stop() { // the deadline may still be on its way
			s.drop()
		}
	}()
	if err := req.Write(conn); err != nil { // which closes the request's body
		return nil, err
	}
	if resp, err = http.ReadResponse(s.in, req); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, proto.MaxMessage+2)) // not closed: that would read what is too much, too
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	// With more than one answer, such as a proxy's word beforehand, the next request would get this one's.
	if resp.Close || resp.StatusCode < 200 || len(body) > proto.MaxMessage+1 || s.in.Buffered() > 0 {
		s.drop()
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

func (s *steady) open(ctx context.Context, req *http.Request) error {
	address := req.URL.Host
	if req.URL.Port() == "" {
		port := "80"
		if req.URL.Scheme == "https" {
			port = "443"
		}
		address = net.JoinHostPort(req.URL.Hostname(), port)
	}
	conn, err := s.dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if req.URL.Scheme == "https" {
		cfg := s.tls.Clone()
		cfg.ServerName = req.URL.Hostname()
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close() // nothing was sent
			return err
		}
		conn = secure
	}
	s.conn, s.in = conn, bufio.NewReader(conn)
	return nil
}

// drop closes the connection. The lock is held.
func (s *steady) drop() {
	if s.conn != nil {
		_ = s.conn.Close() // what it carried is answered or failed
		s.conn, s.in = nil, nil
	}
}

// CloseIdleConnections closes the connection, as http.Client asks for it.
func (s *steady) CloseIdleConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}
