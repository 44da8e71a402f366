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

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	cut   bool // new connections are refused by being reset

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
			sides.Go(func() { p.pipe(&counter{to: out, n: &p.sent}, in, out) })
			sides.Go(func() { p.pipe(&gated{to: in, p: p}, out, in) })
			sides.Wait()
			p.drop(in)
			p.drop(out)
		}()
	}
}

// counter counts what goes through.
type counter struct {
	to io.Writer
	n  *atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.to.Write(b)
	c.n.Add(int64(n))
	return n, err
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
	return g.to.Write(b)
}

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
	p.gate.Lock()
	p.held = false
	p.gate.Unlock()
}
