package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/internal/servers"
	"forebay/proto"
)

// What keeps a target from being used is said so that an operator knows what to do, and nothing is parked for it.
func TestWhatIsWrongIsSaid(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	probe := func(change func(c *Config, d *Deps)) error {
		cfg, deps := p.config(t, t.TempDir()), Deps{Now: time.Now, Secrets: func() (Secrets, error) { return p.secret, nil }}
		change(&cfg, &deps)
		d, err := Open(cfg, deps)
		require.NoError(t, err)
		defer func() { require.NoError(t, d.Close()) }()
		_, err = d.Probe(t.Context())
		return err
	}
	require.NoError(t, probe(func(*Config, *Deps) {}))
	other := filepath.Join(t.TempDir(), "known_hosts")
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	secrets := func(s Secrets) func(*Config, *Deps) {
		return func(_ *Config, d *Deps) { d.Secrets = func() (Secrets, error) { return s, nil } }
	}
	stranger := servers.OpenSSH(t)
	away := (&place{server: stranger}).config(t, "/")
	stranger.Kill()
	for says, change := range map[string]func(*Config, *Deps){
		"ssh-keyscan":                    func(c *Config, _ *Deps) { c.KnownHosts = other },
		"read the known hosts":           func(c *Config, _ *Deps) { c.KnownHosts = other + "-not" },
		"no directory":                   func(c *Config, _ *Deps) { c.Path = other },
		"file does not exist":            func(c *Config, _ *Deps) { c.Path += "/none" },
		"its owner mark":                 func(c *Config, _ *Deps) { c.Expect = true },
		"does not accept user":           secrets(Secrets{Key: stranger.Key}),
		"no private key and no password": secrets(Secrets{}),
		"read the private key":           secrets(Secrets{Key: []byte("garbage")}),
		"connect to":                     func(c *Config, _ *Deps) { c.Port, c.KnownHosts = away.Port, away.KnownHosts },
		"read /etc/forebay/key: not there": func(_ *Config, d *Deps) {
			d.Secrets = func() (Secrets, error) { return Secrets{}, errors.New("read /etc/forebay/key: not there") }
		},
	} {
		err := probe(change)
		require.ErrorContains(t, err, says)
		require.Equal(t, proto.ClassTransient, proto.ClassOf(err), "%v", err)
	}
}

// A host that shows another key is not spoken to; once the operator has replaced it, it is.
func TestHostKeyThatChanged(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	d := p.open(t, p.config(t, t.TempDir()))
	_, err := d.Probe(t.Context())
	require.NoError(t, err)
	p.server.Kill()
	p.server.NewHostKey()
	p.server.Start()
	require.Eventually(t, func() bool {
		_, err = d.Probe(t.Context())
		return err != nil && bytes.Contains([]byte(err.Error()), []byte("changed"))
	}, time.Minute, 10*time.Millisecond)
	require.ErrorContains(t, err, "SHA256:")
	p.server.Trust()
	_, err = d.Probe(t.Context())
	require.NoError(t, err)
}

// A server that goes away in the middle is connected to again, and nothing that was durable is sent again.
func TestContentGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	content := make([]byte, 70<<20)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(content)
	desc := proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content), Meta: proto.Meta{Mode: 0o640, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MtimeNs: 1_700_000_000_000_000_000}}
	cfg := p.config(t, t.TempDir())
	var sent atomic.Int64
	open := func() *SFTP {
		d, err := Open(cfg, Deps{Now: time.Now, Secrets: func() (Secrets, error) { return p.secret, nil },
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				return &counted{c, &sent}, err
			}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		return d
	}
	d := open()
	w, err := d.Stage(t.Context(), target.Content{ID: "big", Size: desc.Size, Path: "a/big", Desc: desc})
	require.NoError(t, err)
	for off := 0; off < 40<<20; off += 1 << 20 {
		_, err = w.Write(content[off : off+1<<20])
		require.NoError(t, err)
	}
	p.server.Kill()
	_, err = w.Write(content[40<<20 : 41<<20])
	require.Equal(t, proto.ClassTransient, proto.ClassOf(err), "%v", err)
	_ = w.Close() // it failed already
	p.server.Start()

	d, before := open(), sent.Load()
	w, err = d.Stage(t.Context(), target.Content{ID: "big", Size: desc.Size, Path: "a/big", Desc: desc})
	require.NoError(t, err)
	require.EqualValues(t, 32<<20, w.Offset(), "what was made durable")
	require.True(t, w.Proved())
	_, err = w.Write(content[32<<20:])
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, d.Barrier(t.Context(), []target.StageID{"big"}))
	put := target.Change{Op: target.OpPut, Path: "a/big", Stage: "big", Desc: desc}
	require.Equal(t, []error{nil}, d.Commit(t.Context(), []target.Change{put}))
	require.Less(t, sent.Load()-before, int64(len(content)-32<<20)*102/100)
	got, err := os.ReadFile(filepath.Join(cfg.Path, "a/big"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	require.Equal(t, []error{nil}, d.Commit(t.Context(), []target.Change{put}), "again, as when the answer was lost")
}

// How much of a content is durable is recorded once it is: where the server fails to sync it, no record vouches for it (I1, I8).
func TestWhatCouldNotBeSyncedIsNotRecorded(t *testing.T) {
	t.Parallel()
	p, cannot, path := newPlace(t), newPlace(t, "fsync"), t.TempDir()
	d := p.open(t, p.config(t, path))
	w, err := d.Stage(t.Context(), target.Content{ID: "big", Size: smallMax + 1})
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	_, err = w.Write([]byte("content"))
	require.NoError(t, err)

	s, name := w.(*file), d.stageDir()+"/big"
	c, err := cannot.open(t, cannot.config(t, path)).use(t.Context())
	require.NoError(t, err)
	broken, err := c.sftp.OpenFile(name, os.O_RDWR)
	require.NoError(t, err)
	defer func() { require.NoError(t, broken.Close()) }()
	healthy := s.f
	s.f = broken // the same file by a server that syncs nothing; the record goes to the one that does
	_, err = w.Sync()
	require.ErrorContains(t, err, "fsync not supported")
	require.NoFileExists(t, name+atSuffix)
	s.f = healthy
	n, err := w.Sync()
	require.NoError(t, err)
	require.EqualValues(t, len("content"), n)
	require.FileExists(t, name+atSuffix)
}

type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// A server that comes back without its disk is not written to.
func TestMountPointIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	cfg := p.config(t, filepath.Join(t.TempDir(), "disk"))
	require.NoError(t, os.Mkdir(cfg.Path, 0o700))
	d, ctx := p.open(t, cfg), t.Context()
	require.NoError(t, d.Records().Put(ctx, target.MarkDir+"/"+target.PrefixKey(""), []byte("mark")))
	p.server.Kill()
	require.NoError(t, os.Rename(cfg.Path, cfg.Path+".aside"))
	require.NoError(t, os.Mkdir(cfg.Path, 0o700)) // the mount point
	p.server.Start()
	dir := proto.Desc{Kind: proto.KindDir, Meta: proto.Meta{Mode: 0o700, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MtimeNs: 1e18}}
	for range 2 { // the first may only find that the connection is gone
		require.Error(t, d.Commit(ctx, []target.Change{{Op: target.OpMkdir, Path: "d", Desc: dir}})[0])
		require.Error(t, d.Records().Put(ctx, "r", nil))
		_, err := d.Stage(ctx, target.Content{ID: "big", Size: smallMax + 1})
		require.Error(t, err)
	}
	left, err := os.ReadDir(cfg.Path)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, os.Remove(cfg.Path))
	require.NoError(t, os.Rename(cfg.Path+".aside", cfg.Path))
	require.NoError(t, d.Commit(ctx, []target.Change{{Op: target.OpMkdir, Path: "d", Desc: dir}})[0])
}

// Nothing is read or written through a link that somebody put into the target (I12).
func TestLinksLeadNowhere(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	cfg := p.config(t, t.TempDir())
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(outside, "sub"), 0o700))
	require.NoError(t, os.Symlink(outside, filepath.Join(cfg.Path, "out")))
	require.NoError(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(cfg.Path, "file")))
	d, ctx := p.open(t, cfg), t.Context()
	desc := proto.Desc{Kind: proto.KindFile, Size: 1, Digest: proto.ContentDigest([]byte("x")), Meta: proto.Meta{Mode: 0o600, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MtimeNs: 1e18}}
	stage := func(id target.StageID) {
		w, err := d.Stage(ctx, target.Content{ID: id, Size: 1})
		require.NoError(t, err)
		_, err = w.Write([]byte("x")[w.Offset():]) // what could not be committed is there still
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	dir := proto.Desc{Kind: proto.KindDir, Meta: proto.Meta{Mode: 0o700, UID: desc.Meta.UID, GID: desc.Meta.GID, MtimeNs: 1e18}}
	for _, ch := range []target.Change{
		{Op: target.OpPut, Path: "out/x", Desc: desc}, {Op: target.OpPut, Path: "out/sub/x", Desc: desc}, {Op: target.OpMkdir, Path: "out/new", Desc: dir},
		{Op: target.OpMkdir, Path: "out/sub", Desc: dir}, {Op: target.OpSymlink, Path: "out/l", Desc: proto.Desc{Kind: proto.KindSymlink, LinkTo: "x"}},
		{Op: target.OpMeta, Path: "out/secret", Desc: desc}, {Op: target.OpLink, Path: "stolen", Desc: proto.Desc{Kind: proto.KindHardlink, LinkTo: "out/secret", Size: 6}},
		{Op: target.OpLink, Path: "stolen", Desc: proto.Desc{Kind: proto.KindHardlink, LinkTo: "file", Size: 6}},
	} {
		if ch.Op == target.OpPut {
			ch.Stage = "s"
			stage("s")
		}
		require.Error(t, d.Commit(ctx, []target.Change{ch})[0], "%d %q", ch.Op, ch.Path)
	}
	require.NoError(t, d.Commit(ctx, []target.Change{{Op: target.OpDelete, Path: "out/secret"}, {Op: target.OpDelete, Path: "out/sub"}})[0])
	for _, p := range []string{"out/secret", "file"} {
		_, err := d.Open(ctx, p)
		require.Error(t, err, p)
	}
	_, err := d.Stat(ctx, "out/secret")
	require.Error(t, err)
	require.NoError(t, d.List(ctx, "", func(e target.Entry) error {
		require.NotContains(t, e.Path, "secret")
		return nil
	}))
	// A link in the place of a file is replaced, and what it leads to stays.
	stage("s")
	require.NoError(t, d.Commit(ctx, []target.Change{{Op: target.OpPut, Path: "file", Stage: "s", Desc: desc}})[0])
	b, err := os.ReadFile(filepath.Join(outside, "secret"))
	require.NoError(t, err)
	require.Equal(t, "secret", string(b))
	require.DirExists(t, filepath.Join(outside, "sub"))
	require.NoFileExists(t, filepath.Join(outside, "x"))
}

// What was a directory over one connection is looked at again over the next: it may be gone since, or a link (I12).
func TestEachConnectionLooksForDirectories(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	cfg, outside := p.config(t, t.TempDir()), t.TempDir()
	cfg.Prefix = "some/prefix"
	d, ctx := p.open(t, cfg), t.Context()
	desc := proto.Desc{Kind: proto.KindFile, Size: 1, Digest: proto.ContentDigest([]byte("x")), Meta: proto.Meta{Mode: 0o600, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MtimeNs: 1e18}}
	put := func(id target.StageID, path string) error {
		w, err := d.Stage(ctx, target.Content{ID: id, Size: 1})
		require.NoError(t, err)
		_, err = w.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return d.Commit(ctx, []target.Change{{Op: target.OpPut, Path: path, Stage: id, Desc: desc}})[0]
	}
	require.NoError(t, put("a", "gone/x"))
	require.NoError(t, put("b", "link/x"))
	p.server.Kill()
	mirror := filepath.Join(cfg.Path, cfg.Prefix)
	for _, name := range []string{"gone", "link"} {
		require.NoError(t, os.RemoveAll(filepath.Join(mirror, name)))
	}
	require.NoError(t, os.Symlink(outside, filepath.Join(mirror, "link")))
	p.server.Start()
	require.Eventually(t, func() bool { _, err := d.Probe(ctx); return err == nil }, time.Minute, 10*time.Millisecond)
	require.NoError(t, put("c", "gone/y"))
	require.FileExists(t, filepath.Join(mirror, "gone/y"))
	require.Error(t, put("d", "link/y"))
	require.NoFileExists(t, filepath.Join(outside, "y"))
}

// A commit that was cut short leaves directories as they were disturbed; the next connection gives them back what they had.
func TestDirectoriesAfterACutCommit(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	cfg := p.config(t, t.TempDir())
	d, ctx := p.open(t, cfg), t.Context()
	dir := proto.Desc{Kind: proto.KindDir, Meta: proto.Meta{Mode: 0o500, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MtimeNs: 1_600_000_000_000_000_000}}
	require.NoError(t, d.Commit(ctx, []target.Change{{Op: target.OpMkdir, Path: "d", Desc: dir}})[0])
	c, err := d.use(ctx)
	require.NoError(t, err)
	_, err = d.keepDirs(c, []target.Change{{Op: target.OpPut, Path: "d/x"}})
	require.NoError(t, err)
	full := filepath.Join(cfg.Path, "d")
	require.NoError(t, os.Chmod(full, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(full, "x"), nil, 0o600)) // and here the kill
	d = p.open(t, cfg)
	require.NoError(t, d.Records().Put(ctx, "r", nil))
	e, err := d.Stat(ctx, "d")
	require.NoError(t, err)
	require.Equal(t, dir.Meta.MtimeNs, e.Desc.Meta.MtimeNs)
	require.EqualValues(t, 0o500, e.Desc.Meta.Mode)
	require.NoError(t, os.Chmod(full, 0o700))
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := Config{Host: "backup.example.org", User: "forebay", KnownHosts: "/etc/forebay/known_hosts", Path: "/backup"}
	require.NoError(t, good.Validate())
	for name, spoil := range map[string]func(c *Config){
		"host with user": func(c *Config) { c.Host = "me@h" }, "no host": func(c *Config) { c.Host = "" }, "no user": func(c *Config) { c.User = "" },
		"relative path": func(c *Config) { c.Path = "backup" }, "path with dots": func(c *Config) { c.Path = "/a/../b" }, "port": func(c *Config) { c.Port = 70000 },
		"no known hosts": func(c *Config) { c.KnownHosts = "" }, "prefix": func(c *Config) { c.Prefix = "../x" },
	} {
		c := good
		spoil(&c)
		require.Equal(t, proto.ClassPermanent, proto.ClassOf(c.Validate()), name)
	}
}

// A server that dies while kept contents are removed is told of for each of them.
func TestServerDiesWhileThePastIsRemoved(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	d := p.open(t, p.config(t, t.TempDir()))
	var names []target.KeptName
	for i := range 20 {
		names = append(names, target.NameKept(fmt.Sprint("f", i), proto.Digest{byte(i)}))
	}
	require.NoError(t, errors.Join(d.History().Remove(t.Context(), names)...), "what is gone already is no error")
	p.server.Kill()
	for _, err := range d.History().Remove(t.Context(), names) {
		require.Error(t, err)
	}
	p.server.Start()
}
