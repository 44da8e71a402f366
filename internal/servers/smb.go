package servers

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// SMB is a server that speaks SMB, with one share named Share.
type SMB struct {
	*Server
	Host, Port, Share, User, Password string
}

// Samba starts smbd over a directory, for the user that the test runs as.
func Samba(t *testing.T) *SMB {
	t.Helper()
	me, err := user.Current()
	require.NoError(t, err)
	s := &SMB{Server: &Server{t: t, path: debian(t, "smbd", "samba"), Addr: freeAddr(t), Data: t.TempDir()}, Share: "backup", User: me.Username, Password: "forebay test"}
	s.Host, s.Port, err = net.SplitHostPort(s.Addr)
	require.NoError(t, err)
	dir := t.TempDir()
	for _, d := range [...]string{"private", "lock", "state", "cache", "pid", "ncalrpc"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	file := filepath.Join(dir, "smb.conf")
	config := fmt.Sprintf(`[global]
workgroup = TEST
server role = standalone server
smb ports = %s
interfaces = 127.0.0.1
bind interfaces only = yes
private dir = %[2]s/private
lock directory = %[2]s/lock
state directory = %[2]s/state
cache directory = %[2]s/cache
pid directory = %[2]s/pid
ncalrpc dir = %[2]s/ncalrpc
passdb backend = tdbsam:%[2]s/private/passdb.tdb
log file = %[2]s/log
disable spoolss = yes
load printers = no
[%[3]s]
path = %[4]s
read only = no
`, s.Port, dir, s.Share, s.Data)
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	add := exec.Command(debian(t, "pdbedit", "samba"), "-s", file, "-a", "-t", "-u", s.User)
	add.Stdin = strings.NewReader(s.Password + "\n" + s.Password + "\n")
	out, err := add.CombinedOutput()
	require.NoError(t, err, "%s", out)
	s.args = []string{"--foreground", "--no-process-group", "--debug-stdout", "--configfile=" + file}
	s.begin()
	return s
}
