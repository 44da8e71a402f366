// Package servers starts the real servers that target drivers are tested against, on loopback, and ends them with the test. They are
// built by `make servers` into bin/servers; a test that lacks one says so. It imports internal/proc alone.
package servers

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"forebay/internal/proc"
)

// Server is a running server.
type Server struct {
	Addr string // host:port
	Data string // where it keeps what it is given

	t    *testing.T
	path string
	args []string
	env  []string
	log  bytes.Buffer
	cmd  *exec.Cmd
}

// S3 is a server that speaks S3.
type S3 struct {
	*Server
	Access, Secret string
}

// Endpoint is its URL.
func (s *S3) Endpoint() string { return "http://" + s.Addr }

const (
	access = "forebay-test"
	secret = "forebay-test-secret"
)

// Domain is the name below which the S3 servers know their buckets by hosts' names, as backup.s3.test. Nothing resolves it: requests go to
// Addr with such a name in their Host header.
const Domain = "s3.test"

// Versitygw starts versitygw over a directory.
func Versitygw(t *testing.T) *S3 {
	t.Helper()
	s := &Server{t: t, path: find(t, "versitygw"), Addr: freeAddr(t), Data: t.TempDir()}
	s.env = []string{"ROOT_ACCESS_KEY=" + access, "ROOT_SECRET_KEY=" + secret}
	s.args = []string{"--port", s.Addr, "--quiet", "--virtual-domain", Domain, "posix", s.Data}
	s.begin()
	return &S3{s, access, secret}
}

// MinIO starts MinIO over drives directories: one is a plain server, four and more are erasure coded.
func MinIO(t *testing.T, drives int) *S3 {
	t.Helper()
	s := &Server{t: t, path: find(t, "minio"), Addr: freeAddr(t), Data: t.TempDir()}
	s.env = []string{"MINIO_ROOT_USER=" + access, "MINIO_ROOT_PASSWORD=" + secret, "MINIO_BROWSER=off", "MINIO_DOMAIN=" + Domain, "MINIO_CI_CD=1", "HOME=" + t.TempDir()}
	s.args = []string{"server", "--quiet", "--address", s.Addr}
	for i := range drives {
		d := filepath.Join(s.Data, string(rune('a'+i)))
		require.NoError(t, os.Mkdir(d, 0o700))
		s.args = append(s.args, d)
	}
	s.begin()
	return &S3{s, access, secret}
}

// SSH is a server that speaks SFTP.
type SSH struct {
	*Server
	Key        []byte // of the user, in OpenSSH's form
	KnownHosts string // file with the host's key
	User       string

	dir string
}

// OpenSSH starts sshd for the user that the test runs as. What is denied of SFTP's requests (as "fsync") the server neither has nor says
// to have.
func OpenSSH(t *testing.T, denied ...string) *SSH {
	t.Helper()
	me, err := user.Current()
	require.NoError(t, err)
	return openSSH(t, me.Username, denied...)
}

// OpenSSHForNobody starts sshd as root for the user nobody, who owns Data.
func OpenSSHForNobody(t *testing.T) *SSH {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: an ordinary user has that in the other tests")
	}
	s := openSSH(t, "nobody")
	require.NoError(t, os.Chmod(filepath.Dir(s.Data), 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(s.dir), 0o755))
	require.NoError(t, os.Chmod(filepath.Join(s.dir, "authorized"), 0o644))
	s.Give(s.Data)
	return s
}

// Give gives a directory to the user of the server.
func (s *SSH) Give(dir string) {
	s.t.Helper()
	u, err := user.Lookup(s.User)
	require.NoError(s.t, err)
	uid, err := strconv.Atoi(u.Uid)
	require.NoError(s.t, err)
	gid, err := strconv.Atoi(u.Gid)
	require.NoError(s.t, err)
	require.NoError(s.t, os.Chown(dir, uid, gid))
}

func openSSH(t *testing.T, username string, denied ...string) *SSH {
	t.Helper()
	path := debian(t, "sshd", "openssh-server")
	if os.Geteuid() == 0 {
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755)) // sshd insists on it
	}
	s := &SSH{Server: &Server{t: t, path: path, Addr: freeAddr(t), Data: t.TempDir()}, User: username, dir: t.TempDir()}
	var client ssh.PublicKey
	s.Key, client = newKey(t)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "authorized"), ssh.MarshalAuthorizedKey(client), 0o600))
	s.KnownHosts = filepath.Join(s.dir, "known_hosts")
	s.NewHostKey()
	s.Trust()
	host, port, err := net.SplitHostPort(s.Addr)
	require.NoError(t, err)
	subsystem := "internal-sftp"
	if len(denied) > 0 {
		subsystem += " -P " + strings.Join(denied, ",")
	}
	config := fmt.Sprintf("ListenAddress %s\nPort %s\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\nLogLevel ERROR\nForceCommand %s\nSubsystem sftp %s\n", host, port, s.dir, s.dir, subsystem, subsystem)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "config"), []byte(config), 0o600))
	s.args = []string{"-D", "-e", "-f", filepath.Join(s.dir, "config")}
	s.begin()
	return s
}

// NewHostKey gives the server another host key, from its next start on.
func (s *SSH) NewHostKey() {
	s.t.Helper()
	key, public := newKey(s.t)
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "host"), key, 0o600))
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "host.pub"), ssh.MarshalAuthorizedKey(public), 0o600))
}

// Trust puts the host's key into the known hosts.
func (s *SSH) Trust() {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "host.pub"))
	require.NoError(s.t, err)
	public, _, _, _, err := ssh.ParseAuthorizedKey(b)
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(s.KnownHosts, []byte(knownhosts.Line([]string{s.Addr}, public)+"\n"), 0o600))
}

// newKey makes a key pair.
func newKey(t *testing.T) ([]byte, ssh.PublicKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	require.NoError(t, err)
	p, err := ssh.NewPublicKey(public)
	require.NoError(t, err)
	return pem.EncodeToMemory(block), p
}

// Built reports whether a server's program ("minio") is there.
func Built(name string) bool { return len(programs(name)) > 0 }

// programs are the versions of a server's program that are built.
func programs(name string) []string {
	_, here, _, _ := runtime.Caller(0)
	found, _ := filepath.Glob(filepath.Join(filepath.Dir(here), "..", "..", "bin", "servers", name+"-v*")) // the pattern is right
	return found
}

// find returns a server's program.
func find(t *testing.T, name string) string {
	t.Helper()
	found := programs(name)
	if len(found) == 0 {
		t.Skipf("%s is not built: run make servers", name)
	}
	return found[len(found)-1]
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

// begin starts the server, waits until it answers, and ends it with the test.
func (s *Server) begin() {
	s.t.Helper()
	s.Start()
	s.t.Cleanup(func() {
		s.Kill()
		if s.t.Failed() {
			s.t.Logf("%s said: %s", filepath.Base(s.path), s.log.String())
		}
	})
}

// Start starts the server again where it was.
func (s *Server) Start() {
	s.t.Helper()
	s.launch()
	require.Eventually(s.t, func() bool {
		c, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err != nil {
			return false
		}
		return c.Close() == nil
	}, time.Minute, 10*time.Millisecond, "%s does not answer", s.path)
}

// launch starts the server and does not wait.
func (s *Server) launch() {
	s.t.Helper()
	s.cmd = exec.Command(s.path, s.args...)
	s.cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + s.Data}, s.env...)
	s.cmd.Dir = s.Data
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	require.NoError(s.t, s.cmd.Start())
}

// PID is the process of the server.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Kill ends the server at once, with all that it has started.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	below := proc.Family(s.cmd.Process.Pid)[1:] // sshd's sessions live on without it, in groups of their own
	// The group at once, for a server that has only just started is still starting others: one that is missed lives on, with our pipe.
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // it may have ended by itself
	for _, pid := range below {
		_ = syscall.Kill(pid, syscall.SIGKILL) // as above
	}
	_ = s.cmd.Wait()
	s.cmd = nil
}
