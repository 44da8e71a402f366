package scale

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/agent/client"
	"forebay/proto"
	"forebay/proto/bus"
	"forebay/proto/bus/embedded"
	"forebay/relay"
	"forebay/relay/api"
)

// What carries the messages: HTTP and NATS, over loopback, both ends in this process.
func TestScaleTransport(t *testing.T) {
	add, save := campaign(t, "transport")
	var r rows
	for range *flagRuns {
		http, direct := overHTTP(t)
		r.add("A poll over HTTP, µs of CPU", http-direct, "agent's client and relay's server together, beyond the handler itself; one connection, kept alive")
		r.add("A message on the bus, µs of CPU for each delivery", overNATS(t), "the embedded server, the sender's share and the receivers, which are in this process too; 100 bytes to three subscribers")
	}
	r.each(add)
	save("TLS: the relay has none yet")
}

const requests = 5000

// overHTTP returns what a poll costs over HTTP, and what its handler costs alone.
func overHTTP(t *testing.T) (carried, direct float64) {
	w := newWorld(t, settings{seed: 1, nodes: 30, objects: 1, size: 1})
	w.joinAll(time.Second)
	a := api.New(w.r)
	srv := httptest.NewUnstartedServer(a.Handler())
	srv.Config.ConnContext = a.ConnContext
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) { a.ConnState(c, s) }
	srv.Start()
	defer srv.Close()
	c := client.New(srv.URL, 4, nil)
	defer c.Close()
	n := w.nodes[0]
	p := proto.Poll{Session: n.session, ClockNs: w.clock().UnixNano(), Members: n.seq}
	for _, root := range n.roots {
		p.Roots = append(p.Roots, proto.RootStatus{Holder: root.holder, Watch: "inotify", Objects: 1e5, Bytes: 1e10})
	}
	poll := func(fn func() error) float64 {
		from := cpu()
		for range requests {
			require.NoError(t, fn())
		}
		return float64((cpu() - from).Nanoseconds()) / 1e3 / requests
	}
	carried = poll(func() error { _, err := c.Poll(context.Background(), p); return err })
	direct = poll(func() error { return handled(w.r, p) })
	return carried, direct
}

// handled is a poll without HTTP, with its encoding.
func handled(r *relay.Relay, p proto.Poll) error {
	var q proto.Poll
	if err := proto.Unmarshal(proto.Marshal(p), &q); err != nil {
		return err
	}
	rep, err := r.Poll(context.Background(), q)
	proto.Marshal(rep)
	return err
}

// overNATS returns what a delivery costs.
func overNATS(t *testing.T) float64 {
	const messages, receivers = 20_000, 3
	srv, err := embedded.Start(embedded.Config{Listen: "127.0.0.1:0", Name: "scale"}, zerolog.Nop())
	require.NoError(t, err)
	defer srv.Close()
	dial := func() *bus.NATS {
		b, err := bus.Dial(bus.Config{URLs: []string{srv.URL()}, Name: "scale"}, zerolog.Nop())
		require.NoError(t, err)
		require.Eventually(t, b.Connected, 10*time.Second, time.Millisecond)
		return b
	}
	var got atomic.Int64
	for range receivers {
		b := dial()
		defer b.Close()
		_, err := b.Subscribe("scale.test", func([]byte) { got.Add(1) })
		require.NoError(t, err)
	}
	sender := dial()
	defer sender.Close()
	require.Eventually(t, func() bool { // the subscriptions stand
		_ = sender.Publish("scale.test", nil)
		return got.Load() >= receivers
	}, 10*time.Second, 10*time.Millisecond)
	got.Store(0)
	from := cpu()
	data := make([]byte, 100)
	for i := range int64(messages) {
		for i-got.Load()/receivers > 200 { // a receiver drops what comes too fast
			runtime.Gosched()
		}
		_ = sender.Publish("scale.test", data)
	}
	require.Eventually(t, func() bool { return got.Load() >= messages*receivers*9/10 }, 20*time.Second, time.Millisecond)
	return float64((cpu() - from).Nanoseconds()) / 1e3 / float64(got.Load())
}
