package fsmeta

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/testfs"
	"forebay/proto"
)

// acl is the binary form of a POSIX ACL: version 2, then tag, permissions and id of each entry, little endian.
// It says user::rw-, user:1234:r--, group::r--, mask::r--, other::---.
var acl = []byte{2, 0, 0, 0,
	1, 0, 6, 0, 255, 255, 255, 255,
	2, 0, 4, 0, 0xd2, 4, 0, 0,
	4, 0, 4, 0, 255, 255, 255, 255,
	16, 0, 4, 0, 255, 255, 255, 255,
	32, 0, 0, 0, 255, 255, 255, 255}

// needXattrs skips where the file system under the test's folder has no user attributes.
func needXattrs(t *testing.T, dir string) {
	t.Helper()
	f := filepath.Join(dir, "probe")
	require.NoError(t, os.WriteFile(f, nil, 0o600))
	err := unix.Setxattr(f, "user.probe", []byte("x"), 0)
	require.NoError(t, os.Remove(f))
	if errors.Is(err, unix.ENOTSUP) {
		t.Skipf("the file system of %s has no extended attributes", dir)
	}
	require.NoError(t, err)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func openRoot(t *testing.T, dir string, flags int) *Root {
	t.Helper()
	r, err := OpenRoot(dir, flags)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// make1 makes an object of a kind and returns its path in the root.
func make1(t *testing.T, dir, name string, kind proto.Kind) {
	t.Helper()
	p := filepath.Join(dir, name)
	switch kind {
	case proto.KindFile:
		require.NoError(t, os.WriteFile(p, []byte("content"), 0o600))
	case proto.KindDir:
		require.NoError(t, os.Mkdir(p, 0o700))
	case proto.KindSymlink:
		require.NoError(t, os.Symlink("no/where", p))
	}
}

func apply(t *testing.T, r *Root, path string, kind proto.Kind, m proto.Meta, flags int) Missed {
	t.Helper()
	f, err := r.Open(path, flags, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	missed, err := Apply(int(f.Fd()), kind, m)
	require.NoError(t, err)
	return missed
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	needXattrs(t, dir)
	r := openRoot(t, dir, NoXDev)
	names := NewNames(10)
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	x := []proto.Xattr{{Name: "user.a", Value: []byte("1\x00\xff")}, {Name: "user.empty", Value: []byte{}}, {Name: "user.long", Value: []byte(strings.Repeat("v", 1000))}}
	for i, c := range []struct {
		kind  proto.Kind
		flags int
		meta  proto.Meta
	}{
		{proto.KindFile, unix.O_RDONLY, proto.Meta{Mode: 0o640, MtimeNs: 1_234_567_890_123_456_789, Xattrs: x}},
		{proto.KindFile, unix.O_PATH, proto.Meta{Mode: 0o7751, MtimeNs: -5_000_000_001, Xattrs: x[:1]}},
		{proto.KindFile, unix.O_WRONLY, proto.Meta{Mode: 0o400, MtimeNs: 1}},
		{proto.KindFile, unix.O_PATH, proto.Meta{Mode: 0o640, MtimeNs: 7, Xattrs: []proto.Xattr{{Name: "system.posix_acl_access", Value: acl}, x[0]}}},
		{proto.KindDir, unix.O_RDONLY, proto.Meta{Mode: 0o1777, MtimeNs: 42, Xattrs: x}},
		{proto.KindDir, unix.O_PATH, proto.Meta{Mode: 0o2750, MtimeNs: 43, Xattrs: []proto.Xattr{{Name: "system.posix_acl_default", Value: acl}}}},
		{proto.KindSymlink, unix.O_PATH, proto.Meta{Mode: 0o777, MtimeNs: 999_999_999}},
	} {
		name := fmt.Sprintf("%d-%s", i, strings.ReplaceAll(c.kind.String(), " ", ""))
		c.meta.UID, c.meta.GID = uid, gid
		c.meta.User, c.meta.Group = names.User(uid), names.Group(gid)
		make1(t, dir, name, c.kind)
		// Something to be removed and changed: an attribute and a mode that m does not have.
		if c.kind != proto.KindSymlink {
			require.NoError(t, unix.Setxattr(filepath.Join(dir, name), "user.stale", []byte("x"), 0))
			require.NoError(t, unix.Setxattr(filepath.Join(dir, name), "user.a", []byte("other"), 0))
		}
		missed := apply(t, r, name, c.kind, c.meta, c.flags)
		require.True(t, missed.None(), "%s: %+v", name, missed)
		o, err := r.Read(name, names)
		require.NoError(t, err)
		require.Equal(t, c.kind, o.Kind)
		if len(c.meta.Xattrs) == 0 {
			c.meta.Xattrs = nil
		}
		require.Equal(t, c.meta, o.Meta, name)
		if c.kind == proto.KindSymlink {
			require.Equal(t, "no/where", o.LinkTo)
		}
		same, err := ReadAt(int(r.dir.Fd()), name, names)
		require.NoError(t, err)
		require.Equal(t, o, same)
	}
}

// TestInheritedACL: an object made below a directory with a default ACL gets none of it when its metadata has none.
func TestInheritedACL(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	needXattrs(t, dir)
	require.NoError(t, unix.Setxattr(dir, "system.posix_acl_default", acl, 0))
	r := openRoot(t, dir, 0)
	for _, kind := range []proto.Kind{proto.KindFile, proto.KindDir} {
		make1(t, dir, kind.String(), kind)
		m := proto.Meta{Mode: 0o751, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), MtimeNs: 5}
		require.True(t, apply(t, r, kind.String(), kind, m, unix.O_PATH).None())
		o, err := r.Read(kind.String(), NewNames(1))
		require.NoError(t, err)
		require.Empty(t, o.Meta.Xattrs)
		require.Equal(t, m.Mode, o.Meta.Mode)
	}
}

func TestApplyAsRoot(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	needXattrs(t, dir)
	r := openRoot(t, dir, 0)
	// cap_net_bind_service=ep, revision 2.
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	make1(t, dir, "f", proto.KindFile)
	m := proto.Meta{Mode: 0o6755, UID: 1234, GID: 5678, MtimeNs: 77, Xattrs: []proto.Xattr{
		{Name: "security.capability", Value: capability}, {Name: "trusted.x", Value: []byte("t")}}}
	require.True(t, apply(t, r, "f", proto.KindFile, m, unix.O_PATH).None())
	o, err := r.Read("f", NewNames(1))
	require.NoError(t, err)
	require.True(t, o.Meta.Equal(m), "%+v", o.Meta)

	make1(t, dir, "l", proto.KindSymlink)
	m = proto.Meta{Mode: 0o777, UID: 1234, GID: 5678, MtimeNs: 78, Xattrs: []proto.Xattr{{Name: "trusted.x", Value: []byte("t")}}}
	require.True(t, apply(t, r, "l", proto.KindSymlink, m, unix.O_PATH).None())
	o, err = r.Read("l", NewNames(1))
	require.NoError(t, err)
	require.True(t, o.Meta.Equal(m), "%+v", o.Meta)

	missed := apply(t, r, "f", proto.KindFile, proto.Meta{Mode: 0o600, Xattrs: []proto.Xattr{{Name: "security.selinux", Value: []byte("x")}}}, unix.O_PATH)
	require.Equal(t, []string{"security.selinux"}, missed.Xattrs, "a namespace that is not carried is not written")
}

// TestNoRightToChown: an ordinary user keeps what it may and says what it may not, and hands out no setuid of its own.
func TestNoRightToChown(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("needs an ordinary user")
	}
	dir := t.TempDir()
	r := openRoot(t, dir, 0)
	make1(t, dir, "f", proto.KindFile)
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	missed := apply(t, r, "f", proto.KindFile, proto.Meta{Mode: 0o6755, UID: uid + 1, GID: gid, MtimeNs: 5}, unix.O_PATH)
	require.Equal(t, proto.FieldOwner|proto.FieldMode, missed.Fields)
	o, err := r.Read("f", NewNames(1))
	require.NoError(t, err)
	require.Equal(t, uint32(0o2755), o.Meta.Mode)
	require.Equal(t, int64(5), o.Meta.MtimeNs)
	missed = apply(t, r, "f", proto.KindFile, proto.Meta{Mode: 0o600, UID: uid, GID: gid, Xattrs: []proto.Xattr{{Name: "trusted.x", Value: []byte("x")}}}, unix.O_PATH)
	require.Equal(t, []string{"trusted.x"}, missed.Xattrs)
}

// TestAttributeThatCannotBeRead: an object with an attribute that may be listed and not read is described as none without it.
func TestAttributeThatCannotBeRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	needXattrs(t, dir)
	r := openRoot(t, dir, 0)
	make1(t, dir, "f", proto.KindFile)
	p := filepath.Join(dir, "f")
	require.NoError(t, unix.Setxattr(p, "user.a", []byte("1"), 0))
	require.NoError(t, os.Chmod(p, 0))
	f, err := r.Open("f", unix.O_PATH, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	if os.Geteuid() == 0 { // root reads everything: this thread alone becomes an ordinary user for a while
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		require.NoError(t, unix.Setfsuid(1234))
		defer func() { require.NoError(t, unix.Setfsuid(0)) }()
	}
	_, err = Read(int(f.Fd()), NewNames(1))
	require.ErrorIs(t, err, unix.EACCES)
	require.ErrorContains(t, err, "user.a")
}

func TestReadSpecials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	r := openRoot(t, dir, 0)
	o, err := r.Read("pipe", NewNames(1))
	require.NoError(t, err)
	require.Equal(t, proto.KindNone, o.Kind)
	require.Equal(t, "pipe", o.Stat.TypeName())
	f, err := r.Open("pipe", unix.O_RDONLY, 0) // does not block
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// TestBeneath: both ways of opening refuse the same.
func TestBeneath(t *testing.T) {
	t.Parallel()
	for _, walk := range []bool{false, true} {
		t.Run(fmt.Sprintf("walk=%v", walk), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			outside := t.TempDir()
			make1(t, outside, "secret", proto.KindFile)
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
			make1(t, dir, "a/b/f", proto.KindFile)
			require.NoError(t, os.Symlink(outside, filepath.Join(dir, "out")))
			require.NoError(t, os.Symlink("a", filepath.Join(dir, "in")))
			require.NoError(t, os.Symlink("b/f", filepath.Join(dir, "a/link")))
			r := openRoot(t, dir, 0)
			r.walk.Store(walk)
			for path, want := range map[string]error{
				"": nil, ".": nil, "a": nil, "a/b/f": nil, "a/none": unix.ENOENT, "none/x": unix.ENOENT, "a/b/f/x": unix.ENOTDIR,
				"out/secret": unix.ELOOP, "out": unix.ELOOP, "in/b/f": unix.ELOOP, "a/link": unix.ELOOP,
				"..": unix.EINVAL, "a/../..": unix.EINVAL, "a/..": unix.EINVAL, "/etc": unix.EINVAL, "a\x00b": unix.EINVAL,
			} {
				f, err := r.Open(path, unix.O_RDONLY, 0)
				if want == nil {
					require.NoError(t, err, path)
					require.NoError(t, f.Close())
					continue
				}
				require.ErrorIs(t, err, want, path)
			}
			f, err := r.Open("a/link", unix.O_PATH, 0)
			require.NoError(t, err, "a link itself can be opened")
			require.NoError(t, f.Close())
			f, err = r.Open("a/new", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o640)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			_, err = r.Open("out/new", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o640)
			require.ErrorIs(t, err, unix.ELOOP)
			_, _, err = r.Parent("a/..")
			require.ErrorIs(t, err, unix.EINVAL)
			d, name, err := r.Parent("a/b/f")
			require.NoError(t, err)
			require.Equal(t, "f", name)
			require.NoError(t, d.Close())
			st, err := r.Stat("a/link")
			require.NoError(t, err)
			require.Equal(t, proto.KindSymlink, st.Kind())
		})
	}
}

// TestClosedRootIsNoOther: whoever is in a system call when the root is closed does not end up in the directory that is opened next.
func TestClosedRootIsNoOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := OpenRoot(dir, 0)
	require.NoError(t, err)
	want, err := r.Stat("")
	require.NoError(t, err)
	require.NoError(t, r.Use(func(fd int) error {
		require.NoError(t, r.Close())
		for range 8 { // one of these would have the number
			openRoot(t, t.TempDir(), 0)
		}
		st, err := StatAt(fd, "")
		require.Equal(t, want.Ino, st.Ino)
		return err
	}))
	_, err = r.Open("", unix.O_PATH, 0)
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = r.Stat("")
	require.ErrorIs(t, err, os.ErrClosed)
	_, _, _, err = r.FSIdentity()
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestMountPoints(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "m"), 0o755))
	testfs.Tmpfs(t, filepath.Join(dir, "m"), "64k")
	make1(t, dir, "m/f", proto.KindFile)
	for _, walk := range []bool{false, true} {
		r := openRoot(t, dir, NoXDev)
		r.walk.Store(walk)
		_, err := r.Open("m", unix.O_PATH|unix.O_DIRECTORY, 0)
		require.ErrorIs(t, err, unix.EXDEV)
		_, err = r.Open("m/f", unix.O_RDONLY, 0)
		require.ErrorIs(t, err, unix.EXDEV)
		st, err := r.Stat("m")
		require.NoError(t, err)
		require.True(t, st.MountRoot)
		free := openRoot(t, dir, 0)
		free.walk.Store(walk)
		f, err := free.Open("m/f", unix.O_RDONLY, 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	a, b := openRoot(t, dir, 0), openRoot(t, filepath.Join(dir, "m"), 0)
	at, aid, _, err := a.FSIdentity()
	require.NoError(t, err)
	bt, bid, _, err := b.FSIdentity()
	require.NoError(t, err)
	require.False(t, at == bt && aid == bid)
}

func TestExtents(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "f"))
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	ext := func(size int64) []proto.Extent {
		es, err := Extents(f, size)
		require.NoError(t, err)
		return es
	}
	require.Nil(t, ext(0))
	_, err = f.Write([]byte("data"))
	require.NoError(t, err)
	require.Nil(t, ext(4))

	const mib = 1 << 20
	require.NoError(t, f.Truncate(0))
	require.NoError(t, f.Truncate(10*mib))
	es := ext(10 * mib)
	if es == nil {
		t.Skipf("the file system of %s tells no holes", dir)
	}
	require.Equal(t, []proto.Extent{{Kind: proto.ExtentHole, Length: 10 * mib}}, es)
	_, err = f.WriteAt(make([]byte, mib), 4*mib)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.Equal(t, []proto.Extent{
		{Kind: proto.ExtentHole, Length: 4 * mib},
		{Kind: proto.ExtentData, Offset: 4 * mib, Length: mib},
		{Kind: proto.ExtentHole, Offset: 5 * mib, Length: 5 * mib},
	}, ext(10*mib))
	require.Equal(t, int64(7*mib), func() (n int64) {
		for _, e := range ext(7 * mib) {
			n += e.Length
		}
		return n
	}(), "a size smaller than the file's bounds the extents")
}

func TestExtentsAreBounded(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	const n, step = MaxExtents, 16 << 10
	for i := int64(0); i < n; i++ {
		_, err := f.WriteAt([]byte{1}, i*step)
		require.NoError(t, err)
	}
	require.NoError(t, f.Truncate(n*step))
	es, err := Extents(f, n*step)
	require.NoError(t, err)
	require.LessOrEqual(t, len(es), MaxExtents)
	at := int64(0)
	for i, e := range es {
		require.Equal(t, at, e.Offset)
		require.Positive(t, e.Length)
		require.True(t, i == 0 || es[i-1].Kind != e.Kind)
		at += e.Length
	}
	if es != nil {
		require.Equal(t, int64(n*step), at)
	}
}

func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	n := NewNames(3)
	require.Equal(t, "root", n.User(0))
	for i := range uint32(100) {
		n.User(1_000_000 + i)
		n.Group(1_000_000 + i)
	}
	require.LessOrEqual(t, len(n.users), 3)
	require.LessOrEqual(t, len(n.groups), 3)
	require.Equal(t, "root", n.User(0))
}

// A lookup that failed is tried again; a name that is not there is not looked for again.
func TestNamesThatCannotBeLookedUp(t *testing.T) {
	t.Parallel()
	n := NewNames(3)
	asked := 0
	find := func(err error) func(string) (string, error) {
		return func(string) (string, error) {
			asked++
			if err != nil {
				return "", err
			}
			return "alice", nil
		}
	}
	require.Empty(t, n.lookup(n.users, 5, find(unix.EMFILE)))
	require.Equal(t, "alice", n.lookup(n.users, 5, find(nil)))
	require.Equal(t, "alice", n.lookup(n.users, 5, find(unix.EMFILE)))
	require.Equal(t, 2, asked)
	require.Empty(t, n.lookup(n.users, 6, find(user.UnknownUserIdError(6))))
	require.Empty(t, n.lookup(n.users, 6, find(nil)))
	require.Empty(t, n.lookup(n.groups, 7, find(user.UnknownGroupIdError("7"))))
	require.Empty(t, n.lookup(n.groups, 7, find(nil)))
	require.Equal(t, 4, asked)
}
