package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"forebay/flush/target"
	"forebay/flush/target/process/wire"
	"forebay/proto"
)

// Driver is what a driver's author brings.
type Driver struct {
	Name    string // as it is to appear in Info.Driver
	Version string // of the software, for logs
	// Open opens the target that a relay's settings describe; its error is shown to the operator. Each session opens anew, after the
	// last one's target was closed. ctx ends with the session.
	Open func(ctx context.Context, o Opening) (target.Target, error)
}

// Opening says where to go.
type Opening struct {
	Settings map[string]string // the relay's settings of the target, secrets among them
	Prefix   string            // folder below the target's root that the mirror lies in
	Expect   bool              // the target was marked before: without its owner mark it is not there
	Writes   bool              // it is opened by who writes the mirror and has to read it again
	Partial  bool              // the operator allows objects that a reader can see in part
}

// Options says what the stream is.
type Options struct {
	// Line is set for a stream that may damage or lose bytes, such as a serial line. Else a damaged frame ends Serve.
	Line bool
}

// Serve answers a relay's requests until in ends (nil), ctx does, or the stream is of no more use. It writes to out alone; nobody else may.
func Serve(ctx context.Context, in io.Reader, out io.Writer, d Driver, o Options) error {
	limit := wire.MaxPayload
	if o.Line {
		limit = wire.LineMax
	}
	s := &server{driver: d, out: wire.NewWriter(out, limit), line: o.Line}
	defer s.end()
	r := wire.NewReader(in, limit)
	for {
		f, err := r.Next()
		switch {
		case errors.Is(err, wire.ErrDamaged) && o.Line:
			s.damaged()
			continue
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("read from the relay: %w", err)
		}
		if err := s.take(ctx, f); err != nil {
			return err
		}
	}
}

// server is the driver's end of a stream.
type server struct {
	driver Driver
	out    *wire.Writer
	line   bool
	sess   *session // nil before the first Hello, and after damage
}

func (s *server) take(ctx context.Context, f wire.Frame) error {
	switch {
	case f.Kind == wire.KindHello:
		s.end()
		return s.hello(ctx, f)
	case s.sess == nil || f.Session != s.sess.id:
		return nil // of a session that is over
	case f.Kind == wire.KindCall:
		return s.sess.begin(f)
	case f.Kind == wire.KindCancel:
		s.sess.cancel(f.Request)
	case f.Kind == wire.KindDamaged:
		s.end()
	}
	return nil
}

// damaged tells the relay that something of it was lost: waiting for an answer would be in vain.
func (s *server) damaged() {
	if s.sess != nil {
		_ = s.out.Write(wire.Frame{Kind: wire.KindDamaged, Session: s.sess.id}) // if that is lost, too, the relay's patience ends
	}
	s.end()
}

// end ends the session, if there is one, and waits for what it has under way.
func (s *server) end() {
	if s.sess != nil {
		s.sess.close()
		s.sess = nil
	}
}

func (s *server) hello(ctx context.Context, f wire.Frame) error {
	var h wire.Hello
	w := wire.Welcome{Driver: s.driver.Name, About: s.driver.Version}
	err := proto.Unmarshal(f.Payload, &h)
	if err == nil {
		w.Version, err = h.Choose()
	}
	if err == nil {
		w.Chunk = min(max(h.Chunk, wire.MinChunk), wire.MaxChunk)
		s.sess, err = openSession(ctx, s, f.Session, w.Chunk, h)
	}
	if err != nil {
		w.Version, w.Fault = 0, wire.NewFault(err)
	}
	return s.out.Write(wire.Frame{Kind: wire.KindWelcome, Session: f.Session, Payload: proto.Marshal(w)})
}

// session is what lies between one Hello and the next.
type session struct {
	s      *server
	id     uint32
	chunk  int
	ctx    context.Context // the session's; calls have their own below it
	stop   context.CancelFunc
	target target.Target
	work   sync.WaitGroup

	mu      sync.Mutex
	calls   map[uint32]context.CancelFunc
	handles map[uint32]*handle
	last    uint32 // handle given out
}

func openSession(ctx context.Context, s *server, id uint32, chunk int, h wire.Hello) (*session, error) {
	ctx, stop := context.WithCancel(ctx)
	t, err := s.driver.Open(ctx, Opening{h.Settings, h.Prefix, h.Expect, h.Writes, h.Partial})
	if err != nil {
		stop()
		return nil, err
	}
	return &session{s: s, id: id, chunk: chunk, ctx: ctx, stop: stop, target: t, calls: map[uint32]context.CancelFunc{}, handles: map[uint32]*handle{}}, nil
}

// close gives up what is under way, waits for it, and closes the target. Staged contents stay.
func (n *session) close() {
	n.stop()
	n.work.Wait()
	for _, h := range n.handles {
		_ = h.close(n.ctx) // the relay no longer asks
	}
	_ = n.target.Close() // as above
}

// begin starts a request. An error ends the stream.
func (n *session) begin(f wire.Frame) error {
	var c wire.Call
	if err := proto.Unmarshal(f.Payload, &c); err != nil {
		return n.answer(f.Request, wire.Result{Fault: wire.NewFault(err)})
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if f.Request == 0 || n.calls[f.Request] != nil || len(n.calls) >= wire.MaxRequests {
		return fmt.Errorf("the relay breaks the protocol: request %d with %d under way", f.Request, len(n.calls))
	}
	ctx, stop := context.WithCancel(n.ctx)
	n.calls[f.Request] = stop
	n.work.Add(1)
	go func() { // ends when the target has answered; its context ends with the session at the latest
		defer n.work.Done()
		r := n.do(ctx, c)
		stop()
		n.mu.Lock()
		delete(n.calls, f.Request)
		n.mu.Unlock()
		_ = n.answer(f.Request, r) // a stream that is gone ends at the reader
	}()
	return nil
}

func (n *session) cancel(request uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if stop := n.calls[request]; stop != nil {
		stop()
	}
}

func (n *session) answer(request uint32, r wire.Result) error {
	f := wire.Frame{Kind: wire.KindResult, Session: n.id, Request: request, Payload: proto.Marshal(r)}
	err := n.s.out.Write(f)
	if errors.Is(err, wire.ErrTooLarge) {
		r = wire.Result{Fault: wire.NewFault(proto.Errorf(proto.ClassPermanent, "the answer does not fit: %w", err))}
		f.Payload = proto.Marshal(r)
		err = n.s.out.Write(f)
	}
	return err
}
