package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/internal/operator"
)

// proxy stands between an agent and the relay: it counts what travels and breaks connections.
type proxy struct {
	address  string
	to       string
	dial     operator.Dial
	listener net.Listener
	sent     atomic.Int64 // bytes from the agent to the relay
	got      atomic.Int64 // bytes that the relay has answered

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	cut   bool          // new connections are refused by being reset
	most  int64         // of sent: nothing goes on once it is reached; 0: no bound
	freed chan struct{} // closed when most no longer holds; nil while there is none

	gate sync.RWMutex
	held bool // nothing of what the relay says goes on to the agent
	done sync.WaitGroup
}

// newProxy starts a proxy to an address; it ends with the test.
func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", freeAddress(t))
	require.NoError(t, err)
	return proxyFrom(t, l, to, (&net.Dialer{}).DialContext)
}

// proxyFrom is newProxy with a listener and a way to connect, which may be in other networks.
func proxyFrom(t testing.TB, l net.Listener, to string, dial operator.Dial) *proxy {
	t.Helper()
	p := &proxy{address: l.Addr().String(), to: to, dial: dial, listener: l, conns: map[net.Conn]struct{}{}}
	p.done.Add(1)
	go func() { // ends when the listener is closed
		defer p.done.Done()
		p.serve()
	}()
	t.Cleanup(func() {
		_ = l.Close()
		p.reset(true)
		p.done.Wait()
	})
	return p
}

func (p *proxy) serve() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := p.dial(context.Background(), "tcp", p.to)
		if err != nil || !p.keep(in, out) {
			p.drop(in)
			if err == nil {
				p.drop(out)
			}
			continue
		}
		p.done.Add(1)
		go func() { // ends when both sides have closed, or at a reset
			defer p.done.Done()
			var sides sync.WaitGroup
			sides.Go(func() { p.pipe(&counter{to: out, p: p}, in, out) })
			sides.Go(func() { p.pipe(&gated{to: in, p: p}, out, in) })
			sides.Wait()
			p.drop(in)
			p.drop(out)
		}()
	}
}

// counter counts what goes through, as long as something may.
type counter struct {
	to io.Writer
	p  *proxy
}

func (c *counter) Write(b []byte) (int, error) {
	for freed := c.p.full(); freed != nil; freed = c.p.full() {
		<-freed // ends with the next reset
	}
	n, err := c.to.Write(b)
	c.p.sent.Add(int64(n))
	return n, err
}

// full is nil while more may be sent, else what is closed when it may.
func (p *proxy) full() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.most == 0 || p.sent.Load() < p.most {
		return nil
	}
	return p.freed
}

// stopAt lets nothing more through to the relay, or server, once so many bytes were sent in all, until the next reset: whoever wants to
// act in the middle of a transfer need not be faster than it. What a connection reads at a time goes beyond it.
func (p *proxy) stopAt(sent int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.freed != nil {
		close(p.freed)
	}
	p.most, p.freed = sent, make(chan struct{})
}

// gated lets what the relay says through, or drops it.
type gated struct {
	to io.Writer
	p  *proxy
}

func (g *gated) Write(b []byte) (int, error) {
	g.p.gate.RLock()
	defer g.p.gate.RUnlock()
	if g.p.held {
		return len(b), nil
	}
	n, err := g.to.Write(b)
	g.p.got.Add(int64(n))
	return n, err
}

// stopped reports whether what stopAt was told is reached.
func (p *proxy) stopped() bool { return p.full() != nil }

// hold lets nothing more of what the relay says through to the agent, from its return until the next reset. Connections stay
// as they are, and what the agent says goes on to the relay.
func (p *proxy) hold() {
	p.gate.Lock()
	defer p.gate.Unlock()
	p.held = true
}

// pipe copies until the end of from, then ends to's side gently.
func (p *proxy) pipe(w io.Writer, from, to net.Conn) {
	_, err := io.Copy(w, from)
	if tcp, ok := to.(*net.TCPConn); ok && err == nil {
		_ = tcp.CloseWrite()
		return
	}
	p.drop(from)
	p.drop(to)
}

func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return false
	}
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
	return true
}

// drop closes a connection with a reset.
func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	if tcp, ok := c.(*net.TCPConn); ok {
		if err := tcp.SetLinger(0); err != nil && !errors.Is(err, net.ErrClosed) {
			_ = c.Close()
			return
		}
	}
	_ = c.Close()
}

// reset breaks all connections; cut says whether new ones are refused from now on.
func (p *proxy) reset(cut bool) {
	p.mu.Lock()
	p.cut = cut
	var all []net.Conn
	for c := range p.conns {
		all = append(all, c)
	}
	p.mu.Unlock()
	for _, c := range all {
		p.drop(c)
	}
	p.mu.Lock()
	if p.freed != nil { // what waited has nowhere to go any more
		close(p.freed)
	}
	p.most, p.freed = 0, nil
	p.mu.Unlock()
	p.gate.Lock()
	p.held = false
	p.gate.Unlock()
}
