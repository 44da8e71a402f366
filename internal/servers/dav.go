package servers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Apache starts Apache's httpd with mod_dav over a directory. Its URL is http://Addr.
func Apache(t *testing.T) *Server {
	t.Helper()
	s := &Server{t: t, path: debian(t, "apache2", "apache2"), Addr: freeAddr(t), Data: t.TempDir()}
	root := t.TempDir()
	var modules strings.Builder
	for _, m := range [...]string{"mpm_event", "authz_core", "dav", "dav_fs"} {
		fmt.Fprintf(&modules, "LoadModule %s_module /usr/lib/apache2/modules/mod_%s.so\n", m, m)
	}
	config := fmt.Sprintf("ServerRoot %s\nListen %s\nServerName localhost\nPidFile %s/pid\nErrorLog /dev/stderr\n%sDocumentRoot %s\nDavLockDB %s/locks\nLimitXMLRequestBody 0\n"+
		"<Directory />\nRequire all granted\nDav On\n</Directory>\n", root, s.Addr, root, modules.String(), s.Data, root)
	if os.Geteuid() == 0 { // it does not serve as root
		config += "User nobody\nGroup nogroup\n"
		forNobody(t, s.Data, root)
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "config"), []byte(config), 0o644))
	s.args = []string{"-D", "FOREGROUND", "-f", filepath.Join(root, "config")}
	s.begin()
	return s
}

// forNobody gives directories of a test to the user nobody.
func forNobody(t *testing.T, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		require.NoError(t, os.Chmod(filepath.Dir(d), 0o755))
		require.NoError(t, os.Chmod(filepath.Dir(filepath.Dir(d)), 0o755))
		(&SSH{Server: &Server{t: t}, User: "nobody"}).Give(d)
	}
}

// debian returns a program of a Debian package.
func debian(t *testing.T, program, pkg string) string {
	t.Helper()
	for _, dir := range [...]string{"/usr/sbin", "/usr/bin"} {
		if path := filepath.Join(dir, program); fileExists(path) {
			return path
		}
	}
	t.Skipf("there is no %s: apt-get install %s", program, pkg)
	return ""
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
