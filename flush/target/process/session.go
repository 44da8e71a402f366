package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"forebay/flush/target/process/wire"
	"forebay/proto"
)

// session is one conversation with a driver, from the greeting to whatever ends it.
type session struct {
	cfg     Config
	stream  Stream
	id      uint32
	began   time.Time
	welcome wire.Welcome
	in      *wire.Reader
	frames  chan wire.Frame // to be written
	slots   chan struct{}   // as many as requests may be under way
	done    chan struct{}   // closed when it is over
	limit   int             // bytes of a message

	settings map[string]string // what the driver was told; never written

	mu    sync.Mutex
	calls map[uint32]chan wire.Result
	last  uint32
	dead  error // once done is closed
}

func newSession(cfg Config, stream Stream, now time.Time) *session {
	s := &session{cfg: cfg, stream: stream, began: now, id: rand.Uint32(), limit: wire.MaxPayload,
		frames: make(chan wire.Frame, 2*wire.MaxRequests), slots: make(chan struct{}, wire.MaxRequests), done: make(chan struct{}), calls: map[uint32]chan wire.Result{}}
	if cfg.Line {
		s.limit = wire.LineMax
	}
	s.in = wire.NewReader(stream, s.limit)
	return s
}

func (s *session) alive() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// why is why it is over, nil while it is not.
func (s *session) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

// fail ends the session; the first reason counts.
func (s *session) fail(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead != nil {
		return
	}
	s.dead = fmt.Errorf("%s: %w", s.name(), why)
	close(s.done)
	s.stream.Kill(why)
}

func (s *session) name() string {
	if s.welcome.Driver != "" {
		return "driver " + s.welcome.Driver + " of target " + s.cfg.Name
	}
	return "driver of target " + s.cfg.Name
}

// lies is an error for an answer that cannot be true.
func (s *session) lies(format string, args ...any) error {
	return proto.Errorf(proto.ClassCorrupt, "%s gives a wrong answer: %w", s.name(), fmt.Errorf(format, args...))
}

// again is how often a greeting is repeated on a line, which may have lost it.
const again = time.Second

// greet says hello and waits for the answer. What else comes meanwhile on a line is left over from before.
func (s *session) greet(ctx context.Context, h wire.Hello) error {
	hello := wire.Frame{Kind: wire.KindHello, Session: s.id, Payload: proto.Marshal(h)}
	if len(hello.Payload) > s.limit {
		return proto.Errorf(proto.ClassPermanent, "%s: its settings have %d bytes, %d are allowed", s.name(), len(hello.Payload), s.limit)
	}
	go s.write() // ends with the session
	type answer struct {
		w   wire.Welcome
		err error
	}
	got := make(chan answer, 1)
	go func() { // ends when the answer has come, or the stream ends, which fail sees to
		w, err := s.readWelcome()
		got <- answer{w, err}
	}()
	timer := time.NewTimer(s.cfg.Timeout)
	defer timer.Stop()
	var repeat <-chan time.Time
	if s.cfg.Line {
		t := time.NewTicker(again)
		defer t.Stop()
		repeat = t.C
	}
	s.frames <- hello
	for {
		select {
		case a := <-got:
			if a.err != nil {
				return a.err
			}
			if err := a.w.Check(h.Chunk); err != nil {
				return err
			}
			s.mu.Lock()
			s.welcome = a.w
			s.mu.Unlock()
			go s.read() // ends with the stream, which fail sees to
			return nil
		case <-repeat:
			select {
			case s.frames <- hello:
			default: // the line is slower than that
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return proto.Errorf(proto.ClassTransient, "%s does not answer: it was greeted %s ago, and ended", s.name(), s.cfg.Timeout)
		}
	}
}

func (s *session) readWelcome() (w wire.Welcome, err error) {
	for {
		f, err := s.in.Next()
		switch {
		case errors.Is(err, wire.ErrDamaged) && s.cfg.Line:
			continue
		case err != nil:
			return w, s.broken(err)
		case f.Kind != wire.KindWelcome || f.Session != s.id:
			if s.cfg.Line {
				continue
			}
			return w, proto.Errorf(proto.ClassTransient, "%s does not answer the greeting with one: it sent a frame of kind %d", s.name(), f.Kind)
		}
		return w, proto.Unmarshal(f.Payload, &w)
	}
}

// broken is what the end of the stream means.
func (s *session) broken(err error) error {
	if errors.Is(err, wire.ErrDamaged) {
		if s.cfg.Line {
			return proto.Errorf(proto.ClassTransient, "the line is disturbed: %w", err)
		}
		return proto.Errorf(proto.ClassTransient, "what it writes to its standard output is not the driver protocol: %w", err)
	}
	if ended := s.stream.Ended(); ended != nil {
		return proto.Errorf(proto.ClassTransient, "%w", ended)
	}
	if errors.Is(err, io.EOF) {
		return proto.Errorf(proto.ClassTransient, "it has closed its output")
	}
	return proto.Errorf(proto.ClassTransient, "%w", err)
}

// write writes frames until the session is over. Before a greeting, a line is filled with so much nothing that whatever the driver still
// waits for of an earlier frame is there.
func (s *session) write() {
	out := wire.NewWriter(s.stream, s.limit)
	for {
		select {
		case <-s.done:
			return
		case f := <-s.frames:
			if f.Kind == wire.KindHello && s.cfg.Line {
				if _, err := s.stream.Write(bytes.Repeat([]byte{0}, wire.LineMax)); err != nil {
					s.fail(s.broken(err))
					return
				}
			}
			if err := out.Write(f); err != nil {
				s.fail(s.broken(err))
				return
			}
		}
	}
}

// read hands answers to who waits for them, until the stream ends.
func (s *session) read() {
	for {
		f, err := s.in.Next()
		if err != nil {
			s.fail(s.broken(err))
			return
		}
		if err := s.take(f); err != nil {
			s.fail(err)
			return
		}
	}
}

func (s *session) take(f wire.Frame) error {
	switch {
	case f.Session != s.id || f.Kind == wire.KindWelcome && s.cfg.Line: // of a greeting that was repeated
		if s.cfg.Line {
			return nil
		}
		return proto.Errorf(proto.ClassCorrupt, "it answers in session %d, this is %d", f.Session, s.id)
	case f.Kind == wire.KindDamaged:
		return proto.Errorf(proto.ClassTransient, "a request came to it damaged: the line is disturbed")
	case f.Kind != wire.KindResult:
		return proto.Errorf(proto.ClassCorrupt, "it sends a frame of kind %d, which only a relay does", f.Kind)
	}
	var r wire.Result
	if err := proto.Unmarshal(f.Payload, &r); err != nil {
		return proto.Errorf(proto.ClassCorrupt, "its answer cannot be read: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls[f.Request]
	if c == nil {
		return proto.Errorf(proto.ClassCorrupt, "it answers request %d, which was not asked or was answered", f.Request)
	}
	delete(s.calls, f.Request)
	c <- r // there is room for the one answer
	return nil
}

// call asks for something and waits for the answer, for limit at most. A request that is given up is answered, too: a driver that does
// not do so within the grace hangs, and is ended.
func (s *session) call(ctx context.Context, c wire.Call, limit time.Duration) (r wire.Result, err error) {
	payload := proto.Marshal(c)
	if len(payload) > s.limit {
		return r, proto.Errorf(proto.ClassPermanent, "%s: a request has %d bytes, %d are allowed: the object's metadata are too large for it", s.name(), len(payload), s.limit)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return r, ctx.Err()
	case <-s.done:
		return r, s.why()
	}
	id, answer := s.register()
	defer s.forget(id)
	sent := false
	var late error // why the request was given up
	frames := s.frames
	for {
		select {
		case frames <- wire.Frame{Kind: wire.KindCall, Session: s.id, Request: id, Payload: payload}:
			frames, sent = nil, true
		case r = <-answer:
			if late != nil && r.Fault != nil {
				return r, late
			}
			return r, r.Fault.Err()
		case <-s.done:
			return r, s.why()
		case <-ctx.Done():
			late = ctx.Err()
		case <-timer.C:
			late = proto.Errorf(proto.ClassTransient, "%s takes more than %s for a request: it was given up", s.name(), limit)
		}
		if late == nil {
			continue
		}
		if !sent {
			if ctx.Err() == nil {
				s.fail(proto.Errorf(proto.ClassTransient, "it hangs: it has not read its requests for %s, and was ended", limit))
			}
			return r, late
		}
		return s.giveUp(id, answer, late)
	}
}

// giveUp cancels a request and waits for its answer all the same: it may have been carried out.
func (s *session) giveUp(id uint32, answer <-chan wire.Result, late error) (r wire.Result, err error) {
	timer := time.NewTimer(s.cfg.Grace)
	defer timer.Stop()
	frames := s.frames
	for {
		select {
		case frames <- wire.Frame{Kind: wire.KindCancel, Session: s.id, Request: id}:
			frames = nil
		case r = <-answer:
			if r.Fault != nil {
				return r, late
			}
			return r, nil
		case <-s.done:
			return r, late
		case <-timer.C:
			s.fail(proto.Errorf(proto.ClassTransient, "it hangs: it does not answer a request that was given up %s ago, and was ended", s.cfg.Grace))
			return r, late
		}
	}
}

func (s *session) register() (uint32, <-chan wire.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.last++; s.last == 0 || s.calls[s.last] != nil; s.last++ { // after four thousand million it begins anew
	}
	c := make(chan wire.Result, 1)
	s.calls[s.last] = c
	return s.last, c
}

func (s *session) forget(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, id)
}
