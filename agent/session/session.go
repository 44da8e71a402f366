// Package session keeps an agent known to a relay: it says hello, polls, and keeps what the relay answered: members, dataset
// heads, ended leases. It decides nothing about objects. It imports proto and agent/client.
package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"forebay/agent/client"
	"forebay/proto"
)

// Deps is what a Session works with.
type Deps struct {
	Now func() time.Time
	// Roots returns the present status of each root, in the order of Hello.Roots; the session fills in the holders.
	Roots func() []proto.RootStatus
	// Notice returns Poll.Notice.
	Notice func() string
	// Polled is called with every answer to a poll, one call at a time.
	Polled func(proto.PollReply)
}

// Session is one run of the agent at one relay. Its methods are safe for concurrent use.
type Session struct {
	Client *client.Client
	Hello  proto.HelloReply // what opened it
	deps   Deps
	kick   chan struct{}

	mu       sync.Mutex
	members  map[string][]proto.HolderID // live holders by dataset
	coding   map[string]int              // the highest that all of them read on the bus
	seq      uint64
	datasets map[string]proto.DatasetStatus
	susp     time.Duration
	broken   error
}

// Open says hello to the first of the clients whose relay takes the agent. The error tells of every relay that was asked;
// its class is ClassConflict when one of them knows another live agent by this node's name.
func Open(ctx context.Context, clients []*client.Client, h proto.Hello, deps Deps) (*Session, error) {
	var errs []error
	class := proto.ClassTransient
	for _, c := range clients {
		reply, err := hello(ctx, c, h)
		if err == nil {
			return &Session{
				Client: c, Hello: reply, deps: deps, kick: make(chan struct{}, 1), susp: reply.Suspicion,
				members: map[string][]proto.HolderID{}, datasets: map[string]proto.DatasetStatus{},
			}, nil
		}
		c.Close()
		if got := proto.ClassOf(err); got == proto.ClassConflict || class == proto.ClassTransient {
			class = got
		}
		errs = append(errs, fmt.Errorf("relay %s: %w", c.Base(), err))
	}
	return nil, proto.Errorf(class, "%w", errors.Join(errs...))
}

// helloTimeout bounds the wait for one relay, so that the next one is asked.
const helloTimeout = 10 * time.Second

func hello(ctx context.Context, c *client.Client, h proto.Hello) (proto.HelloReply, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	r, err := c.Hello(ctx, h)
	if err != nil {
		return r, err
	}
	if err := proto.CheckVersion("the relay's answer", r.Version); err != nil {
		return r, err
	}
	if len(r.Holders) != len(h.Roots) {
		return r, proto.Errorf(proto.ClassPermanent, "the relay numbered %d holders for %d roots", len(r.Holders), len(h.Roots))
	}
	if r.Suspicion <= 0 {
		r.Suspicion = proto.DefaultSuspicion
	}
	return r, nil
}

// stopTimeout bounds the farewell.
const stopTimeout = 2 * time.Second

// Run polls until the session is over, which is its error, or ctx is: then it takes leave of the relay and returns nil.
// Either way the connections are closed, so that the relay sees it too.
func (s *Session) Run(ctx context.Context) error {
	defer s.Client.Close()
	last := s.deps.Now()
	for {
		err := s.poll(ctx, false)
		now := s.deps.Now()
		wait := s.Suspicion() / 3
		switch {
		case ctx.Err() != nil:
			return s.leave(ctx)
		case err == nil:
			last = now
		case proto.ClassOf(err) == proto.ClassConflict:
			return fmt.Errorf("session ended by the relay: %w", err)
		case now.Sub(last) >= s.Suspicion():
			return fmt.Errorf("relay silent for %s: %w", now.Sub(last).Round(time.Millisecond), err)
		default:
			wait /= 5
		}
		if err := s.pause(ctx, wait); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return s.leave(ctx)
		}
	}
}

// pause waits for the next poll. It fails once somebody else found the session broken.
func (s *Session) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.kick:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

func (s *Session) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	_ = s.poll(ctx, true) // a courtesy: without it the relay finds out by the lost connection
	return nil
}

func (s *Session) poll(ctx context.Context, stopping bool) error {
	roots := s.deps.Roots()
	if len(roots) != len(s.Hello.Holders) {
		return proto.Errorf(proto.ClassPermanent, "poll: %d roots, %d holders", len(roots), len(s.Hello.Holders))
	}
	for i := range roots {
		roots[i].Holder = s.Hello.Holders[i]
	}
	ctx, cancel := context.WithTimeout(ctx, max(2*s.Suspicion(), stopTimeout))
	defer cancel()
	s.mu.Lock()
	seq := s.seq
	s.mu.Unlock()
	r, err := s.Client.Poll(ctx, proto.Poll{
		Session: s.Hello.Session, ClockNs: s.deps.Now().UnixNano(), Members: seq, Roots: roots, Stopping: stopping, Notice: s.deps.Notice(),
	})
	if err != nil || stopping {
		return err
	}
	s.take(r)
	s.deps.Polled(r)
	return nil
}

func (s *Session) take(r proto.PollReply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Suspicion > 0 {
		s.susp = r.Suspicion
	}
	if r.MembersSeq != s.seq {
		s.seq = r.MembersSeq
		s.members, s.coding = map[string][]proto.HolderID{}, map[string]int{}
		for _, m := range r.Members {
			if !m.Alive {
				continue
			}
			if c, ok := s.coding[m.Dataset]; !ok || m.Coding < c {
				s.coding[m.Dataset] = m.Coding
			}
			s.members[m.Dataset] = append(s.members[m.Dataset], m.Holder)
		}
	}
	for _, d := range r.Datasets {
		s.datasets[d.Dataset] = d
	}
}

// Kick makes the next poll happen now.
func (s *Session) Kick() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Broken ends the session: a call other than a poll was told that the relay does not know it.
func (s *Session) Broken(err error) {
	s.mu.Lock()
	if s.broken == nil {
		s.broken = fmt.Errorf("session ended by the relay: %w", err)
	}
	s.mu.Unlock()
	s.Kick()
}

// Members returns the live holders of a dataset. The slice is not to be changed.
func (s *Session) Members(dataset string) []proto.HolderID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members[dataset]
}

// Coding returns the highest coding of messages that all live holders of a dataset read on the bus.
func (s *Session) Coding(dataset string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.coding[dataset]
}

// Dataset returns what the last poll told of a dataset; ok is false before the first.
func (s *Session) Dataset(name string) (d proto.DatasetStatus, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok = s.datasets[name]
	return d, ok
}

// Suspicion returns the suspicion time in force.
func (s *Session) Suspicion() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.susp
}
