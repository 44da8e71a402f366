package e2e

import (
	"net"
	"os/exec"
	"strings"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/internal/operator"
	"forebay/internal/testnet"
	"forebay/proto/bus/embedded"
)

// The ports in a network of a site's own, where nobody else has any.
const (
	relayPort = ":7480"
	busPort   = ":7422"
	agentPort = "127.0.0.1:7481"
)

// connect chooses where the relay listens: at a host of a network of the site's own, or on the machine's loopback.
func (s *site) connect() {
	s.t.Helper()
	if s.spec.networked {
		if why := testnet.Missing(); why != "" {
			s.t.Logf("without network namespaces (%s): loopback and proxies instead", why)
			s.spec.networked, s.spec.proxied = false, true
		}
	}
	var err error
	if !s.spec.networked {
		s.url, s.bus = "http://"+freeAddress(s.t), freeAddress(s.t)
		s.op, err = operator.New(s.url)
		require.NoError(s.t, err)
		return
	}
	s.net = testnet.New(s.t)
	s.host = s.net.Host("relay")
	if s.spec.nats != "" {
		s.otherBus()
	}
	s.url, s.bus = "http://"+s.host.Addr+relayPort, s.host.Addr+busPort
	s.op, err = operator.NewVia(s.url, s.host.DialContext)
	require.NoError(s.t, err)
}

// otherBus runs a NATS of somebody else at a host of its own, the second of the network.
func (s *site) otherBus() {
	s.t.Helper()
	srv, err := embedded.Start(embedded.Config{Listen: freeAddress(s.t), Name: "elsewhere"}, zerolog.Nop())
	require.NoError(s.t, err)
	s.t.Cleanup(func() { srv.Close() })
	s.nats = s.net.Host("nats")
	l, err := s.nats.Listen("tcp", s.nats.Addr+":4222")
	require.NoError(s.t, err)
	proxyFrom(s.t, l, srv.Addr(), (&net.Dialer{}).DialContext)
}

// connectNode gives a node its host or its proxy, and a way to ask its agent.
func (s *site) connectNode(n *node) {
	s.t.Helper()
	var err error
	if s.spec.networked {
		n.address = agentPort
		n.host = s.net.Host(n.name)
		n.host.Rate(s.spec.rate)
		n.op, err = operator.NewAgentVia("http://"+n.address, n.host.DialContext)
		require.NoError(s.t, err)
		if s.spec.proxied { // a proxy on the node, so that its connections can be reset
			l, err := n.host.Listen("tcp", "127.0.0.1"+relayPort)
			require.NoError(s.t, err)
			n.proxy = proxyFrom(s.t, l, strings.TrimPrefix(s.url, "http://"), n.host.DialContext)
		}
		return
	}
	n.address = freeAddress(s.t)
	n.op, err = operator.NewAgent("http://" + n.address)
	require.NoError(s.t, err)
	if s.spec.proxied {
		n.proxy = newProxy(s.t, strings.TrimPrefix(s.url, "http://"))
	}
}

// runs runs a command where the relay is.
func (s *site) runs(cmd *exec.Cmd) error {
	if s.host == nil {
		return cmd.Run()
	}
	return s.host.Do(cmd.Run)
}

// sent counts the bytes from a node, on its link or through its proxy.
func (n *node) sent() int64 {
	if n.host != nil {
		return n.host.Sent()
	}
	return n.proxy.sent.Load()
}
