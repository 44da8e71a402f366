package testnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// echo sends back what comes to a host's port 7, and tells of it.
func echo(t *testing.T, h *Host) (address string, came chan int) {
	t.Helper()
	address = net.JoinHostPort(h.Addr, "7")
	l, err := h.Listen("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	came = make(chan int, 1<<16)
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer func() { _ = c.Close() }()
				for b := make([]byte, 64<<10); ; {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					came <- n
					_, _ = c.Write(b[:n])
				}
			}()
		}
	}()
	return address, came
}

// silent requires that nothing is to be read for a while; heard that something is.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func heard(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
	_, err := c.Read(make([]byte, 1))
	require.NoError(t, err)
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	if why := Missing(); why != "" {
		t.Skip(why)
	}
	n := New(t)
	a, b, c := n.Host("a"), n.Host("b"), n.Host("c")
	address, came := echo(t, b)
	dial := func(from *Host) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return from.DialContext(ctx, "tcp", address)
	}
	conn, err := dial(a)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	say := func() {
		t.Helper()
		_, err := conn.Write([]byte{1})
		require.NoError(t, err)
	}
	say()
	heard(t, conn)
	<-came

	outside, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = outside.Close() }()
	_, err = a.DialContext(t.Context(), "tcp", outside.Addr().String())
	require.Error(t, err, "the network is the hosts' own, loopback too")

	a.Drop(Out) // what it says does not arrive, until TCP says it again
	say()
	silent(t, conn)
	require.Empty(t, came)
	a.Drop(0)
	heard(t, conn)
	<-came

	a.Drop(In) // it is heard, and hears nothing
	say()
	<-came
	silent(t, conn)
	a.Drop(0)
	heard(t, conn)

	a.Link(false)
	_, err = dial(a)
	require.Error(t, err)
	a.Link(true)
	require.Eventually(t, func() bool {
		c, err := dial(a)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)

	a.Cut(b)
	_, err = dial(a)
	require.Error(t, err)
	other, err := dial(c)
	require.NoError(t, err)
	_ = other.Close()
	a.Join(b)
	say()
	heard(t, conn)

	a.Rate(8 << 20)
	before := a.Sent()
	began := time.Now()
	const size = 2 << 20
	echoes := make(chan error, 1)
	go func() { // ends when as much has come back
		_, err := io.CopyN(io.Discard, conn, size)
		echoes <- err
	}()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = conn.Write(make([]byte, size))
	require.NoError(t, errors.Join(err, <-echoes))
	assert.Greater(t, time.Since(began), time.Second/2, "2 MiB less the burst at 8 Mbit/s")
	assert.GreaterOrEqual(t, a.Sent()-before, int64(size))
	assert.GreaterOrEqual(t, b.Received(), int64(size))
}
