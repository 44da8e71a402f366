package bus_test

import (
	"net"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/bus"
	"forebay/proto/bus/embedded"
)

// TestServerComesAndGoes: hints are refused while there is no server, and subscriptions live on when it is back.
func TestServerComesAndGoes(t *testing.T) {
	t.Parallel()
	srv := startServer(t, "127.0.0.1:-1")
	addr := srv.Addr()
	a, b := dial(t, srv.URL()), dial(t, srv.URL())
	var box inbox
	subscribe(t, a, b, "s", box.handle)

	srv.Close()
	require.Eventually(t, func() bool { return !a.Connected() && !b.Connected() }, patience, time.Millisecond)
	for range 10000 {
		require.Error(t, a.Publish("s", make([]byte, 4096)), "nothing is kept for later")
	}
	var late inbox
	_, err := b.Subscribe("late", late.handle)
	require.NoError(t, err, "subscribing needs no connection")

	startServer(t, addr)
	require.Eventually(t, func() bool {
		_ = a.Publish("s", []byte("1"))
		_ = a.Publish("late", []byte("2"))
		return len(box.got()) > 0 && len(late.got()) > 0
	}, patience, 10*time.Millisecond)
}

func TestDialWithoutServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())

	b, err := bus.Dial(bus.Config{URLs: []string{"nats://" + addr}, Token: testToken}, zerolog.Nop())
	require.NoError(t, err, "a server that is not there is no error (I4)")
	defer b.Close()
	require.False(t, b.Connected())
	require.Error(t, b.Publish("s", nil))
	var box inbox
	_, err = b.Subscribe("s", box.handle)
	require.NoError(t, err)
	startServer(t, addr)
	require.Eventually(t, func() bool {
		_ = b.Publish("s", []byte("1"))
		return len(box.got()) > 0
	}, patience, 10*time.Millisecond)
}

func TestDialWithWrongToken(t *testing.T) {
	t.Parallel()
	srv := startServer(t, "127.0.0.1:-1")
	b, err := bus.Dial(bus.Config{URLs: []string{srv.URL()}, Token: "wrong"}, zerolog.Nop())
	if err == nil {
		defer b.Close()
		require.False(t, b.Connected())
		require.Error(t, b.Publish("s", nil))
		return
	}
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
}

func TestDialWithWrongConfiguration(t *testing.T) {
	t.Parallel()
	_, err := bus.Dial(bus.Config{}, zerolog.Nop())
	require.ErrorContains(t, err, "no url")
	_, err = bus.Dial(bus.Config{URLs: []string{"nats://127.0.0.1:1"}, CredentialsFile: "/does/not/exist.creds"}, zerolog.Nop())
	require.Error(t, err)
}

// TestServerThatHangs publishes to a peer that accepts and then never reads: Publish must not block.
func TestServerThatHangs(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	accepted := make(chan net.Conn, 16)
	go func() { // ends when l is closed
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			_, _ = c.Write([]byte(`INFO {"server_id":"X","version":"2.0.0","max_payload":1048576,"proto":1}` + "\r\n"))
			buf := make([]byte, 4096)
			_, _ = c.Read(buf) // CONNECT and PING
			_, _ = c.Write([]byte("PONG\r\n"))
			accepted <- c // and never a word more
		}
	}()
	b, err := bus.Dial(bus.Config{URLs: []string{"nats://" + l.Addr().String()}}, zerolog.Nop())
	require.NoError(t, err)
	require.Eventually(t, b.Connected, patience, time.Millisecond)
	hint := make([]byte, proto.MaxBusMessage/2)
	start := time.Now()
	refused := 0
	for range 2000 {
		if b.Publish("s", hint) != nil {
			refused++
		}
	}
	require.Less(t, time.Since(start), patience, "it holds nobody up")
	require.NotZero(t, refused, "memory is bounded")
	b.Close()
	require.NoError(t, l.Close())
	for c := range accepted {
		_ = c.Close()
	}
}

func TestEmbeddedErrors(t *testing.T) {
	t.Parallel()
	srv := startServer(t, "127.0.0.1:-1")
	_, err := embedded.Start(embedded.Config{Listen: srv.Addr(), Name: "second"}, zerolog.Nop())
	require.ErrorContains(t, err, "cannot be used")
	require.ErrorContains(t, err, srv.Addr())
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	for _, bad := range []string{"", "127.0.0.1", "127.0.0.1:x", "300.0.0.1:1"} {
		_, err := embedded.Start(embedded.Config{Listen: bad}, zerolog.Nop())
		require.ErrorContains(t, err, "nats.listen", bad)
	}
	srv.Close()
	srv.Close()
	l, err := net.Listen("tcp", srv.Addr())
	require.NoError(t, err, "the port is free again when Close returns")
	require.NoError(t, l.Close())
}
