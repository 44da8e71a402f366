package bus

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Faults are what a Memory does to messages: each chance is between 0 and 1 and drawn for each message and subscriber
// from a generator started with Seed.
type Faults struct {
	Seed    uint64
	Drop    float64
	Repeat  float64
	Reorder float64       // is put before messages that wait already
	Delay   time.Duration // each message waits up to this long
}

// maxQueued is how many messages wait for one slow subscriber of a Memory before more are lost.
const maxQueued = 1024

// errClosed and errDisconnected are what Publish says when a message is certainly lost.
var (
	errClosed       = errors.New("bus is closed")
	errDisconnected = errors.New("bus is not connected")
)

// Memory is a Bus within one process, for tests. Each of its ends (see Peer) sees the messages of all ends, its own too,
// as with NATS.
type Memory struct {
	medium *medium
	subs   map[*memorySub]struct{} // guarded by medium.mu
	closed bool                    // guarded by medium.mu
}

// medium is what the ends of a Memory share.
type medium struct {
	mu     sync.Mutex
	faults Faults
	rng    *rand.Rand
	subs   map[string][]*memorySub
	lossy  bool // everything is dropped
	down   bool // nobody is connected
}

var _ Bus = (*Memory)(nil)

// NewMemory returns the first end of a new medium.
func NewMemory(f Faults) *Memory {
	m := &medium{faults: f, rng: rand.New(rand.NewPCG(f.Seed, f.Seed)), subs: map[string][]*memorySub{}}
	return &Memory{medium: m, subs: map[*memorySub]struct{}{}}
}

// Peer returns another end of the same medium. Closing one end leaves the others.
func (b *Memory) Peer() *Memory { return &Memory{medium: b.medium, subs: map[*memorySub]struct{}{}} }

// DropEverything makes the medium lose every message, silently, until it is switched off again.
func (b *Memory) DropEverything(on bool) {
	b.medium.mu.Lock()
	defer b.medium.mu.Unlock()
	b.medium.lossy = on
}

// Disconnect makes all ends report that they are not connected and refuse to publish, until it is switched off again.
func (b *Memory) Disconnect(on bool) {
	b.medium.mu.Lock()
	defer b.medium.mu.Unlock()
	b.medium.down = on
}

// Publish implements Bus.
func (b *Memory) Publish(subject string, data []byte) error {
	if err := checkSize(subject, data); err != nil {
		return err
	}
	m := b.medium
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case b.closed:
		return errClosed
	case m.down:
		return errDisconnected
	case m.lossy:
		return nil
	}
	for _, s := range m.subs[subject] {
		if m.chance(m.faults.Drop) {
			continue
		}
		m.deliver(s, slices.Clone(data))
		if m.chance(m.faults.Repeat) {
			m.deliver(s, slices.Clone(data))
		}
	}
	return nil
}

func (m *medium) chance(p float64) bool { return p > 0 && m.rng.Float64() < p }

// deliver queues data at s, now or later. m.mu is held.
func (m *medium) deliver(s *memorySub, data []byte) {
	place := -1
	if m.chance(m.faults.Reorder) {
		place = m.rng.IntN(maxQueued)
	}
	if m.faults.Delay > 0 {
		// The timer ends by itself; after the subscription has ended push does nothing.
		time.AfterFunc(time.Duration(m.rng.Int64N(int64(m.faults.Delay))), func() { s.push(data, place) })
		return
	}
	s.push(data, place)
}

// Subscribe implements Bus.
func (b *Memory) Subscribe(subject string, handle func([]byte)) (func(), error) {
	m := b.medium
	m.mu.Lock()
	defer m.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	s := &memorySub{wake: make(chan struct{}, 1), done: make(chan struct{})}
	m.subs[subject] = append(m.subs[subject], s)
	b.subs[s] = struct{}{}
	go s.run(handle) // ends when the subscription is cancelled or the bus closed
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		b.end(s)
	}, nil
}

// end ends a subscription. medium.mu is held.
func (b *Memory) end(s *memorySub) {
	if _, ok := b.subs[s]; !ok {
		return
	}
	delete(b.subs, s)
	for subject, subs := range b.medium.subs {
		if i := slices.Index(subs, s); i >= 0 {
			b.medium.subs[subject] = slices.Delete(subs, i, i+1)
		}
	}
	s.stop()
}

// Connected implements Bus.
func (b *Memory) Connected() bool {
	b.medium.mu.Lock()
	defer b.medium.mu.Unlock()
	return !b.closed && !b.medium.down
}

// Close implements Bus, for this end.
func (b *Memory) Close() {
	b.medium.mu.Lock()
	defer b.medium.mu.Unlock()
	for s := range b.subs {
		b.end(s)
	}
	b.closed = true
}

// memorySub is the queue of one subscriber.
type memorySub struct {
	mu    sync.Mutex
	queue [][]byte
	ended bool
	wake  chan struct{} // has a token when the queue may be non-empty
	done  chan struct{}
}

// push queues data, at place when that lies within the queue; it is lost when the queue is full.
func (s *memorySub) push(data []byte, place int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(s.queue) >= maxQueued {
		return
	}
	if place < 0 {
		s.queue = append(s.queue, data)
	} else {
		s.queue = slices.Insert(s.queue, place%(len(s.queue)+1), data)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *memorySub) pop() ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(s.queue) == 0 {
		return nil, false
	}
	data := s.queue[0]
	s.queue = s.queue[1:]
	return data, true
}

func (s *memorySub) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.queue = true, nil
	close(s.done)
}

func (s *memorySub) run(handle func([]byte)) {
	for {
		select {
		case <-s.done:
			return
		case <-s.wake:
		}
		for data, ok := s.pop(); ok; data, ok = s.pop() {
			handle(data)
		}
	}
}
