package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
	"forebay/flush/target/process"
	"forebay/flush/target/process/child"
	"forebay/internal/servers"
	"forebay/proto"

	_ "github.com/rclone/rclone/cmd/serve/webdav" // the server
	"github.com/rclone/rclone/fs/rc"
)

// asDriver is the first argument with which the test's own program is the driver.
const asDriver = "as-driver"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asDriver {
		os.Exit(run(os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// place is a remote that a test has, and what the driver is told of it.
type place struct {
	settings map[string]string
	dir      string // where the server keeps it, "" where that does not matter
	expect   bool
}

const prefix = "some/prefix"

// at is the same at another root.
func at(remote string, secrets map[string]string) place {
	s := map[string]string{"remote": remote}
	for k, v := range secrets {
		s[k] = v
	}
	return place{settings: s}
}

func (p place) open(t *testing.T) *process.Process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	d, err := process.Open(process.Config{Name: "any", Prefix: prefix, Writes: true, Expect: p.expect}, process.Deps{
		Now: time.Now, Settings: func() (map[string]string, error) { return p.settings, nil },
		Start: func(context.Context) (process.Stream, error) {
			return child.Start(child.Config{Command: []string{self, asDriver}, Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}},
				child.Deps{Now: time.Now, Say: func(line string) { fmt.Fprintln(os.Stderr, "driver:", line) }})
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// suite runs the conformance suite, each case in a folder of its own that name makes.
func suite(t *testing.T, caps conformance.Caps, folder func(t *testing.T, n int) place) {
	var mu sync.Mutex
	n := 0
	places := map[target.Target]place{}
	open := func(t *testing.T, p place) target.Target {
		d := p.open(t)
		mu.Lock()
		defer mu.Unlock()
		places[d] = p
		return d
	}
	of := func(d target.Target) place {
		mu.Lock()
		defer mu.Unlock()
		return places[d]
	}
	caps.Reopen = func(t *testing.T, old target.Target) target.Target { return open(t, of(old)) }
	if caps.Look != nil {
		caps.Look = func(_ *testing.T, d target.Target, name string) (io.ReadCloser, error) {
			if !strings.HasPrefix(name, proto.ReservedName+"/") {
				name = prefix + "/" + name
			}
			return os.Open(filepath.Join(of(d).dir, name))
		}
	}
	conformance.Run(t, func(t *testing.T) target.Target {
		mu.Lock()
		n++
		mine := n
		mu.Unlock()
		return open(t, folder(t, mine))
	}, caps)
}

// makeCollection makes a folder on a WebDAV server.
func makeCollection(t *testing.T, addr string, n int) string {
	t.Helper()
	name := fmt.Sprintf("case%d", n)
	req, err := http.NewRequestWithContext(t.Context(), "MKCOL", "http://"+addr+"/"+name, nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusCreated, res.StatusCode)
	return name
}

// Against rclone's own WebDAV server.
func TestWebDAVOfRclone(t *testing.T) {
	t.Parallel()
	start := rc.Calls.Get("serve/start")
	require.NotNil(t, start)
	dir := t.TempDir()
	out, err := start.Fn(t.Context(), rc.Params{"type": "webdav", "fs": dir, "addr": "127.0.0.1:0", "vfs_cache_mode": "off"})
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := rc.Calls.Get("serve/stop").Fn(context.Background(), rc.Params{"id": out["id"]})
		require.NoError(t, err)
	})
	// It reads a file that is replaced from the one and the other: what is to be whole is what lies in its directory.
	behind := func(*testing.T, target.Target, string) (io.ReadCloser, error) { return nil, nil }
	suite(t, conformance.Caps{Look: behind, Gap: true}, func(t *testing.T, n int) place {
		name := makeCollection(t, fmt.Sprint(out["addr"]), n)
		p := at(fmt.Sprintf(":webdav,url='http://%s',vendor=rclone:/%s", out["addr"], name), nil)
		p.dir = filepath.Join(dir, name)
		return p
	})
}

// Against Apache's mod_dav.
func TestWebDAVOfApache(t *testing.T) {
	t.Parallel()
	s := servers.Apache(t)
	suite(t, conformance.Caps{Gap: true}, func(t *testing.T, n int) place {
		return at(fmt.Sprintf(":webdav,url='http://%s',vendor=other:/%s", s.Addr, makeCollection(t, s.Addr, n)), nil)
	})
}

func TestSamba(t *testing.T) {
	t.Parallel()
	s := servers.Samba(t)
	suite(t, conformance.Caps{Gap: true}, func(t *testing.T, n int) place {
		name := fmt.Sprintf("case%d", n)
		require.NoError(t, os.Mkdir(s.Data+"/"+name, 0o755))
		return at(fmt.Sprintf(":smb,host='%s',port=%s,user='%s':%s/%s", s.Host, s.Port, s.User, s.Share, name), map[string]string{"pass": s.Password})
	})
}

func makeBucket(t *testing.T, s *servers.S3, n int) string {
	t.Helper()
	name := fmt.Sprintf("case%d", n)
	c, err := minio.New(s.Addr, &minio.Options{Creds: credentials.NewStaticV4(s.Access, s.Secret, "")})
	require.NoError(t, err)
	require.NoError(t, c.MakeBucket(t.Context(), name, minio.MakeBucketOptions{}))
	return name
}

func TestVersitygw(t *testing.T) {
	t.Parallel()
	s := servers.Versitygw(t)
	suite(t, conformance.Caps{}, func(t *testing.T, n int) place {
		name := makeBucket(t, s, n)
		return at(fmt.Sprintf(":s3,provider=Other,endpoint='%s',access_key_id=%s,region=us-east-1:%s", s.Endpoint(), s.Access, name), map[string]string{"secret_access_key": s.Secret})
	})
}

// Against a directory by rclone's own driver for them.
func TestLocal(t *testing.T) {
	t.Parallel()
	suite(t, conformance.Caps{}, func(t *testing.T, _ int) place { return at(":local:"+t.TempDir(), nil) })
}
