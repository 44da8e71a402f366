// Package api is the relay's HTTP face: the agents' calls in CBOR, the operators' in JSON, health and metrics. It translates
// and limits, and decides nothing. It imports relay and proto.
package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"forebay/proto"
	"forebay/proto/segment"
	"forebay/relay"
)

// API serves one relay. Connections of polls are watched: their end is the end of the session.
type API struct {
	relay *relay.Relay
	slots chan struct{} // bounds the segments held in memory at once

	probes chan struct{} // bounds the probes under way

	mu    sync.Mutex
	polls map[net.Conn]proto.SessionID
}

// New returns the API of a relay.
func New(r *relay.Relay) *API {
	return &API{relay: r, polls: map[net.Conn]proto.SessionID{},
		slots: make(chan struct{}, r.Segments()), probes: make(chan struct{}, maxProbes)}
}

type connKey struct{}

// ConnContext and ConnState belong into the http.Server: they tie a session to the connection of its polls.
func (a *API) ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// ConnState ends the session whose poll connection is closed.
func (a *API) ConnState(c net.Conn, s http.ConnState) {
	if s != http.StateClosed && s != http.StateHijacked {
		return
	}
	a.mu.Lock()
	id, ok := a.polls[c]
	delete(a.polls, c)
	for _, other := range a.polls { // the agent polls over a newer connection
		ok = ok && other != id
	}
	a.mu.Unlock()
	if ok {
		a.relay.EndSession(id, "its connection was lost")
	}
}

// bind notes that a session polls over the request's connection.
func (a *API) bind(ctx context.Context, id proto.SessionID) {
	c, ok := ctx.Value(connKey{}).(net.Conn)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.polls[c] = id
}

// Handler routes everything.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	a.agentRoutes(mux)
	a.operatorRoutes(mux)
	return mux
}

func (a *API) agentRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+proto.PathHello, func(w http.ResponseWriter, r *http.Request) {
		call(w, r, func(ctx context.Context, q proto.Hello) (any, error) {
			host, _, _ := net.SplitHostPort(r.Host) //nolint:errcheck // without a port it is empty, and the bus's own address is told
			return answer(a.relay.Hello(ctx, q, host, r.RemoteAddr))
		})
	})
	mux.HandleFunc("POST "+proto.PathPoll, func(w http.ResponseWriter, r *http.Request) {
		call(w, r, func(ctx context.Context, q proto.Poll) (any, error) {
			if !q.Stopping {
				a.bind(ctx, q.Session)
			}
			return answer(a.relay.Poll(ctx, q))
		})
	})
	mux.HandleFunc("POST "+proto.PathClaim, func(w http.ResponseWriter, r *http.Request) {
		call(w, r, func(ctx context.Context, q proto.ClaimBatch) (any, error) { return answer(a.relay.Claim(ctx, q)) })
	})
	mux.HandleFunc("POST "+proto.PathReport, func(w http.ResponseWriter, r *http.Request) {
		call(w, r, func(ctx context.Context, q proto.Report) (any, error) {
			return answer(a.relay.Report(ctx, q))
		})
	})
	mux.HandleFunc("POST "+proto.PathAbandon, func(w http.ResponseWriter, r *http.Request) {
		call(w, r, func(ctx context.Context, q proto.Abandon) (any, error) {
			return proto.ReportReply{}, a.relay.Abandon(ctx, q)
		})
	})
	mux.HandleFunc("POST "+proto.PathSlow, func(w http.ResponseWriter, r *http.Request) {
		call(w, r, func(ctx context.Context, q proto.Slow) (any, error) { return answer(a.relay.Slow(ctx, q)) })
	})
	mux.HandleFunc("POST "+proto.PathSums, func(w http.ResponseWriter, r *http.Request) {
		call(w, r, func(ctx context.Context, q proto.SumsRequest) (any, error) { return answer(a.relay.Sums(ctx, q)) })
	})
	for path, asked := range map[string]bool{proto.PathFeed: false, proto.PathAsked: true} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			call(w, r, func(ctx context.Context, q proto.FeedRequest) (any, error) {
				return answer(a.relay.Feed(ctx, q, asked))
			})
		})
	}
	mux.HandleFunc("PUT "+proto.PathSegment, a.segment)
	mux.HandleFunc("PUT "+proto.PathProbe, a.probe)
}

func answer[T any](v T, err error) (any, error) { return v, err }

// call decodes a request, calls fn and writes its answer or error.
func call[T any](w http.ResponseWriter, r *http.Request, fn func(context.Context, T) (any, error)) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, proto.MaxMessage))
	if err != nil {
		writeError(w, tooLarge(err))
		return
	}
	var q T
	if body, err = plain(body, r.Header.Get("Content-Encoding")); err == nil {
		err = proto.Unmarshal(body, &q)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	v, err := fn(r.Context(), q)
	if err != nil {
		writeError(w, err)
		return
	}
	reply(w, r, v)
}

// plain returns a request's body as proto.Marshal wrote it.
func plain(body []byte, encoding string) ([]byte, error) {
	switch encoding {
	case "":
		return body, nil
	case proto.EncodingZstd:
		return proto.Unpack(body)
	}
	return nil, proto.Errorf(proto.ClassPermanent, "message with Content-Encoding %q: this relay reads %s", encoding, proto.EncodingZstd)
}

// reply writes an answer, packed where that is worth it and who asked reads it: agents of older releases do not say so.
func reply(w http.ResponseWriter, r *http.Request, v any) {
	body := proto.Marshal(v)
	if r.Header.Get("Accept-Encoding") == proto.EncodingZstd {
		var ok bool
		if body, ok = proto.Pack(body); ok {
			w.Header().Set("Content-Encoding", proto.EncodingZstd)
		}
	}
	send(w, http.StatusOK, body)
}

func tooLarge(err error) error {
	var max *http.MaxBytesError
	if errors.As(err, &max) {
		return proto.Errorf(proto.ClassPermanent, "message over %d bytes", max.Limit)
	}
	return proto.Errorf(proto.ClassTransient, "read message: %w", err)
}

func write(w http.ResponseWriter, status int, v any) { send(w, status, proto.Marshal(v)) }

func send(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", proto.ContentType)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the other side is gone: it asks again
}

// writeError answers with an error in the form agents read.
func writeError(w http.ResponseWriter, err error) {
	e := proto.Error{Class: proto.ClassOf(err), Message: err.Error()}
	var p *proto.Error
	if errors.As(err, &p) {
		e.RetryAfter = p.RetryAfter
	}
	write(w, e.Class.HTTPStatus(), &e)
}

// segment takes a segment in. Nothing of the body is read, and with Expect: 100-continue nothing is sent, before there is
// room in memory for it.
func (a *API) segment(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.Header.Get(proto.HeaderSession), 10, 64)
	if err != nil {
		refuse(w, proto.Errorf(proto.ClassPermanent, "header %s: want a session number", proto.HeaderSession))
		return
	}
	if r.ContentLength > segment.PreambleLen+proto.MaxHeader+proto.MaxPayload {
		refuse(w, proto.Errorf(proto.ClassPermanent, "segment of %d bytes is over the limit", r.ContentLength))
		return
	}
	gone, err := a.relay.Accepting(proto.SessionID(id))
	if err != nil {
		refuse(w, err)
		return
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-r.Context().Done():
		return
	case <-gone:
		refuse(w, proto.Errorf(proto.ClassConflict, "the session ended while its segment waited for room: say hello again"))
		return
	case <-time.After(20 * time.Second):
		refuse(w, &proto.Error{Class: proto.ClassOverload, Message: "too many segments are under way", RetryAfter: time.Second})
		return
	}
	body := watchBody(r.Body, http.NewResponseController(w), gone, func() { a.relay.Came(proto.SessionID(id)) })
	raw, err := readSegment(body)
	body.stop()
	if err != nil {
		refuse(w, err)
		return
	}
	rep, err := a.relay.Segment(r.Context(), proto.SessionID(id), raw)
	if err != nil {
		writeError(w, err)
		return
	}
	reply(w, r, rep)
}

// refuse answers before the whole body was read, and closes the connection for that.
func refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Connection", "close")
	writeError(w, err)
}

// readSegment reads the preamble, learns the length from it, and reads exactly that. The bytes are never used again for
// another segment: a store that hangs may still be writing them.
func readSegment(body io.Reader) ([]byte, error) {
	preamble := make([]byte, segment.PreambleLen)
	if _, err := io.ReadFull(body, preamble); err != nil {
		return nil, proto.Errorf(proto.ClassTransient, "read segment: %w", err)
	}
	n, err := segment.Len(preamble)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, n)
	copy(raw, preamble)
	if _, err := io.ReadFull(body, raw[segment.PreambleLen:]); err != nil {
		return nil, proto.Errorf(proto.ClassTransient, "read segment: %w", err)
	}
	if extra, _ := body.Read(make([]byte, 1)); extra > 0 { //nolint:errcheck // only whether there is more matters
		return nil, proto.Errorf(proto.ClassPermanent, "segment is followed by more bytes than its preamble says")
	}
	return raw, nil
}
