// Package testnet makes private networks for tests with real processes: a network namespace for each host, joined by a
// bridge, with rates, partitions in either direction and counters. It needs root and the commands ip and tc. The namespaces
// have no names: they end with the processes in them and the test's own descriptors, so that nothing can be left behind, not
// even by a test that is killed. It imports nothing of Forebay and is used by tests only.
package testnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Missing says why no network can be made here; "" when it can.
func Missing() string {
	if os.Geteuid() != 0 {
		return "network namespaces need root"
	}
	for _, command := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(command); err != nil {
			return "there is no command " + command + ": apt-get install iproute2"
		}
	}
	ns, err := newSpace()
	if err != nil {
		return err.Error()
	}
	_ = ns.Close()
	return ""
}

// Net is one private network. Its methods, and those of its hosts, fail the test when the kernel refuses something.
type Net struct {
	t   testing.TB
	hub *os.File // namespace of the bridge

	mu    sync.Mutex
	hosts int
}

// Host is one machine of a network.
type Host struct {
	net   *Net
	name  string
	space *os.File
	port  string // its end at the bridge

	// Addr is its address, without a port. It also has loopback to itself.
	Addr string

	mu    sync.Mutex
	rate  int64 // bits a second; 0: no limit
	drops Way
}

// Way is a direction as a host sees it.
type Way uint8

// The directions.
const (
	Out  Way = 1 << iota // from the host to all others
	In                   // from all others to the host
	Both = Out | In
)

// New makes a network. It ends with the test.
func New(t testing.TB) *Net {
	t.Helper()
	hub, err := newSpace()
	require.NoError(t, err)
	n := &Net{t: t, hub: hub}
	t.Cleanup(func() { _ = hub.Close() })
	n.run(hub, "ip", "link", "add", "bridge", "type", "bridge")
	n.run(hub, "ip", "link", "set", "bridge", "up")
	return n
}

// Host adds a host; the name is for messages.
func (n *Net) Host(name string) *Host {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts++
	require.Less(n.t, n.hosts, 250, "hosts of one network")
	space, err := newSpace()
	require.NoError(n.t, err)
	n.t.Cleanup(func() { _ = space.Close() })
	h := &Host{net: n, name: name, space: space, port: fmt.Sprintf("port%d", n.hosts), Addr: fmt.Sprintf("10.77.0.%d", n.hosts)}
	n.run(n.hub, "ip", "link", "add", "name", h.port, "type", "veth", "peer", "name", "net0", "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), space.Fd()))
	n.run(n.hub, "ip", "link", "set", h.port, "master", "bridge", "up")
	n.run(space, "ip", "link", "set", "lo", "up")
	n.run(space, "ip", "address", "add", h.Addr+"/24", "dev", "net0")
	n.run(space, "ip", "link", "set", "net0", "up")
	return h
}

// Enter puts the calling goroutine into the host's network, and leave puts it back. The goroutine must be locked to its
// thread: what it starts meanwhile is a process of the host.
func (h *Host) Enter() (leave func() error, err error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("remember the network: %w", err)
	}
	if err := unix.Setns(int(h.space.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, errors.Join(fmt.Errorf("enter the network of %s: %w", h.name, err), own.Close())
	}
	return func() error { return errors.Join(unix.Setns(int(own.Fd()), unix.CLONE_NEWNET), own.Close()) }, nil
}

// Do calls fn in the host's network. Sockets that it opens stay the host's.
func (h *Host) Do(fn func() error) error { return within(h.space, fn) }

// DialContext connects from the host.
func (h *Host) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		c, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen listens at the host.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = h.Do(func() (err error) {
		l, err = net.Listen(network, address) //nolint:noctx // it does not wait
		return err
	})
	return l, err
}

// Rate caps both directions of the host's link, in bits a second; 0 takes the cap away.
func (h *Host) Rate(bits int64) {
	h.net.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rate = bits
	h.shape()
}

// Drop makes packets of these directions vanish without a word, and those of the others travel; 0 heals all.
func (h *Host) Drop(w Way) {
	h.net.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drops = w
	h.shape()
}

// shape sets the queues at both ends of the link. A queue without room drops everything.
func (h *Host) shape() {
	h.net.t.Helper()
	for _, end := range []struct {
		space *os.File
		dev   string
		way   Way
	}{{h.space, "net0", Out}, {h.net.hub, h.port, In}} {
		switch {
		case h.drops&end.way != 0:
			h.net.run(end.space, "tc", "qdisc", "replace", "dev", end.dev, "root", "pfifo", "limit", "0")
		case h.rate > 0:
			h.net.run(end.space, "tc", "qdisc", "replace", "dev", end.dev, "root", "tbf", "rate", fmt.Sprintf("%dbit", h.rate), "burst", "1mb", "latency", "50ms")
		default: // the kernel's own queue
			_ = within(end.space, func() error { return exec.Command("tc", "qdisc", "del", "dev", end.dev, "root").Run() }) // there may be none
		}
	}
}

// Link pulls the host's cable, or puts it back.
func (h *Host) Link(up bool) {
	h.net.t.Helper()
	state := "down"
	if up {
		state = "up"
	}
	h.net.run(h.net.hub, "ip", "link", "set", h.port, state)
}

// Cut keeps the host and another from reaching each other, whatever else they reach; Join ends that.
func (h *Host) Cut(o *Host) {
	h.net.t.Helper()
	h.net.run(h.space, "ip", "route", "replace", "blackhole", o.Addr+"/32")
	h.net.run(o.space, "ip", "route", "replace", "blackhole", h.Addr+"/32")
}

// Join ends a Cut.
func (h *Host) Join(o *Host) {
	h.net.t.Helper()
	h.net.run(h.space, "ip", "route", "del", "blackhole", o.Addr+"/32")
	h.net.run(o.space, "ip", "route", "del", "blackhole", h.Addr+"/32")
}

// Sent and Received count the bytes of the host's link, less the headers of Ethernet, IP and TCP, with what TCP sent again.
func (h *Host) Sent() int64     { return h.counters().Tx.payload() }
func (h *Host) Received() int64 { return h.counters().Rx.payload() }

// headers of a frame with a segment of TCP with time stamps: Ethernet 14, IP 20, TCP 32.
const headers = 66

type counter struct{ Bytes, Packets int64 }

func (c counter) payload() int64 { return c.Bytes - headers*c.Packets }

type counters struct{ Tx, Rx counter }

func (h *Host) counters() counters {
	h.net.t.Helper()
	var links []struct {
		Stats counters `json:"stats64"`
	}
	require.NoError(h.net.t, json.Unmarshal(h.net.run(h.space, "ip", "-s", "-j", "link", "show", "net0"), &links))
	require.Len(h.net.t, links, 1)
	return links[0].Stats
}

// run runs a command in a namespace and returns what it printed.
func (n *Net) run(space *os.File, name string, args ...string) []byte {
	n.t.Helper()
	cmd := exec.Command(name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := within(space, cmd.Run)
	require.NoError(n.t, err, "%s %s: %s", name, strings.Join(args, " "), errs.String())
	return out.Bytes()
}

// newSpace makes a network namespace that nobody is in.
func newSpace() (space *os.File, err error) {
	err = apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		space, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return space, err
}

// within calls fn in a namespace.
func within(space *os.File, fn func() error) error {
	return apart(func() error {
		if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return fn()
	})
}

// apart calls fn on a thread that is not used again.
func apart(fn func() error) error {
	done := make(chan error)
	go func() { // ends with fn; its thread does too, for it stays locked
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}
