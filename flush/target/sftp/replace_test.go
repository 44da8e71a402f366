package sftp

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// cutter is a connection that ends after so many more writes, once it is armed: as if the relay were killed there.
type cutter struct {
	net.Conn
	mu    sync.Mutex
	armed bool
	left  int
	cut   bool
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.armed {
		if c.left--; c.left <= 0 {
			c.cut = true
			_ = c.Close()
		}
	}
	return n, err
}

func (c *cutter) arm(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.left = true, n
}

func (c *cutter) remaining() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left
}

// spare disarms it, and reports whether it was cut.
func (c *cutter) spare() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	return c.cut
}

// lastSteps are the requests at the end of which each has a run that is cut after it.
const lastSteps = 16

// replacer replaces something of a target again and again, each time with a connection that is cut one request later, until one is not.
// Whatever the request was after which it was cut, the next connection finds the older one or the newer.
type replacer struct {
	p    *place
	cfg  Config
	do   func(d *SFTP, n int) error // the n-th
	look func(d *SFTP) (int, error)
}

func (r replacer) run(t *testing.T) {
	t.Helper()
	r.cfg.Expect = true
	replace := func(n, cutAfter int) (c *cutter, err error) {
		d, err := Open(r.cfg, Deps{Now: time.Now, Secrets: func() (Secrets, error) { return r.p.secret, nil },
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				raw, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				c = &cutter{Conn: raw}
				return c, err
			}})
		require.NoError(t, err)
		_, err = d.Probe(t.Context())
		require.NoError(t, err)
		c.arm(cutAfter)
		err = r.do(d, n)
		require.NoError(t, d.Close())
		return c, err
	}
	const never = 1 << 20
	c, err := replace(1, never)
	require.NoError(t, err)
	all := never - c.remaining()
	require.Greater(t, all, 5)
	// What comes before the last steps, in which it is replaced, is cut short in other tests.
	for n, i := 2, max(1, all-lastSteps); ; n, i = n+1, i+1 {
		c, err := replace(n, i)
		if !c.spare() {
			require.NoError(t, err)
			require.GreaterOrEqual(t, i, all-1, "it was cut")
			return
		}
		next := r.p.open(t, r.cfg)
		_, err = next.Probe(t.Context())
		require.NoError(t, err, "cut after %d", i)
		require.NoError(t, next.Records().Put(t.Context(), "other", nil), "cut after %d", i)
		got, err := r.look(next)
		require.NoError(t, err, "cut after %d", i)
		require.Contains(t, []int{n - 1, n}, got)
		require.NoError(t, r.do(next, n), "once more")
		got, err = r.look(next)
		require.NoError(t, err)
		require.Equal(t, n, got)
		require.NoError(t, next.Close())
	}
}

// On a server that cannot replace a file in one step, a relay that is killed at any moment of it leaves neither a record nor an object
// without its name: the next connection finds it. Nor does anything of it stay that could be taken for the present later.
func TestReplacementCutShort(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "posix-rename")
	number := func(in io.ReadCloser, err error) (n int, _ error) {
		if err != nil {
			return 0, err
		}
		_, err = fmt.Fscanf(in, "version %d", &n)
		require.NoError(t, in.Close())
		return n, err
	}
	text := func(n int) string { return fmt.Sprintf("version %03d", n) }
	mark := target.MarkDir + "/" + target.PrefixKey("")
	begin := func(t *testing.T) replacer {
		r := replacer{p: p, cfg: p.config(t, t.TempDir())}
		require.NoError(t, p.open(t, r.cfg).Records().Put(t.Context(), mark, []byte(text(0))))
		return r
	}
	t.Run("owner mark", func(t *testing.T) {
		t.Parallel()
		r := begin(t)
		r.do = func(d *SFTP, n int) error { return d.Records().Put(t.Context(), mark, []byte(text(n))) }
		r.look = func(d *SFTP) (int, error) { return number(d.Records().Open(t.Context(), mark)) }
		r.run(t)
	})
	t.Run("record in a list", func(t *testing.T) {
		t.Parallel()
		r := begin(t)
		require.NoError(t, p.open(t, r.cfg).Records().Put(t.Context(), "journal/root/history", []byte(text(0))))
		r.do = func(d *SFTP, n int) error {
			return d.Records().Put(t.Context(), "journal/root/history", []byte(text(n)))
		}
		r.look = func(d *SFTP) (int, error) {
			names, err := d.Records().List(t.Context(), "journal/root")
			require.NoError(t, err)
			require.Equal(t, []string{"history"}, names)
			return number(d.Records().Open(t.Context(), "journal/root/history"))
		}
		r.run(t)
		d := p.open(t, r.cfg)
		require.NoError(t, d.Records().Remove(t.Context(), "journal/root/history"))
		names, err := d.Records().List(t.Context(), "journal/root")
		require.NoError(t, err)
		require.Empty(t, names)
	})
	t.Run("object", func(t *testing.T) {
		t.Parallel()
		r := begin(t)
		r.do = func(d *SFTP, n int) error {
			id, content := target.StageID(fmt.Sprint("s", n)), []byte(text(n))
			w, err := d.Stage(t.Context(), target.Content{ID: id, Size: int64(len(content))})
			if err != nil {
				return err
			}
			_, err = w.Write(content[w.Offset():])
			require.NoError(t, err)
			require.NoError(t, w.Close())
			desc := proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content)}
			desc.Meta = proto.Meta{Mode: 0o600, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MtimeNs: int64(n+1) * 1e9}
			return d.Commit(t.Context(), []target.Change{{Op: target.OpPut, Path: "dir/object", Stage: id, Desc: desc}})[0]
		}
		require.NoError(t, r.do(p.open(t, r.cfg), 0))
		r.look = func(d *SFTP) (int, error) { return number(d.Open(t.Context(), "dir/object")) }
		r.run(t)
		require.NoError(t, filepath.WalkDir(r.cfg.Path, func(name string, _ os.DirEntry, err error) error {
			require.False(t, strings.HasSuffix(name, oldEnd) || strings.HasPrefix(filepath.Base(name), asideStart), name)
			return err
		}))
	})
}
