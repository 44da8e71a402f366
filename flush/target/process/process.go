package process

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"forebay/flush/target"
	"forebay/flush/target/process/wire"
	"forebay/proto"
)

// Config says what a driver is told, and how long it may take.
type Config struct {
	Name   string // of the target, for messages
	Relay  string // software version of this program, told to the driver
	Prefix string // folder below the target's root that the mirror lies in
	// Expect is set when this target was marked before: without its owner mark it is then not there.
	Expect bool
	Writes bool // it is opened by who writes the mirror and has to read it again
	// Partial allows a driver that can neither move on the server nor put an object whole.
	Partial bool
	// Timeout is how long a request may take, one minute when 0. Each change of a commit, and each MiB that it commits, adds a second.
	Timeout time.Duration
	// Grace is how long a driver has to answer a request that was given up, 5 s when 0; then it counts as hung and is ended.
	Grace time.Duration
	// BackoffMin and BackoffMax bound how long it is left alone after it ended, 200 ms and 1 min when 0; the time doubles with each end
	// that comes within BackoffMax of the start, and varies by a quarter.
	BackoffMin, BackoffMax time.Duration
	// Line is set for a stream that may damage or lose bytes.
	Line bool
}

func (c Config) withDefaults() Config {
	c.Timeout, c.Grace = cmp.Or(c.Timeout, time.Minute), cmp.Or(c.Grace, 5*time.Second)
	c.BackoffMin, c.BackoffMax = cmp.Or(c.BackoffMin, 200*time.Millisecond), cmp.Or(c.BackoffMax, time.Minute)
	return c
}

// Stream is the way to one run of a driver.
type Stream interface {
	io.Reader
	io.Writer
	// Kill ends it at once, for a reason; may be called again, and with reads and writes under way, which then fail.
	Kill(why error)
	// End lets it end by itself, which a driver does when its input ends, and ends it after some seconds. It returns when all is over.
	End()
	// Ended says why it ended, once a read or write failed; it may wait a moment for that.
	Ended() error
}

// Deps is what a driver is given.
type Deps struct {
	// Start begins a new run of the driver.
	Start func(ctx context.Context) (Stream, error)
	// Settings gives what the driver is told of its target, at each start anew and before each probe: files with secrets may be exchanged.
	Settings func() (map[string]string, error)
	Now      func() time.Time // the time of day, for the back-off
}

// Process is a target behind a driver process.
type Process struct {
	cfg  Config
	deps Deps

	starting sync.Mutex // held while a driver is started

	mu      sync.Mutex // guards what follows
	sess    *session   // nil: none was begun
	ended   error      // why the last one did
	next    time.Time  // when another may be begun
	backoff time.Duration
	closed  bool
}

// Open returns the target. It starts nothing; the first request does.
func Open(cfg Config, deps Deps) (*Process, error) {
	if err := target.CheckPrefix(cfg.Prefix); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "target %s: %w", cfg.Name, err)
	}
	return &Process{cfg: cfg.withDefaults(), deps: deps}, nil
}

// use returns the session, and begins one where there is none and the last one's end is long enough ago.
func (p *Process) use(ctx context.Context) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.starting.Lock()
	defer p.starting.Unlock()
	p.mu.Lock()
	sess, closed := p.sess, p.closed
	p.mu.Unlock()
	switch {
	case closed:
		return nil, proto.Errorf(proto.ClassTransient, "target %s was closed", p.cfg.Name)
	case sess != nil && sess.alive():
		return sess, nil
	case sess != nil:
		sess.stream.End()
		p.rest(sess.why(), sess.began)
	}
	if wait := p.next.Sub(p.deps.Now()); wait > 0 && p.ended != nil {
		e := proto.Errorf(proto.ClassTransient, "%w; it is started again in %s", p.ended, wait.Round(10*time.Millisecond))
		e.RetryAfter = wait
		return nil, e
	}
	sess, err := p.begin(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		p.rest(err, p.deps.Now())
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		sess.stream.End()
		return nil, proto.Errorf(proto.ClassTransient, "target %s was closed", p.cfg.Name)
	}
	p.sess = sess
	return sess, nil
}

// renew ends a session whose driver was told other settings than there are now: a secret was exchanged, and the driver has no way to
// hear of it. It knows only that it is refused, and may go on with the old one for as long as it lives. Settings that cannot be read at
// the moment end nothing: what was told before may still do.
func (p *Process) renew() {
	p.starting.Lock()
	defer p.starting.Unlock()
	p.mu.Lock()
	sess := p.sess
	p.mu.Unlock()
	if sess == nil || !sess.alive() {
		return
	}
	now, err := p.deps.Settings()
	if err != nil || maps.Equal(now, sess.settings) {
		return
	}
	sess.fail(proto.Errorf(proto.ClassTransient, "its settings have changed, or a file with a secret: it is told the new ones in a new session"))
	sess.stream.End()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sess == sess { // it did not end for a fault: the next begins at once
		p.sess, p.ended = nil, nil
	}
}

// rest notes the end of a session that began at a time, and when the next may begin.
func (p *Process) rest(why error, began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.deps.Now()
	if lived := now.Sub(began); lived >= p.cfg.BackoffMax {
		p.backoff = 0
	}
	p.backoff = min(max(2*p.backoff, p.cfg.BackoffMin), p.cfg.BackoffMax)
	p.sess, p.ended = nil, why
	p.next = now.Add(time.Duration(float64(p.backoff) * (0.75 + rand.Float64()/2)))
}

// begin starts the driver and greets it.
func (p *Process) begin(ctx context.Context) (*session, error) {
	settings, err := p.deps.Settings()
	if err != nil {
		return nil, err
	}
	stream, err := p.deps.Start(ctx)
	if err != nil {
		return nil, err
	}
	chunk := wire.MaxChunk
	if p.cfg.Line {
		chunk = wire.LineMax / 4
	}
	s := newSession(p.cfg, stream, p.deps.Now())
	s.settings = maps.Clone(settings)
	err = s.greet(ctx, wire.Hello{Oldest: wire.Oldest, Newest: wire.Version, Relay: p.cfg.Relay, Chunk: chunk, Settings: settings,
		Prefix: p.cfg.Prefix, Expect: p.cfg.Expect, Writes: p.cfg.Writes, Partial: p.cfg.Partial})
	if err != nil {
		s.fail(err)
		stream.End()
		return nil, err
	}
	return s, nil
}

// call asks for something, with what else than the usual time it may take.
func (p *Process) call(ctx context.Context, s *session, c wire.Call, extra time.Duration) (wire.Result, error) {
	return s.call(ctx, c, p.cfg.Timeout+extra)
}

// ask is call on the session that there is.
func (p *Process) ask(ctx context.Context, c wire.Call) (*session, wire.Result, error) {
	s, err := p.use(ctx)
	if err != nil {
		return nil, wire.Result{}, err
	}
	r, err := p.call(ctx, s, c, 0)
	return s, r, err
}

// Probe asks the driver what it finds. It is told of exchanged secrets then: a link probes before it begins a batch, and every few seconds
// while it is stalled, so that they are neither read all the time nor waited for until somebody ends the driver.
func (p *Process) Probe(ctx context.Context) (target.Info, error) {
	p.renew()
	s, r, err := p.ask(ctx, wire.Call{Op: wire.OpProbe})
	if err != nil {
		return target.Info{}, err
	}
	if r.Info == nil {
		return target.Info{}, s.lies("it tells nothing of its target")
	}
	if err := r.Info.Check(); err != nil {
		return target.Info{}, s.lies("%w", err)
	}
	info := r.Info.Target(s.welcome.Driver)
	if !info.Move && !info.Atomic {
		if !p.cfg.Partial {
			return target.Info{}, proto.Errorf(proto.ClassConflict, "%s can neither move an object on the server nor put it whole: a reader could see a part of it. Set allow_partial: true for target %s to accept that", info.Where, p.cfg.Name)
		}
		info.Notes = append(info.Notes, "allow_partial: a reader can see a part of an object while it is written, or after a fault")
	}
	return info, nil
}

// Close ends the driver. Staged contents stay.
func (p *Process) Close() error {
	p.mu.Lock()
	sess := p.sess
	p.sess, p.closed = nil, true
	p.mu.Unlock()
	if sess != nil {
		sess.fail(fmt.Errorf("target %s was closed", p.cfg.Name))
		sess.stream.End()
	}
	return nil
}
