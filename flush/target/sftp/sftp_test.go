package sftp

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
	"forebay/internal/servers"
	"forebay/proto"
)

// place is a directory on a real server.
type place struct {
	server *servers.SSH
	secret Secrets
}

func newPlace(t *testing.T, denied ...string) *place {
	t.Helper()
	s := servers.OpenSSH(t, denied...)
	return &place{server: s, secret: Secrets{Key: s.Key}}
}

func (p *place) config(t *testing.T, path string) Config {
	t.Helper()
	host, port, err := net.SplitHostPort(p.server.Addr)
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	return Config{Host: host, Port: n, User: p.server.User, KnownHosts: p.server.KnownHosts, Path: path}
}

func (p *place) open(t *testing.T, cfg Config) *SFTP {
	t.Helper()
	d, err := Open(cfg, Deps{Now: time.Now, Secrets: func() (Secrets, error) { return p.secret, nil }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func suite(t *testing.T, p *place, caps conformance.Caps) {
	caps.Creates, caps.Reopen = true, func(t *testing.T, old target.Target) target.Target { return p.open(t, old.(*SFTP).cfg) }
	conformance.Run(t, func(t *testing.T) target.Target {
		cfg := p.config(t, filepath.Join(t.TempDir()))
		cfg.Prefix = "some/prefix"
		return p.open(t, cfg)
	}, caps)
}

func TestOpenSSH(t *testing.T) {
	t.Parallel()
	suite(t, newPlace(t), conformance.Caps{})
}

// The user on the server is an ordinary one: owners are in the journal only, and what shuts its owner out stays legible.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	s := servers.OpenSSHForNobody(t)
	p := &place{server: s, secret: Secrets{Key: s.Key}}
	folders := make(chan int, 1)
	folders <- 0
	conformance.Run(t, func(t *testing.T) target.Target {
		n := <-folders
		folders <- n + 1
		dir := filepath.Join(s.Data, strconv.Itoa(n))
		require.NoError(t, os.Mkdir(dir, 0o755))
		s.Give(dir)
		return p.open(t, p.config(t, dir))
	}, conformance.Caps{Creates: true, Reopen: func(t *testing.T, old target.Target) target.Target { return p.open(t, old.(*SFTP).cfg) }})
}

// A server without OpenSSH's extensions does, and it is said what it cannot do.
func TestServerWithoutExtensions(t *testing.T) {
	t.Parallel()
	for lacks, denied := range map[string][]string{
		"fsync@openssh.com":        {"fsync", "hardlink", "statvfs"},
		"posix-rename@openssh.com": {"posix-rename"},
	} {
		t.Run(lacks, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, denied...)
			info, err := p.open(t, p.config(t, t.TempDir())).Probe(t.Context())
			require.NoError(t, err)
			require.Equal(t, target.ConfirmAck, info.Confirm)
			require.Equal(t, slices.Contains(denied, "statvfs"), info.FreeBytes == -1)
			require.Contains(t, info.Notes[1], "no "+lacks)
			require.Contains(t, info.Notes[1], "class ack")
			suite(t, p, conformance.Caps{Gap: !info.Atomic})
		})
	}
}

// A server that turns connections away before the handshake, as OpenSSH does with some while many knock, is asked again; not for ever,
// and not when it says what it does not like.
func TestServerThatTurnsConnectionsAway(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	closes, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = closes.Close() })
	go func() { // ends when the listener is closed
		for c, err := closes.Accept(); err == nil; c, err = closes.Accept() {
			_ = c.Close()
		}
	}()
	for name, x := range map[string]struct {
		away, dials int
		user        string
		fails       string
	}{
		"some":         {greetings - 1, greetings, p.server.User, ""},
		"all":          {greetings + 1, greetings, p.server.User, "connect to"},
		"another user": {0, 1, "somebody-else", "does not accept"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := p.config(t, t.TempDir())
			cfg.User = x.user
			var dials int
			d, err := Open(cfg, Deps{Now: time.Now, Secrets: func() (Secrets, error) { return p.secret, nil },
				Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
					if dials++; dials <= x.away {
						addr = closes.Addr().String()
					}
					return (&net.Dialer{}).DialContext(ctx, network, addr)
				}})
			require.NoError(t, err)
			defer func() { require.NoError(t, d.Close()) }()
			_, err = d.use(t.Context())
			require.Equal(t, x.dials, dials)
			if x.fails == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, x.fails)
			require.Equal(t, proto.ClassTransient, proto.ClassOf(err))
		})
	}
}
