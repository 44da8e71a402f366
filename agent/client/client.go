// Package client is the agent's way to a relay: the calls of the agent API over HTTP/1.1. It keeps no state of its own but
// connections and what the relay reads, retries nothing and decides nothing. It imports proto only.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"forebay/proto"
)

// The times that bound a call. A call that hangs longer than its session lives is cancelled with the session.
const (
	dialTimeout     = 5 * time.Second
	callTimeout     = 30 * time.Second
	answerTimeout   = 60 * time.Second // from a segment's last byte to its acknowledgement
	continueTimeout = 2 * time.Second  // after which a segment's bytes go out unasked for
	keepAlive       = 5 * time.Second
)

// overloadPause is how long a relay that asked for patience without a time is left alone.
const overloadPause = time.Second

// Client speaks to one relay. It is safe for concurrent use, but for Hello and Poll, which share one connection: its end
// is the end of the session at the relay, so nothing else travels on it.
type Client struct {
	base  string
	poll  *http.Client
	calls *http.Client
	limit *rate.Limiter
	// coding is what the relay reads in requests, by its last answer to Hello: one that was started anew may be of an older release.
	coding atomic.Int32
}

// New returns a client for the relay at base, such as http://127.0.0.1:7480, that keeps at most conns connections besides
// the polling one. limit bounds the bytes of segments sent in a second; nil = no limit. Nothing is sent yet.
func New(base string, conns int, limit *rate.Limiter) *Client {
	return &Client{
		base:  strings.TrimSuffix(base, "/"),
		limit: limit,
		poll:  &http.Client{Transport: &steady{dial: dialer().DialContext, tls: tlsConfig()}, CheckRedirect: noRedirect},
		calls: &http.Client{Transport: transport(conns), CheckRedirect: noRedirect},
	}
}

func dialer() *net.Dialer { return &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive} }

func tlsConfig() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} }

func transport(conns int) *http.Transport {
	return &http.Transport{
		DialContext:           dialer().DialContext,
		MaxConnsPerHost:       conns,
		MaxIdleConnsPerHost:   conns,
		TLSHandshakeTimeout:   dialTimeout,
		ExpectContinueTimeout: continueTimeout,
		ResponseHeaderTimeout: answerTimeout,
		DisableCompression:    true,
		WriteBufferSize:       256 << 10,
		TLSClientConfig:       tlsConfig(),
		// HTTP/2 is slower for large bodies.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Base returns the relay's address as it was given.
func (c *Client) Base() string { return c.base }

// Close drops the connections; the relay then ends the session.
func (c *Client) Close() {
	c.poll.CloseIdleConnections()
	c.calls.CloseIdleConnections()
}

// Hello opens a session. ClassConflict: another live agent has the node's name.
func (c *Client) Hello(ctx context.Context, h proto.Hello) (r proto.HelloReply, err error) {
	if err = c.call(ctx, c.poll, proto.PathHello, h, &r); err == nil {
		c.coding.Store(int32(min(max(r.Coding, proto.CodingPlain), proto.Coding)))
	}
	return r, err
}

// Poll shows the relay that this agent lives. ClassConflict: the session is over.
func (c *Client) Poll(ctx context.Context, p proto.Poll) (r proto.PollReply, err error) {
	return r, c.call(ctx, c.poll, proto.PathPoll, p, &r)
}

// Claim asks for the right to upload. The answers are as many as the claims.
func (c *Client) Claim(ctx context.Context, b proto.ClaimBatch) (r proto.ClaimReply, err error) {
	if err := c.call(ctx, c.calls, proto.PathClaim, b, &r); err != nil {
		return r, err
	}
	if len(r.Answers) != len(b.Claims) {
		return r, proto.Errorf(proto.ClassPermanent, "claim at %s: %d answers to %d claims", c.base, len(r.Answers), len(b.Claims))
	}
	return r, nil
}

// Feed asks what was sealed after a version.
func (c *Client) Feed(ctx context.Context, q proto.FeedRequest) (r proto.FeedReply, err error) {
	return r, c.call(ctx, c.calls, proto.PathFeed, q, &r)
}

// Asked lists the owed versions that the relay's cache no longer has.
func (c *Client) Asked(ctx context.Context, q proto.FeedRequest) (r proto.FeedReply, err error) {
	return r, c.call(ctx, c.calls, proto.PathAsked, q, &r)
}

// Sums asks what the blocks of a path's current version are.
func (c *Client) Sums(ctx context.Context, q proto.SumsRequest) (r proto.SumsReply, err error) {
	return r, c.call(ctx, c.calls, proto.PathSums, q, &r)
}

// Report tells what a holder has and has no more.
func (c *Client) Report(ctx context.Context, rep proto.Report) (r proto.ReportReply, err error) {
	return r, c.call(ctx, c.calls, proto.PathReport, rep, &r)
}

// Abandon gives leases back.
func (c *Client) Abandon(ctx context.Context, a proto.Abandon) error {
	return c.call(ctx, c.calls, proto.PathAbandon, a, &proto.ReportReply{})
}

// Slow tells that a read hangs, and asks whether another holder goes on.
func (c *Client) Slow(ctx context.Context, s proto.Slow) (r proto.SlowReply, err error) {
	return r, c.call(ctx, c.calls, proto.PathSlow, s, &r)
}

// Segment sends one encoded segment. It returns when the relay has answered: what the answer calls accepted is durable.
// raw is not read any more then. ClassOverload carries RetryAfter; on ClassTransient the outcome is unknown and the same bytes may be
// sent again, which the relay answers with PieceDuplicate where they had arrived.
func (c *Client) Segment(ctx context.Context, session proto.SessionID, raw []byte) (r proto.SegmentReply, err error) {
	l := &loan{raw: raw}
	defer l.end() // the transport may not be done with the body yet
	body := func() (io.ReadCloser, error) { return io.NopCloser(c.limited(ctx, &lent{loan: l}, len(raw))), nil }
	first, _ := body()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base+proto.PathSegment, first)
	if err != nil {
		return r, fmt.Errorf("send segment: %w", err)
	}
	req.ContentLength, req.GetBody = int64(len(raw)), body
	req.Header.Set("Expect", "100-continue")
	req.Header.Set(proto.HeaderSession, strconv.FormatUint(uint64(session), 10))
	return r, c.do(c.calls, req, &r)
}

// Probe sends bytes that mean nothing, to measure the way to the relay. ClassOverload: others are at it.
func (c *Client) Probe(ctx context.Context, payload []byte) (r proto.ProbeReply, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base+proto.PathProbe, bytes.NewReader(payload))
	if err != nil {
		return r, fmt.Errorf("probe %s: %w", c.base, err)
	}
	if len(payload) > 0 {
		req.Header.Set("Expect", "100-continue") // as segments have it
	}
	return r, c.do(c.calls, req, &r)
}

func (c *Client) call(ctx context.Context, via *http.Client, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body := proto.Marshal(in)
	if len(body) > proto.MaxMessage {
		return proto.Errorf(proto.ClassPermanent, "%s: message of %d bytes, at most %d are allowed", path, len(body), proto.MaxMessage)
	}
	isPacked := false
	if via == c.calls && c.coding.Load() >= proto.CodingZstd { // hello and poll are how an agent learns that its relay is another one
		body, isPacked = proto.Pack(body)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call %s%s: %w", c.base, path, err)
	}
	if isPacked {
		req.Header.Set("Content-Encoding", proto.EncodingZstd)
	}
	return c.do(via, req, out)
}

func (c *Client) do(via *http.Client, req *http.Request, out any) error {
	req.Header.Set("Content-Type", proto.ContentType)
	req.Header.Set("Accept-Encoding", proto.EncodingZstd)
	resp, err := via.Do(req)
	if err != nil {
		return fmt.Errorf("relay: %w", err) // net/http names method and address
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, proto.MaxMessage+1)) // to the end: else the connection is not kept
	if err != nil {
		return fmt.Errorf("relay %s: read the answer to %s: %w", c.base, req.URL.Path, err)
	}
	if len(body) <= proto.MaxMessage && resp.Header.Get("Content-Encoding") == proto.EncodingZstd {
		if body, err = proto.Unpack(body); err != nil {
			return fmt.Errorf("relay %s: answer to %s: %w", c.base, req.URL.Path, err)
		}
	}
	if resp.StatusCode != http.StatusOK {
		return c.refusal(req.URL.Path, resp.StatusCode, body)
	}
	if len(body) > proto.MaxMessage {
		return proto.Errorf(proto.ClassPermanent, "relay %s: answer to %s is over %d bytes", c.base, req.URL.Path, proto.MaxMessage)
	}
	if err := proto.Unmarshal(body, out); err != nil {
		return fmt.Errorf("relay %s: answer to %s: %w", c.base, req.URL.Path, err)
	}
	return nil
}

// refusal makes an error of an answer that is none. A body that is no Error comes from something between agent and relay,
// or from no relay at all.
func (c *Client) refusal(path string, status int, body []byte) error {
	var e proto.Error
	if err := proto.Unmarshal(body, &e); err != nil || e.Class == "" {
		return proto.Errorf(proto.ClassTransient, "%s%s answered %d %s: is there a relay at this address?", c.base, path, status, http.StatusText(status))
	}
	if e.Class == proto.ClassOverload && e.RetryAfter <= 0 {
		e.RetryAfter = overloadPause
	}
	return &e
}

// loan is bytes that others read until it ends.
type loan struct {
	mu  sync.RWMutex
	raw []byte // nil once it has ended
}

func (l *loan) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.raw = nil
}

// lent reads what is lent.
type lent struct {
	loan *loan
	off  int
}

func (l *lent) Read(p []byte) (int, error) {
	l.loan.mu.RLock()
	defer l.loan.mu.RUnlock()
	switch {
	case l.loan.raw == nil:
		return 0, fs.ErrClosed
	case l.off == len(l.loan.raw):
		return 0, io.EOF
	}
	n := copy(p, l.loan.raw[l.off:])
	l.off += n
	return n, nil
}

// limited returns a reader of the n bytes of r that keeps to the limit.
func (c *Client) limited(ctx context.Context, r io.Reader, n int) io.Reader {
	if c.limit == nil {
		return r
	}
	return &limited{ctx: ctx, r: r, left: n, limit: c.limit}
}

// limited reads bytes at a limited rate. It lives as long as its request, whose context it carries.
type limited struct {
	ctx   context.Context
	r     io.Reader
	left  int // bytes in r
	limit *rate.Limiter
}

func (l *limited) Read(p []byte) (int, error) {
	n := min(len(p), l.left, l.limit.Burst())
	if n == 0 {
		return 0, io.EOF
	}
	if err := l.limit.WaitN(l.ctx, n); err != nil {
		return 0, err
	}
	n, err := l.r.Read(p[:n])
	l.left -= n
	return n, err
}

// RetryAfter returns the time that an overloaded relay asked for, 0 when err is nothing of the kind.
func RetryAfter(err error) time.Duration {
	var e *proto.Error
	if errors.As(err, &e) && e.Class == proto.ClassOverload {
		return e.RetryAfter
	}
	return 0
}
