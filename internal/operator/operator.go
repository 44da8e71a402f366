// Package operator is the operators' side of the relay's HTTP API, as proto/status.go lists it: what the command line, the
// demo and the tests of the whole ask a relay with. It imports proto only; it prints nothing and keeps no state but
// connections.
package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"forebay/proto"
)

const (
	dialTimeout   = 5 * time.Second
	answerTimeout = 90 * time.Second // until the first byte: a call that waits for an event is held for 30 s
	maxAnswer     = 64 << 20         // bytes of a whole answer
	maxError      = 64 << 10         // bytes of an error's body
)

// Client asks one relay, or one agent for its own status. It may be used by several goroutines.
type Client struct {
	base  string
	peer  string // "relay" or "agent", for messages
	httpc *http.Client
}

// Dial connects to an address, as net.Dialer.DialContext does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// New returns a client of the relay at base, such as http://127.0.0.1:7480. It does not connect. It fails when base is no
// URL of a relay.
func New(base string) (*Client, error) {
	return newClient(base, "relay", (&net.Dialer{Timeout: dialTimeout}).DialContext)
}

// NewAgent returns a client of the agent that listens at base.
func NewAgent(base string) (*Client, error) {
	return newClient(base, "agent", (&net.Dialer{Timeout: dialTimeout}).DialContext)
}

// NewVia is New, and NewAgentVia is NewAgent, for a peer in another network, which dial reaches.
func NewVia(base string, dial Dial) (*Client, error) { return newClient(base, "relay", dial) }

// NewAgentVia returns a client of the agent that listens at base in the network of dial.
func NewAgentVia(base string, dial Dial) (*Client, error) { return newClient(base, "agent", dial) }

func newClient(base, peer string, dial Dial) (*Client, error) {
	if _, _, err := net.SplitHostPort(base); err == nil && !strings.Contains(base, "/") {
		base = "http://" + base // HOST:PORT is as clear
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("%s URL %q: %w", peer, base, err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%s URL %q: want http://HOST:PORT", peer, base)
	}
	return &Client{
		base: strings.TrimSuffix(u.String(), "/"),
		peer: peer,
		httpc: &http.Client{Transport: &http.Transport{
			DialContext:           dial,
			ResponseHeaderTimeout: answerTimeout,
			MaxIdleConnsPerHost:   4,
			IdleConnTimeout:       time.Minute,
		}},
	}, nil
}

// Close gives up idle connections.
func (c *Client) Close() { c.httpc.CloseIdleConnections() }

// URL is where the client asks.
func (c *Client) URL() string { return c.base }

// UnreachableError says that nobody answered.
type UnreachableError struct {
	URL  string
	Peer string // relay or agent
	Err  error
}

// Error says what was tried, why it failed, and how to name another address.
func (e *UnreachableError) Error() string {
	how := "is it running? name another with --relay URL or FOREBAY_RELAY"
	if e.Peer == "agent" {
		how = "is it running, and is `listen` set in its agent.yaml?"
	}
	return fmt.Sprintf("the %s at %s does not answer (%v): %s", e.Peer, e.URL, e.Err, how)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Get asks for path and decodes the answer into v; a *json.RawMessage gets it as it is. Errors of the relay are
// *proto.Error, no answer at all is *UnreachableError, the end of ctx is ctx's.
func (c *Client) Get(ctx context.Context, path string, query url.Values, v any) error {
	return c.call(ctx, http.MethodGet, path, query, nil, v)
}

// Post is Get with POST and, unless body is nil, body as JSON.
func (c *Client) Post(ctx context.Context, path string, query url.Values, body, v any) error {
	return c.call(ctx, http.MethodPost, path, query, body, v)
}

func (c *Client) call(ctx context.Context, method, path string, query url.Values, body, v any) error {
	r, err := c.open(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	raw, err := io.ReadAll(io.LimitReader(r, maxAnswer))
	if err != nil {
		return c.lost(ctx, err)
	}
	return c.decode(path, raw, v)
}

func (c *Client) decode(path string, raw []byte, v any) error {
	switch v := v.(type) {
	case nil:
		return nil
	case *json.RawMessage:
		if !json.Valid(raw) {
			return fmt.Errorf("%s%s did not answer in JSON: is that a Forebay %s?", c.base, path, c.peer)
		}
		*v = raw
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("answer of %s%s: %w: is that a Forebay %s of this version?", c.base, path, err, c.peer)
	}
	return nil
}

// Stream posts to path and calls each with every line of the answer, until it ends or each fails.
func (c *Client) Stream(ctx context.Context, path string, query url.Values, each func(line json.RawMessage) error) error {
	r, err := c.open(ctx, http.MethodPost, path, query, nil)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	dec := json.NewDecoder(r)
	for {
		var line json.RawMessage
		if err := dec.Decode(&line); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return c.lost(ctx, err)
		}
		if err := each(line); err != nil {
			return err
		}
	}
}

// open makes a call and returns the body of a good answer.
func (c *Client) open(ctx context.Context, method, path string, query url.Values, body any) (io.ReadCloser, error) {
	var payload io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode the body of %s: %w", path, err)
		}
		payload = bytes.NewReader(raw)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, payload)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, target, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.httpc.Do(req)
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }()
	return nil, c.refused(path, resp)
}

// refused reads the error of an answer that is not 2xx.
func (c *Client) refused(path string, resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxError)) // what came is all there is to show
	var e proto.Error
	if err := json.Unmarshal(raw, &e); err == nil && e.Message != "" {
		return &e
	}
	return proto.Errorf(proto.ClassPermanent, "%s%s answered %s: is that a Forebay %s?", c.base, path, resp.Status, c.peer)
}

// lost tells the end of ctx from a peer that is not there.
func (c *Client) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // its text repeats method and URL
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // and this one the address
	}
	return &UnreachableError{URL: c.base, Peer: c.peer, Err: err}
}

// Status asks for GET /v1/status.
func (c *Client) Status(ctx context.Context) (s proto.Status, err error) {
	err = c.Get(ctx, "/v1/status", nil, &s)
	return s, err
}

// Healthy reports nil when GET /healthz answers.
func (c *Client) Healthy(ctx context.Context) error {
	r, err := c.open(ctx, http.MethodGet, "/healthz", nil, nil)
	if err != nil {
		return err
	}
	return r.Close()
}

// Where asks where one object, CLUSTER/DATASET/PATH, is.
func (c *Client) Where(ctx context.Context, object string) (w proto.Where, err error) {
	err = c.Get(ctx, "/v1/where", url.Values{"object": {object}}, &w)
	return w, err
}

// Events asks for the events after a sequence number, at most limit of them; with wait it holds until there is one, or
// for half a minute.
func (c *Client) Events(ctx context.Context, after uint64, limit int, wait bool) (events []proto.Event, err error) {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "limit": {strconv.Itoa(limit)}}
	if wait {
		q.Set("wait", "1")
	}
	err = c.Get(ctx, "/v1/events", q, &events)
	return events, err
}

// Scan asks the agents of a link's dataset for a fresh scan.
func (c *Client) Scan(ctx context.Context, link string) (s proto.ScanRequest, err error) {
	err = c.Post(ctx, LinkPath(link, "scan"), nil, nil, &s)
	return s, err
}

// WaitState asks how far a link is since the scan of token, acknowledged ("ack") or confirmed ("confirm").
func (c *Client) WaitState(ctx context.Context, link string, token uint64, until string) (s proto.WaitState, err error) {
	err = c.Get(ctx, LinkPath(link, "wait"), url.Values{"token": {strconv.FormatUint(token, 10)}, "for": {until}}, &s)
	return s, err
}

// Failures lists what a link has not, or not wholly, backed up; all links when link is "".
func (c *Client) Failures(ctx context.Context, link string) (f []proto.FailureInfo, err error) {
	q := url.Values{}
	if link != "" {
		q.Set("link", link)
	}
	err = c.Get(ctx, "/v1/failures", q, &f)
	return f, err
}

// LinkPath is the path of a link's call.
func LinkPath(link, call string) string { return "/v1/links/" + url.PathEscape(link) + "/" + call }

// StatusPart asks for one field of the status, such as "nodes" or "cache.stores", and decodes it into v.
func (c *Client) StatusPart(ctx context.Context, field string, v any) error {
	const path = "/v1/status"
	var raw json.RawMessage
	if err := c.Get(ctx, path, nil, &raw); err != nil {
		return err
	}
	for _, name := range strings.Split(field, ".") {
		var fields map[string]json.RawMessage
		if err := c.decode(path, raw, &fields); err != nil {
			return err
		}
		var ok bool
		if raw, ok = fields[name]; !ok {
			return fmt.Errorf("answer of %s%s has no %q: is that a Forebay %s of this version?", c.base, path, field, c.peer)
		}
	}
	return c.decode(path, raw, v)
}
