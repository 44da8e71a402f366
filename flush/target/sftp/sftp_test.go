package sftp

import (
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
	"forebay/internal/servers"
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

func suite(t *testing.T, p *place) {
	conformance.Run(t, func(t *testing.T) target.Target {
		cfg := p.config(t, filepath.Join(t.TempDir()))
		cfg.Prefix = "some/prefix"
		return p.open(t, cfg)
	}, conformance.Caps{Reopen: func(t *testing.T, old target.Target) target.Target {
		return p.open(t, old.(*SFTP).cfg)
	}})
}

func TestOpenSSH(t *testing.T) {
	t.Parallel()
	suite(t, newPlace(t))
}

// A server without OpenSSH's extensions does, and it is said what it cannot do.
func TestServerWithoutExtensions(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "fsync", "hardlink", "statvfs")
	info, err := p.open(t, p.config(t, t.TempDir())).Probe(t.Context())
	require.NoError(t, err)
	require.Equal(t, target.ConfirmAck, info.Confirm)
	require.EqualValues(t, -1, info.FreeBytes)
	require.Contains(t, info.Notes[1], "no fsync@openssh.com")
	suite(t, p)
}
